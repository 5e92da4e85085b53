"""Steps that selecting and labelling share: a plan, one part for each shard, and a commit of all of them.

Shards are dealt to ranks, and on each rank to loader workers. Finished parts stay, so that the same call goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import IterableDataset

from ...artifacts_schema import Manifest
from ...artifacts_schema.space import check_space
from ..data.loader import iterate, num_workers_for
from ..data.shards import Shard
from ..options import RuntimeOptions
from ..runtime.distributed import Process
from ..runtime.reporting import Reporter


class ShardedBatches(Protocol):
    """Data set whose batches never span shards; `shards` are those it reads, with their numbers."""

    shards: Any  # a sequence of (int, Shard); what is assigned to it is a list


def make_all_parts(
    process: Process,
    reporter: Reporter,
    *,
    begin: Callable[[], None],
    make: Callable[[], None],
    commit: Callable[[Callable[..., None]], Manifest],
    writing: str,
    num_shards: int,
) -> Manifest | None:
    """Runs the steps in step with the other ranks: `begin` on rank 0, `make` on all, `commit` on rank 0.

    Args:
        commit: is given what it calls after each shard.
        writing: what it writes, for the reporter.

    Returns:
        The manifest on rank 0, None on the others.
    """
    if process.is_main:
        begin()
    process.barrier()
    make()
    process.barrier()
    if not process.is_main:
        return None
    reporter.start(f"writing {writing}", num_shards, "shards")
    manifest = commit(lambda *_: reporter.advance(1))
    reporter.finish()
    return manifest


def check_room(out: Path, directory: Path, needed: int | None, reporter: Reporter) -> None:
    """Warns where the disk of `out` has no room for what will be written, as far as that is known.

    Args:
        directory: of the parts; those that are there need not be written.
        needed: bytes of all parts and the store, as a guess; None where there is none.

    Raises:
        DiskError: there is room for less than a quarter of it.
    """
    if needed is None:
        return
    left = needed - sum(path.stat().st_size for path in directory.glob("part-*.parquet"))
    warning = check_space(out, left, least=left / 4)
    if warning is not None:
        reporter.message(f"note: {warning}")


def keep_undone(
    dataset: ShardedBatches, process: Process, reporter: Reporter, is_done: Callable[[int, Shard], bool]
) -> list[tuple[int, Shard]]:
    """Leaves a data set those of this rank's shards whose parts are not there yet, and says how many were."""
    mine = dataset.shards[process.rank :: process.world_size]
    todo = [(index, shard) for index, shard in mine if not is_done(index, shard)]
    if len(todo) < len(mine):
        reporter.message(f"{len(mine) - len(todo)} of {len(mine)} shards were done before; going on from there")
    dataset.shards = todo
    return todo


def batches_of(
    dataset: IterableDataset[Any], runtime: RuntimeOptions, process: Process, num_shards: int
) -> Iterator[Any]:
    """Batches of a data set, from no more loader workers than it has shards."""
    num_workers = min(num_workers_for(runtime.workers, process.local_world_size), num_shards)
    return iterate(dataset, num_workers, pin_memory=process.device.type == "cuda")
