"""Repetition: an epoch shows some of the pictures, each several times, so that each is decoded once for several views.

Source: Hoffer et al. 2020 (batch augmentation), as DeiT's recipe has it (three times).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..runtime.randomness import generator_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """Repetition in one epoch: of N pictures it shows N / n, each n times.

    In each cycle of n epochs every picture has its turn once (but N mod n of them). In its turn of cycle c it shows the
    n views that n epochs without repetition would show of it: number c · n up to c · n + n.

    Attributes:
        number: n.
        seed: what turns are drawn from, with the cycle.
    """

    number: int
    seed: int
    epoch: int

    def view(self, repeat: int) -> int:
        """Number of the view that a repeat shows, counted as epochs are without repetition."""
        return self.epoch // self.number * self.number + repeat

    def pictures(self, counts: Sequence[int]) -> list[npt.NDArray[np.int64]]:
        """Places of the epoch's pictures in each shard, ascending.

        Args:
            counts: samples of each shard, in an order that stays from epoch to epoch.
        """
        total = sum(counts)
        size = total // self.number
        order = generator_of(self.seed, "repeats", self.epoch // self.number).permutation(total)
        turn = self.epoch % self.number
        chosen = np.sort(order[turn * size : (turn + 1) * size])
        ends = np.cumsum(counts)
        parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
        return [part - (end - count) for part, end, count in zip(parts, ends, counts, strict=True)]
