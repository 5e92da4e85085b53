"""Chunks that inflate, indices that lie, objects without end: refused in a sentence, before memory is taken."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import zarr
from dataltt.artifacts_schema import SchemaError, TicketStore
from dataltt.artifacts_schema.bounded_codecs import zstd_content_size
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from ..schema_helpers import Made, copy_store, edit_manifest, edit_metadata, make_store

CHUNK_BYTES = 4096 * 2  # of the tickets below: 4096 rows of one view of 15 patches
NUM_CHUNKS = 512  # of an object, of which the first alone has rows; so large a one may have a bomb's bytes
NO_CHUNK = 2**64 - 1
RLE_BYTES = 1 << 17  # of zeros, in four bytes
ZERO_BLOCK = (RLE_BYTES << 3 | 1 << 1).to_bytes(3, "little") + b"\0"


def zstd_bomb(num_bytes: int, *, claims: int | None) -> bytes:
    """A Zstandard frame of zeros: blocks of one repeated byte, four bytes for 128 KiB. A header may lie."""
    window = bytes([(17 - 10) << 3])
    header = b"\xc0" + window + claims.to_bytes(8, "little") if claims is not None else b"\x00" + window
    blocks = bytearray(ZERO_BLOCK * (num_bytes // RLE_BYTES))
    blocks[-4] |= 1  # the last
    return b"\x28\xb5\x2f\xfd" + header + bytes(blocks)


def blosc_claiming(num_bytes: int, *, of: int | None = None) -> bytes:
    """A Blosc chunk of zeros whose header has another size than it holds, or says that more of it follows."""
    chunk = bytearray(Blosc(cname="zstd").encode(bytes(CHUNK_BYTES)))
    chunk[4:8] = struct.pack("<I", num_bytes)
    chunk[8:12] = struct.pack("<I", min(num_bytes, 1 << 20))
    chunk[12:16] = struct.pack("<I", len(chunk) if of is None else of)
    return bytes(chunk)


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))


def put_object(store: Path, chunk: bytes, place: tuple[int, int] | None = None, *, rows: int = 4096) -> None:
    """Writes the object of the tickets: a chunk, with a checksum that is right, and an index whose entries name it.

    Args:
        place: offset and bytes of the chunk, as the index says. Default: as they are.
        rows: of a chunk.
    """

    def change(document: Any) -> None:
        document["chunk_grid"]["configuration"]["chunk_shape"] = [rows * NUM_CHUNKS, 1, 2]
        document["codecs"][0]["configuration"]["chunk_shape"] = [rows, 1, 2]

    edit_metadata(store, "tickets", change)
    content = sealed(chunk)
    index = np.array([place or (0, len(content))] * NUM_CHUNKS, dtype="<u8").tobytes()
    (store / "tickets/c/0/0/0").write_bytes(content + sealed(index))


def set_compressor(store: Path, name: str, **configuration: Any) -> None:
    def change(document: Any) -> None:
        document["codecs"][0]["configuration"]["codecs"][1] = {"name": name, "configuration": configuration}

    edit_metadata(store, "tickets", change)


def set_blosc(store: Path, chunk: bytes) -> None:
    set_compressor(store, "blosc", cname="zstd", clevel=5, shuffle="noshuffle", typesize=1, blocksize=0)
    put_object(store, chunk)


def set_gzip(store: Path) -> None:
    set_compressor(store, "gzip", level=5)
    put_object(store, gzip.compress(bytes(16 << 20)) * 64)  # members one after the other are one stream


def set_endless(store: Path) -> None:
    os.truncate(store / "tickets/c/0/0/0", 64 << 30)  # takes no room on the disk


HONEST = Zstd(level=3).encode(bytes(CHUNK_BYTES))
BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "zstd, as it says": (
        lambda store: put_object(store, zstd_bomb(1 << 31, claims=1 << 31)),
        "a chunk of 8192 bytes decodes to 2147483648",
    ),
    "zstd that says less": (
        lambda store: put_object(store, zstd_bomb(1 << 31, claims=CHUNK_BYTES)),
        "Zstd decompression error",
    ),
    "zstd that says nothing": (
        lambda store: put_object(store, zstd_bomb(1 << 31, claims=None)),
        "a chunk of 8192 bytes decodes to more",
    ),
    "a second frame": (
        lambda store: put_object(store, HONEST + zstd_bomb(1 << 31, claims=1 << 31)),
        "destination buffer too small",
    ),
    "blosc, as it says": (
        lambda store: set_blosc(store, blosc_claiming((1 << 31) - 1)),
        "a chunk of 8192 bytes decodes to 2147483647",
    ),
    "blosc that would read past its end": (
        lambda store: set_blosc(store, blosc_claiming(CHUNK_BYTES, of=1 << 30)),
        "Blosc header does not fit",
    ),
    "gzip": (set_gzip, "a chunk of 8192 bytes decodes to more"),
    "eleven chunks of 1 GiB, ten at a time": (
        lambda store: put_object(store, zstd_bomb(1 << 30, claims=None), rows=1),
        "a chunk of 2 bytes decodes to more",
    ),
    "an object of 64 GiB": (set_endless, r"has more than \d+ bytes"),
    "an index that leads out": (lambda store: put_object(store, HONEST, (2**63, 2**63)), "leads out of it"),
    "an index past the end": (lambda store: put_object(store, HONEST, (2**39, 2**39)), "is missing or empty"),
    "a chunk that is not there": (
        lambda store: put_object(store, HONEST, (NO_CHUNK, NO_CHUNK)),
        "a chunk is missing from its object",
    ),
}
READER = """
import json, re, sys
from pathlib import Path
from dataltt.artifacts_schema import SchemaError, TicketStore
from dataltt.artifacts_schema.verify import verify_store
def peak():  # VmHWM, since what getrusage says begins with the peak of the program that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
TicketStore.open(sys.argv[1]).read_tickets(range(11))
before, said = peak(), {}
for name in sys.argv[2:]:
    try:
        TicketStore.open(name).read_tickets(range(11))
        said[name] = "nothing"
    except SchemaError as error:
        said[name] = str(error)
