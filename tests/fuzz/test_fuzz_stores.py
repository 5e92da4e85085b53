"""Manifests, array metadata and objects of stores, changed at random."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..schema_helpers import Made, make_store, reseal
from .changes import changed, damaged, few
from .targets import read_root_document, read_store, read_strings

pytestmark = pytest.mark.long
OLD_STORES = sorted((Path(__file__).parents[1] / "data").glob("store-*.zarr"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("fuzz"), num_views=2)


@few
@given(data=st.data(), store=st.sampled_from(OLD_STORES), is_sealed=st.booleans())
def test_manifests(data: st.DataObject, store: Path, is_sealed: bool) -> None:
    document = json.loads((store / "zarr.json").read_bytes())
    document["attributes"]["dataltt"] = data.draw(changed(document["attributes"]["dataltt"]))
    if is_sealed and isinstance(document["attributes"]["dataltt"], dict):
        with_seal = document["attributes"]["dataltt"]
        try:
            reseal(with_seal)
        except ValueError:  # no text that can be written
            return
    read_root_document(json.dumps(document).encode())


@few
@given(data=st.data(), store=st.sampled_from(OLD_STORES))
def test_bytes_of_root_documents(data: st.DataObject, store: Path) -> None:
    read_root_document(data.draw(damaged((store / "zarr.json").read_bytes())))


def replaced(made: Made, changes: dict[str, bytes], read: Any = read_store) -> None:
    """Reads a store of which some files are others, and whose manifest agrees with them; puts them back."""
    before = {name: (made.path / name).read_bytes() for name in (*changes, "zarr.json")}
    root = json.loads(before["zarr.json"])
    manifest = root["attributes"]["dataltt"]
    for name, content in changes.items():
        manifest["objects"][name] = hashlib.sha256(content).hexdigest()
        manifest["sizes"][name] = len(content)
    reseal(manifest)
    try:
        for name, content in {**changes, "zarr.json": json.dumps(root).encode()}.items():
            (made.path / name).write_bytes(content)
        read(made.path)
    finally:
        for name, content in before.items():
            (made.path / name).write_bytes(content)


@few
@given(data=st.data())
def test_array_metadata(data: st.DataObject, made: Made) -> None:
    name = data.draw(st.sampled_from(sorted(n for n in made.manifest.objects if n.endswith("/zarr.json"))))
    document = data.draw(changed(json.loads((made.path / name).read_bytes())))
    replaced(made, {name: json.dumps(document).encode()})


@few
@given(data=st.data(), seal=st.booleans())
def test_objects(data: st.DataObject, made: Made, seal: bool) -> None:
    name = data.draw(st.sampled_from(sorted(n for n in made.manifest.objects if "/c/" in n)))
    content = data.draw(damaged((made.path / name).read_bytes()))
    if seal and len(content) > 20:  # an index of one chunk, whose checksums are right
        chunk = content[:-24]
        chunk += struct.pack("<I", google_crc32c.value(chunk))
        index = struct.pack("<QQ", *data.draw(st.sampled_from([(0, len(chunk)), (1, 2**40), (2**63, 2**63)])))
        content = chunk + index + struct.pack("<I", google_crc32c.value(index))
    replaced(made, {name: content})


@few
@given(
    data=st.binary(max_size=64),
    offsets=st.lists(st.integers(-2, 70) | st.sampled_from([2**62, -(2**62), 2**63 - 1]), min_size=1, max_size=9),
)
def test_key_buffers(data: bytes, offsets: list[int]) -> None:
    read_strings(np.frombuffer(data, np.uint8), offsets)
    read_strings(np.frombuffer(data, np.uint8), [0, *sorted(o for o in offsets if 0 < o < len(data)), len(data)])


@few
@given(data=st.data())
def test_key_arrays(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, made: Made) -> None:
    from ..schema_helpers import put

    store = Path(shutil.copytree(made.path, tmp_path_factory.mktemp("keys") / "store.zarr"))
    for _ in range(3):
        where = data.draw(st.integers(0, 11))
        put(store, "keys/offsets", where, data.draw(st.integers(-2, 300) | st.sampled_from([2**62, -(2**63)])))
    read_store(store)
    shutil.rmtree(store)
