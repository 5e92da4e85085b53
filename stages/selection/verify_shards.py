"""Check that shards hold the images and labels that a store is of: all of them, or those of the shards given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...artifacts_schema import DatalttError, Location, TicketStore
from ...artifacts_schema.lookup import AMBIGUOUS, keys_at
from ...artifacts_schema.verify import Check
from ..data.comparing import labels_at
from ..data.row_finder import CHANGED, FoundRows, RowFinder
from ..data.shard_index import ShardIndex, index_shard
from ..data.shards import Shard, resolve_shards
from ..runtime.reporting import Reporter

_SHOWN = 5
_NAMED = 3


@dataclass(kw_only=True)
class _Findings:
    """Findings so far. `num_met`: int64 [R], how many images of the shards each ticket is of, by key."""

    num_met: npt.NDArray[np.int64]
    is_joined: npt.NDArray[np.bool_]
    wrong: list[str] = field(default_factory=list)
    num_images: int = 0
    num_missing: int = 0
    num_ambiguous: int = 0
    num_by_digest: int = 0
    num_half_labelled: int = 0


def verify_shards(place: str | Location, shards: str, reporter: Reporter) -> Check:
    """Finds the ticket of every sample of the shards, by key or image, and counts both sides.

    A part of the store's shards is compared with the tickets of that part. In a shard that the store knows by name, a
    key's image has to be the one that its ticket was made from, and no ticket may be without its image. Where both have
    a label, it has to be the same.
    """
    try:
        store = TicketStore.open(place)
        found = resolve_shards(shards, store.location.access)
        num_rows = store.manifest.num_images
        findings = _Findings(num_met=np.zeros(num_rows, np.int64), is_joined=np.zeros(num_rows, np.bool_))
        finder = RowFinder(store, "error")
        reporter.start("comparing shards", None, "images")
        for shard in found:
            try:
                index = index_shard(shard, reporter.advance)
                _compare(shard, index, finder.find(index.keys, index.digests), store, findings)
            except DatalttError as error:
                findings.wrong.append(str(error))
        reporter.finish()
        _count(findings, store, found)
    except DatalttError as error:
        return Check(name="shards", ok=False, detail=str(error))
    wrong = findings.wrong
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        return Check(name="shards", ok=False, detail="; ".join(wrong[:_SHOWN]) + more)
    return Check(name="shards", ok=True, detail=_detail(findings, store, found))


def _compare(shard: Shard, index: ShardIndex, found: FoundRows, store: TicketStore, findings: _Findings) -> None:
    """Adds a shard to the findings."""
    own = store.rows_of_shard(shard.name) or range(0)
    is_own = (found.of_key >= own.start) & (found.of_key < own.stop)
    is_changed = (found.rows == CHANGED) | (is_own & (found.rows != found.of_key))
    if is_changed.any():
        key, others = index.keys[int(np.argmax(is_changed))], int(is_changed.sum()) - 1
        findings.wrong.append(
            f"{shard.name}: the image of sample {key!r} is not the one that its ticket in {store.path} was made from"
            + (f", nor are {others} others" if others else "")
        )
    _compare_labels(shard, index, found, (found.rows >= 0) & ~is_changed, store, findings)
    skipped = store.manifest.skipped_keys
    was_skipped = np.fromiter((key in skipped for key in index.keys), dtype=np.bool_, count=len(index.keys))
    is_joined = (found.rows >= 0) & ~is_changed
    is_missing = (found.rows < 0) & ~is_changed & ~was_skipped
    np.add.at(findings.num_met, found.rows[is_joined & ~found.by_digest], 1)
    findings.is_joined[found.rows[is_joined]] = True
    findings.is_joined[found.of_key[is_changed & (found.of_key >= 0)]] = True  # their tickets were named above
    findings.num_images += int((is_joined | is_missing | is_changed).sum())
    findings.num_missing += int(is_missing.sum())
    findings.num_ambiguous += int((is_missing & (found.rows == AMBIGUOUS)).sum())
    findings.num_by_digest += int((is_joined & found.by_digest).sum())


def _compare_labels(
    shard: Shard,
    index: ShardIndex,
    found: FoundRows,
    is_joined: npt.NDArray[np.bool_],
    store: TicketStore,
    findings: _Findings,
) -> None:
    """Adds the samples whose .cls is another than the store's label. No label contradicts none."""
    places = np.flatnonzero(is_joined)
    ours, theirs = index.labels[places], labels_at(store, found.rows[places])
    findings.num_half_labelled += int(((ours < 0) != (theirs < 0)).sum())
    differs = (ours >= 0) & (theirs >= 0) & (ours != theirs)
    by_image = np.flatnonzero(differs & found.by_digest[places])
    if len(by_image):
        # The store may have the image under several keys, of other classes: any of these will do.
        known = _labels_of_images(store, index.digests[places[by_image]])
        pairs = zip(index.digests[places[by_image]].tolist(), ours[by_image].tolist(), strict=True)
        differs[by_image] = [pair not in known for pair in pairs]
    if differs.any():
        first, others = int(np.argmax(differs)), int(differs.sum()) - 1
        key = index.keys[int(places[first])]
        findings.wrong.append(
            f"{shard.name}: sample {key!r} is of class {ours[first]} by its .cls and of class "
            f"{theirs[first]} in {store.path}" + (f", and {others} others differ too" if others else "")
        )


