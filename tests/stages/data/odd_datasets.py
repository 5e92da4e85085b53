"""Data sets whose loader processes come to grief. They are imported there, so this file imports little."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info


@dataclass(frozen=True)
class Counting(IterableDataset[Any]):
    """Yields `count` tensors of their own number, uint8 [num_bytes], shared among the workers."""

    count: int
    num_bytes: int = 10

    def __iter__(self) -> Iterator[Any]:
        """Yields them with their numbers."""
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, self.count, step):
            yield {"images": torch.full((self.num_bytes,), number % 251, dtype=torch.uint8), "number": number}


@dataclass(frozen=True)
class Signalled(IterableDataset[Any]):
    """Yields 0, then its process gets a signal, then it yields 1 to 9."""

    number: signal.Signals

    def __iter__(self) -> Iterator[int]:
        """Yields numbers."""
        yield 0
        os.kill(os.getpid(), self.number)
        yield from range(1, 10)


@dataclass(frozen=True)
class Silent(IterableDataset[Any]):
    """Yields 0, then waits for a pipe that nobody writes to."""

    path: str

    def __iter__(self) -> Iterator[int]:
        """Yields a number."""
        yield 0
        with open(os.open(self.path, os.O_RDWR), "rb") as file:
            yield file.read(1)[0]
