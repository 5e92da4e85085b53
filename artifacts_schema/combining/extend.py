"""Extension of a store: its rows, and those of a selection of the shards that it lacks, as one new store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..layout import specs_of
from ..manifest import Manifest
from ..manifest_parsing import parse_manifest
from ..store import TicketStore
from ..writing.commit import StoreSpec, checked_part, manifest_of, num_key_bytes_of, read_headers
from ..writing.new_store import check_destination, write_new_store
from ..writing.parts import PartHeader, parts_dir, read_keys
from ..writing.store_arrays import StoreArrays, refuse_duplicates
from .assembly import fetch, parent_entry
from .differences import refuse_other_kind
from .rows import all_rows, keys_of_shards, read_block, rows_per_block, scan_keys


def check_extends(base: TicketStore, spec: StoreSpec) -> None:
    """Refuses a selection whose tickets are of another kind than those of the store that it is to extend.

    Raises:
        OptionError: naming every difference, with both values.
    """
    here = f"the store has ranks, so give `ranks={base.manifest.has_ranks}`"
    without_ranks = here if base.manifest.has_ranks else here.replace("has ranks", "has none")
    selected = manifest_of(spec, [], 1, "0" * 64)
    refuse_other_kind(
        base.path, base.manifest, "this selection", selected, doing="one store", without_ranks=without_ranks
    )


def commit_extension(
    base: TicketStore,
    store_path: Path,
    spec: StoreSpec,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Makes the store of a base's rows and of finished parts, which come after them, and removes the parts.

    The base may stand at `store_path` itself, if it is to be overwritten.

    Args:
        spec: of the parts alone.
        on_progress: called with (parts written, parts in all).

    Raises:
        OutputExistsError: something stands at `store_path` and `overwrite` is not given.
        IncompletePartsError: parts are missing or do not fit the spec.
        DuplicateKeyError: two samples have the same key.
        SchemaError: the base is damaged.
    """
    check_destination(store_path, overwrite=overwrite)
    headers = read_headers(store_path, spec.shards)
    fetch(base, None, token_labels=False)
    plan = all_rows(base)
    num_key_bytes = scan_keys([base], plan, store_path.parent).num_bytes + sum(num_key_bytes_of(h) for h in headers)
    draft = _manifest(base, spec, headers)
    parse_manifest(draft.to_json(), str(store_path))

    def write(folder: Path) -> Manifest:
        arrays = StoreArrays(folder, specs_of(draft), num_images=draft.num_images, num_key_bytes=num_key_bytes)
        size = rows_per_block(base.manifest)
        for first in range(0, len(base), size):
            arrays.append(*read_block([base], plan, range(first, min(first + size, len(base))), token_labels=False))
        for done, header in enumerate(headers, start=1):
            part = checked_part(spec, header)
            arrays.append(part.keys, part.columns)
            if on_progress is not None:
                on_progress(done, len(headers))
        summary = arrays.close(draft.dataset.shards, [*plan.num_rows, *(h.num_rows for h in headers)])
        refuse_duplicates(summary, _keys_of_shards(base, headers))
        return replace(draft, dataset=replace(draft.dataset, keys_sha256=summary.sha256))

    manifest = write_new_store(store_path, write, shards=spec.source)
    shutil.rmtree(parts_dir(store_path))
    return manifest


def _keys_of_shards(base: TicketStore, headers: Sequence[PartHeader]) -> Iterator[tuple[str, list[str]]]:
    yield from keys_of_shards([base], all_rows(base))
    yield from ((h.shard, read_keys(h).to_pylist()) for h in headers)


def _manifest(base: TicketStore, spec: StoreSpec, headers: Sequence[PartHeader]) -> Manifest:
    m = base.manifest
    added = manifest_of(spec, headers, len(base) + sum(h.num_rows for h in headers), "0" * 64)
    return replace(
        added,
        view=m.view,
        dataset=replace(added.dataset, shards=[*m.dataset.shards, *added.dataset.shards]),
        skipped=[*m.skipped, *added.skipped],
        publication=m.publication,
        parent=[parent_entry(base, "extend")],
    )
