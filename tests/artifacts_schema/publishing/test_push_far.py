"""Sending a store to S3, to Google's storage and to the hub's stand-in, and fetching it back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import (
    Access,
    Location,
    OptionError,
    OutputExistsError,
    RemoteError,
    read_manifest,
)
from dataltt.artifacts_schema.access.location import storage_options
from dataltt.artifacts_schema.manifest import Publication
from dataltt.artifacts_schema.publishing.publication import publish_as
from dataltt.artifacts_schema.publishing.pull import pull
from dataltt.artifacts_schema.publishing.push import push

from ...far.gs_server import BUCKET, GoogleServer
from ...far.http_server import FileServer
from ...far.hub_writing import WRITER, WritableHub
from ...far.s3_server import PRIVATE_BUCKET, PUBLIC_BUCKET, S3Server
from ...schema_helpers import Made, digests_of, make_store

CARD = {"README.md": b"---\nlicense: mit\n---\n# tickets\n", "card.png": b"a picture" * 1000}


class Stop(BaseException):
    """Ends a push as Ctrl-C would."""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATALTT_CACHE", str(tmp_path / "cache"))
    # Xet is a service of its own, which the stand-in is not.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A store of few objects. Tests leave it as it is."""
    return make_store(tmp_path_factory.mktemp("lean"), num_shards=1, rows_per_shard=(5,), ranks=False)


@pytest.fixture
def hub(no_credentials: None) -> Iterator[WritableHub]:
    """A stand-in for the hub that may be written to."""
    with WritableHub() as server:
        yield server


def place_of(url: str, options: Mapping[str, Any]) -> Location:
    """A URL with the way to it."""
    return Location.of(url, Access(storage_options=storage_options(options)))


def on_hub(hub: WritableHub, name: str = "lab/tickets", token: str = WRITER) -> Location:
    """A data set of the hub."""
    return place_of(f"hf://datasets/{name}", {"endpoint": hub.url, "token": token})


def on_s3(s3: S3Server, key: str, bucket: str = PRIVATE_BUCKET) -> Location:
    """A place in a bucket, for the user who may write but not list."""
    return place_of(f"s3://{bucket}/{key}", s3.options(s3.writer))


def stop_after(num_steps: int) -> Callable[[str, int, int], None]:
    """Lets so many files be sent, and then ends the push."""
    steps = iter(range(num_steps))

    def progress(what: str, done: int, total: int) -> None:
        if what == "sending" and next(steps, None) is None:
            raise Stop

    return progress


def check_round_trip(made: Made, place: Location, tmp_path: Path) -> None:
    """Sends, sends again, and fetches."""
    first = push(made.path, place, CARD)
    assert (first.num_sent, first.num_skipped) == (len(made.manifest.objects) + len(CARD) + 1, 0)
    again = push(made.path, place, CARD)
    assert (again.num_sent, again.num_skipped) == (0, first.num_sent)
    result = pull(place, tmp_path / "near.zarr")
    assert result.card == ("README.md", "card.png")
    near = digests_of(tmp_path / "near.zarr")
    assert {n: d for n, d in near.items() if n not in CARD} == {
        n: d for n, d in digests_of(made.path).items() if n != "local.json"
    }
    assert not list((tmp_path / "cache" / "objects").glob("*/*")) or result.root_sha256 in {
        p.name for p in (tmp_path / "cache" / "objects").glob("*/*")
    }


# S3, by a user who may not list


@pytest.mark.long
def test_s3_and_back(made: Made, s3_server: S3Server, tmp_path: Path) -> None:
    check_round_trip(made, on_s3(s3_server, "round/train.zarr"), tmp_path)
    assert not [r for r in s3_server.requests if "list-type" in r.path and r.status == 200]


@pytest.mark.long
def test_s3_sends_the_root_last_and_nothing_twice(made: Made, s3_server: S3Server) -> None:
    place = on_s3(s3_server, "order")
    push(made.path, place, CARD)
    puts = [r.path for r in s3_server.requests if r.method == "PUT"]
    assert puts[-1] == f"{PRIVATE_BUCKET}/order/zarr.json"
    assert len(puts) == len(set(puts)) == len(made.manifest.objects) + len(CARD) + 1
    s3_server.requests.clear()
    push(made.path, place, CARD)
    # Contents are compared by the MD5 that S3 says; only the root is read, to know whose store it is.
    assert {r.path for r in s3_server.requests if r.method == "GET"} == {f"{PRIVATE_BUCKET}/order/zarr.json"}
    assert "PUT" not in {r.method for r in s3_server.requests}


@pytest.mark.long
def test_s3_half_of_it_is_no_store_and_goes_on(made: Made, s3_server: S3Server) -> None:
    place = on_s3(s3_server, "half")
    with pytest.raises(Stop):
        push(made.path, place, CARD, on_progress=stop_after(3))
    sent = [k for k in s3_server.keys(PRIVATE_BUCKET) if k.startswith("half/")]
    assert 3 < len(sent) < len(made.manifest.objects)
    assert "half/zarr.json" not in sent
    result = push(made.path, place, CARD)
    assert result.num_skipped == len(sent)
    assert read_manifest(place).digest == made.manifest.digest


