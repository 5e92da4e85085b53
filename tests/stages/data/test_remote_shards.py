"""Shards behind URLs: read as local ones are, and each failure a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataltt.artifacts_schema import Access, DatalttError, ShardError
from dataltt.stages.data.shard_headers import count_samples
from dataltt.stages.data.shards import iter_samples, resolve_shards

from ...far.http_server import FileServer
from ...far.s3_server import PRIVATE_BUCKET, S3Server
from ...helpers import fashion_samples, make_shards

KEYS = [s.key for s in fashion_samples(7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_shards(tmp_path / "shards", (4, 3), fashion_samples(7))
    return tmp_path / "shards"


def keys_of(spec: str, access: Access | None = None) -> list[str]:
    return [s.key for shard in resolve_shards(spec, access) for s in iter_samples(shard)]


@pytest.mark.parametrize("ranges", [True, False])
def test_shards_of_a_plain_web_server(folder: Path, ranges: bool) -> None:
    with FileServer(folder, ranges=ranges) as web:
        spec = f"{web.url}/train-{{000000..000001}}.tar"
        assert keys_of(spec) == KEYS
        assert [count_samples(s) for s in resolve_shards(spec)] == [4, 3]
        assert {r.method for r in web.requests} == {"GET"}


def test_shards_of_a_bucket(folder: Path, s3_server: S3Server) -> None:
    for path in folder.glob("*.tar"):
        s3_server.put(PRIVATE_BUCKET, f"shards/{path.name}", path.read_bytes())
    key, secret = s3_server.reader
    options = (("endpoint_url", s3_server.url), ("key", key), ("secret", secret))
    spec = f"s3://{PRIVATE_BUCKET}/shards/train-{{000000..000001}}.tar"
    assert keys_of(spec, Access(storage_options=options)) == KEYS
    with pytest.raises(DatalttError, match=r"train-000000\.tar may not be read with these credentials or is not there"):
        keys_of(spec, Access(storage_options=(("endpoint_url", s3_server.url), ("anon", "true"))))


def test_a_shard_that_is_not_there(folder: Path) -> None:
    with (
        FileServer(folder) as web,
        pytest.raises(ShardError, match=r"there is no shard http.*/train-000009\.tar; check"),
    ):
        keys_of(f"{web.url}/train-000009.tar")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"status": 403}, "may not be read with these credentials"),
        ({"status": 500}, "the server answered 500"),
        ({"drop_after_bytes": 3000}, "broke off while it was read"),
    ],
    ids=["forbidden", "server error", "dropped"],
)
def test_a_shard_that_fails(folder: Path, fault: dict[str, int], sentence: str) -> None:
    with FileServer(folder) as web:
        web.fail("*.tar", **fault)
        with pytest.raises(DatalttError, match=rf"train-000000\.tar .*{sentence}"):
            keys_of(f"{web.url}/train-000000.tar")


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(DatalttError, match=r"http://127\.0\.0\.1:9 refuses connections; check the URL"):
        keys_of("http://127.0.0.1:9/train-000000.tar")
