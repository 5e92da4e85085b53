"""Both stages on images of another size than the model's own: the store says which, and all that follows it obeys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import OptionError, TicketMismatchError
from dataltt.stages.analysis.config import FidelityConfig
from dataltt.stages.analysis.fidelity import fidelity
from dataltt.stages.baking.bake import bake
from dataltt.stages.baking.config import BakeConfig
from dataltt.stages.models.checkpoints import last_weights, load_student, read_info
from dataltt.stages.models.weights import load_vit, weights_sha256
from dataltt.stages.selection.config import LabelConfig
from dataltt.stages.selection.label import label
from dataltt.stages.selection.select import select
from dataltt.stages.training.config import EvalConfig, FitSelectorConfig, TrainConfig
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.fit_selector import fit_selector
from dataltt.stages.training.train import train
from safetensors.torch import load_file

from ...helpers import MODEL, Listener, SmallStore, make_store, select_config

_PX, _GRID = 40, (10, 10)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Tickets of 100 patches, by a ViT whose own images have 49."""
    return make_store(tmp_path_factory.mktemp("large"), counts=(12, 12), image_px=_PX)


def _config(store: SmallStore, out: Path, **changes: Any) -> TrainConfig:
    given = {"epochs": 1, "batch_size": 8, "ema_decay": 0.0, "workers": 0, "device": "cpu", **changes}
    return TrainConfig.of(out=out, **{"tickets": store.store, **given})


@pytest.fixture(scope="module")
def run(large: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of that size, from the selector's weights."""
    out = tmp_path_factory.mktemp("runs") / "large"
    train(_config(large, out, init=large.weights))
    return out


def test_a_store_of_larger_images(large: SmallStore, small: SmallStore) -> None:
    m = large.manifest
    assert (m.image_px, tuple(m.grid), m.num_keep, m.view.resize_px) == (_PX, _GRID, 50, _PX)
    assert m.selector.weights_sha256 == small.manifest.selector.weights_sha256
    assert m.selector.weights_sha256 == weights_sha256(load_vit(MODEL, large.weights))
    assert m.selector.keep_counts == [80, 63, 50]


def test_a_student_is_of_the_stores_size(run: Path) -> None:
    info = read_info(last_weights(run))
    assert info is not None
    assert (info.image_px, info.num_keep, info.view.resize_px) == (_PX, 50, _PX)
    assert load_file(last_weights(run))["pos_embed"].shape == (1, 101, 64)
    assert load_student(run).student.geometry.grid == _GRID
    assert load_student(run, image_px=28).student.geometry.grid == (7, 7)


@pytest.mark.parametrize("control", ["random", "center", "resize", "dense"])
def test_controls_and_tests_are_of_that_size(control: str, large: SmallStore, run: Path, tmp_path: Path) -> None:
    train(_config(large, tmp_path / "run", control=control, max_steps=1))
    given = {"checkpoint": run, "shards": large.shards, "tickets": large.store, "workers": 0, "device": "cpu"}
    protocol = "own" if control == "random" else control
    assert evaluate(EvalConfig.of(test=protocol, **given)).num_samples == 24


def test_a_run_without_tickets_is_of_the_size_asked_for(small: SmallStore, run: Path, tmp_path: Path) -> None:
    given = {"control": "dense", "tickets": None, "shards": small.shards, "model": MODEL, "max_steps": 1}
    for number, (px, init) in enumerate(((48, run), (None, run), (32, small.weights))):
        out = tmp_path / f"run-{number}"
        train(_config(small, out, image_px=px, init=init, **given))
        info = read_info(last_weights(out))
        assert info is not None
        assert info.image_px == (px or 28)
        train(_config(small, out, image_px=px, init=init, **{**given, "max_steps": 2}, resume=True))


def test_weights_are_tested_at_another_size(small: SmallStore, large: SmallStore, run: Path) -> None:
    given = {"test": "ticket", "workers": 0, "device": "cpu"}
    config = EvalConfig.of(checkpoint=run, shards=small.shards, tickets=small.store, **given)
    with pytest.raises(
        TicketMismatchError,
        match=r"and vit_fashion sees .* \(40 px\); select with `image_px=40`, or give `image_px=28` here",
    ):
        evaluate(config)
    listener = Listener()
    assert evaluate(config.but(image_px=28), reporter=listener).num_samples == 36
    assert f"weights: {last_weights(run)}; position embeddings resampled from 10×10 to 7×7 patches" in listener.said
    foreign = EvalConfig.of(checkpoint=large.weights, model=MODEL, shards=large.shards, tickets=large.store, **given)
    assert evaluate(foreign).num_samples == 24  # of the tickets' size
    with pytest.raises(OptionError, match="how many patches"):
        evaluate(config.but(test="random", tickets=None, image_px=28))


def test_another_size_than_the_tickets_is_refused(large: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(TicketMismatchError, match=r"select with `image_px=28`, or give `image_px=40` here"):
        train(_config(large, tmp_path / "run", image_px=28))
    assert not (tmp_path / "run").exists()


def test_a_selector_is_fitted_and_selects_at_that_size(large: SmallStore, tmp_path: Path) -> None:
    fitted = tmp_path / "fitted"
    config = FitSelectorConfig.of(
        model=MODEL,
        checkpoint=large.weights,
        image_px=_PX,
        shards=large.shards,
        out=fitted,
        ratio=0.5,
        epochs=1,
        batch_size=8,
        workers=0,
        device="cpu",
    )
    fit_selector(config)
    m = select(select_config(large.shards, fitted, tmp_path / "store.zarr"))  # its size is that of the run
    assert m is not None
    assert (m.image_px, m.num_keep) == (_PX, 50)


def test_token_labels_and_baked_views_follow(large: SmallStore, run: Path, tmp_path: Path) -> None:
    made = make_store(tmp_path, counts=(8,), image_px=_PX, augment="crop", num_views=2)
    common = {"workers": 0, "device": "cpu"}
    label(LabelConfig.of(tickets=made.store, model=MODEL, checkpoint=run, **common))
    bake(BakeConfig.of(tickets=made.store, out=tmp_path / "baked", workers=0))
    train(_config(made, tmp_path / "run", tickets=None, baked=tmp_path / "baked"))
    info = read_info(last_weights(tmp_path / "run"))
    assert info is not None
    assert info.image_px == _PX


def test_fidelity_runs_the_selector_at_the_stores_size(tmp_path: Path) -> None:
    made = make_store(tmp_path, counts=(32,), image_px=_PX)
    config = FidelityConfig.of(
        model=MODEL, checkpoint=made.weights, tickets=made.store, images=32, workers=0, device="cpu"
    )
    (static, _) = fidelity(config).rows
    assert static.name == "static"
    assert 0.5 < static.mean <= 1


def test_the_weights_are_those_that_were_read(large: SmallStore, run: Path) -> None:
    """Before its first step a student has the selector's own weights, resampled: so much is left after three."""
    ours, theirs = load_file(last_weights(run))["pos_embed"], load_vit(MODEL, large.weights, image_px=_PX).pos_embed
    assert theirs is not None
    assert torch.cosine_similarity(ours.flatten(), theirs.detach().flatten(), dim=0) > 0.99
