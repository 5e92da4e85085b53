"""The root group's metadata of a store, which carries the manifest."""

from __future__ import annotations

import json
from pathlib import Path

from ..files import write_atomically
from ..identity import sealed, version_of
from ..layout import ROOT_FILE
from ..manifest import MANIFEST_ATTRIBUTE, Manifest
from ..manifest_parsing import parse_manifest


def root_with(root: bytes, manifest: Manifest) -> bytes:
    """The root's `zarr.json` with this manifest in it. What a later minor version added to it stays."""
    document = json.loads(root)
    fields = document["attributes"][MANIFEST_ATTRIBUTE]
    before = parse_manifest(fields, "the store").to_json()
    fields = {**fields, **{name: value for name, value in manifest.to_json().items() if before.get(name) != value}}
    document["attributes"][MANIFEST_ATTRIBUTE] = sealed(fields) if version_of(fields) >= (1, 2) else fields
    return json.dumps(document, indent=2).encode()


def replace_manifest(store_path: Path, manifest: Manifest) -> None:
    """Replaces the manifest of a store in a folder, in one step."""
    path = store_path / ROOT_FILE
    write_atomically(path, root_with(path.read_bytes(), manifest))
