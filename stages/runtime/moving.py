"""Batches on their way to a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T", bound=tuple[Any, ...])


def on_device(batches: Iterable[_T], device: torch.device) -> Iterator[_T]:
    """Yields batches (named tuples of tensors, other named tuples, and values) with their tensors on a device.

    To a GPU they are copied on a stream of their own, from pinned memory: the host is ahead of the GPU, so that a batch
    is copied while the one before is computed on.
    """
    if device.type != "cuda":
        for batch in batches:
            yield moved(batch, device)
        return
    copying = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copying):
            there = moved(batch, device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in _tensors(there):
            tensor.record_stream(computing)  # its memory is not given away while it is computed on
        yield there


def moved(batch: _T, device: torch.device) -> _T:
    """The batch with its tensors on a device."""
    return type(batch)(*(_moved(value, device) for value in batch))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return moved(value, device) if _is_named_tuple(value) else value


def _tensors(batch: tuple[Any, ...]) -> Iterator[Tensor]:
    for value in batch:
        if isinstance(value, Tensor):
            yield value
        elif _is_named_tuple(value):
            yield from _tensors(value)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")
