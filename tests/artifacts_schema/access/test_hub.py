"""Stores in data set repositories, against a stand-in for the hub."""

from __future__ import annotations

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.location import Access
from dataltt.artifacts_schema.errors import RemoteError, StoreNotFoundError
from dataltt.artifacts_schema.verify import verify_store

from ...far.hub_server import HubServer
from ...schema_helpers import Made
from .helpers import everything, everything_in, with_options

WAY_OUT = (
    "log in with: hf auth login; or give $HF_TOKEN, or `storage_option='token=…'`; access to a gated repository is "
    "asked for on its page"
)


def _at(hub: HubServer, access: Access, **options: str) -> Access:
    return with_options(access, {"endpoint": hub.url, **options})


@pytest.mark.parametrize("prefix", ["", "train.zarr/", "deep/er/train.zarr/"])
def test_a_store_is_the_same_by_one_request_a_file(
    hub_server: HubServer, made: Made, access: Access, prefix: str
) -> None:
    hub_server.add("lab/tickets", made.path, prefix)
    url = f"hf://datasets/lab/tickets/{prefix}".rstrip("/")
    store = TicketStore.open(url, _at(hub_server, access))
    assert everything(store) == everything_in(made.path)
    resolved = [r.path for r in hub_server.requests if not r.path.startswith("lfs/")]
    assert len(resolved) == len(set(resolved))
    wanted = {f"datasets/lab/tickets/resolve/main/{prefix}{name}" for name in ("zarr.json", *made.manifest.objects)}
    assert set(resolved) <= wanted
    assert {r.method for r in hub_server.requests} == {"GET"}
    assert [c.name for c in verify_store(url, access=_at(hub_server, access)) if not c.ok] == []


def test_a_revision_is_read_by_its_commit(hub_server: HubServer, made: Made, access: Access) -> None:
    commit = hub_server.add("lab/tickets", made.path).commit
    store = TicketStore.open(f"hf://datasets/lab/tickets@{commit}", _at(hub_server, access))
    assert everything(store) == everything_in(made.path)
    with pytest.raises(StoreNotFoundError, match="there is no ticket store at hf://datasets/lab/tickets@v9 "):
        TicketStore.open("hf://datasets/lab/tickets@v9", _at(hub_server, access))


def test_a_private_repository_needs_its_token(
    hub_server: HubServer, made: Made, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_server.add("lab/private", made.path, token="hf_right")
    url = "hf://datasets/lab/private"
    with pytest.raises(RemoteError) as caught:
        TicketStore.open(url, _at(hub_server, access))
    assert str(caught.value) == (
        f"{url}/zarr.json may not be read with these credentials or is not there (the server answers 401); {WAY_OUT}"
    )
    # To somebody it does not know better the hub says that it is not there.
    with pytest.raises(StoreNotFoundError):
        TicketStore.open(url, _at(hub_server, access, token="hf_wrong"))
    expected = everything_in(made.path)
    assert everything(TicketStore.open(url, _at(hub_server, access, token="hf_right"))) == expected
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert everything(TicketStore.open(url, _at(hub_server, access))) == expected


@pytest.mark.parametrize(("options", "status"), [({}, 401), ({"token": "hf_any"}, 403)])
def test_a_gated_repository_is_asked_for_on_its_page(
    hub_server: HubServer, made: Made, access: Access, options: dict[str, str], status: int
) -> None:
    hub_server.add("lab/gated", made.path, gated=True)
    with pytest.raises(RemoteError) as caught:
        TicketStore.open("hf://datasets/lab/gated", _at(hub_server, access, **options))
    assert str(caught.value) == (
        "hf://datasets/lab/gated/zarr.json may not be read with these credentials or is not there (the server answers "
        f"{status}); {WAY_OUT}"
    )


def test_half_an_upload_is_no_store(hub_server: HubServer, made: Made, access: Access) -> None:
    repository = hub_server.add("lab/half", made.path)
    del repository.files["zarr.json"]
    with pytest.raises(StoreNotFoundError, match=r"hf://datasets/lab/half is not finished: its zarr.json is missing"):
        TicketStore.open("hf://datasets/lab/half", _at(hub_server, access))


def test_the_token_does_not_follow_to_where_large_files_lie(hub_server: HubServer, made: Made, access: Access) -> None:
    hub_server.add("lab/private", made.path, token="hf_right")
    everything(TicketStore.open("hf://datasets/lab/private", _at(hub_server, access, token="hf_right")))
    assert any(r.path.startswith("lfs/") for r in hub_server.requests)
    assert hub_server.tokens_at_files == set()


@pytest.mark.parametrize("place", ["hf://lab", "hf://datasets/lab", "hf://lab/model/store.zarr"])
def test_what_names_no_data_set(access: Access, place: str) -> None:
    with pytest.raises(RemoteError) as caught:
        TicketStore.open(place, access)
    assert str(caught.value) == (
        f"{place} names no dataset repository; write hf://datasets/OWNER/NAME[@REVISION][/FOLDER]"
    )


def test_without_network(made: Made, access: Access, no_credentials: None) -> None:
    with HubServer() as hub:
        hub.add("lab/tickets", made.path)
        expected = everything(TicketStore.open("hf://datasets/lab/tickets", _at(hub, access)))
    assert everything(TicketStore.open("hf://datasets/lab/tickets", _at(hub, access))) == expected
    with pytest.raises(RemoteError, match=f"{hub.url} refuses connections"):
        TicketStore.open("hf://datasets/lab/other", _at(hub, access))
