"""Notes that stay beside a store where it was made, and never travel: where its shards lie."""

from __future__ import annotations

import json
from pathlib import Path

from .access.objects import FolderObjects
from .files import write_atomically
from .layout import LOCAL_FILE
from .manifest import Manifest

_MAX_BYTES = 1 << 20


def write_local_notes(store_path: Path, *, shards: str) -> None:
    """Notes the `shards` that a store was made from, as they were typed."""
    write_atomically(store_path / LOCAL_FILE, json.dumps({"shards": shards}, indent=1).encode())


def keep_source(store_path: Path, manifest: Manifest) -> None:
    """Notes the shards that a manifest of before 1.2 names, which is about to lose them."""
    if manifest.dataset.source and not (store_path / LOCAL_FILE).exists():
        write_local_notes(store_path, shards=manifest.dataset.source)


def noted_shards(store: str, manifest: Manifest) -> str | None:
    """The `shards` that a store was made from: by the notes beside it, else by a manifest of before 1.2.

    None where neither knows, as of a store that was fetched.
    """
    try:
        with FolderObjects(Path(store)).open(LOCAL_FILE) as file:
            document = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):  # not there, or of no use: the shards can be given
        document = None
    shards = document.get("shards") if isinstance(document, dict) else None
    return shards if isinstance(shards, str) and shards else manifest.dataset.source or None
