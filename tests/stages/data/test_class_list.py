"""classes.json beside shards, local or behind a URL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataltt.artifacts_schema import Access, OptionError, RemoteError
from dataltt.stages.data.class_list import class_list_beside, listed_classes, pack_anew
from dataltt.stages.data.shards import Shard

from ...far.http_server import FileServer
from ...far.s3_server import PRIVATE_BUCKET, S3Server

NAMES = {"cat": 0, "dog": 2, "a bird": 1}
LIST = json.dumps(NAMES)


def beside(url: str, access: Access | None = None) -> list[Shard]:
    return [Shard(url=f"{url}/{name}", name=name, access=access or Access()) for name in ("t-0.tar", "t-1.tar")]


@pytest.mark.parametrize("query", ["", "?download=1&name=a/b"])
def test_a_list_on_a_web_server(tmp_path: Path, query: str) -> None:
    (tmp_path / "classes.json").write_text(LIST)
    with FileServer(tmp_path) as web:
        shards = [Shard(url=f"{web.url}/t-0.tar{query}", name="t-0.tar")]
        found = class_list_beside(shards)
        assert found is not None
        assert (found.place, found.number_of) == (f"{web.url}/classes.json", NAMES)
        assert listed_classes(shards) == 3
        assert [r.path for r in web.requests] == ["classes.json"] * 2
        copied = f"dataltt pack --classes classes.json SRC OUT, with a copy of {web.url}/classes.json"
        assert pack_anew(found) == copied


def test_a_list_in_a_bucket(s3_server: S3Server) -> None:
    s3_server.put(PRIVATE_BUCKET, "listed/classes.json", LIST.encode())
    key, secret = s3_server.reader
    access = Access(storage_options=(("endpoint_url", s3_server.url), ("key", key), ("secret", secret)))
    assert listed_classes(beside(f"s3://{PRIVATE_BUCKET}/listed", access)) == 3
    assert listed_classes(beside(f"s3://{PRIVATE_BUCKET}/not-listed", access)) is None


@pytest.mark.parametrize("status", [404, 410, 403, 401])
def test_no_list_is_no_error(tmp_path: Path, status: int) -> None:
    with FileServer(tmp_path) as web:
        web.fail("*classes.json", status=status)
        assert listed_classes(beside(web.url)) is None
        assert class_list_beside(beside(web.url)) is None


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [({"status": 500}, "the server answered 500"), ({"drop_after_bytes": 5}, "broke off while it was read")],
)
def test_a_list_that_fails_is_said(tmp_path: Path, fault: dict[str, int], sentence: str) -> None:
    (tmp_path / "classes.json").write_text(LIST)
    with FileServer(tmp_path) as web:
        web.fail("*classes.json", **fault)
        for ask in (listed_classes, class_list_beside):
            with pytest.raises(RemoteError, match=rf"/classes\.json .*{sentence}"):
                ask(beside(web.url))


def test_a_list_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text("<html>")
    with FileServer(tmp_path) as web:
        with pytest.raises(OptionError, match=r"http.*/classes\.json does not list classes .*`num_classes`"):
            listed_classes(beside(web.url))
        assert class_list_beside(beside(web.url)) is None


def test_a_list_without_an_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "classes.json").write_text(LIST)
    monkeypatch.setattr("dataltt.stages.data.class_list._MAX_BYTES", len(LIST) - 1)
    with FileServer(tmp_path) as web, pytest.raises(RemoteError, match=rf"is larger than the {len(LIST) - 1} bytes"):
        listed_classes(beside(web.url))


def test_nothing_is_beside_a_command(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    assert listed_classes([Shard(url=f"pipe:touch {mark}; cat {tmp_path}/t.tar", name="t")]) is None
    assert not mark.exists()
