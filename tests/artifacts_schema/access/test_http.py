"""Stores on a plain web server: only what the manifest names is asked for, once; what goes wrong is named."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.location import Access
from dataltt.artifacts_schema.errors import OptionError, RemoteError, SchemaError, StoreNotFoundError
from dataltt.artifacts_schema.verify import verify_store

from ...far.http_server import FileServer
from ...schema_helpers import Made, edit_manifest
from .helpers import FIRST_TICKETS, everything, everything_in, left_over, names_below, with_options

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_store_is_the_same_as_in_its_folder_and_each_object_is_asked_for_once(
    made: Made, access: Access, ranges: bool
) -> None:
    with FileServer(made.path.parent, ranges=ranges) as web:
        store = TicketStore.open(f"{web.url}/store.zarr", access)
        assert everything(store) == everything_in(made.path)
        assert store.path == f"{web.url}/store.zarr"
        asked = names_below("store.zarr/", web.requests)
    assert {r.method for r in web.requests} == {"GET"}
    # Objects of the same bytes, as groups' metadata are, are one in the cache.
    digests = made.manifest.objects
    assert asked.count("zarr.json") == 1
    assert sorted(digests[name] for name in asked if name != "zarr.json") == sorted(set(digests.values()))
    assert web.num_bytes() == sum((made.path / name).stat().st_size for name in asked)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stores_of_old_versions_are_read_without_a_listing(version: str, access: Access) -> None:
    folder = DATA / f"store-{version}.zarr"
    objects = json.loads((folder / "zarr.json").read_text())["attributes"]["dataltt"]["objects"]
    with FileServer(DATA) as web:
        store = TicketStore.open(f"{web.url}/{folder.name}", access)
        assert everything(store) == everything_in(folder)
        asked = set(names_below(f"{folder.name}/", web.requests))
        assert {r.method for r in web.requests} <= {"GET", "HEAD"}
    assert asked <= {"zarr.json", *objects}
    # Their manifests have no sizes: they are asked for, and never is an object downloaded twice.
    fetched = [r.path for r in web.requests if r.method == "GET"]
    assert len(fetched) == len(set(fetched))


def test_opening_fetches_metadata_alone_and_rows_their_own_objects(web: FileServer, made: Made, access: Access) -> None:
    store = TicketStore.open(f"{web.url}/store.zarr", access)
    assert {name.rpartition("/")[2] for name in web.paths()} == {"zarr.json"}
    web.clear()
    store.read_tickets(range(2))
    assert web.paths() == [f"store.zarr/{FIRST_TICKETS}"]
    store.read_tickets(range(5, 9))
    assert web.paths() == [f"store.zarr/{FIRST_TICKETS}"]


def test_every_check_of_verify_passes_from_far(web: FileServer, access: Access) -> None:
    checks = list(verify_store(f"{web.url}/store.zarr", access=access))
    assert [c.name for c in checks if not c.ok] == []
    assert len(checks) > 5
    assert not any(r.path.endswith("/") or r.status >= 400 for r in web.requests)


@pytest.mark.parametrize("fault", [{"drop_after_bytes": 5}, {"drop_after_bytes": 0}, {"status": 503}, {"status": 429}])
def test_what_passes_is_tried_again(web: FileServer, made: Made, access: Access, fault: dict[str, int]) -> None:
    faults = [web.fail(f"store.zarr/{name}", times=2, **fault) for name in ("zarr.json", FIRST_TICKETS)]
    store = TicketStore.open(f"{web.url}/store.zarr", access)
    assert everything(store) == everything_in(made.path)
    assert [f.num_met for f in faults] == [2, 2]


def test_a_download_that_always_breaks_off_is_given_up_and_leaves_nothing(
    web: FileServer, made: Made, access: Access
) -> None:
    fault = web.fail(f"store.zarr/{FIRST_TICKETS}", drop_after_bytes=5)
    store = TicketStore.open(f"{web.url}/store.zarr", access)
    with pytest.raises(RemoteError) as caught:
        store.read_tickets(range(2))
    assert str(caught.value) == f"{web.url}/store.zarr/{FIRST_TICKETS} broke off while it was read; try again"
    assert fault.num_met == 4
    assert left_over(access.cache_folder) == []
    assert not list(access.cache_folder.glob(f"objects/*/{made.manifest.objects[FIRST_TICKETS]}"))
    web.clear()
    assert np.array_equal(store.read_tickets(range(11)), made.column("tickets"))


def test_half_an_upload_is_no_store(web_of_copy: FileServer, store: Path, access: Access) -> None:
    url = f"{web_of_copy.url}/store.zarr"
    (store / FIRST_TICKETS).unlink()
    opened = TicketStore.open(url, access)
    with pytest.raises(RemoteError) as caught:
        opened.read_tickets(range(2))
    assert str(caught.value) == (
        f"{url}/{FIRST_TICKETS} is missing: the upload is not complete; push it again, or ask who published it"
    )
    (store / "zarr.json").unlink()
    with pytest.raises(StoreNotFoundError) as no_store:
        TicketStore.open(url, replace(access, cache_dir=store.parent / "other"))
    assert str(no_store.value) == f"{url} is not finished: its zarr.json is missing; push it again to finish it"
    assert {r.method for r in web_of_copy.requests} == {"GET"}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 1000)


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip, "has another SHA-256 than the manifest says: it was damaged or replaced"),
        (_lengthen, "has more than {size} bytes: it was damaged or replaced"),
        (_shorten, "broke off while it was read ({less} of {size} bytes came); try again"),
    ],
)
def test_an_object_that_is_not_the_manifests_is_refused_and_not_kept(
    web_of_copy: FileServer, store: Path, made: Made, access: Access, damage: Any, says: str
) -> None:
    size = (store / FIRST_TICKETS).stat().st_size
    damage(store / FIRST_TICKETS)
    url = f"{web_of_copy.url}/store.zarr"
    opened = TicketStore.open(url, access)
    with pytest.raises(RemoteError) as caught:
        opened.read_tickets(range(2))
    assert str(caught.value).startswith(f"{url}/{FIRST_TICKETS} {says.format(size=size, less=size - 1)}")
    assert not list(access.cache_folder.glob(f"objects/*/{made.manifest.objects[FIRST_TICKETS]}"))
    assert left_over(access.cache_folder) == []


def test_metadata_that_is_not_the_manifests_is_refused(web_of_copy: FileServer, store: Path, access: Access) -> None:
    _flip(store / "tickets/zarr.json")
    with pytest.raises(RemoteError, match=r"tickets/zarr.json has another SHA-256 than the manifest says"):
        TicketStore.open(f"{web_of_copy.url}/store.zarr", access)


@pytest.mark.parametrize("lie", [1, 1 << 40])
def test_a_manifest_that_lies_about_a_size_is_found_out(
    web_of_copy: FileServer, store: Path, access: Access, lie: int
) -> None:
    edit_manifest(store, lambda m: m["sizes"].update({FIRST_TICKETS: lie}))
    # Either no store can have this, or what comes is not it; and no more is read than was promised.
    with pytest.raises((RemoteError, SchemaError)):
        TicketStore.open(f"{web_of_copy.url}/store.zarr", access).read_tickets(range(2))


def test_a_flipped_bit_in_the_manifest_is_found_on_opening(
    web_of_copy: FileServer, store: Path, access: Access
) -> None:
    edit_manifest(store, lambda m: m["view"].update(mean=[0.5, 0.5, 0.25]), seal=False)
    with pytest.raises(SchemaError, match="checksum"):
        TicketStore.open(f"{web_of_copy.url}/store.zarr", access)


def test_a_token_is_sent_and_a_wrong_one_refused(made: Made, access: Access, no_credentials: None) -> None:
    with FileServer(made.path.parent, authorization="Bearer open sesame") as web:
        url = f"{web.url}/store.zarr"
        store = TicketStore.open(url, with_options(access, {"token": "open sesame"}))
        assert everything(store) == everything_in(made.path)
        for options in ({}, {"token": "guess"}):
            other = replace(with_options(access, options), cache_dir=access.cache_folder / "other")
            with pytest.raises(RemoteError) as caught:
                TicketStore.open(url, other)
            assert str(caught.value) == (
                f"{url}/zarr.json may not be read with these credentials (the server answers 401); give "
                "`storage_option='token=…'`, or a machine's user and password in ~/.netrc"
            )
        assert "guess" not in str(caught.value)


def test_a_password_comes_from_the_netrc_file_and_never_from_the_url(
    made: Made, access: Access, no_credentials: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorization = "Basic " + base64.b64encode(b"anna:secret").decode()
    with FileServer(made.path.parent, authorization=authorization) as web:
        host = web.url.removeprefix("http://")
        with pytest.raises(OptionError) as caught:
            TicketStore.open(f"http://anna:secret@{host}/store.zarr", access)
        assert str(caught.value) == (
            f"http://…@{host}/… has a password in it, which would stand in messages and in the run's record; put it "
            "into ~/.netrc, or give `storage_option='token=…'`"
        )
        assert web.requests == []
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password secret\n", encoding="utf-8")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert everything(TicketStore.open(f"{web.url}/store.zarr", access)) == everything_in(made.path)


def test_a_proxy_of_the_environment_is_asked(
    web: FileServer, made: Made, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", web.url)
    store = TicketStore.open("http://no-such-host.invalid/store.zarr", access)
    assert everything(store) == everything_in(made.path)


def test_a_run_that_has_everything_needs_no_network(
    made: Made, access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    with FileServer(made.path.parent) as web:
        url = f"{web.url}/store.zarr"
        expected = everything(TicketStore.open(url, access))
    again = TicketStore.open(url, access)
    assert everything(again) == expected
    assert f"{web.url} refuses connections" in caplog.text
    assert "going on with the copy in" in caplog.text


def test_a_server_that_is_down_behind_its_proxy_is_no_network_either(
    web: FileServer, made: Made, access: Access
) -> None:
    expected = everything(TicketStore.open(f"{web.url}/store.zarr", access))
    web.fail("*", status=502)
    assert everything(TicketStore.open(f"{web.url}/store.zarr", access)) == expected


def test_without_network_what_is_not_here_is_named(made: Made, access: Access) -> None:
    with FileServer(made.path.parent) as web:
        TicketStore.open(f"{web.url}/store.zarr", access)
    store = TicketStore.open(f"{web.url}/store.zarr", access)
    with pytest.raises(RemoteError) as caught:
        store.read_tickets(range(2))
    assert str(caught.value) == (f"{web.url} refuses connections; check the URL, the port, and that the server runs")


def test_a_worker_reads_the_root_that_its_parent_read_and_asks_for_none(
    web: FileServer, made: Made, access: Access
) -> None:
    parent = TicketStore.open(f"{web.url}/store.zarr", access)
    root = (made.path / "zarr.json").read_bytes()
    assert parent.location.root_sha256 == hashlib.sha256(root).hexdigest()
    everything(parent)
    web.clear()
    assert everything(TicketStore.open(parent.location)) == everything_in(made.path)
    assert web.requests == []


def test_a_store_that_was_replaced_while_it_was_read_is_refused(
    web_of_copy: FileServer, store: Path, access: Access
) -> None:
    url = f"{web_of_copy.url}/store.zarr"
    parent = TicketStore.open(url, access)
    edit_manifest(store, lambda m: m.update(created="2020-01-01T00:00:00+00:00"))
    elsewhere = replace(parent.location, access=replace(access, cache_dir=store.parent / "another-machine"))
    with pytest.raises(RemoteError) as caught:
        TicketStore.open(elsewhere)
    assert str(caught.value) == f"the store at {url} was replaced while it was being read; start again"
    # Whoever opens it anew sees the new one.
    assert TicketStore.open(url, access).manifest.created == "2020-01-01T00:00:00+00:00"


def test_a_zip_file_on_a_server_is_to_be_downloaded(made: Made, access: Access) -> None:
    with FileServer(made.path.parent) as web, pytest.raises(StoreNotFoundError) as caught:
        TicketStore.open(f"{web.url}/store.zip", access)
    assert str(caught.value) == f"{web.url}/store.zip is a zip file on another machine; download it, and give its path"
