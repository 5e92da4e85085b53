"""Cost of a forward pass, counted while it runs: multiply-adds of matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .student import Student

_FLOPS_PER_MAC = 2


def count_gmacs(forward: Callable[[], object]) -> float:
    """GMACs (10⁹ multiply-adds) of a call, as papers count them (a multiply-add is one).

    Attention runs as plain matrix products meanwhile: fused kernels of CPUs are not counted by torch.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward()
    return float(counter.get_total_flops()) / _FLOPS_PER_MAC / 1e9


def student_gmacs(student: Student, num_keep: int | None, *, image_px: int | None = None) -> float:
    """GMACs of one image's forward pass on `num_keep` patches (None: all), of an image of `image_px` (None: the
    network's own).
    """
    g = student.geometry
    side = image_px or g.image_px
    device = next(student.parameters()).device
    image = torch.zeros(1, 1 if g.mode == "L" else 3, side, side, device=device)
    keep: Tensor | None = None if num_keep is None else torch.arange(num_keep, device=device)[None]
    was_training = student.training
    gmacs = count_gmacs(lambda: student.eval()(image, keep))
    student.train(was_training)
    return gmacs
