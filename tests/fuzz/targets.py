"""Readers that fuzzing tries; each takes an input and lets only dataltt's own errors out, as sentences."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.location import Location
from dataltt.artifacts_schema.access.objects import FolderObjects
from dataltt.artifacts_schema.errors import DatalttError
from dataltt.artifacts_schema.manifest_file import Root
from dataltt.artifacts_schema.strings import decode_strings
from dataltt.artifacts_schema.writing.commit import StoreSpec, checked_part
from dataltt.artifacts_schema.writing.parts import read_header, read_keys
from dataltt.stages.data.shard_headers import header_keys
from dataltt.stages.data.shards import Shard, iter_samples


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Takes dataltt's own errors, if they are sentences of a length that anybody reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Zarr's word on codecs and types that its specification does not have; they are refused.
        warnings.filterwarnings("ignore", module="zarr|numcodecs")
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3 specification")
        said = ""
        try:
            yield
        except DatalttError as error:
            said = str(error)
        assert "\n" not in said
        assert len(said) < 20_000


def read_root_document(content: bytes) -> None:
    """Reads a root document: JSON and the manifest in it."""
    with sentences():
        manifest = Root(Location.of("store.zarr"), FolderObjects(Path("store.zarr")), content).manifest
        manifest.to_json()
        assert manifest.num_images >= 1


def read_store(path: Path) -> None:
    """Reads all that a store has."""
    with sentences():
        store = TicketStore.open(path)
        assert len(store) <= 100_000
        rows = range(len(store))
        for name in store.shard_names:
            store.rows_of_shard(name)
        for read in (store.read_keys, store.read_tickets, store.read_labels, store.read_digests, store.read_views):
            with sentences():
                read(rows)
        if store.manifest.has_ranks:
            store.read_ranks(rows)
        store.num_stored_bytes()


def read_part_file(path: Path, spec: StoreSpec) -> None:
    """Reads a part of a selection."""
    with sentences():
        header = read_header(path)
        with sentences():
            read_keys(header)
        checked_part(spec, header)


def read_shard(path: Path) -> None:
    """Reads a shard's samples, and its headers alone."""
    shard = Shard(url=str(path), name=path.name)
    for read in (iter_samples, header_keys):
        with sentences():
            list(read(shard))


def read_strings(data: Any, offsets: Any) -> None:
    """Decodes key buffers; what is wrong with them is a ValueError, which readers make a sentence."""
    with contextlib.suppress(ValueError):
        strings = decode_strings(np.asarray(data, np.uint8), np.asarray(offsets, np.int64))
        assert "".join(strings).encode() == bytes(data)
