"""Stage two and testing, on tiny runs: resuming, ranks, controls, what `best` means, refusals, and exact metrics."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from dataltt.artifacts_schema import (
    CheckpointError,
    DatalttError,
    MissingTicketError,
    OptionError,
    OutputExistsError,
    SchemaError,
    ShardError,
    StoreNotFoundError,
    TicketMismatchError,
)
from dataltt.artifacts_schema.local_notes import write_local_notes
from dataltt.artifacts_schema.writing.new_store import hash_objects
from dataltt.stages.models.checkpoints import latest_checkpoint, load_student, read_info
from dataltt.stages.models.registry import create_vit, entry_of
from dataltt.stages.models.weights import load_vit
from dataltt.stages.options import EvalProtocol
from dataltt.stages.runtime.randomness import generator_of, isolated_rng
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.select import select
from dataltt.stages.training import figures
from dataltt.stages.training.config import EvalConfig, TrainConfig
from dataltt.stages.training.eval_loop import Metrics
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.train import TrainResult, train
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...helpers import (
    MODEL,
    NUM_PATCHES,
    Listener,
    SmallStore,
    fashion,
    fashion_samples,
    file_digests,
    make_shards,
    make_store,
    recorded,
    run_on_two_ranks,
    save_selector_weights,
    select_config,
)
from ...schema_helpers import make_store as make_synthetic_store

_EPOCHS = 2
_STEPS_PER_EPOCH = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Shards of 20 test images and their store."""

    shards: str
    store: str


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    made = make_store(tmp_path_factory.mktemp("validation"), counts=(11, 9), samples=fashion_samples(20, split="test"))
    return Validation(shards=made.shards, store=made.store)


def _config(small: SmallStore, out: Path, **changes: Any) -> TrainConfig:
    """Two epochs of six steps with everything that is drawn at random, a line of metrics for each."""
    defaults: dict[str, Any] = {
        "tickets": small.store,
        "epochs": _EPOCHS,
        "batch_size": 6,
        "lr": 0.05,
        "ema_decay": 0.9,
        "workers": 0,
        "device": "cpu",
        "log_steps": 1,
    }
    return TrainConfig.of(out=out, **{**defaults, **changes})


def _train(small: SmallStore, out: Path, **changes: Any) -> TrainResult:
    return train(_config(small, out, **changes))


def _validated(validation: Validation) -> dict[str, str]:
    return {"val_shards": validation.shards, "val_tickets": validation.store}


def _latest(run: Path) -> Path:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return checkpoint


def _weights(run: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(_latest(run) / f"{name}.safetensors")


def _check_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def _metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in figures.NAMES} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small: SmallStore, validation: Validation) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = _train(small, out, **_validated(validation))
    assert (result.step, result.epoch, result.protocol) == (12, 2, "ticket")
    return out


# What a run leaves


def test_files_of_a_run(whole: Path, small: SmallStore) -> None:
    assert {p.name for p in whole.iterdir()} >= {"config.json", "metrics.jsonl", "best.safetensors", "checkpoints"}
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["latest", "step-00000012"]
    names = sorted(p.name for p in _latest(whole).iterdir())
    assert names == ["ema.safetensors", "model.safetensors", "training.pt", "training.xxh3"]
    config = recorded(whole)
    assert (config["model"], config["num_classes"], config["world_size"]) == (MODEL, 10, 1)
    assert config["tickets"] == small.store
    info = read_info(_latest(whole) / "model.safetensors")
    assert info is not None
    assert (info.model, info.step, info.epoch, info.control, info.num_keep) == (MODEL, 12, 2, "ticket", 25)


def test_metrics_of_a_run(whole: Path) -> None:
    lines = _metrics(whole)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
    assert [line["epoch"] for line in lines] == [0] * 7 + [1] * 7
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 12
    assert all(math.isfinite(loss) for loss in losses)
    assert len(set(losses)) == 12
    tested = [line for line in lines if "val_top1" in line]
    assert [line["val_num_samples"] for line in tested] == [20, 20]
    assert {line["val_protocol"] for line in tested} == {"ticket"}


def test_the_learning_rate_warms_up_and_falls(small: SmallStore, tmp_path: Path) -> None:
    _train(small, tmp_path / "run", epochs=5, lr=0.5, warmup_epochs=1, min_lr=1e-5)
    rates = [line["lr"] for line in _metrics(tmp_path / "run")]
    peak = 0.5 * 6 / 512
    assert len(rates) == 30
    assert rates[0] == pytest.approx(1e-6)
    assert rates[:7] == sorted(rates[:7])
    # The cosine counts from the first step, as in DeiT: after a warm-up of a fifth it has come down to 0.905.
    assert max(rates) == pytest.approx(0.905 * peak, rel=0.01)
    assert rates[7:] == sorted(rates[7:], reverse=True)
    assert rates[-1] < 0.05 * peak


def test_the_averaged_weights_are_an_average(whole: Path, small: SmallStore) -> None:
    last, averaged = _weights(whole), _weights(whole, "ema")
    assert last.keys() == averaged.keys()
    assert not any(torch.equal(last[n], averaged[n]) for n in last if n.endswith("weight"))


