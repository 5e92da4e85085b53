"""Stores in a bucket of Google's storage, on an emulator. It has no users: rights are not tested."""

from __future__ import annotations

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.location import Access
from dataltt.artifacts_schema.errors import RemoteError, StoreNotFoundError

from ...far.gs_server import BUCKET, GoogleServer
from ...far.http_server import FileServer
from ...schema_helpers import Made
from .helpers import everything, everything_in, with_options

pytestmark = pytest.mark.long  # gcsfs takes seconds to import


def test_a_store_is_the_same(gs_server: GoogleServer, made: Made, access: Access) -> None:
    gs_server.upload(made.path, "same.zarr")
    store = TicketStore.open(f"gs://{BUCKET}/same.zarr", with_options(access, gs_server.options()))
    assert everything(store) == everything_in(made.path)


@pytest.mark.parametrize("place", [f"gs://{BUCKET}/other.zarr", "gs://no-such-bucket/store.zarr"])
def test_what_is_not_there(gs_server: GoogleServer, access: Access, place: str) -> None:
    with pytest.raises(StoreNotFoundError) as caught:
        TicketStore.open(place, with_options(access, gs_server.options()))
    assert str(caught.value).startswith(f"there is no ticket store at {place} (it has no zarr.json); ")


def test_half_an_upload_is_no_store(gs_server: GoogleServer, made: Made, access: Access) -> None:
    gs_server.put("half.zarr/tickets/zarr.json", (made.path / "tickets/zarr.json").read_bytes())
    with pytest.raises(StoreNotFoundError, match=r"is not finished: its zarr.json is missing; push it again"):
        TicketStore.open(f"gs://{BUCKET}/half.zarr", with_options(access, gs_server.options()))


@pytest.mark.parametrize("status", [401, 403])
def test_refusals_say_where_credentials_were_looked_for(
    access: Access, tmp_path: object, no_credentials: None, made: Made, status: int
) -> None:
    pytest.importorskip("gcsfs", reason="gs:// needs the package gcsfs")
    with FileServer(made.path) as web:
        web.fail("*", status=status)
        options = {"endpoint_url": web.url, "token": "anon"}
        with pytest.raises(RemoteError) as caught:
            TicketStore.open("gs://lab/store.zarr", with_options(access, options))
        assert str(caught.value).startswith("gs://lab/store.zarr/zarr.json may not be read with these credentials")
        assert "$GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value)
        # One GET, of the object itself.
        assert [(r.method, r.path) for r in web.requests] == [
            ("GET", "download/storage/v1/b/lab/o/store.zarr/zarr.json")
        ]


def test_no_credentials_at_all(access: Access, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gcsfs", reason="gs:// needs the package gcsfs")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(access.cache_folder / "absent"))
    options = {"endpoint_url": "http://127.0.0.1:1", "token": "google_default"}
    with pytest.raises(RemoteError) as caught:
        TicketStore.open("gs://lab/store.zarr", with_options(access, options))
    assert str(caught.value).startswith("gs://lab/store.zarr/zarr.json needs credentials, and there are none; ")
