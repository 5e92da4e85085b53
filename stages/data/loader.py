"""Running a data set in loader workers, so that errors come out as they went in, and that nothing hangs."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ...artifacts_schema import DatalttError, LoaderError
from ..runtime.orphans import end_with_parent
from ..runtime.reporting import Reporter
from .sharing import SHARED_MEMORY, ByPipe, Sending, free_bytes, semaphore_bytes
from .watching import STALL_TIMEOUT_S, Watch

MAX_AUTO_WORKERS = 8
_OURS = (signal.SIGINT, signal.SIGTERM)
_LATER_S = 20.0  # torchrun kills what is still there after 30
_DYING_S = 2.0
_END = object()
_BY_PIPE = (
    "note: there is little room in shared memory, so batches come through a pipe, which takes longer (a container has "
    "more with: docker run --shm-size 8g)"
)
_UNGUARDED = (
    'a script of your own has to call dataltt below `if __name__ == "__main__":`, since every loader process runs the '
    "rest of the script anew"
)


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


def iterate(
    dataset: IterableDataset[Any],
    num_workers: int,
    *,
    pin_memory: bool = False,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    reporter: Reporter | None = None,
) -> Iterator[Any]:
    """Yields what the data set yields, from workers or (0) from this process.

    Args:
        stall_timeout_s: how long the next item may take.
        reporter: is told if items take a slower way than shared memory.

    Raises:
        DatalttError: what the data set yielded as a `Failure`.
        LoaderError: a loader process was killed, or none gave anything for so long.
    """
    watch, came_by_pipe = Watch(stall_timeout_s), False
    items: Iterator[Any] | None = None
    with watch.on():
        try:
            with watch.waiting():
                items, watch.workers = _start(dataset, num_workers, pin_memory=pin_memory)
            while (item := _next(items, watch)) is not _END:
                if isinstance(item, ByPipe):
                    if not came_by_pipe and reporter is not None:
                        reporter.message(_BY_PIPE)
                    came_by_pipe, item = True, item.item
                if isinstance(item, Failure):
                    raise item.error
                yield item
        finally:
            items = None  # an error's traceback would keep the loader, and with it its processes


def _start(
    dataset: IterableDataset[Any], num_workers: int, *, pin_memory: bool
) -> tuple[Iterator[Any], Sequence[BaseProcess]]:
    """Starts a loader; returns what it yields, and its processes.

    Raises:
        LoaderError: there is no room for semaphores.
    """
    if not num_workers:
        return iter(DataLoader(dataset, batch_size=None, pin_memory=pin_memory)), ()
    before = multiprocessing.active_children()
    free, needed = free_bytes(SHARED_MEMORY), semaphore_bytes(num_workers)
    try:
        if free is not None and free < needed:  # torch would fail half-way, and say so twice
            raise OSError(errno.ENOSPC, "no room")
        loader = DataLoader(
            Sending(dataset, num_workers * int(os.environ.get("LOCAL_WORLD_SIZE", 1))),
            batch_size=None,
            num_workers=num_workers,
            multiprocessing_context=_fork_server(),
            pin_memory=pin_memory,
            prefetch_factor=4,
            worker_init_fn=_begin_worker,
        )
        items = iter(loader)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    else:
        return items, [each for each in multiprocessing.active_children() if each not in before]
    raise LoaderError(
        f"{SHARED_MEMORY} has {free} bytes free, and {num_workers} loader process(es) need {needed}; make room there "
        "(a container has more with: docker run --shm-size 8g), or use `workers=0`"
    )


def _fork_server() -> Any:
    """The server that loader processes are forked from, running.

    They are not forked from this process: it may have opened a store, and Zarr's event-loop thread does not survive a
    fork. The fork server has imported everything and holds nothing. Ctrl-C and a scheduler's SIGTERM reach every
    process of a terminal or job; neither is for the server, from its first moment on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dataltt.stages.runtime.fork_server", "dataltt.stages.data.student_stream"])
    resource_tracker.ensure_running()  # it would let signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _begin_worker(_: int) -> None:
    """Prepares a loader process: signals are the trainer's to answer, and it ends with the trainer.

    The trainer may want some more batches after a SIGTERM that was sent to all, so that it is obeyed a while later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
    end_with_parent()


def _end_later(_number: int, _frame: object) -> None:
    timer = threading.Timer(_LATER_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _next(items: Iterator[Any], watch: Watch) -> Any:
    """The next item, or `_END`.

    Raises:
        LoaderError: there is none, since a loader process died or the watch ended the wait.
    """
    try:
        with watch.waiting():
            return next(items, _END)
    except KeyboardInterrupt:
        if watch.found is None:
            raise
    except (RuntimeError, OSError, EOFError):
        if watch.found is None and not _died(watch.workers):
            raise
    # Raised here, so that it holds no frame of torch's, and no process with it.
    raise LoaderError(_what_happened(watch))


def _died(workers: Sequence[BaseProcess]) -> list[BaseProcess]:
    """Loader processes that are dead; one whose batch was cut off may be so a moment later."""
    if workers:
        wait([worker.sentinel for worker in workers], timeout=_DYING_S)
    return [worker for worker in workers if worker.exitcode]


def _what_happened(watch: Watch) -> str:
    if watch.found is not None:
        files = f" (open: {watch.found})" if watch.found else ""
        return (
            f"the loader gave nothing for {watch.timeout_s:g} s, so it was ended: it waited for a file or the "
            f"network{files}; see to that, and give the same command again (of train with `resume`), or a longer "
            "`stall_timeout_s`"
        )
    (worker, *_) = _died(watch.workers)
    code = worker.exitcode or 0
    if code == -signal.SIGKILL:
        how = "was killed, perhaps for memory; "
    elif code < 0:
        how = f"was ended by {signal.Signals(-code).name}; "
    else:
        how = f"ended by itself with code {code}; {_UNGUARDED}; else "
    return (
        f"a loader process (number {worker.pid}) {how}use fewer `workers` or a smaller `batch_size`, and give the "
        "same command again (of train with `resume`)"
    )
