"""End of many processes after the same step, when one of them is asked for it."""

from __future__ import annotations

import torch
import torch.distributed as dist

from .distributed import Process
from .interrupts import StopRequest


class JointStop:
    """Agreement of all processes on the step to stop after.

    They ask each other at every step and read the answer at the next, so that nobody waits for the slowest at once.
    """

    def __init__(self, process: Process, request: StopRequest) -> None:
        self._process, self._request = process, request
        self._asked: tuple[dist.Work, torch.Tensor] | None = None
        self.is_agreed = False

    def after_step(self) -> None:
        """Asks, and takes the answer to what was asked a step before. All processes come here at the same steps."""
        if self._process.group is None:
            self.is_agreed = self._request.is_made
            return
        self.settle()
        mine = torch.tensor([self._request.signal])
        self._asked = (dist.all_reduce(mine, dist.ReduceOp.MAX, group=self._process.group, async_op=True), mine)

    def settle(self) -> None:
        """Takes the answer that is due."""
        if self._asked is None:
            return
        work, answer = self._asked
        work.wait()
        self._asked = None
        if answer.item():
            self._request.make(int(answer.item()))
            self.is_agreed = True
