"""The names of devices."""

from __future__ import annotations

import platform
from typing import Any


def device_name(device: Any) -> str:
    """Name of the device that figures were measured on."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
