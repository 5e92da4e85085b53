"""Peak arithmetic of GPUs, from their makers' data sheets: dense matrix products, without sparsity."""

from __future__ import annotations

import re

import torch

# TFLOP/s by name: of 16-bit products summed in fp32, of TF32, of fp32 outside tensor cores. The first that fits counts.
_PEAKS: tuple[tuple[str, float, float, float], ...] = (
    ("H200", 989, 494.7, 67),
    ("H100 PCIe", 756, 378, 51),
    ("H100", 989, 494.7, 67),
    ("A100", 312, 156, 19.5),
    ("L40S", 362, 183, 91.6),
    ("L4", 121, 60, 30.3),
    ("V100-SXM2", 125, 15.7, 15.7),
    ("T4", 65, 8.1, 8.1),
)


def peak_flops(device: torch.device, precision: str, *, tf32: bool) -> float | None:
    """FLOP/s that a device can reach at most; None where that is not known."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), precision, tf32=tf32)


def peak_of(name: str, precision: str, *, tf32: bool) -> float | None:
    """FLOP/s of the GPU of that name, as CUDA gives it; None where it is not known."""
    for known, half, tensor, single in _PEAKS:
        if re.search(rf"\b{known}\b", name):
            if precision == "bf16" and known in ("V100-SXM2", "T4"):
                return None  # they have no bf16 units
            return 1e12 * (half if precision != "fp32" else tensor if tf32 else single)
    return None
