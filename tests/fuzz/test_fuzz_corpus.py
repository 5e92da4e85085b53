"""Inputs that once broke a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from .targets import read_root_document, read_shard

CORPUS = sorted((Path(__file__).parents[1] / "data" / "fuzz").glob("*-*"))
READERS = {"root": lambda path: read_root_document(path.read_bytes()), "shard": read_shard}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_broke_breaks_no_more(path: Path) -> None:
    READERS[path.name.split("-")[0]](path)
