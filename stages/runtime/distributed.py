"""Processes, one or many under torchrun: who we are, which device is ours, and waiting for the others."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ...artifacts_schema import OptionError

# Ranks of a selection get shards of different sizes, and wait for the slowest.
_TIMEOUT = datetime.timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Process among `world_size`, of which `local_world_size` run on this machine; its model is on `device`."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Tells whether this is rank 0."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` (a CUDA GPU, else Apple's, else the CPU) or any torch device name.

    Raises:
        OptionError: torch does not know the device, or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"`device={name!r}` is not a torch device; give auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise OptionError(
                f"`device={name!r}`: this machine has {count} CUDA device(s); pass `device='cpu'` or auto"
            )
        return device if device.index is not None else torch.device("cuda", min(local_rank, count - 1))
    return device


def is_main_process() -> bool:
    """Tells whether this is rank 0, or the only process: the one that speaks."""
    return int(os.environ.get("RANK", 0)) == 0


def rank_and_world_size() -> tuple[int, int]:
    """Returns which process this is of how many: as torch's process group says, else as torchrun's environment does."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def process_group(device: str = "auto") -> Iterator[Process]:
    """Joins the group that torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK) describes, if there is one.

    Inside another such block it is that block's group, so that work of several steps can wait for all between them.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    resolved = resolve_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if resolved.type == "cuda":
        torch.cuda.set_device(resolved)
    joins = world_size > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
        yield Process(rank=rank, world_size=world_size, local_world_size=local_world_size, device=resolved)
    finally:
        if joins:
            dist.destroy_process_group()