print(json.dumps({"grown": peak() - before, "said": said}))
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("sound"))


@pytest.mark.long
def test_bombs_are_refused_in_one_sentence_and_a_little_memory(sound: Made, tmp_path: Path) -> None:
    stores = {}
    for number, (name, (build, _)) in enumerate(BOMBS.items()):
        stores[name] = Path(shutil.copytree(sound.path, tmp_path / f"bomb-{number}.zarr"))
        build(stores[name])
    command = [sys.executable, "-c", READER, sound.path, *stores.values()]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    for name, (_, says) in BOMBS.items():
        said = document["said"][str(stores[name])]
        assert re.search(f"^{stores[name]} is not a valid ticket store: tickets: cannot be read .*{says}", said), said
        assert "\n" not in said
        assert len(said) < 500
    assert document["grown"] < 50 << 20


def change_codecs(store: Path, change: Callable[[Any], None]) -> None:
    """Alters the configuration of the sharding codec of the tickets, and of the chunk grid as `shard_shape`."""

    def alter(document: Any) -> None:
        configuration = document["codecs"][0]["configuration"]
        change(configuration)
        document["chunk_grid"]["configuration"]["chunk_shape"] = configuration.pop("shard_shape", [4096, 1, 2])

    edit_metadata(store, "tickets", alter)