@pytest.mark.long
def test_a_run_learns(small: SmallStore, tmp_path: Path) -> None:
    """The training images by heart; else the gradient, the labels or the tickets are wrong."""
    plain = {"drop_path": 0.0, "random_erasing": 0.0, "auto_augment": "none", "hflip": 0.0, "smoothing": 0.0}
    plain |= {"mixup": 0.0, "cutmix": 0.0}
    _train(small, tmp_path / "run", epochs=40, batch_size=12, lr=0.1, weight_decay=0.0, ema_decay=0.0, **plain)
    losses = [line["loss"] for line in _metrics(tmp_path / "run")]
    assert losses[0] == pytest.approx(math.log(10), abs=0.4)
    assert sum(losses[-3:]) / 3 < 0.9
    metrics = evaluate(_eval(small, tmp_path / "run", "ticket"))
    assert metrics.top1 > 70


# Resuming


@pytest.mark.parametrize("stops", [(4,), (6,), (1, 2, 9)])
def test_a_resumed_run_is_the_uninterrupted_one(
    whole: Path, small: SmallStore, validation: Validation, tmp_path: Path, stops: Sequence[int]
) -> None:
    out = tmp_path / "run"
    for i, stop in enumerate(stops):
        result = _train(small, out, max_steps=stop, resume=i > 0, **_validated(validation))
        assert result.step == stop
        assert _latest(out).name == f"step-{stop:08d}"
    result = _train(small, out, resume=True, **_validated(validation))
    assert (result.step, result.epoch) == (12, 2)
    for name in ("model", "ema"):
        _check_equal(_weights(out, name), _weights(whole, name))
    _check_equal(load_file(out / "best.safetensors"), load_file(whole / "best.safetensors"))
    assert _metrics(out) == _metrics(whole)


@pytest.mark.parametrize("control", ["ticket", "resize"])
def test_a_run_that_ends_on_all_patches_resumes_across_the_switch(
    small: SmallStore, tmp_path: Path, control: str
) -> None:
    options: dict[str, Any] = {"control": control, "dense_epochs": 1}
    whole = _train(small, tmp_path / "whole", **options)
    for i, stop in enumerate([4, 6, 8, None]):  # before it, at it, after it
        result = _train(small, tmp_path / "run", max_steps=stop, resume=i > 0, **options)
    assert result == replace(whole, run=result.run)
    for name in ("model", "ema"):
        _check_equal(_weights(tmp_path / "run", name), _weights(tmp_path / "whole", name))
    assert _metrics(tmp_path / "run") == _metrics(tmp_path / "whole")


def test_a_dense_end_is_dense_training_from_there_on(small: SmallStore, tmp_path: Path) -> None:
    """All epochs on all patches is `dense`, loss by loss; one of two costs what half of each costs."""
    _train(small, tmp_path / "dense", control="dense")
    _train(small, tmp_path / "all", dense_epochs=2)
    _train(small, tmp_path / "ticket")
    _train(small, tmp_path / "half", dense_epochs=1)
    runs = ("dense", "all", "ticket", "half")
    losses = {run: [line["loss"] for line in _metrics(tmp_path / run)] for run in runs}
    assert losses["all"] == losses["dense"]
    assert losses["half"][:6] == losses["ticket"][:6]
    assert losses["half"][6] != losses["ticket"][6]
    results = [_train(small, tmp_path / run, resume=True, **o) for run, o in zip(runs, _ASKED, strict=True)]
    dense, everything, ticket, half = (result.tflops or 0 for result in results)
    assert 0 < ticket < half < dense == everything
    assert half == pytest.approx((dense + ticket) / 2)


_ASKED: tuple[dict[str, Any], ...] = ({"control": "dense"}, {"dense_epochs": 2}, {}, {"dense_epochs": 1})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"control": "dense"}, "`dense_epochs=3`: dense training sees all patches already; leave it out"),
        ({}, r"`dense_epochs=3` of 2 epoch\(s\); give at most so many"),
    ],
)
def test_a_dense_end_that_cannot_be(small: SmallStore, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        _train(small, tmp_path / "run", dense_epochs=3, **options)


def test_a_run_on_smaller_pictures_resumes_and_says_how_many_tokens(small: SmallStore, tmp_path: Path) -> None:
    options: dict[str, Any] = {"control": "resize", "epochs": 1}
    heard = Listener()
    train(_config(small, tmp_path / "whole", **options), heard)
    assert "resize: whole views resized to 20 px, 25 patches in place of 25 of 49; 36 images" in " ".join(heard.said)
    _train(small, tmp_path / "run", max_steps=4, **options)
    _train(small, tmp_path / "run", resume=True, **options)
    _check_equal(_weights(tmp_path / "run"), _weights(tmp_path / "whole"))
    assert _weights(tmp_path / "run")["pos_embed"].shape == (1, 50, 64)  # as other controls' students


def test_a_run_with_momentum_and_clipped_gradients_resumes(small: SmallStore, tmp_path: Path) -> None:
    options: dict[str, Any] = {"opt": "sgd", "momentum": 0.8, "clip_grad": 0.5, "epochs": 1}
    _train(small, tmp_path / "whole", **options)
    _train(small, tmp_path / "run", max_steps=4, **options)
    _train(small, tmp_path / "run", resume=True, **options)
    _check_equal(_weights(tmp_path / "run"), _weights(tmp_path / "whole"))
    _train(small, tmp_path / "free", **{**options, "clip_grad": None})
    assert not torch.equal(_weights(tmp_path / "free")["norm.weight"], _weights(tmp_path / "whole")["norm.weight"])
    with pytest.raises(OptionError, match=r"momentum was 0\.8 and is 0\.9"):
        _train(small, tmp_path / "run", resume=True, **{**options, "momentum": 0.9})


def test_a_run_resumes_from_a_checkpoint_within_an_epoch(
    whole: Path, small: SmallStore, validation: Validation, tmp_path: Path
) -> None:
    """As after a power cut: steps after the newest checkpoint are done and written again."""
    out = tmp_path / "run"
    _train(small, out, max_steps=9, **_validated(validation))
    ahead = _metrics(out)
    shutil.rmtree(out)
    _train(small, out, max_steps=8, checkpoint_steps=4, **_validated(validation))
    assert _latest(out).name == "step-00000008"
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(ahead[-1]) + "\n")
    _train(small, out, resume=True, **_validated(validation))
    _check_equal(_weights(out), _weights(whole))
    assert _metrics(out) == _metrics(whole)


