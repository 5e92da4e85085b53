"""Weights of strangers take no more memory than their file: neither by the model that they name, nor by a zip bomb."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import CheckpointError, View
from dataltt.stages.models.checkpoints import (
    TRAINING_STATE,
    CheckpointInfo,
    load_student,
    load_training_state,
    save_weights,
)
from dataltt.stages.models.registry import create_vit
from dataltt.stages.models.weight_bounds import sketched
from dataltt.stages.models.weights import load_vit, read_weights
from dataltt.stages.selection.config import LabelConfig
from dataltt.stages.selection.label import load_labeller
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.train import train
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from ...helpers import MODEL, SmallStore

HUGE = "vit_gigantic_patch14_224"  # 1.8 billion parameters
INFO = CheckpointInfo(
    model=HUGE,
    num_classes=10,
    image_px=224,
    view=View(kind="center", resize_px=28, crop_share=1.0, interpolation="bicubic", mean=[0.5], std=[0.5]),
    control="ticket",
    num_keep=25,
    step=1,
    epoch=1,
)


class Watch(TorchDispatchMode):
    """Notes the largest tensor that takes memory while it is on, in bytes."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type == "cpu":
            self.largest = max(self.largest, made.nbytes)
        return made


def of_huge(path: Path) -> Path:
    """Small weights that say they are a huge network's."""
    save_weights(path, {"head.weight": torch.zeros(10, 4)}, INFO)
    return path


def test_the_watch_sees_what_is_made() -> None:
    with Watch() as watch:
        torch.zeros(1000)
        sketched(lambda: torch.nn.Linear(10**6, 10**6))
    assert watch.largest == 4000


def test_a_huge_model_that_a_header_names_is_not_made(tmp_path: Path) -> None:
    path = of_huge(tmp_path / "weights.safetensors")
    with Watch() as watch, pytest.raises(CheckpointError, match=rf"does not hold weights of {HUGE}: \d+ missing"):
        load_student(path)
    assert watch.largest < 1 << 20


def test_no_more_classes_are_made_than_the_head_has(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    weights = {name: t for name, t in create_vit(MODEL).state_dict().items() if not name.startswith("head.")}
    header = json.loads(_header(of_huge(tmp_path / "huge.safetensors")))
    header.pop("xxh3")  # it finds accidents
    save_file(weights, path, metadata={"dataltt": json.dumps({**header, "model": MODEL, "num_classes": 10**9})})
    with Watch() as watch, pytest.raises(CheckpointError, match=r"2 missing \(first: head\.bias\)"):
        load_student(path)
    assert watch.largest < 1 << 20


@pytest.mark.parametrize("command", ["select", "label", "train"])
def test_other_commands_compare_before_they_make(small: SmallStore, tmp_path: Path, command: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"head.weight": torch.zeros(10, 4)}, path)
    with Watch() as watch, pytest.raises(CheckpointError, match=rf"does not hold weights of {HUGE}"):
        if command == "select":
            load_vit(HUGE, path)
        elif command == "label":
            from dataltt.stages.runtime.reporting import SilentReporter

            config = LabelConfig.of(tickets="t", model=HUGE, checkpoint=path)
            load_labeller(config, SilentReporter())
        else:
            options = {"shards": small.shards, "model": HUGE, "control": "dense", "init": path, "workers": 0}
            train(TrainConfig.of(out=tmp_path / "run", epochs=1, max_steps=1, batch_size=6, device="cpu", **options))
    assert watch.largest < 1 << 20


def _header(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return str(file.metadata()["dataltt"])


def deflated(path: Path, content: Any) -> Path:
    """A file of torch's whose members are compressed."""
    torch.save(content, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in plain.infolist():
            bomb.writestr(member.filename, plain.read(member))
    return path


def test_deflated_weights_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    path = deflated(tmp_path / "weights.pth", {"head.weight": torch.zeros(1 << 20)})
    assert path.stat().st_size < 10_000
    torch.load(path, weights_only=True)  # torch takes it
    with (
        Watch() as watch,
        pytest.raises(CheckpointError, match=r"weights\.pth holds '.*' compressed, which torch\.save"),
    ):
        read_weights(path)
    assert watch.largest == 0


def test_a_deflated_training_state_is_refused(tmp_path: Path) -> None:
    deflated(tmp_path / "training.pt", dict.fromkeys(TRAINING_STATE, torch.zeros(1 << 20)))
    with pytest.raises(CheckpointError, match=r"training\.pt holds '.*' compressed"):
        load_training_state(tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    "weights",
    [
        {"head.weight": torch.zeros(1, 1).expand(10**9, 384)},
        {"head.weight": torch.zeros(10**6, device="meta")},
        {
            "head.weight": torch.sparse_coo_tensor(
                torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6), check_invariants=True
            )
        },
        {f"w{i}": whole for whole in [torch.zeros(100_000)] for i in range(20)},
    ],
    ids=["stretched", "meta", "sparse", "one for many"],
)
def test_tensors_that_stand_for_more_than_is_stored(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"stored in full|far more than its|cannot be read as weights"):
        read_weights(tmp_path / "weights.pth")


def test_tied_weights_are_taken(tmp_path: Path) -> None:
    one = torch.arange(1000.0)
    torch.save({"a": one, "b": one, "c": one[:10]}, tmp_path / "weights.pth")
    assert {name: t.shape[0] for name, t in read_weights(tmp_path / "weights.pth").items()} == {
        "a": 1000,
        "b": 1000,
        "c": 10,
    }


@given(st.binary(max_size=200))
def test_no_bytes_behind_a_zips_mark_end_otherwise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "weights.pth"
    path.write_bytes(b"PK\x03\x04" + content)
    with pytest.raises(CheckpointError):
        read_weights(path)
