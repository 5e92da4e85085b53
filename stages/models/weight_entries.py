"""Entries of a .pth file that holds several sets of weights: which one is taken."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...artifacts_schema import CheckpointError

# In this order, as timm does; averages (model_ema, …) are not taken.
_TAKEN = ("state_dict", "model")


def entry_taken(path: str | Path) -> str | None:
    """Says which entry of a file the weights are, where it holds more than one set; None where it does not."""
    if str(path).endswith(".safetensors"):
        return None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # read_weights read it, and says what is wrong with it
        return None
    entries = _entries(content)
    taken = next((name for name in _TAKEN if name in entries), None)
    others = [name for name in entries if name != taken]
    if taken is None or not others:
        return None
    return f"weights: {taken!r} of {path}, which also holds {', '.join(map(repr, others))}"


def no_state_dict(path: str | Path, content: Any) -> CheckpointError:
    """The error where a file has no weights in a place where they are looked for."""
    if entries := _entries(content):
        return CheckpointError(
            f"{path} holds no weights as 'model' or 'state_dict', but as {', '.join(map(repr, entries))}; save one of "
            "them in a file of its own"
        )
    return CheckpointError(f"{path} holds no state dict; give a .safetensors file, or a .pth of tensors")


def _entries(content: Any) -> list[str]:
    """Names of the entries that are sets of weights."""
    if not isinstance(content, Mapping):
        return []
    return [
        str(name)
        for name, value in content.items()
        if isinstance(value, Mapping) and value and all(isinstance(v, torch.Tensor) for v in value.values())
    ]