def nest(configuration: Any) -> None:
    inner = {**configuration, "codecs": [{"name": "bytes"}]}
    configuration["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]


ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (nest, "codecs in an order that no store has: sharding_indexed"),
        (lambda c: c["codecs"].insert(1, ZSTD), "bytes zstd zstd crc32c"),
        (lambda c: c["codecs"].append(ZSTD), "bytes zstd crc32c zstd"),
        (lambda c: c["index_codecs"].insert(1, ZSTD), "bytes zstd crc32c"),
        (lambda c: c.update(chunk_shape=[1 << 25, 1, 4], shard_shape=[1 << 25, 1, 4]), "chunks of 134217728 bytes"),
        (lambda c: c.update(chunk_shape=[1, 1, 2], shard_shape=[1 << 17, 1, 2]), "objects of 131072 chunks"),
        (lambda c: c.update(shard_shape=[1 << 28, 1, 2]), "objects of 536870912 bytes"),
    ],
    ids=["nested", "zstd of zstd", "zstd of a checksum", "zstd of an index", "chunk", "many chunks", "object"],
)
def test_encodings_of_an_unknown_size_are_refused_on_opening(
    sound: Made, tmp_path: Path, change: Callable[[Any], None], says: str
) -> None:
    store = copy_store(sound, tmp_path)
    change_codecs(store, change)
    with pytest.raises(SchemaError, match=says):
        TicketStore.open(store)


def rewrite_tickets(store: Path, values: Any, **options: Any) -> None:
    """Writes the tickets anew with other codecs, all of the core registry."""
    shutil.rmtree(store / "tickets")
    array = zarr.open_group(store, mode="r+").create_array("tickets", shape=values.shape, dtype="uint8", **options)
    array[:] = values
    files = {path: hashlib.sha256((store / path).read_bytes()).hexdigest() for path in FILES}

    def agree(manifest: Any) -> None:
        manifest["objects"] |= files
        manifest["sizes"] |= {path: (store / path).stat().st_size for path in FILES}

    edit_manifest(store, agree)


FILES = ("tickets/zarr.json", "tickets/c/0/0/0")


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": [GzipCodec(level=5)]},
        {"compressors": [GzipCodec(level=5), Crc32cCodec()], "shards": (12, 1, 2)},
        {"compressors": [BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=1)], "shards": (12, 1, 2)},
        {"compressors": [], "shards": (12, 1, 2)},
        {"compressors": [ZstdCodec(level=3)], "filters": [TransposeCodec(order=(2, 1, 0))]},
    ],
    ids=["gzip", "gzip and checksum", "blosc", "none", "transposed"],
)
def test_other_core_codecs_give_the_same_tickets(sound: Made, tmp_path: Path, options: dict[str, Any]) -> None:
    store, tickets = copy_store(sound, tmp_path), sound.column("tickets")
    rewrite_tickets(store, tickets, chunks=(4, 1, 2) if "shards" in options else (12, 1, 2), **options)
    np.testing.assert_array_equal(TicketStore.open(store).read_tickets(range(11)), tickets)


def test_a_frame_that_does_not_tell_its_size_is_read(sound: Made, tmp_path: Path) -> None:
    store, tickets = copy_store(sound, tmp_path), sound.column("tickets")
    with pa.BufferOutputStream() as sink:
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(tickets.tobytes() + bytes(CHUNK_BYTES - tickets.nbytes))
        frame = sink.getvalue().to_pybytes()
    assert zstd_content_size(frame[:18]) is None
    put_object(store, frame)
    np.testing.assert_array_equal(TicketStore.open(store).read_tickets(range(11)), tickets)


@given(st.one_of(st.integers(1, 1000), st.sampled_from([255, 256, 65_791, 65_792, 1 << 20])))
def test_a_frame_says_how_much_it_holds(num_bytes: int) -> None:
    assert zstd_content_size(Zstd(level=1).encode(bytes(num_bytes))[:18]) == num_bytes


@given(st.binary(max_size=18))
def test_any_header_is_a_size_or_none(header: bytes) -> None:
    for start in (b"", b"\x28\xb5\x2f\xfd"):
        size = zstd_content_size((start + header)[:18])
        assert size is None or 0 <= size < 1 << 64
