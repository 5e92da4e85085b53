"""A store's manifest, read from its file alone: no array is opened."""

from __future__ import annotations

import json
from typing import Any

import fsspec

from .errors import Problem, SchemaError, StoreNotFoundError
from .manifest import MANIFEST_ATTRIBUTE, Manifest, parse_manifest

_MAX_METADATA_BYTES = 256 << 20


def read_manifest(path: str) -> Manifest:
    """Reads and validates a store's manifest without opening its arrays (no Zarr, so no thread is started).

    Raises:
        StoreNotFoundError: there is no store at `path`.
        SchemaError, UnsupportedVersionError: there is one, but it is not valid.
    """
    fs, root = fsspec.core.url_to_fs(str(path))
    location = f"{root}/zarr.json"
    if not fs.exists(location):
        raise StoreNotFoundError(_not_found(path, fs, root))
    if fs.size(location) > _MAX_METADATA_BYTES:
        raise invalid_store(path, "zarr.json", "too_large", f"is larger than {_MAX_METADATA_BYTES} bytes")
    try:
        document = json.loads(fs.cat_file(location))
    except (ValueError, RecursionError) as error:
        raise invalid_store(path, "zarr.json", "json_invalid", f"is not JSON ({error})") from None
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or MANIFEST_ATTRIBUTE not in attributes:
        raise invalid_store(path, "zarr.json", "missing", f"has no attribute {MANIFEST_ATTRIBUTE!r}")
    return parse_manifest(attributes[MANIFEST_ATTRIBUTE], str(path))


def is_store(path: str) -> bool:
    """Tells whether a ticket store, sound or not, stands at this path: the only thing that `overwrite` may replace."""
    try:
        read_manifest(path)
    except StoreNotFoundError:
        return False
    except SchemaError as error:
        return not any(p.where == "zarr.json" for p in error.problems)
    return True


def _not_found(path: str, fs: Any, root: str) -> str:
    if fs.exists(root):
        return f"{path} is not a ticket store; give the folder that dataltt select wrote"
    if fs.exists(f"{root}.parts"):
        return f"{path} is not finished (only {path}.parts is there); run the same select again to finish it"
    return f"there is no ticket store at {path}; make one with: dataltt select --out {path}"


def invalid_store(path: str, where: str, kind: str, message: str) -> SchemaError:
    """A `SchemaError` of one problem."""
    return SchemaError(str(path), [Problem(where=where, kind=kind, message=message)])
