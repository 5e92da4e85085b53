"""Digest of a weights file that dataltt wrote, in its own header: a flipped bit is found when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from ...artifacts_schema import CheckpointError

HEADER = "dataltt"  # of a safetensors header, which holds one entry: of more, the order would be another one each time
_DIGEST = "xxh3"


def with_digest(info: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The header of weights: what they are of, as JSON, with the digest of both."""
    return {HEADER: json.dumps({**info, _DIGEST: _digest_of(info, weights)})}


def _digest_of(info: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> str:
    """XXH3-128 of what weights are of, and of each tensor's name, dtype, shape and bytes."""
    found = xxhash.xxh3_128(json.dumps(info, sort_keys=True).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        found.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def header_of(path: str | Path) -> dict[str, str]:
    """Header of a safetensors file, as it says what it is of.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); train it again, or fetch it again"
        ) from error


def check_digest(path: str | Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuses weights that are not those that were written; files of others, and of earlier versions, have no digest.

    Raises:
        CheckpointError
    """
    if Path(path).suffix != ".safetensors":
        return
    try:
        info = json.loads(header_of(path).get(HEADER, "{}"))
        known = info.pop(_DIGEST, None)
        is_whole = known is None or known == _digest_of(info, weights)
    except (ValueError, AttributeError):  # it is no JSON any more
        is_whole = False
    if not is_whole:
        raise CheckpointError(
            f"{path} is damaged: it is not what was written there; go on from another checkpoint, or fetch it again"
        )
