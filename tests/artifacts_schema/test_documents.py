"""Documents from strangers are refused by their size before anything is made of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from dataltt.artifacts_schema import BakedError, Location
from dataltt.artifacts_schema.baked import BAKED_FILE, read_baked
from dataltt.artifacts_schema.documents import MAX_DOCUMENT_BYTES, MAX_VALUES, too_large
from dataltt.artifacts_schema.publishing.pull import pull
from dataltt.artifacts_schema.publishing.push import push


def test_the_bounds() -> None:
    assert too_large(b"[" + b"1," * (MAX_VALUES - 1)) is None
    assert too_large(b"[" + b"1," * MAX_VALUES) == "has more than 3000000 values"
    assert too_large(bytes(MAX_DOCUMENT_BYTES)) is None
    assert too_large(bytes(MAX_DOCUMENT_BYTES + 1)) == "is larger than 67108864 bytes"


def test_a_baked_folder_with_a_list_of_millions(tmp_path: Path) -> None:
    folder = tmp_path / "baked"
    folder.mkdir()
    content = b'{"tickets": {}, "shards": [' + b"{}," * MAX_VALUES + b"{}]}"
    (folder / BAKED_FILE).write_bytes(content)
    tracemalloc.start()
    try:
        for opened in (
            lambda: read_baked(folder),
            lambda: pull(Location.of(folder), tmp_path / "near"),
            lambda: push(folder, Location.of(tmp_path / "far"), {}, with_pixels=True),
        ):
            with pytest.raises(BakedError, match=r"baked\.json has more than 3000000 values; bake it again"):
                opened()
        assert tracemalloc.get_traced_memory()[1] < MAX_DOCUMENT_BYTES + 4 * len(content)
    finally:
        tracemalloc.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["baked"]
