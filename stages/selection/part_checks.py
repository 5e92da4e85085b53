"""Checks of each part before it is written: keys that came before, and samples without a label."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...artifacts_schema import DuplicateKeyError, TicketStore
from ...artifacts_schema.lookup import KeyLookup
from ...artifacts_schema.strings import hash_strings
from ...artifacts_schema.writing.parts import Part, read_header, read_keys
from ..runtime.reporting import Reporter

Hashes = npt.NDArray[np.uint64]


class PartChecks:
    """Checks of a selection's parts, one after the other. Memory: 8 bytes for each key.

    Of two ranks that have the same key, the one whose part comes second says so; the commit, if both come at once.

    Args:
        directory: of the parts; those that are there, or come there, of whatever rank, are known.
        base: the store that is extended, if one is.
        shards: what was given as shards, for the error's sentence.
    """

    def __init__(self, directory: Path, base: TicketStore | None, shards: str, reporter: Reporter) -> None:
        self._directory, self._base, self._shards, self._reporter = directory, base, shards, reporter
        self._known = _HashSet()
        self._said_unlabelled = False
        self._seen: set[Path] = set()
        self._own: set[str] = set()
        self._take_in_others()

    def _take_in_others(self) -> None:
        """Learns the keys of parts that have come since."""
        for path in sorted(set(self._directory.glob("part-*.parquet")) - self._seen):
            self._seen.add(path)
            header = read_header(path)
            if header.shard not in self._own:
                self._known.add(hash_strings(read_keys(header).to_pylist()))

    def check(self, part: Part) -> None:
        """Looks at a part that is about to be written.

        Raises:
            DuplicateKeyError: one of its keys is that of an earlier part, or of the store that is extended.
        """
        self._take_in_others()
        self._own.add(part.shard)
        keys = part.keys.to_pylist()
        hashes = hash_strings(keys)
        self._refuse_known(part.shard, keys, self._known.has(hashes))
        self._known.add(hashes)
        if self._base_keys is not None:
            self._refuse_known(part.shard, keys, self._base_keys.find(keys) >= 0)
        unlabelled = np.flatnonzero(part.labels < 0)
        if len(unlabelled) and not self._said_unlabelled:
            self._said_unlabelled = True
            self._reporter.message(
                f"note: {part.shard}: sample {keys[int(unlabelled[0])]!r} has no .cls; it gets a ticket, and training "
                "refuses samples without a label"
            )

    @cached_property
    def _base_keys(self) -> KeyLookup | None:
        return None if self._base is None else KeyLookup(self._base)

    def _refuse_known(self, shard: str, keys: Sequence[str], is_known: npt.NDArray[np.bool_]) -> None:
        for i in np.flatnonzero(is_known).tolist():
            first = self._shard_of(keys[i])
            if first is not None:
                begins_anew = int(is_known.sum()) > max(1, len(keys) // 2)
                raise DuplicateKeyError(keys[i], first, shard, self._way_out() if begins_anew else None)

    def _way_out(self) -> str:
        return (
            "keys begin anew in each shard, so put its name before them: dataltt pack --from-shards --prefix-keys "
            f"{shlex.quote(self._shards)} OUT"
        )

    def _shard_of(self, key: str) -> str | None:
        """The shard that has a key; None if another key has its digest, which the commit looks at."""
        if self._base is not None and self._base_keys is not None:
            row = int(self._base_keys.find([key])[0])
            if row >= 0:
                number = int(np.searchsorted(self._base.shard_rows, row, side="right")) - 1
                return self._base.shard_names[number]
        headers = map(read_header, sorted(self._directory.glob("part-*.parquet")))
        return next((header.shard for header in headers if key in read_keys(header).to_pylist()), None)


class _HashSet:
    """Set of hashes as sorted arrays, each at least twice as long as the next: adding n costs O(log) merges."""

    def __init__(self) -> None:
        self._runs: list[Hashes] = []

    def has(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Tells of each hash, bool [n], whether it was added."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        for run in self._runs:
            found |= run[np.searchsorted(run, hashes).clip(max=len(run) - 1)] == hashes
        return found

    def add(self, hashes: Hashes) -> None:
        """Adds hashes, uint64 [n]."""
        if not len(hashes):
            return
        self._runs.append(np.sort(hashes))
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")


def first_unlabelled(store: TicketStore) -> tuple[int, str | None]:
    """Counts the images of a store that have no label; gives the key of the first."""
    rows = np.flatnonzero(store.read_labels(range(store.manifest.num_images)) < 0)
    return len(rows), store.read_keys(range(int(rows[0]), int(rows[0]) + 1))[0] if len(rows) else None