@pytest.mark.long
def test_s3_other_tickets_are_replaced_only_when_asked(made: Made, s3_server: S3Server, tmp_path: Path) -> None:
    place = on_s3(s3_server, "others")
    other = make_store(tmp_path, num_shards=1, rows_per_shard=(3,), ranks=False, seed=1)
    push(made.path, place, CARD)
    with pytest.raises(OutputExistsError, match=r"holds a store of other tickets .*overwrite=True"):
        push(other.path, place, CARD)
    with pytest.raises(Stop):
        push(other.path, place, CARD, overwrite=True, on_progress=stop_after(2))
    assert "others/zarr.json" not in s3_server.keys(PRIVATE_BUCKET)
    push(other.path, place, CARD, overwrite=True)
    assert pull(place, tmp_path / "near.zarr").ticket_digest == other.manifest.digest
    named = {f"others/{n}" for n in (*other.manifest.objects, *CARD, "zarr.json")}
    assert {k for k in s3_server.keys(PRIVATE_BUCKET) if k.startswith("others/")} == named


@pytest.mark.long
def test_s3_what_was_damaged_there_is_sent_again(made: Made, s3_server: S3Server) -> None:
    place = on_s3(s3_server, "damaged")
    push(made.path, place, CARD)
    content = bytearray((made.path / "tickets/c/0/0/0").read_bytes())
    content[3] ^= 1
    s3_server.put(PRIVATE_BUCKET, "damaged/tickets/c/0/0/0", bytes(content))
    s3_server.remove(PRIVATE_BUCKET, "damaged/labels/c/0")
    assert push(made.path, place, CARD).num_sent == 3
    assert push(made.path, place, CARD).num_sent == 0


