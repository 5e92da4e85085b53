"""Shards from strangers: nothing in them runs, and what a header claims is not believed."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dataltt.artifacts_schema import SampleError, ShardError
from dataltt.stages.data.shard_headers import header_keys
from dataltt.stages.data.shard_limits import MAX_MEMBER_BYTES, MAX_SAMPLE_MEMBERS, shortened
from dataltt.stages.data.shards import Shard, iter_samples, resolve_shards

from ...helpers import tar_bytes


def shard_of(path: Path, content: bytes) -> Shard:
    path.write_bytes(content)
    return Shard(url=str(path), name=path.name)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("extension", ["pyd", "pkl", "pickle", "pth", "npy", "cls.pyd"])
def test_no_member_is_unpickled(tmp_path: Path, extension: str) -> None:
    mark = tmp_path / "it-ran"
    members = [("a.jpg", b"an image"), ("a.cls", b"3"), (f"a.{extension}", pickle.dumps(Payload(mark)))]
    (sample,) = iter_samples(shard_of(tmp_path / "a.tar", tar_bytes(members)))
    assert (sample.key, sample.image, sample.label) == ("a", b"an image", 3)
    assert not mark.exists()


def test_a_pickle_as_a_label_is_no_label(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    members = [("a.jpg", b"an image"), ("a.cls", pickle.dumps(Payload(mark)))]
    with pytest.raises(SampleError, match="is not a class index"):
        list(iter_samples(shard_of(tmp_path / "a.tar", tar_bytes(members))))
    assert not mark.exists()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int) -> bytes:
    """A sparse member of one byte that claims many (PAX 1.0)."""
    info = tarfile.TarInfo(name)
    info.size = 1024
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
    return info.tobuf(tarfile.PAX_FORMAT) + b"1\n0\n1\n".ljust(512, b"\0") + b"x".ljust(512, b"\0")


BOMBS: dict[str, Callable[[], bytes]] = {
    "a member of 10 GB": lambda: header("a.jpg", 10 << 30),
    "a label of 1 GB": lambda: header("a.jpg", 0) + header("a.cls", 1 << 30),
    "a sparse member of 1 TB": lambda: sparse("a.jpg", 1 << 40),
    "a long name of 10 GB": lambda: header("././@LongLink", 10 << 30, tarfile.GNUTYPE_LONGNAME),
    "a PAX header of 10 GB": lambda: header("pax", 10 << 30, tarfile.XHDTYPE),
    "a negative size": lambda: header("a.jpg", -512),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_size_that_no_image_has_is_refused_before_it_is_read(tmp_path: Path, kind: str) -> None:
    plain = BOMBS[kind]() + bytes(1024)
    for number, content in enumerate((plain, gzip.compress(plain))):
        shard = shard_of(tmp_path / f"{number}.tar", content)
        for read in (iter_samples, header_keys):
            with pytest.raises(ShardError, match=r"claims -?\d+ bytes|cannot be read to its end"):
                list(read(shard))


def test_a_compressed_shard_cannot_fill_the_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.tar", "wb", compresslevel=1) as file:
        file.write(header("a.jpg", MAX_MEMBER_BYTES + 1))
        file.write(bytes(1 << 20))
    with pytest.raises(ShardError, match=rf"member 'a.jpg' claims {MAX_MEMBER_BYTES + 1} bytes"):
        list(iter_samples(Shard(url=str(tmp_path / "a.tar"), name="a.tar")))


def test_a_sample_of_endless_members_is_refused(tmp_path: Path) -> None:
    members = [(f"a.e{number}", b"") for number in range(MAX_SAMPLE_MEMBERS + 1)]
    with pytest.raises(ShardError, match="sample 'a' has more than"):
        list(iter_samples(shard_of(tmp_path / "a.tar", tar_bytes(members))))


def test_a_key_that_no_store_can_hold_is_refused(tmp_path: Path) -> None:
    long = shard_of(tmp_path / "long.tar", tar_bytes([(f"{'k' * 4097}.jpg", b"an image")]))
    with pytest.raises(SampleError, match="has 4097 bytes, and at most 4096 are stored") as caught:
        list(iter_samples(long))
    assert len(str(caught.value)) < 500
    info = tarfile.TarInfo("key-\udcff.jpg")
    odd = shard_of(tmp_path / "odd.tar", info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + bytes(1024))
    with pytest.raises(SampleError, match=r"key 'key-\\udcff' is not UTF-8"):
        list(iter_samples(odd))


@pytest.mark.parametrize(
    "spec", ["t-{0..100000000}.tar", "{0..999}" * 30, "a{0..99999}{a,b}{0..9}.tar", "{" * 99 + "}" * 99]
)
def test_braces_are_counted_before_they_are_written_out(spec: str) -> None:
    with pytest.raises(ShardError, match=r"names; at most 1,000,000 are read|has braces in more than 50"):
        resolve_shards(spec)


def test_what_is_long_loses_its_middle() -> None:
    assert shortened("a" * 200) == "a" * 200
    assert shortened("a" * 101 + "b" * 100) == "a" * 100 + "…" + "b" * 100
    assert io.StringIO(shortened("")).read() == ""
