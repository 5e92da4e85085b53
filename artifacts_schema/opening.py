"""Checks of a store when it is opened: its objects, its arrays, and whether so many rows can be there at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import zarr

from .bounded_codecs import bounded
from .chunks import num_objects, object_names
from .codecs import codec_problems
from .errors import DatalttError, Problem, one_line
from .layout import ArraySpec, specs_of
from .manifest import Manifest
from .manifest_file import Root

# What Zarr raises on bytes that are not what they should be.
ZARR_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, ArithmeticError, AssertionError)
# A store of fewer stored bytes per thousand rows than this is made up: a digest alone is 8 bytes that do not compress.
_MIN_BYTES_PER_1000_ROWS = 1000
# So is one that unpacks to so many times its bytes: tickets are close to random.
_MAX_INFLATION = 1000
_SLACK_BYTES = 64 << 20


def reason_of(error: Exception) -> str:
    """A line about what Zarr raised, without the bytes that it found."""
    return "its checksum is wrong" if "checksum" in str(error) else one_line(error)


def missing_objects(root: Root) -> Iterator[Problem]:
    """Finds what the manifest names and is not there; behind a URL this shows when it is read."""
    if root.location.is_remote:
        return
    for name in sorted(root.manifest.objects):
        try:
            if root.objects.size(name) is None:
                yield Problem(where=name, kind="missing", message="is missing from the store")
        except OSError as error:
            yield Problem(where=name, kind="foreign", message=f"is no object of the store ({error})")


def open_arrays(group: zarr.Group, m: Manifest, arrays: dict[str, zarr.Array[Any]]) -> Iterator[Problem]:
    """Opens every array into `arrays`, by path; yields what is wrong with them."""
    for path, spec in specs_of(m).items():
        try:
            array = group[path]
        except DatalttError:
            raise
        except ZARR_ERRORS as error:
            yield Problem(where=path, kind="zarr", message=f"cannot be opened ({reason_of(error)})")
            continue
        if not isinstance(array, zarr.Array):
            yield Problem(where=path, kind="array_type", message="should be an array")
            continue
        problems = list(_array_problems(array, spec))
        yield from problems or _chunk_problems(array, path, m)
        arrays[path] = array if problems else bounded(array)


def _array_problems(array: zarr.Array[Any], spec: ArraySpec) -> Iterator[Problem]:
    path = spec.path
    shape_ok = len(array.shape) == len(spec.shape) and all(
        want is None or want == got for want, got in zip(spec.shape, array.shape, strict=True)
    )
    if not shape_ok:
        want = "[" + ", ".join("bytes" if n is None else str(n) for n in spec.shape) + "]"
        yield Problem(where=path, kind="shape", message=f"has shape {list(array.shape)}, should be {want}")
    if array.dtype != spec.dtype:
        yield Problem(where=path, kind="dtype", message=f"is {array.dtype}, should be {spec.dtype}")
    yield from codec_problems(path, array)


def _chunk_problems(array: zarr.Array[Any], path: str, m: Manifest) -> Iterator[Problem]:
    """Chunks that the manifest does not name, and that Zarr would read as fill values."""
    count = num_objects(array)
    if count > len(m.objects):
        message = f"has {count} chunk objects, and the manifest names {len(m.objects)} objects in all"
        yield Problem(where=path, kind="missing", message=message)
    else:
        for name in object_names(path, array):
            if name not in m.objects:
                yield Problem(where=name, kind="missing", message="is not among the manifest's objects")


def size_problems(root: Root, arrays: Mapping[str, zarr.Array[Any]]) -> Iterator[Problem]:
    """Finds rows that so few bytes cannot hold, before anything is allocated for them."""
    m = root.manifest
    if m.sizes or not root.location.is_remote:
        num_bytes = sum(root.objects.size(name) or 0 for name in m.objects)
    else:  # of an old store one object is asked for: image digests do not compress
        names = list(object_names("digests", arrays["digests"]))
        num_bytes = (root.objects.size(names[0]) or 0) * len(names) if names else 0
    if num_bytes * 1000 < m.num_images * _MIN_BYTES_PER_1000_ROWS:
        message = f"is {m.num_images}, more than {num_bytes} stored bytes can hold"
        yield Problem(where="num_images", kind="too_large", message=message)
        return
    for path, array in arrays.items():
        if array.nbytes > _MAX_INFLATION * num_bytes + _SLACK_BYTES:
            message = f"has {array.nbytes} bytes, more than {num_bytes} stored bytes can hold"
            yield Problem(where=path, kind="too_large", message=message)
