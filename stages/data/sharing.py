"""Sending of batches from loader processes: through shared memory where there is room for them, else through a pipe.

Shared memory (/dev/shm) is small in containers: 64 MB with Docker's defaults. Torch's loader fails where it is full,
and hangs. Here a batch is made ready to send before it is handed on, by the loader process itself: it looks how much is
free for each batch anew, since others use that memory too, and where a batch does not fit it sends the batch's bytes.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset

SHARED_MEMORY = "/dev/shm"
# What is left to semaphores, and to others who look and write at the same time.
_SPARE_BYTES = 1 << 20


class ByPipe(NamedTuple):
    """Item that came through a pipe, since there was no room for it in shared memory."""

    item: Any


class Sent:
    """An item on its way out of a loader process, pickled; at its arrival it is the item, or a `ByPipe` of it.

    What is shared must be fetched while the process that shares it lives, so it is, at once.
    """

    __slots__ = ("by_pipe", "content")

    def __init__(self, content: bytes, *, by_pipe: bool) -> None:
        self.content, self.by_pipe = content, by_pipe

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.content, self.by_pipe)


def _arrived(content: bytes, by_pipe: bool) -> Any:
    item = pickle.loads(content)  # of a process of our own
    return ByPipe(item) if by_pipe else item


class Sending(IterableDataset[Any]):
    """Data set that sends what another one yields.

    Args:
        num_senders: loader processes that may write at the same time.
        shared_memory: the folder that shared memory is in.
    """

    def __init__(self, dataset: IterableDataset[Any], num_senders: int, shared_memory: str = SHARED_MEMORY) -> None:
        self.dataset, self.num_senders, self.shared_memory = dataset, num_senders, shared_memory

    def __iter__(self) -> Iterator[Sent]:
        """Yields each item as it is to be sent."""
        may_share = True
        for item in self.dataset:
            if may_share and self._has_room(num_bytes_of(item)):
                try:
                    yield Sent(bytes(ForkingPickler.dumps(item)), by_pipe=False)
                    continue
                except (RuntimeError, OSError):  # somebody else was faster
                    may_share = False
            yield Sent(pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL), by_pipe=True)

    def _has_room(self, num_bytes: int) -> bool:
        free = free_bytes(self.shared_memory)
        return free is None or free >= self.num_senders * (num_bytes + _SPARE_BYTES)


def free_bytes(folder: str) -> int | None:
    """Bytes that are free in a folder's file system; None if there is no such folder."""
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):
        return None
    return found.f_bavail * found.f_frsize


def semaphore_bytes(num_workers: int) -> int:
    """Bytes of shared memory that a loader takes before any batch: three semaphores a queue, five of an event."""
    return (3 * (num_workers + 1) + 5) * os.sysconf("SC_PAGE_SIZE")


def num_bytes_of(item: Any) -> int:
    """Bytes of the tensors in an item, however they lie in it."""
    if isinstance(item, torch.Tensor):
        return item.untyped_storage().nbytes()
    if isinstance(item, dict):
        return sum(num_bytes_of(each) for each in item.values())
    if isinstance(item, list | tuple):
        return sum(num_bytes_of(each) for each in item)
    fields = getattr(item, "__dataclass_fields__", ())
    return sum(num_bytes_of(getattr(item, name)) for name in fields)
