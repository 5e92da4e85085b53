"""Running a data set in loader workers, so that errors come out as they went in."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ...artifacts_schema import DatalttError

MAX_AUTO_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way out of a worker; torch would make its traceback the message."""

    error: DatalttError


def raisable(error: DatalttError) -> DatalttError:
    """An error that comes out of any loader's worker as a `DatalttError`.

    Torch makes it again in the parent from one argument, its traceback; a class that takes others would be lost.
    """
    if get_worker_info() is None or type(error).__init__ is Exception.__init__:
        return error
    return DatalttError(str(error))


def num_workers_for(requested: int | None, local_world_size: int = 1) -> int:
    """The number of loader workers of one process: as asked, else this process's share of the cores, at most 8."""
    if requested is not None:
        return requested
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(MAX_AUTO_WORKERS, cores // local_world_size) if cores // local_world_size > 1 else 0


def _leave_interrupts_to_the_parent(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent decides what it means, and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def iterate(dataset: IterableDataset[Any], num_workers: int, *, pin_memory: bool = False) -> Iterator[Any]:
    """Yields what the data set yields, from workers or (0) from this process.

    Raises:
        DatalttError: what the data set yielded as a `Failure`.
    """
    context = None
    if num_workers:
        # Not forked from this process: it may have opened a store, and Zarr's event-loop thread does not survive a
        # fork. The fork server has imported everything and holds nothing.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["dataltt.stages.data.student_stream"])
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context=context,
        pin_memory=pin_memory,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_leave_interrupts_to_the_parent if num_workers else None,
    )
    for item in loader:
        if isinstance(item, Failure):
            raise item.error
        yield item
