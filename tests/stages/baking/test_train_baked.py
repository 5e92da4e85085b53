"""Training on baked patches: the same samples in the same order, and the same weights, as on the source shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.stages.models.checkpoints import latest_checkpoint
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.train import train
from safetensors.torch import load_file

from ...helpers import SmallStore
from .conftest import bake_of

pytestmark = pytest.mark.long

_PLAIN: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 8,
    "lr": 0.05,
    "workers": 0,
    "device": "cpu",
    "log_steps": 1,
    "ema_decay": 0,
    "shuffle_buffer": 7,
    "view_mode": "replay",
}
_UNMIXED: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0}


def _train(out: Path, **options: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps, and the final weights."""
    config = TrainConfig.of(out=out, **{**_PLAIN, **options})
    train(config)
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = latest_checkpoint(out)
    assert last is not None
    return losses, load_file(last / "model.safetensors")


def _assert_same(
    a: tuple[list[float], dict[str, torch.Tensor]], b: tuple[list[float], dict[str, torch.Tensor]]
) -> None:
    assert a[0] == b[0]
    assert len(a[0]) == 16
    assert a[1].keys() == b[1].keys()
    assert all(torch.equal(tensor, b[1][name]) for name, tensor in a[1].items())


@pytest.mark.parametrize("options", [{}, {"control": "random"}, {"control": "inverse"}, {"control": "dense"}])
def test_all_patches_give_the_same_weights(drawn: SmallStore, tmp_path: Path, options: dict[str, Any]) -> None:
    bake_of(drawn, tmp_path / "baked")
    replayed = _train(tmp_path / "replayed", tickets=drawn.store, **options)
    _assert_same(replayed, _train(tmp_path / "run", baked=tmp_path / "baked", **options))


@pytest.mark.parametrize("patches", ["kept", "0.7"])
@pytest.mark.parametrize("erasing", [0.0, 0.5])
def test_kept_patches_unmixed_give_the_same_weights(
    drawn: SmallStore, tmp_path: Path, patches: str, erasing: float
) -> None:
    bake_of(drawn, tmp_path / "baked", patches)
    options = {**_UNMIXED, "random_erasing": erasing}
    replayed = _train(tmp_path / "replayed", tickets=drawn.store, **options)
    _assert_same(replayed, _train(tmp_path / "run", baked=tmp_path / "baked", **options))


def test_a_store_without_ranks(unranked: SmallStore, tmp_path: Path) -> None:
    bake_of(unranked, tmp_path / "all")
    bake_of(unranked, tmp_path / "kept", "kept")
    replayed = _train(tmp_path / "mixed", tickets=unranked.store)
    _assert_same(replayed, _train(tmp_path / "run-all", baked=tmp_path / "all"))
    replayed = _train(tmp_path / "unmixed", tickets=unranked.store, **_UNMIXED)
    _assert_same(replayed, _train(tmp_path / "run-kept", baked=tmp_path / "kept", **_UNMIXED))
