"""Digest of a weights file that dataltt wrote, in its own header: a flipped bit is found when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from ...artifacts_schema import CheckpointError

DIGEST = "xxh3"  # the header's key


def digest_of(header: Mapping[str, str], weights: Mapping[str, torch.Tensor]) -> str:
    """XXH3-128 of what the header says (but the digest) and of each tensor's name, dtype, shape and bytes."""
    found = xxhash.xxh3_128()
    for key in sorted(header):
        if key != DIGEST:
            found.update(f"{key}\0{header[key]}\0".encode())
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
    header = header_of(path)
    if header.get(DIGEST, "") not in ("", digest_of(header, weights)):
        raise CheckpointError(
            f"{path} is damaged: it is not what was written there; go on from another checkpoint, or fetch it again"
        )
