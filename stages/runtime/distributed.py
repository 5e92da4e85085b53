"""Processes, one or many under torchrun: who we are, which device is ours, and waiting for the others."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ...artifacts_schema import DatalttError, OptionError, RanksError
from .orphans import end_with_launcher

RANK_TIMEOUT_S = 2400.0
# Work on a GPU is waited for by torch's own watchdog, which ends the process with a dump; ours speaks before it.
_LATER_S = 300.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Process among `world_size`, of which `local_world_size` run on this machine; its model is on `device`.

    `group` is what processes agree through without their devices, None if there is one process.
    """

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None

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

    def on_main(self, action: Callable[[], T]) -> T | None:
        """Lets rank 0 act while the others wait; an error of its ends all of them. None on the others.

        Raises:
            DatalttError: on rank 0, what the action raised.
            RanksError: on the others, if it raised that.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = action()
            except DatalttError as raised:
                error = raised
        failed = self.sum(torch.tensor([float(error is not None)]))
        if error is not None:
            raise error
        if failed.item():
            raise ended_by_main()
        return result


def ended_by_main() -> RanksError:
    """The error of a rank that ends since rank 0 does, which says why."""
    error = RanksError("rank 0 ended this job, and says why")
    error.is_said = True
    return error


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
def process_group(device: str = "auto", *, rank_timeout_s: float = RANK_TIMEOUT_S) -> Iterator[Process]:
    """Joins the group that torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK) describes, if there is one.

    Inside another such block it is that block's group, so that work of several steps can wait for all between them.

    Args:
        rank_timeout_s: how long to wait for another process that gives no answer.

    Raises:
        RanksError: another process ended, or gave no answer for so long.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    resolved = resolve_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if resolved.type == "cuda":
        torch.cuda.set_device(resolved)
    joins = world_size > 1 and not dist.is_initialized()
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    try:
        if joins:
            end_with_launcher()
            wait = datetime.timedelta(seconds=rank_timeout_s + (_LATER_S if resolved.type == "cuda" else 0))
            dist.init_process_group("nccl" if resolved.type == "cuda" else "gloo", timeout=wait)
        group: Any = None  # torch's type of it is wider than what it takes
        if world_size > 1:
            group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=rank_timeout_s))
        yield Process(rank=rank, world_size=world_size, local_world_size=local_world_size, device=resolved, group=group)
    except RuntimeError as error:
        if world_size == 1 or not _is_of_another_rank(error):
            raise
        raise _lost(error, rank, rank_timeout_s) from None
    finally:
        if joins and dist.is_initialized():
            dist.destroy_process_group()


def _is_of_another_rank(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection closed by peer" in str(error)


def _lost(error: RuntimeError, rank: int, rank_timeout_s: float) -> RanksError:
    if "imed out" in str(error) or "imeout" in str(error):
        return RanksError(
            f"rank {rank} waited {rank_timeout_s:g} s for another process of this job, which gave no answer: it is "
            "stopped, or waits for a disk or the network; give the same command again (of train with `resume`), with a "
            "longer `rank_timeout_s` if it was only slow"
        )
    return RanksError(
        f"rank {rank} lost another process of this job: it was killed, perhaps for memory, or ended by an error, which "
        "it says; give the same command again (of train with `resume`)"
    )