def _labels_of_images(store: TicketStore, digests: npt.NDArray[np.uint64]) -> set[tuple[int, int]]:
    """Digest and label of every row that has one of these images."""
    rows = range(store.manifest.num_images)
    stored = store.read_digests(rows)
    places = np.flatnonzero(np.isin(stored, digests))
    return set(zip(stored[places].tolist(), store.read_labels(rows)[places].tolist(), strict=True))


def _count(findings: _Findings, store: TicketStore, shards: Sequence[Shard]) -> None:
    """Adds what numbers say: images without a ticket, tickets of two images, and tickets without an image."""
    f = findings
    if f.num_missing:
        several = f" ({f.num_ambiguous} stand there more than once, with different tickets)" if f.num_ambiguous else ""
        f.wrong.append(f"{f.num_missing} of {f.num_images} images in the shards have no ticket{several}")
    twice = np.flatnonzero(f.num_met > 1)
    if len(twice):
        f.wrong.append(f"{len(twice)} keys occur more than once, such as {keys_at(store, twice[:1])[0]!r}")
    for shard in shards:
        rows = store.rows_of_shard(shard.name)
        left = np.flatnonzero(~f.is_joined[rows.start : rows.stop]) if rows else np.zeros(0, np.int64)
        if rows and len(left):
            key = keys_at(store, left[:1] + rows.start)[0]
            f.wrong.append(
                f"{shard.name}: {len(left)} of {len(rows)} tickets have no image in the shards, such as that of {key!r}"
            )


def _detail(findings: _Findings, store: TicketStore, shards: Sequence[Shard]) -> str:
    """Says what was compared, and which part of the store it is."""
    num_rows, num_joined = len(findings.is_joined), int(findings.is_joined.sum())
    by_image = f", {findings.num_by_digest} of them by the image: they have other keys" * bool(findings.num_by_digest)
    by_image += f", {findings.num_half_labelled} with a label on one side alone" * bool(findings.num_half_labelled)
    if num_joined == num_rows:
        return f"{findings.num_images} images in {len(shards)} shard(s){by_image}"
    names = ", ".join(s.name for s in shards[:_NAMED]) + (f" and {len(shards) - _NAMED} more" * (len(shards) > _NAMED))
    left = np.flatnonzero(~findings.is_joined)
    of_shards = len(np.unique(np.searchsorted(store.shard_rows, left, side="right")))
    what = "shard" if len(shards) == 1 else "shards"
    return (
        f"{what} {names}: {num_joined} of {num_rows} tickets{by_image}; {len(left)} tickets are of {of_shards} "
        f"{'shard that was' if of_shards == 1 else 'shards that were'} not given"
    )
