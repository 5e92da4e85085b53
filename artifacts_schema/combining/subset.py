"""Subsets of a store: some of its shards, keys or classes, in the store's own order."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..braces import TooManyNamesError, expand_braces
from ..errors import OptionError
from ..lookup import BLOCK_ROWS, KeyLookup, iter_row_blocks
from ..store import TicketStore
from .assembly import Combined, Place, Target, parent_entry, shards_of, write_store
from .rows import RowPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Images of a subset: those that every part that is given asks for.

    Attributes:
        shards: names of shards, as braces or a glob.
        keys: a text file, a key a line.
        classes: labels.
    """

    shards: str | None = None
    keys: Path | None = None
    classes: Sequence[int] | None = None

    @property
    def is_of_images(self) -> bool:
        """Tells whether images of a shard are chosen, and not whole shards alone."""
        return self.keys is not None or self.classes is not None


def subset_store(store: Place, wanted: Wanted, target: Target) -> Combined:
    """Writes some rows of a store as a new one.

    Raises:
        OptionError: nothing is asked for or left, or something that the store does not have.
        OutputExistsError, LockedError, StoreNotFoundError, SchemaError, RemoteError
    """
    if wanted.shards is None and not wanted.is_of_images:
        raise OptionError("a subset of what? give `shards`, `keys` or `classes`")
    with target.held("dataltt store subset"):
        return _cut_out(store, wanted, target)


def _cut_out(store: Place, wanted: Wanted, target: Target) -> Combined:
    opened = TicketStore.open(store)
    chosen = _of_shards(opened, wanted.shards)
    keep = np.zeros(len(opened), dtype=np.bool_)
    for name in chosen:
        rows = opened.rows_of_shard(name)
        assert rows is not None
        keep[rows.start : rows.stop] = True
    skipped_keys = None
    if wanted.keys is not None:
        of_keys, skipped_keys = _of_keys(opened, wanted.keys)
        keep &= of_keys
    if wanted.classes is not None:
        keep &= _of_classes(opened, wanted.classes)
    if not keep.any():
        raise OptionError(f"no image of {opened.path} is in all of {_spelled(wanted)}; ask for less at once")
    plan = _planned(opened, keep, chosen, drop_empty=wanted.is_of_images)
    left = set(plan.shards)
    m = opened.manifest
    manifest = replace(
        m,
        skipped=[s for s in m.skipped if s.shard in left and (skipped_keys is None or s.key in skipped_keys)],
        parent=[parent_entry(opened, "subset", **_recorded(wanted))],
    )
    return Combined(manifest=write_store(target, [opened], plan, manifest, shards=shards_of(opened)))


def _of_shards(store: TicketStore, pattern: str | None) -> list[str]:
    """Names of shards that match, in the store's order."""
    if pattern is None:
        return list(store.shard_names)
    try:
        patterns = [pattern] if pattern in store.shard_names else expand_braces(pattern)
    except TooManyNamesError as error:
        raise OptionError(f"`shards={pattern[:200]!r}` {error}; give a range of the shards that there are") from None
    except ValueError as error:
        raise OptionError(
            f"`shards={pattern!r}` has braces that do not match; write t-{{000000..000009}}.tar"
        ) from error
    chosen, known = set[str](), set(store.shard_names)
    for each in patterns:
        found = [each] if each in known else fnmatch.filter(store.shard_names, each)
        if not found:
            raise OptionError(
                f"{store.path} has no shard {each!r} (from `shards={pattern!r}`); the first of its "
                f"{len(store.shard_names)} is {store.shard_names[0]}"
            )
        chosen.update(found)
    return [name for name in store.shard_names if name in chosen]


def _of_keys(store: TicketStore, file: Path) -> tuple[npt.NDArray[np.bool_], set[str]]:
    """Rows of the keys in a file, bool [R], and those of them that were skipped when the store was made."""
    keep, known_skipped = np.zeros(len(store), dtype=np.bool_), store.manifest.skipped_keys
    skipped: set[str] = set()
    missing: list[str] = []
    lookup = KeyLookup(store)
    try:
        with file.open(encoding="utf-8-sig") as lines:  # lines may end in CRLF, and begin with a mark, as on Windows
            while block := lines.readlines(BLOCK_ROWS * 16):
                keys = [key for line in block if (key := line.rstrip("\r\n"))]
                rows = lookup.find(keys)
                keep[rows[rows >= 0]] = True
                absent = [key for key, row in zip(keys, rows, strict=True) if row < 0]
                skipped.update(key for key in absent if key in known_skipped)
                missing += [key for key in absent if key not in known_skipped]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"`keys={str(file)!r}` cannot be read ({error}); give a text file, a key a line") from None
    if missing:
        more = f", nor have {len(missing) - 1} more" if len(missing) > 1 else ""
        raise OptionError(f"`keys={str(file)!r}`: key {missing[0]!r} has no ticket in {store.path}{more}; leave it out")
    return keep, skipped


def _of_classes(store: TicketStore, classes: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Rows of images of these classes, bool [R]."""
    keep = np.zeros(len(store), dtype=np.bool_)
    found: set[int] = set()
    for block in iter_row_blocks(len(store)):
        labels = store.read_labels(block)
        keep[block.start : block.stop] = np.isin(labels, np.array(classes))
        found.update(np.unique(labels).tolist())
    missing = [c for c in classes if c not in found]
    if missing:
        raise OptionError(f"`classes`: {store.path} has no image of class {missing[0]}; leave it out")
    return keep


def _planned(store: TicketStore, keep: npt.NDArray[np.bool_], shards: list[str], *, drop_empty: bool) -> RowPlan:
    rows = np.flatnonzero(keep)
    counts = np.diff(np.searchsorted(rows, store.shard_rows)).tolist()
    of_shard = dict(zip(store.shard_names, counts, strict=True))
    # Where whole shards are asked for, one without images is still a shard that was looked at.
    left = [name for name in shards if of_shard[name] or not drop_empty]
    return RowPlan(
        shards=left,
        num_rows=[of_shard[name] for name in left],
        sources=np.zeros(len(rows), dtype=np.uint16),
        rows=rows,
    )


def _recorded(wanted: Wanted) -> dict[str, Any]:
    """Conditions as `parent` has them: no path of anybody's."""
    asked = {"shards": wanted.shards, "classes": None if wanted.classes is None else list(wanted.classes)}
    by_keys = {"by_keys": True} if wanted.keys is not None else {}
    return {name: value for name, value in asked.items() if value is not None} | by_keys


def _spelled(wanted: Wanted) -> str:
    names = ("shards", "keys", "classes")
    return ", ".join(f"`{name}`" for name in names if getattr(wanted, name) is not None)
