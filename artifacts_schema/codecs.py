"""Checks of how a store's arrays are encoded: core codecs alone, in chunks and objects of a sane size."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import zarr

from .errors import Problem
from .layout import (
    ALLOWED_CODECS,
    CODEC_CHAIN,
    INDEX_CODEC_CHAIN,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS_PER_OBJECT,
    MAX_OBJECT_BYTES,
)

_MAX_NAME = 100  # characters of a codec's name that are shown


def codec_problems(path: str, array: zarr.Array[Any]) -> Iterator[Problem]:
    """Finds everything that is wrong with an array's codecs and chunks."""
    codecs = array.metadata.to_dict().get("codecs", ())
    unknown = sorted(set(_codec_names(codecs)) - ALLOWED_CODECS)
    for name in unknown:
        message = f"uses codec {name[:_MAX_NAME]!r}, which is not one of the core codecs"
        yield Problem(where=path, kind="codec", message=message)
    if not unknown:
        yield from (Problem(where=path, kind="codec", message=text) for text in _chain_problems(codecs))
    yield from (Problem(where=path, kind="chunk_size", message=text) for text in _size_problems(array))


def _chain_problems(codecs: Any) -> Iterator[str]:
    """Finds codecs that stand in an order in which the size of what one of them decodes is not known before."""
    chains: list[tuple[re.Pattern[str], Any]] = [(CODEC_CHAIN, codecs)]
    if [codec.get("name") for codec in codecs] == ["sharding_indexed"]:
        configuration = codecs[0]["configuration"]
        chains = [(CODEC_CHAIN, configuration["codecs"]), (INDEX_CODEC_CHAIN, configuration["index_codecs"])]
    for pattern, chain in chains:
        names = " ".join(codec.get("name", "?") for codec in chain)
        if not pattern.fullmatch(names):
            yield f"has codecs in an order that no store has: {names[:_MAX_NAME]}"


def _size_problems(array: zarr.Array[Any]) -> Iterator[str]:
    shape, itemsize = array.shards or array.chunks, array.dtype.itemsize
    if 0 in array.chunks or 0 in shape:
        yield "has chunks of no entries"
        return
    if (chunk_bytes := math.prod(array.chunks) * itemsize) > MAX_CHUNK_BYTES:
        yield f"has chunks of {chunk_bytes} bytes"
    elif (object_bytes := math.prod(shape) * itemsize) > MAX_OBJECT_BYTES:
        yield f"has objects of {object_bytes} bytes"
    elif (num_chunks := math.prod(shape) // math.prod(array.chunks)) > MAX_CHUNKS_PER_OBJECT:
        yield f"has objects of {num_chunks} chunks"


def _codec_names(codecs: Any) -> Iterator[str]:
    for codec in codecs:
        if isinstance(codec, dict):
            yield str(codec.get("name", "?"))
            configuration = codec.get("configuration") or {}
            yield from _codec_names(configuration.get("codecs", ()))
            yield from _codec_names(configuration.get("index_codecs", ()))
