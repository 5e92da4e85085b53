"""Boxes on the patch grid.

Letters: P patches of the grid, in row order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Box(NamedTuple):
    """A box on the grid: rows top up to bottom, columns left up to right."""

    top: int
    bottom: int
    left: int
    right: int


def inside_box(box: Box, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Marks patches that lie inside a box, bool [P]."""
    inside = torch.zeros(grid, dtype=torch.bool, device=device)
    inside[box.top : box.bottom, box.left : box.right] = True
    return inside.flatten()