def test_s3_what_it_does_not_keep_is_noticed(made: Made, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that keeps something else than it was sent: there must be no root beside it."""
    place, put = on_s3(s3_server, "liar"), s3_server._ask_moto

    def lose(environ: dict[str, Any]) -> Any:
        answer = put(environ)
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith("/tickets/c/0/0/0"):
            s3_server.put(PRIVATE_BUCKET, "liar/tickets/c/0/0/0", b"something else")
        return answer

    monkeypatch.setattr(s3_server, "_ask_moto", lose)
    with pytest.raises(RemoteError, match=r"liar/tickets/c/0/0/0 and 0 other\(s\) are not what was sent; push again"):
        push(made.path, place, CARD)
    assert "liar/zarr.json" not in s3_server.keys(PRIVATE_BUCKET)


@pytest.mark.long
def test_s3_without_rights_to_write(made: Made, s3_server: S3Server) -> None:
    for bucket, who in ((PRIVATE_BUCKET, None), (PRIVATE_BUCKET, s3_server.reader), (PUBLIC_BUCKET, None)):
        place = place_of(f"s3://{bucket}/rights", s3_server.options(who))
        with pytest.raises(RemoteError, match=r"s3://.* may not be written with these credentials .*AWS_PROFILE") as e:
            push(made.path, place, CARD)
        assert "anon" not in str(e.value)


def test_s3_without_a_bucket(made: Made, s3_server: S3Server) -> None:
    with pytest.raises(RemoteError, match="there is no bucket s3://absent-bucket; make it first"):
        push(made.path, on_s3(s3_server, "a", bucket="absent-bucket"), CARD)


# Google's storage


@pytest.mark.long
def test_google_and_back(made: Made, gs_server: GoogleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The emulator lets five wait: the sixth connection is tried again after a second.
    monkeypatch.setattr("dataltt.artifacts_schema.publishing.bucket_target._AT_ONCE", 2)
    monkeypatch.setattr("dataltt.artifacts_schema.access.remote._AT_ONCE", 2)
    check_round_trip(made, place_of(f"gs://{BUCKET}/round/train.zarr", gs_server.options()), tmp_path)


# The hub


def test_the_hub_and_back(made: Made, hub: WritableHub, tmp_path: Path) -> None:
    check_round_trip(made, on_hub(hub), tmp_path)
    assert hub.repositories["lab/tickets"].token is None


def test_the_hub_gets_one_commit_of_everything(made: Made, hub: WritableHub) -> None:
    push(made.path, on_hub(hub), CARD)
    assert [r.path for r in hub.requests if "/commit/" in r.path] == ["api/datasets/lab/tickets/commit/main"]
    assert hub.repositories["lab/tickets"].files.keys() == {*made.manifest.objects, *CARD, "zarr.json"}
    hub.requests.clear()
    push(made.path, on_hub(hub), CARD)
    assert not [r.path for r in hub.requests if r.method == "PUT" or "/commit/" in r.path or "/preupload/" in r.path]


def test_the_hub_refuses_half_way_and_goes_on(made: Made, hub: WritableHub) -> None:
    hub.refuses_after = 4
    with pytest.raises(RemoteError, match=r"hf://datasets/lab/tickets .*403"):
        push(made.path, on_hub(hub), CARD)
    assert hub.repositories["lab/tickets"].files == {}
    kept = {f"lfs-upload/{sha256}" for sha256 in hub.contents}
    hub.refuses_after = None
    hub.requests.clear()
    push(made.path, on_hub(hub), CARD)
    sent_again = kept & {r.path for r in hub.requests if r.method == "PUT"}
    assert (len(kept) > 0, sent_again) == (True, set())
    assert read_manifest(on_hub(hub)).digest == made.manifest.digest


def test_several_stores_in_one_repository(made: Made, hub: WritableHub, tmp_path: Path) -> None:
    other = make_store(tmp_path, seed=1)
    push(made.path, on_hub(hub, "lab/tickets/train.zarr"), CARD)
    push(other.path, on_hub(hub, "lab/tickets@main/deep/val.zarr"), CARD)
    assert read_manifest(on_hub(hub, "lab/tickets/train.zarr")).digest == made.manifest.digest
    assert read_manifest(on_hub(hub, "lab/tickets/deep/val.zarr")).digest == other.manifest.digest


def test_other_tickets_on_the_hub(made: Made, hub: WritableHub, tmp_path: Path) -> None:
    other = make_store(tmp_path, num_shards=1, rows_per_shard=(3,), seed=1)
    push(other.path, on_hub(hub), CARD)  # has ranks, which go
    made, other = other, made
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        push(other.path, on_hub(hub), CARD)
    push(other.path, on_hub(hub), CARD, overwrite=True)
    assert hub.repositories["lab/tickets"].files.keys() == {*other.manifest.objects, *CARD, "zarr.json"}


def test_a_new_licence_on_the_hub_sends_the_root_alone(made: Made, hub: WritableHub, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made.path, tmp_path / "copy.zarr"))
    push(store, on_hub(hub), CARD)
    publish_as(store, Publication(license="MIT"))
    assert push(store, on_hub(hub), CARD).num_sent == 1


def test_private_repositories(made: Made, hub: WritableHub) -> None:
    push(made.path, on_hub(hub), CARD, private=True)
    assert hub.repositories["lab/tickets"].token == WRITER
    push(made.path, on_hub(hub, "lab/public"), CARD)
    with pytest.raises(OptionError, match=r"hf://datasets/lab/public is there already and is public"):
        push(made.path, on_hub(hub, "lab/public"), CARD, private=True)


def test_the_hub_without_rights(made: Made, hub: WritableHub) -> None:
    with pytest.raises(RemoteError, match=r"may not be written .*hf auth login"):
        push(made.path, on_hub(hub, token="hf_reader"), CARD)


def test_the_hub_is_not_there(made: Made, hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataltt.artifacts_schema.access.trying._FIRST_WAIT_S", 0.0)
    hub.stop()
    with pytest.raises(RemoteError, match=f"{hub.url} refuses connections"):
        push(made.path, on_hub(hub), CARD)


@pytest.mark.parametrize("url", ["hf://datasets/lab", "hf://lab/tickets", "hf://datasets/"])
def test_what_is_no_data_set_of_the_hub(made: Made, url: str) -> None:
    with pytest.raises(OptionError, match="write hf://datasets/OWNER/NAME"):
        push(made.path, Location.of(url), CARD)


# A plain web server, which is fetched from


def test_from_a_web_server_that_drops_connections(made: Made, tmp_path: Path) -> None:
    push(made.path, Location.of(tmp_path / "www/train.zarr"), CARD)
    with FileServer(tmp_path / "www") as server:
        server.fail("*/tickets/c/*", drop_after_bytes=100, times=1)
        result = pull(Location.of(f"{server.url}/train.zarr"), tmp_path / "near.zarr")
    assert result.num_fetched == len(made.manifest.objects)
    assert digests_of(tmp_path / "near.zarr") == digests_of(tmp_path / "www/train.zarr")


def test_from_a_web_server_that_goes_away(made: Made, tmp_path: Path) -> None:
    push(made.path, Location.of(tmp_path / "www/train.zarr"), CARD)
    out = tmp_path / "near.zarr"
    with FileServer(tmp_path / "www") as server:
        server.fail("*/tickets/c/*", status=403)
        with pytest.raises(RemoteError, match="403"):
            pull(Location.of(f"{server.url}/train.zarr"), out)
        assert not out.exists()
        server.clear()
        result = pull(Location.of(f"{server.url}/train.zarr"), out)
        assert server.requests
    assert result.num_skipped > 0
    assert result.num_fetched + result.num_skipped == len(made.manifest.objects)
