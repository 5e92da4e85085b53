"""Checkpoints from strangers: nothing in them runs, and what they say of themselves is checked before it is made."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import CheckpointError, View
from dataltt.stages.models.checkpoints import (
    TRAINING_STATE,
    CheckpointInfo,
    latest_checkpoint,
    load_student,
    load_training_state,
    save_weights,
)
from dataltt.stages.models.registry import create_vit
from dataltt.stages.models.weights import load_vit, read_weights
from safetensors.torch import load_file, save_file

from ...helpers import MODEL

INFO = CheckpointInfo(
    model=MODEL,
    num_classes=10,
    image_px=28,
    view=View(kind="center", resize_px=28, crop_share=1.0, interpolation="bicubic", mean=[0.5], std=[0.5]),
    control="ticket",
    num_keep=25,
    step=1,
    epoch=1,
)


class Payload:
    """What leaves a file behind once it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def plain_pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


WRITERS: dict[str, Callable[[Path, Any], None]] = {
    "zip": lambda path, content: torch.save(content, path),
    "legacy": lambda path, content: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle": plain_pickle,
}


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def test_the_payload_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()


@pytest.mark.parametrize("where", ["alone", "beside weights", "as a weight"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_in_weights_runs(tmp_path: Path, mark: Path, kind: str, suffix: str, where: str) -> None:
    weights = {"head.weight": torch.zeros(10, 4)}
    content: Any = {
        "alone": Payload(mark),
        "beside weights": {"model": weights, "args": Payload(mark)},
        "as a weight": {**weights, "head.bias": Payload(mark)},
    }[where]
    path = tmp_path / f"weights{suffix}"
    WRITERS[kind](path, content)
    for read in (read_weights, load_student, lambda path: load_vit(MODEL, path)):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_in_training_state_runs(tmp_path: Path, mark: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / "training.pt", {**dict.fromkeys(TRAINING_STATE, 0), "optimizer": Payload(mark)})
    with pytest.raises(CheckpointError, match=r"training\.pt cannot be read"):
        load_training_state(tmp_path, torch.device("cpu"))
    assert not mark.exists()


def test_a_head_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    header = {**json.loads(_header(tmp_path)), "num_classes": 10**9}
    header.pop("xxh3")  # it finds accidents
    save_file(create_vit(MODEL).state_dict(), path, metadata={"dataltt": json.dumps(header)})
    with pytest.raises(CheckpointError, match="says that it has 1000000000 classes, and its head has 10; "):
        load_student(path)


@pytest.mark.parametrize("change", [{"num_keep": -1}, {"image_px": 10**9}, {"step": "one"}, {"view": {}}])
def test_a_header_that_cannot_be_meant_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "weights.safetensors"
    header = {**json.loads(_header(tmp_path)), **change}
    save_file(create_vit(MODEL).state_dict(), path, metadata={"dataltt": json.dumps(header)})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_student(path)


def _header(folder: Path) -> str:
    from safetensors import safe_open

    save_weights(folder / "sound.safetensors", create_vit(MODEL).state_dict(), INFO)
    with safe_open(folder / "sound.safetensors", "pt") as file:
        return str(file.metadata()["dataltt"])


@pytest.mark.parametrize("name", ["..", ".", "../../elsewhere", "/", "step-1/../..", "\0", "x" * 5000, "step-00000009"])
def test_a_pointer_leads_to_a_checkpoint_of_the_run_or_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints/latest").write_text(name)
    with pytest.raises(CheckpointError, match=r"checkpoints/latest"):
        latest_checkpoint(tmp_path)


def test_a_pointer_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints/latest")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_are_readable_as_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_weights(tmp_path / "weights.safetensors", {"a": torch.arange(3.0)}, INFO)
    finally:
        assert os.umask(before) == umask
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == mode
    assert load_file(tmp_path / "weights.safetensors")["a"].tolist() == [0, 1, 2]
