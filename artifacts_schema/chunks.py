"""Names of the objects that an array's chunks lie in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import zarr


def num_objects(array: zarr.Array[Any]) -> int:
    """Number of objects that an array is made of."""
    return math.prod(_counts(array))


def object_names(path: str, array: zarr.Array[Any], rows: Sequence[range] | None = None) -> Iterator[str]:
    """Yields the names of the objects that hold some entries (None: all) along an array's first axis."""
    length, counts = _object_shape(array)[0], _counts(array)
    numbers: set[int] = set()
    for run in [range(array.shape[0])] if rows is None else rows:
        numbers.update(range(run.start // length, -(-run.stop // length)) if len(run) else ())
    for number in sorted(numbers):
        for others in itertools.product(*map(range, counts[1:])):
            yield f"{path}/{array.metadata.encode_chunk_key((number, *others))}"


def _object_shape(array: zarr.Array[Any]) -> tuple[int, ...]:
    return array.shards or array.chunks


def _counts(array: zarr.Array[Any]) -> tuple[int, ...]:
    return tuple(-(-n // m) for n, m in zip(array.shape, _object_shape(array), strict=True))
