"""A weights file that dataltt wrote is known again to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dataltt.artifacts_schema import CheckpointError
from dataltt.stages.models.checkpoints import CheckpointInfo, read_info, save_weights
from dataltt.stages.models.registry import center_view_of, create_vit
from dataltt.stages.models.weights import read_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ...helpers import MODEL

_WEIGHTS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b.half": torch.ones(3, dtype=torch.bfloat16),
    "c": torch.tensor(3),
    "none": torch.zeros(0, 4),
}


@pytest.fixture(scope="module")
def info() -> CheckpointInfo:
    view = center_view_of(create_vit(MODEL, num_classes=10), 28)
    return CheckpointInfo(
        model=MODEL, num_classes=10, image_px=28, view=view, control="ticket", num_keep=25, step=3, epoch=1
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, info: CheckpointInfo) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(path, _WEIGHTS, info)
    assert read_info(path) == info
    assert all(torch.equal(tensor, _WEIGHTS[name]) for name, tensor in read_weights(path).items())
    return path.read_bytes()


def test_the_same_weights_are_the_same_bytes(tmp_path: Path, info: CheckpointInfo, written: bytes) -> None:
    save_weights(tmp_path / "again.safetensors", dict(reversed(_WEIGHTS.items())), info)
    assert (tmp_path / "again.safetensors").read_bytes() == written


@settings(max_examples=200)
@given(data=st.data())
def test_every_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, written: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, 8 * len(written) - 1))
    content = bytearray(written)
    content[place // 8] ^= 1 << place % 8
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(content)
    try:
        found, info = read_weights(path), read_info(path)
    except CheckpointError:
        return
    # The one word that marks the file as ours, or the digest's name: it is as any other file then, its tensors whole.
    assert info is None or b'"xxh3\\"'.replace(b"\\", b"") not in bytes(content).replace(b"\\", b"")
    assert all(torch.equal(tensor, _WEIGHTS[name]) for name, tensor in found.items())
    assert found.keys() == _WEIGHTS.keys()


def test_files_of_others_have_none(tmp_path: Path) -> None:
    save_file(_WEIGHTS, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert read_weights(tmp_path / "theirs.safetensors").keys() == _WEIGHTS.keys()
