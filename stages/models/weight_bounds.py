"""Bounds on what a file of somebody else's weights may make one allocate."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from ...artifacts_schema import CheckpointError

T = TypeVar("T")
_TIMES = 4  # tensors may share what the file stores once, as tied weights do
_SLACK_BYTES = 1 << 20
_ZIP = b"PK\x03\x04"


def check_stored(path: str | Path) -> None:
    """Refuses a .pth whose members would grow when they are read: torch.save stores them as they are.

    Raises:
        CheckpointError: a member is compressed, or members say that they are more than the file holds.
    """
    file = Path(path)
    with file.open("rb") as stream:
        if stream.read(len(_ZIP)) != _ZIP:
            return
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # torch says what is wrong with it
    packed = next((m.filename for m in members if m.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise CheckpointError(
            f"{path} holds {packed!r} compressed, which torch.save never does, and is not read; fetch it again, or "
            "save its tensors with torch.save"
        )
    if sum(m.file_size for m in members) > file.stat().st_size:
        raise CheckpointError(f"{path} says that it holds more than its own size, and is not read; fetch it again")


def check_held(path: str | Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Refuses tensors that are larger than the file that they are from: copies of them would be that large.

    Raises:
        CheckpointError: tensors that stand for far more numbers than are stored, or are not stored as plain arrays.
    """
    size = Path(path).stat().st_size
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.nbytes > size:
            raise CheckpointError(
                f"{path}: tensor {name!r} of shape {tuple(tensor.shape)} is not stored in full; fetch the file again, "
                "or save its tensors whole"
            )
    if sum(tensor.nbytes for tensor in weights.values()) > _TIMES * size + _SLACK_BYTES:
        raise CheckpointError(
            f"{path} holds tensors that stand for far more than its {size} bytes; fetch it again, or save its tensors "
            "whole"
        )


def sketched(make: Callable[[], T]) -> T:
    """A network with the names and shapes of its tensors, and without any memory for them."""
    with torch.device("meta"):
        return make()
