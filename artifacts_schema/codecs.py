"""Checks of how a store's arrays are encoded: core codecs alone, in chunks of a sane size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr

from .errors import Problem
from .layout import ALLOWED_CODECS, MAX_CHUNK_BYTES


def codec_problems(path: str, array: zarr.Array[Any]) -> Iterator[Problem]:
    """Finds everything that is wrong with an array's codecs and chunks."""
    document = array.metadata.to_dict()
    names = set(_codec_names(document.get("codecs", ())))
    for name in sorted(names - ALLOWED_CODECS):
        yield Problem(where=path, kind="codec", message=f"uses codec {name!r}, which is not one of the core codecs")
    if 0 in array.chunks or 0 in (array.shards or ()):
        yield Problem(where=path, kind="chunk_size", message="has chunks of no entries")
    chunk_bytes = int(np.prod(array.chunks, dtype=np.float64)) * array.dtype.itemsize
    if chunk_bytes > MAX_CHUNK_BYTES:
        yield Problem(where=path, kind="chunk_size", message=f"has chunks of {chunk_bytes} bytes")


def _codec_names(codecs: Any) -> Iterator[str]:
    for codec in codecs:
        if isinstance(codec, dict):
            yield codec.get("name", "?")
            configuration = codec.get("configuration") or {}
            yield from _codec_names(configuration.get("codecs", ()))
            yield from _codec_names(configuration.get("index_codecs", ()))
