"""Steps that selecting and labelling share: a plan, one part for each shard, and a commit of all of them.

Shards are dealt to ranks, and on each rank to loader workers. Finished parts stay, so that the same call goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import IterableDataset

from ...artifacts_schema.space import check_space
from ..data.loader import iterate, num_workers_for
from ..data.shards import Shard
from ..options import RuntimeOptions
from ..runtime.board import Board
from ..runtime.distributed import Process
from ..runtime.interrupts import terminable
from ..runtime.reporting import Reporter

_T = TypeVar("_T")


class ShardedBatches(Protocol):
    """Data set whose batches never span shards; `shards` are those it reads, with their numbers."""

    shards: Any  # a sequence of (int, Shard); what is assigned to it is a list


def make_all_parts(
    process: Process,
    runtime: RuntimeOptions,
    reporter: Reporter,
    *,
    begin: Callable[[], None],
    make: Callable[[Board], None],
    commit: Callable[[Callable[..., None]], _T],
    check_lock: Callable[[], None],
    writing: str,
    num_shards: int,
) -> _T | None:
    """Runs the steps in step with the other ranks: `begin` on rank 0, `make` on all, `commit` on rank 0.

    Args:
        make: is given the board that all ranks count on.
        commit: is given what it calls after each shard.
        check_lock: makes sure that nobody else has begun to write there.
        writing: what it writes, for the reporter.

    Returns:
        What `commit` returns on rank 0, None on the others.
    """
    process.on_main(begin)
    board = Board(process, runtime.rank_timeout_s)
    with terminable(), board.alive():
        make(board)
    process.barrier()
    if not process.is_main:
        return None
    check_lock()
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
) -> tuple[list[tuple[int, Shard]], int]:
    """Leaves a data set those of this rank's shards whose parts are not there yet, and says how many were.

    Returns:
        These shards, and how many there are on all ranks.
    """
    num_shards = len(dataset.shards)
    mine = dataset.shards[process.rank :: process.world_size]
    todo = [(index, shard) for index, shard in mine if not is_done(index, shard)]
    num_todo = int(process.sum(torch.tensor([len(todo)])).item())
    if num_todo < num_shards:
        reporter.message(f"{num_shards - num_todo} of {num_shards} shards were done before; going on from there")
    dataset.shards = todo
    return todo, num_todo


class JobProgress:
    """Progress of all ranks together, for the reporter of rank 0.

    Args:
        num_shards: how many there are to do on all ranks.
    """

    def __init__(self, board: Board, reporter: Reporter, num_shards: int) -> None:
        self._board, self._reporter, self._num_shards = board, reporter, num_shards
        self._num_shown = 0

    def advance(self, num_images: int) -> None:
        """Counts images that this rank did, and shows what all have done."""
        self._show(self._board.add("images", num_images))

    def end_shard(self, num_rows: int | None = None) -> None:
        """Counts a shard; if its images are given, guesses how many there are in all, as if all were like these."""
        ended = self._board.add("shards", 1)
        if num_rows is not None:
            self._reporter.expect(self._board.add("rows", num_rows) * self._num_shards // ended)

    def finish(self) -> None:
        """Waits for the other ranks, and ends the work."""
        self._board.wait_for_all(lambda: self._show(self._board.add("images")))
        self._reporter.finish()

    def _show(self, num_images: int) -> None:
        new, self._num_shown = num_images - self._num_shown, num_images
        self._reporter.advance(new, f"{self._board.add('shards')}/{self._num_shards} shards")


def batches_of(
    dataset: IterableDataset[Any],
    runtime: RuntimeOptions,
    process: Process,
    num_shards: int,
    reporter: Reporter,
) -> Iterator[Any]:
    """Batches of a data set, from no more loader workers than it has shards."""
    num_workers = min(num_workers_for(runtime.workers, process.local_world_size), num_shards)
    return iterate(
        dataset,
        num_workers,
        pin_memory=process.device.type == "cuda",
        stall_timeout_s=runtime.stall_timeout_s,
        reporter=reporter,
    )