def test_a_half_written_line_of_metrics_does_not_stop_a_resumption(
    whole: Path, small: SmallStore, validation: Validation, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _train(small, out, max_steps=8, **_validated(validation))
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "epo')
    _train(small, out, resume=True, **_validated(validation))
    assert _metrics(out) == _metrics(whole)


def test_a_run_cut_off_before_its_first_checkpoint_resumes_from_the_start(
    whole: Path, small: SmallStore, validation: Validation, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _train(small, out, max_steps=2, **_validated(validation))
    shutil.rmtree(out / "checkpoints")
    _train(small, out, resume=True, **_validated(validation))
    _check_equal(_weights(out), _weights(whole))
    assert _metrics(out) == _metrics(whole)


def test_resuming_a_finished_run_changes_nothing(whole: Path, small: SmallStore, validation: Validation) -> None:
    weights, metrics = file_digests(whole / "checkpoints"), _metrics(whole)
    result = _train(small, whole, resume=True, **_validated(validation))
    assert result.step == 12
    assert file_digests(whole / "checkpoints") == weights
    assert _metrics(whole) == metrics


@pytest.mark.parametrize(
    ("change", "name"),
    [({"lr": 0.1}, "lr"), ({"seed": 1}, "seed"), ({"control": "random"}, "control"), ({"epochs": 3}, "epochs")],
)
def test_resuming_with_other_options(
    small: SmallStore, validation: Validation, tmp_path: Path, change: dict[str, Any], name: str
) -> None:
    out = tmp_path / "run"
    _train(small, out, max_steps=1, **_validated(validation))
    before = file_digests(out)
    with pytest.raises(OptionError, match=rf"is another run \(.*{name} was .* and is "):
        _train(small, out, resume=True, **{**_validated(validation), **change})
    assert file_digests(out) == before


def test_resuming_with_other_shards(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (18, 18), small.samples, name="dealt")
    out = tmp_path / "run"
    _train(small, out, shards=shards, max_steps=2)
    make_shards(tmp_path / "shards", (18, 12), small.samples[:30], name="dealt")
    with pytest.raises(OptionError, match="was trained on 36 samples with tickets, and now 30 have one; give the same"):
        _train(small, out, shards=shards, resume=True)


def test_resuming_dense_training_with_other_shards(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (18, 18), small.samples, name="dealt")
    out, options = tmp_path / "run", {"tickets": None, "control": "dense", "model": MODEL}
    _train(small, out, shards=shards, max_steps=2, **options)
    make_shards(tmp_path / "shards", (18, 12), small.samples[:30], name="dealt")
    with pytest.raises(OptionError, match="the shards held 6 steps per epoch and now hold 5"):
        _train(small, out, shards=shards, resume=True, **options)


def test_resuming_what_is_not_there(small: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no run"):
        _train(small, tmp_path / "run", resume=True)


def test_an_existing_run_is_left_alone(whole: Path, small: SmallStore) -> None:
    before = file_digests(whole)
    with pytest.raises(OutputExistsError, match="`resume`"):
        _train(small, whole)
    assert file_digests(whole) == before


# Ranks


@pytest.mark.two_ranks
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """Unequal shards and as many samples as a global batch, so that one step sees what the two half steps see."""
    small = make_store(tmp_path / "store", counts=(7, 1, 4))
    assert small.manifest.num_images == 12
    options = {"epochs": 4, "drop_path": 0.0, "random_erasing": 0.0, "lr": 0.5, "mixup": 0.0, "cutmix": 0.0}
    one = _train(small, tmp_path / "one", batch_size=12, **options)
    assert one.step == 4

    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    out = tmp_path / "two"
    result = run_on_two_ranks(
        tmp_path,
        *("train", "--tickets", small.store, "--out", out, "--batch-size", 6, "--ema-decay", 0.9),
        *("--workers", 0, "--device", "cpu", "--log-steps", 1, "--json", *arguments),
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["step"] == 4
    assert result.err.count(": 12 images in ") == 4  # of both ranks, in each epoch
    ours, theirs = _weights(out), _weights(tmp_path / "one")
    start = _initial_weights()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        rows = torch.ones(len(tensor), dtype=torch.bool)
        if name.endswith("attn.qkv.bias"):
            # Softmax does not see the keys' bias, so its gradient is rounding noise, which Adam scales up.
            rows[len(rows) // 3 : 2 * len(rows) // 3] = False
        moved = (tensor - start[name])[rows].norm()
        assert float((ours[name] - tensor)[rows].norm()) < 1e-3 * float(moved), name
    for mine, line in zip(_metrics(out), _metrics(tmp_path / "one"), strict=True):
        assert mine["loss"] == pytest.approx(line["loss"], rel=1e-4)
        assert mine["lr"] == line["lr"]
    assert recorded(out)["world_size"] == 2


def _initial_weights() -> dict[str, Tensor]:
    """Of a run with seed 0."""
    with isolated_rng(0, "initialisation"):
        return create_vit(MODEL, num_classes=10, drop_path_rate=0.0).state_dict()


@pytest.mark.slow
@pytest.mark.two_ranks
def test_ranks_take_equal_steps_on_unequal_shards(validation: Validation, tmp_path: Path) -> None:
    small = make_store(tmp_path / "store", counts=(3, 0, 21, 1, 6))
    out = tmp_path / "run"
    result = run_on_two_ranks(
        tmp_path,
        *("train", "--tickets", small.store, "--out", out, "--batch-size", 4, "--epochs", 2, "--workers", 0),
        *("--val-shards", validation.shards, "--val-tickets", validation.store),
        *("--device", "cpu", "--log-steps", 1, "--json"),
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["step"] == 2 * (31 // 8)
    assert report["validation"]["num_samples"] == 20
    # What two ranks count together is what one counts alone.
    alone = evaluate(
        EvalConfig.of(
            checkpoint=_latest(out) / "model.safetensors",
            shards=validation.shards,
            tickets=validation.store,
            test="ticket",
            workers=0,
            device="cpu",
        )
    )
    assert report["validation"]["top1"] == pytest.approx(alone.top1)
    assert report["validation"]["loss"] == pytest.approx(alone.loss, rel=1e-5)


# Controls and protocols

_CONTROLS = ("ticket", "random", "fixed-random", "inverse", "center", "resize", "dense")


@pytest.mark.parametrize("control", _CONTROLS)
def test_every_control_trains(small: SmallStore, tmp_path: Path, control: Any) -> None:
    result = _train(small, tmp_path / "run", control=control, max_steps=2)
    assert result.step == 2
    start = _initial_weights()
    assert not torch.equal(_weights(tmp_path / "run")["patch_embed.proj.weight"], start["patch_embed.proj.weight"])
    info = read_info(_latest(tmp_path / "run") / "model.safetensors")
    assert info is not None
    assert (info.control, info.num_keep) == (control, 25)


def test_controls_train_on_other_patches(small: SmallStore, tmp_path: Path) -> None:
    losses = {}
    for control in _CONTROLS:
        plain = {"drop_path": 0.0, "random_erasing": 0.0}
        _train(small, tmp_path / control, control=control, max_steps=1, **plain)
        losses[control] = _metrics(tmp_path / control)[0]["loss"]
    assert len(set(losses.values())) == len(_CONTROLS)


@pytest.fixture(scope="module")
def with_skipped(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store of 36 images, three of which could not be decoded at selection."""
    samples = [replace(s, image=s.image[:60]) if i in (2, 13, 30) else s for i, s in enumerate(fashion_samples(36))]
    return make_store(tmp_path_factory.mktemp("skipped"), samples=samples, on_bad_image="skip")


@pytest.mark.parametrize("control", _CONTROLS)
@pytest.mark.parametrize("recount", [True, False])
def test_images_skipped_at_selection_are_passed_over(
    with_skipped: SmallStore, tmp_path: Path, control: Any, recount: bool
) -> None:
    result = _train(with_skipped, tmp_path / "run", control=control, batch_size=11, epochs=1, recount=recount)
    assert (result.step, result.num_skipped) == (3, 0)


@pytest.mark.parametrize("test", ["ticket", "random", "center", "dense"])
def test_images_skipped_at_selection_are_not_tested_on(with_skipped: SmallStore, test: EvalProtocol) -> None:
    found = evaluate(_eval(with_skipped, with_skipped.weights, test, model=MODEL))
    assert (found.num_samples, found.num_skipped) == (33, 0)


def test_dense_needs_no_store(small: SmallStore, tmp_path: Path) -> None:
    result = _train(small, tmp_path / "run", tickets=None, shards=small.shards, model=MODEL, control="dense", epochs=1)
    assert result.step == 6
    info = read_info(_latest(tmp_path / "run") / "model.safetensors")
    assert info is not None
    assert info.num_keep == NUM_PATCHES


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "protocol"),
    [
        ({}, "ticket"),
        ({"test": "random"}, "random"),
        ({"test": "dense"}, "dense"),
        ({"control": "random"}, "ticket"),
        ({"control": "random", "test": "random", "val_tickets": None}, "random"),
        ({"control": "center"}, "center"),
        ({"control": "resize"}, "resize"),
        ({"control": "dense"}, "dense"),
        ({"control": "dense", "test": "ticket"}, "ticket"),
        ({"dense_epochs": 1}, "dense"),
    ],
)
def test_best_is_chosen_by_the_protocol_asked_for(
    small: SmallStore, validation: Validation, tmp_path: Path, options: dict[str, Any], protocol: EvalProtocol
) -> None:
    out = tmp_path / "run"
    result = _train(small, out, epochs=4, lr=0.3, **{**_validated(validation), **options})
    tested = [line for line in _metrics(out) if "val_top1" in line]
    assert [line["val_protocol"] for line in tested] == [protocol] * 4
    kinds = ["val_ema" if line["val_ema_top1"] > line["val_top1"] else "val" for line in tested]
    accuracies = [line[f"{kind}_top1"] for line, kind in zip(tested, kinds, strict=True)]
    best = accuracies.index(max(accuracies))  # the first of equals
    assert (result.protocol, result.best_top1) == (protocol, max(accuracies))
    info = read_info(out / "best.safetensors")
    assert info is not None
    assert (info.protocol, info.top1, info.step) == (protocol, max(accuracies), tested[best]["step"])
    assert info.is_ema == (kinds[best] == "val_ema")

    found = evaluate(
        EvalConfig.of(
            checkpoint=out, shards=validation.shards, tickets=validation.store, test=protocol, workers=0, device="cpu"
        )
    )
    assert found.top1 == pytest.approx(max(accuracies))
    assert found.loss == pytest.approx(tested[best][f"{kinds[best]}_loss"], rel=1e-5)


def test_without_validation_no_best_is_kept(small: SmallStore, tmp_path: Path) -> None:
    result = _train(small, tmp_path / "run", epochs=1)
    assert (result.protocol, result.validation, result.best_top1) == (None, None, None)
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_bf16_rounds_the_network_and_not_the_loss(small: SmallStore, tmp_path: Path, mixup: float) -> None:
    options = {"max_steps": 2, "cutmix": 0.0, "mixup": mixup}
    assert _train(small, tmp_path / "run", precision="bf16", **options).step == 2
    _train(small, tmp_path / "exact", **options)
    for rounded, exact in zip(_metrics(tmp_path / "run"), _metrics(tmp_path / "exact"), strict=True):
        assert rounded["loss"] == pytest.approx(exact["loss"], rel=5e-3)
        assert rounded["loss"] != torch.tensor(rounded["loss"]).bfloat16().item()
    assert {t.dtype for t in _weights(tmp_path / "run").values()} == {torch.float32}


# Refusals


def _without_ranks(small: SmallStore, folder: Path) -> str:
    select(select_config(small.shards, small.weights, folder / "plain.zarr"))
    return str(folder / "plain.zarr")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tickets": None}, "`control='ticket'` needs `tickets`"),
        ({"tickets": None, "control": "random"}, "`control='random'` needs `tickets`"),
        ({"tickets": None, "control": "dense"}, "which shards"),
        ({"tickets": None, "control": "dense", "shards": "TRAIN"}, "which model"),
        ({"val_shards": "VAL"}, "which patches to validate on"),
        ({"val_shards": "VAL", "control": "random"}, "which patches to validate on"),
        ({"val_shards": "VAL", "test": "ticket"}, "`test='ticket'` needs `val_tickets`"),
        ({"val_tickets": "STORE"}, "`val_tickets` without `val_shards`"),
        ({"epochs": 0}, "`epochs=0`"),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"log_steps": 0}, "`log_steps=0`"),
        ({"clip_grad": 0.0}, "`clip_grad=0` should be above 0"),
        ({"opt": "sgd", "momentum": 0.0}, "`momentum=0`: sgd is with Nesterov momentum"),
        ({"momentum": 1.0}, "`momentum=1` should lie between 0 and 0.9999"),
        ({"batch_size": 37}, "36 samples are fewer than one batch of 37"),
        ({"auto_augment": "nonsense"}, "`auto_augment="),
        ({"device": "warp"}, "`device='warp'`"),
    ],
)
def test_options_that_cannot_be_meant(
    small: SmallStore, validation: Validation, tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    places = {"VAL": validation.shards, "STORE": validation.store, "TRAIN": small.shards}
    options = {k: places.get(v, v) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(OptionError, match=why):
        _train(small, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_validating_on_tickets_of_their_own_when_training_densely(
    small: SmallStore, validation: Validation, tmp_path: Path
) -> None:
    """Dense training is tested densely where nothing else is said, whether or not there are tickets."""
    result = _train(small, tmp_path / "run", control="dense", epochs=1, val_shards=validation.shards)
    assert result.protocol == "dense"


def test_inverse_needs_ranks(small: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"`control='inverse'` needs ranks, which .*plain\.zarr lacks"):
        _train(small, tmp_path / "run", tickets=_without_ranks(small, tmp_path), control="inverse")


def test_a_model_of_another_grid(small: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(TicketMismatchError, match=r"7×7 patches of 4 px \(28 px\), and .* sees 14×14 patches of 16 px"):
        _train(small, tmp_path / "run", model="deit_t")
    assert not (tmp_path / "run").exists()


def test_validation_tickets_of_another_grid(small: SmallStore, validation: Validation, tmp_path: Path) -> None:
    other = make_synthetic_store(tmp_path, rows_per_shard=(4, 1, 6))
    with pytest.raises(TicketMismatchError, match="3×5 patches"):
        _train(small, tmp_path / "run", val_shards=validation.shards, val_tickets=str(other.path))


def test_tickets_of_other_images(small: SmallStore, validation: Validation, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (12,), fashion_samples(12, split="test"), name="other")
    with pytest.raises(MissingTicketError, match=r"other-000000\.tar: sample 'test/000\d\d' has no ticket"):
        _train(small, tmp_path / "run", shards=shards)
    # Shards of the same names are told by their first samples, and those that begin alike by their counts.
    for skip in ("error", "skip"):
        with pytest.raises(
            MissingTicketError, match=r"0 of 20 samples have tickets, without are 11 of train-000000\.tar"
        ):
            _train(small, tmp_path / "another", shards=validation.shards, on_missing_ticket=skip)
    alike = make_shards(
        tmp_path / "alike", (13, 12, 12), [*small.samples[:12], *fashion_samples(1, first=99), *small.samples[12:]]
    )
    with pytest.raises(ShardError, match=r"train-000000\.tar holds more samples where 12 were expected"):
        _train(small, tmp_path / "third", shards=alike, max_steps=6)


def test_no_store(small: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="there is no ticket store"):
        _train(small, tmp_path / "run", tickets=str(tmp_path / "gone.zarr"))


def _copy_with_source(small: SmallStore, folder: Path, source: str) -> str:
    path = Path(shutil.copytree(small.path, folder / "copy.zarr"))
    write_local_notes(path, shards=source)
    return str(path)


@pytest.mark.parametrize("scheme", ["pipe:", "PIPE:", "file:", "ftp://"])
def test_a_store_cannot_have_commands_run(small: SmallStore, tmp_path: Path, scheme: str) -> None:
    store = _copy_with_source(small, tmp_path, f"{scheme}touch {tmp_path}/executed; cat {small.folder}/x.tar")
    with pytest.raises(DatalttError, match="`shards`"):
        _train(small, tmp_path / "run", tickets=store)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("before", ["http:", "/x*", "/nowhere/*.tar", "SHARD"])
def test_a_store_cannot_have_commands_run_by_a_brace_expression(small: SmallStore, tmp_path: Path, before: str) -> None:
    shard = small.shards.replace("*", "000000")
    command = f"touch {tmp_path}/executed;cat {shard}"
    store = _copy_with_source(small, tmp_path, f"{{{before.replace('SHARD', shard)},pipe:{command}}}")
    with pytest.raises(DatalttError, match="`shards`"):
        _train(small, tmp_path / "run", tickets=store, max_steps=1)
    assert not (tmp_path / "executed").exists()


def test_shards_of_a_store_that_are_not_here(small: SmallStore, tmp_path: Path) -> None:
    store = _copy_with_source(small, tmp_path, "/nowhere/train-{000000..000002}.tar")
    with pytest.raises(ShardError, match=r"the shards that .* names are not here .*pass `shards`"):
        _train(small, tmp_path / "run", tickets=store)


def test_a_damaged_store(small: SmallStore, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small.path, tmp_path / "copy.zarr"))
    victim = next(p for p in (path / "tickets").rglob("*") if p.is_file() and p.name != "zarr.json")
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 0xFF
    victim.write_bytes(content)
    with pytest.raises(SchemaError):
        _train(small, tmp_path / "run", tickets=str(path), shards=small.shards)


@pytest.mark.parametrize("content", [b"not json", b"\xff\xfe", b"3"])
def test_a_classes_file_that_cannot_be_read(small: SmallStore, tmp_path: Path, content: bytes) -> None:
    shards = make_shards(tmp_path / "shards", (12, 12, 12), small.samples)
    (tmp_path / "shards" / "classes.json").write_bytes(content)
    with pytest.raises(DatalttError, match=r"classes\.json"):
        _train(small, tmp_path / "run", shards=shards)


def test_classes_come_from_the_store_where_no_file_lists_them(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (12, 12, 12), small.samples)
    (tmp_path / "shards" / "classes.json").unlink()
    _train(small, tmp_path / "run", shards=shards, max_steps=1)
    highest = max(label for label in small.label_of.values() if label is not None)
    assert _weights(tmp_path / "run")["head.weight"].shape == (highest + 1, 64)


def test_a_label_beyond_the_classes_asked_for(small: SmallStore, tmp_path: Path) -> None:
    without_store = {"tickets": None, "control": "dense", "model": MODEL, "shards": small.shards}
    for changes in ({}, without_store):
        with pytest.raises(OptionError, match=r"`num_classes=3`, and labels in these shards go up to 9; give at least"):
            _train(small, tmp_path / "run", num_classes=3, **changes)


# Losses that are not finite


def test_a_loss_that_is_not_finite_is_an_error(small: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(DatalttError, match=r"the loss is not finite at step \d+ or before; lower `lr`"):
        _train(small, tmp_path / "run", lr=1e38, warmup_epochs=0)


def test_a_loss_that_is_not_finite_between_lines_of_metrics(small: SmallStore, tmp_path: Path) -> None:
    """An epoch that ends before the next line is due must not leave poisoned weights as its checkpoint."""
    with pytest.raises(DatalttError, match="the loss is"):
        _train(small, tmp_path / "run", lr=1e38, warmup_epochs=0, log_steps=50)


def test_weights_that_were_poisoned_meanwhile(small: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    _train(small, out, max_steps=2)
    path = _latest(out) / "model.safetensors"
    weights = load_file(path)
    weights["head.bias"][0] = math.nan
    save_file(weights, path)
    with pytest.raises(DatalttError, match="the loss is not finite at step 3"):
        _train(small, out, resume=True)


# Checkpoints


@pytest.mark.parametrize("name", ["best.safetensors", "model.safetensors", "ema.safetensors"])
def test_timm_reads_the_weights(whole: Path, name: str) -> None:
    path = whole / name if name.startswith("best") else _latest(whole) / name
    entry = entry_of(MODEL)
    vit = timm.create_model(entry.timm_name, **entry.kwargs)
    vit.load_state_dict(load_file(path), strict=True)
    ours, *_ = load_student(path)
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(vit.eval()(images), ours.eval()(images))


def test_runs_are_told_by_their_folder(whole: Path) -> None:
    assert load_student(whole)[2] == whole / "best.safetensors"
    assert load_student(whole, ema=True)[2] == _latest(whole) / "ema.safetensors"
    with pytest.raises(CheckpointError, match="there are no weights at"):
        load_student(whole.parent)
    with pytest.raises(CheckpointError, match="no averaged weights"):
        load_student(whole.parent, ema=True)


def test_foreign_weights_need_a_model(small: SmallStore) -> None:
    with pytest.raises(CheckpointError, match="pass `model`"):
        load_student(small.weights)
    student, info, *_ = load_student(small.weights, model=MODEL)
    assert info is None
    assert student.net.num_classes == 10


@pytest.fixture
def stopped(small: SmallStore, tmp_path: Path) -> Path:
    """A run that waits to be resumed."""
    _train(small, tmp_path / "run", max_steps=2)
    return tmp_path / "run"


class _Evil:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "training.pt"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "gone"])
def test_a_damaged_checkpoint(small: SmallStore, stopped: Path, name: str, damage: str) -> None:
    path = _latest(stopped) / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "garbage": b"\0garbage" * 99, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        _train(small, stopped, resume=True)


@pytest.mark.parametrize("kept", [("step",), ()])
def test_a_training_state_without_its_entries(small: SmallStore, stopped: Path, kept: tuple[str, ...]) -> None:
    path = _latest(stopped) / "training.pt"
    state = torch.load(path, weights_only=True)
    torch.save({k: state[k] for k in kept}, path)
    path.with_name("training.xxh3").unlink()  # it finds accidents; an adversary would write another
    with pytest.raises(CheckpointError, match=r"training\.pt"):
        _train(small, stopped, resume=True)


def test_killed_while_one_is_exchanged_for_another_of_its_step(small: SmallStore, stopped: Path, whole: Path) -> None:
    latest = _latest(stopped)
    latest.rename(latest.with_name(f".{latest.name}.old"))
    _train(small, stopped, resume=True)
    assert _weights(stopped).keys() == _weights(whole).keys()
    assert [path.name for path in latest.parent.glob(".*")] == []


def test_a_training_state_with_code_in_it(small: SmallStore, stopped: Path, tmp_path: Path) -> None:
    path = _latest(stopped) / "training.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "extra": _Evil(tmp_path / "executed")}, path)
    path.with_name("training.xxh3").unlink()  # it finds accidents; an adversary would write another
    with pytest.raises(CheckpointError, match=r"training\.pt cannot be read"):
        _train(small, stopped, resume=True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("pointer", ["step-00000099\n", "../../..\n", "\n"])
def test_a_pointer_to_nowhere(small: SmallStore, stopped: Path, pointer: str) -> None:
    (stopped / "checkpoints" / "latest").write_text(pointer)
    with pytest.raises(CheckpointError):
        _train(small, stopped, resume=True)


@pytest.mark.parametrize("header", ["not json", "{}", '{"model": 3}'])
def test_a_damaged_header_of_weights(stopped: Path, header: str) -> None:
    path = _latest(stopped) / "model.safetensors"
    save_file(load_file(path), path, metadata={"dataltt": header})
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_student(path)


# Testing, against the same numbers computed on the tensors


def _eval(small: SmallStore, checkpoint: Path, test: EvalProtocol, **changes: Any) -> EvalConfig:
    defaults: dict[str, Any] = {"tickets": small.store, "batch_size": 7, "workers": 0, "device": "cpu"}
    return EvalConfig.of(checkpoint=checkpoint, shards=small.shards, test=test, **{**defaults, **changes})


def _directly(small: SmallStore, weights: Path, keep_of: dict[str, Any] | None) -> Metrics:
    """Every image at once, its dropped tokens removed after all were embedded."""
    vit = load_vit(MODEL, weights).eval()
    images = torch.from_numpy(fashion("train")[0][:36].copy()).float()[:, None]
    labels = torch.from_numpy(fashion("train")[1][:36].astype(np.int64))
    with torch.inference_mode():
        x = vit._pos_embed(vit.patch_embed((images / 255 - 0.2860) / 0.3530))
        if keep_of is not None:
            keep = torch.from_numpy(np.stack([np.sort(keep_of[s.key]) for s in small.samples]))
            rows = torch.cat([torch.zeros(36, 1, dtype=torch.int64), keep + 1], dim=1)
            x = x[torch.arange(36)[:, None], rows]
        logits = vit.forward_head(vit.norm(vit.blocks(vit.norm_pre(x))))
    order = logits.argsort(dim=1, descending=True)
    hits = order == labels[:, None]
    return Metrics(
        top1=100 * int(hits[:, 0].sum()) / 36,
        top5=100 * int(hits[:, :5].sum()) / 36,
        loss=float(F.cross_entropy(logits, labels)),
        num_samples=36,
        num_skipped=0,
    )


@pytest.mark.parametrize("batch_size", [7, 36, 100])
@pytest.mark.parametrize("test", ["ticket", "random", "center", "dense"])
def test_testing_is_the_direct_computation(
    small: SmallStore, tmp_path: Path, test: EvalProtocol, batch_size: int
) -> None:
    weights = save_selector_weights(tmp_path / "weights.safetensors", seed=5)
    keep_of: dict[str, Any] | None = None
    if test == "ticket":
        keep_of = {key: np.flatnonzero(mask) for key, mask in small.masks().items()}
    if test == "random":
        keep_of = {key: generator_of(3, "random", 0, key).permutation(49)[:25] for key in small.label_of}
    if test == "center":
        square = np.arange(49).reshape(7, 7)[1:6, 1:6].ravel()
        keep_of = dict.fromkeys(small.label_of, square)
    expected = _directly(small, weights, keep_of)
    found = evaluate(_eval(small, weights, test, batch_size=batch_size, model=MODEL, seed=3))
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    assert (found.num_samples, found.num_skipped) == (36, 0)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_testing_on_smaller_pictures_is_timms_network_of_their_size(small: SmallStore, tmp_path: Path) -> None:
    weights = save_selector_weights(tmp_path / "weights.safetensors", seed=5)
    vit = load_vit(MODEL, weights).eval()
    vit.set_input_size(img_size=20)
    images = torch.from_numpy(fashion("train")[0][:36].copy()).float()[:, None]
    labels = torch.from_numpy(fashion("train")[1][:36].astype(np.int64))
    shown = F.interpolate((images / 255 - 0.2860) / 0.3530, size=(20, 20), mode="bicubic", antialias=True)
    with torch.inference_mode():
        expected = F.cross_entropy(vit(shown), labels)
    found = evaluate(_eval(small, weights, "resize", model=MODEL))
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert found == evaluate(_eval(small, weights, "resize", tickets=None, num_keep=26, model=MODEL))  # 5² again
    assert found.loss != evaluate(_eval(small, weights, "resize", tickets=None, num_keep=36, model=MODEL)).loss


_PROTOCOLS: tuple[EvalProtocol, ...] = ("ticket", "random", "center", "resize", "dense")


def test_protocols_differ(small: SmallStore, tmp_path: Path) -> None:
    weights = save_selector_weights(tmp_path / "weights.safetensors", seed=5)
    losses = {evaluate(_eval(small, weights, t, model=MODEL)).loss for t in _PROTOCOLS}
    assert len(losses) == 5


def test_workers_test_the_same(small: SmallStore, tmp_path: Path) -> None:
    weights = save_selector_weights(tmp_path / "weights.safetensors", seed=5)
    alone = evaluate(_eval(small, weights, "ticket", model=MODEL))
    shared = evaluate(_eval(small, weights, "ticket", model=MODEL, workers=2))
    assert (shared.top1, shared.top5, shared.num_samples) == (alone.top1, alone.top5, alone.num_samples)
    assert shared.loss == pytest.approx(alone.loss, rel=1e-6)


@pytest.mark.parametrize("test", ["random", "center", "resize", "own"])
def test_subsets_need_a_size(small: SmallStore, test: EvalProtocol) -> None:
    with pytest.raises(OptionError, match=f"`test='{test}'`: how many patches"):
        evaluate(_eval(small, small.weights, test, tickets=None, model=MODEL))
    found = evaluate(_eval(small, small.weights, test, tickets=None, model=MODEL, num_keep=25))
    assert found == evaluate(_eval(small, small.weights, test, model=MODEL))
    with pytest.raises(OptionError, match="`num_keep=50`: the student sees 49 patches; give at most so many"):
        evaluate(_eval(small, small.weights, test, tickets=None, model=MODEL, num_keep=50))
    with pytest.raises(OptionError, match=r"`num_keep=10`: .* says how many, 25; leave one of the two out"):
        evaluate(_eval(small, small.weights, test, model=MODEL, num_keep=10))


def test_tickets_are_needed_to_test_on_them(small: SmallStore) -> None:
    with pytest.raises(OptionError, match="`test='ticket'` needs the tickets"):
        evaluate(_eval(small, small.weights, "ticket", tickets=None, model=MODEL))


def test_a_run_is_tested_on_as_many_random_patches_as_it_was_trained_on(whole: Path, small: SmallStore) -> None:
    found = evaluate(_eval(small, whole, "random", tickets=None))
    assert found == evaluate(_eval(small, whole, "random", tickets=None, num_keep=25))
    assert found != evaluate(_eval(small, whole, "random", tickets=None, num_keep=20))


def test_nothing_to_test_on(small: SmallStore, validation: Validation) -> None:
    config = _eval(small, small.weights, "ticket", model=MODEL, on_missing_ticket="skip")
    with pytest.raises(MissingTicketError, match="0 of 20 samples have tickets"):
        evaluate(config.but(shards=validation.shards))


def test_skipped_samples_are_counted(small: SmallStore, tmp_path: Path) -> None:
    samples = [*small.samples[:9], *fashion_samples(3, first=700)]
    shards = make_shards(tmp_path, (12,), samples, name="mixed")
    found = evaluate(
        replace(_eval(small, small.weights, "ticket", model=MODEL, on_missing_ticket="skip"), shards=shards)
    )
    assert (found.num_samples, found.num_skipped) == (9, 3)


def test_samples_skipped_after_the_last_batch_are_counted(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (12,), [*fashion_samples(5, first=700), *small.samples[:7]], name="first")
    config = _eval(small, small.weights, "ticket", model=MODEL, on_missing_ticket="skip")
    assert evaluate(config.but(shards=shards)).num_skipped == 5
    shards = make_shards(tmp_path, (12,), [*small.samples[:7], *fashion_samples(5, first=700)], name="last")
    assert evaluate(config.but(shards=shards)).num_skipped == 5


def test_stores_of_the_same_images_are_the_same(small: SmallStore) -> None:
    """No run above has written to the store it read."""
    assert hash_objects(small.path) == small.manifest.objects


def test_a_run_that_failed_before_its_first_step_leaves_nothing_behind(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (12, 12, 12), fashion_samples(36, first=500))
    with pytest.raises(DatalttError, match="has no ticket"):
        _train(small, tmp_path / "run", shards=shards)
    assert not (tmp_path / "run").exists()


class _Interrupting(SilentReporter):
    """Sends this process a signal after some steps, as a terminal or a scheduler would."""

    def __init__(self, number: signal.Signals, after: int) -> None:
        self.number, self.left = number, after

    def advance(self, amount: int, note: str = "") -> None:
        self.left -= amount > 0
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_the_step_it_was_at(
    small: SmallStore, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    config = _config(small, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(config, _Interrupting(number, after=4))
    assert signal.getsignal(number) is before
    assert _latest(tmp_path / "run").name == "step-00000004"
    train(config.but(resume=True))
    ours, theirs = _weights(tmp_path / "run"), _weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1.0), ("smoothing", 3.0), ("hflip", 1.5), ("ema_decay", -0.1), ("drop_path", 1.0)]
)
def test_numbers_out_of_range(small: SmallStore, tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"`{name}=.*` should (lie between|be at least)"):
        _train(small, tmp_path / "run", **{name: value})
    assert not (tmp_path / "run").exists()
