"""Parts of a selection and shards, changed at random."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataltt.artifacts_schema.writing.parts import part_path, write_part
from hypothesis import given
from hypothesis import strategies as st

from ..helpers import tar_bytes
from ..schema_helpers import make_part, make_spec
from .changes import VALUES, changed, damaged, few
from .targets import read_part_file, read_shard

pytestmark = pytest.mark.long
SPEC = make_spec(num_views=2)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_part(folder, 0, make_part(SPEC, 0, 5))
    return part_path(folder, 0)


@few
@given(data=st.data())
def test_bytes_of_parts(data: st.DataObject, part: Path) -> None:
    path = part.with_name("changed.parquet")
    path.write_bytes(data.draw(damaged(part.read_bytes())))
    read_part_file(path, SPEC)


def _columns() -> Any:
    kinds = [
        pa.array([None] * 5, pa.int32()),
        pa.array(["a"] * 5),
        pa.array([b"a"] * 5, pa.binary()),
        pa.array([b"\xff" * 4] * 5, pa.binary(4)),
        pa.array([[1]] * 5),
        pa.array([{"a": 1}] * 5),
        pa.array([1.5] * 5),
        pa.array([2**63] * 5, pa.uint64()),
        pa.array([None, "a", "a", "\0", "k" * 5000], pa.large_string()),
        pa.array([None, b"abcd", None, None, None], pa.binary(4)),
    ]
    return st.sampled_from(kinds)


@few
@given(data=st.data())
def test_columns_of_parts(data: st.DataObject, part: Path) -> None:
    table = pq.read_table(part)
    for _ in range(data.draw(st.integers(1, 2))):
        index = data.draw(st.integers(0, table.num_columns - 1))
        name = table.column_names[index]
        kind = data.draw(st.sampled_from(["other", "gone", "doubled"]))
        if kind == "other":
            table = table.set_column(index, name, data.draw(_columns()))
        elif kind == "doubled":
            table = table.append_column(name, table.column(index))
        elif table.num_columns > 1:
            table = table.remove_column(index)
    metadata = data.draw(
        changed({"dataltt": {"shard": "a.tar", "skipped": [{"shard": "a", "key": "b", "reason": "c"}]}})
    )
    content = json.dumps(metadata.get("dataltt", data.draw(VALUES))).encode()
    path = part.with_name("columns.parquet")
    pq.write_table(table.replace_schema_metadata({b"dataltt": content}), path)
    read_part_file(path, SPEC)


_NAMES = st.sampled_from(
    [
        "a.jpg",
        "a.cls",
        "b.png",
        "b.cls",
        "a.jpg.cls",
        ".jpg",
        "a",
        "",
        "/",
        "../a.jpg",
        "a/../b.jpg",
        "é.jpg",
        "x" * 300,
    ]
) | st.text(max_size=12)
_KINDS = st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"g", b"x", b"L", b"K", b"S", b"V", b"Z"])
_SIZES = st.sampled_from([0, 1, 511, 512, 513, 2**33, 2**62, -1])


@st.composite
def _member(draw: st.DrawFn) -> bytes:
    info = tarfile.TarInfo(draw(_NAMES))
    info.type = draw(_KINDS)
    info.linkname = draw(_NAMES)
    content = draw(st.binary(max_size=40) | st.just(b"3") | st.just(b"30 mtime=1\n12 size=9999\n"))
    info.size = draw(st.just(len(content)) | st.just(len(content)) | _SIZES)
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99999999999"}
    info.pax_headers = draw(st.sampled_from([{}, {}, {"size": "-5"}, {"path": "p\udcff"}, {"mtime": "x"}, sparse]))
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]))
    try:
        header = info.tobuf(form, "utf-8", "surrogateescape")
    except (ValueError, OverflowError):  # what this form cannot say
        header = tarfile.TarInfo("a.jpg").tobuf()
    return header + content + bytes(-len(content) % 512)


@few
@given(members=st.lists(_member(), max_size=5), end=st.sampled_from([0, 1, 512, 1024, 10_240]), is_zipped=st.booleans())
def test_members_of_shards(
    tmp_path_factory: pytest.TempPathFactory, members: list[bytes], end: int, is_zipped: bool
) -> None:
    content = b"".join(members) + bytes(end)
    path = tmp_path_factory.getbasetemp() / "fuzz-members.tar"
    path.write_bytes(gzip.compress(content) if is_zipped else content)
    read_shard(path)


@few
@given(data=st.data(), is_zipped=st.booleans())
def test_bytes_of_shards(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, is_zipped: bool) -> None:
    whole = tar_bytes([(f"{key}.{kind}", b"3") for key in "abc" for kind in ("jpg", "cls")])
    path = tmp_path_factory.getbasetemp() / "fuzz-bytes.tar"
    path.write_bytes(data.draw(damaged(gzip.compress(whole) if is_zipped else whole)))
    read_shard(path)
