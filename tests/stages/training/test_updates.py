"""Updates: half precision, averaged weights, checkpoints that stay, what compilers see, and figures of speed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import OptionError
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.token_labels import TokenLabels
from dataltt.stages.models.checkpoints import latest_checkpoint, load_student, load_training_state
from dataltt.stages.models.families import create_student
from dataltt.stages.models.student import Student
from dataltt.stages.runtime.moving import on_device
from dataltt.stages.runtime.peaks import peak_of
from dataltt.stages.training import figures, run_log
from dataltt.stages.training.announcements import waiting_in_words
from dataltt.stages.training.config import EvalConfig, TrainConfig
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.figures import Figures, in_hours, in_words
from dataltt.stages.training.train import TrainResult, train
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.utils import counters

from ...helpers import MODEL, SmallStore, fashion_samples, make_shards

_PLAIN: dict[str, Any] = {"batch_size": 6, "epochs": 3, "lr": 0.05, "ema_decay": 0.9, "workers": 0, "device": "cpu"}


def _train(small: SmallStore, out: Path, **changes: Any) -> TrainResult:
    return train(TrainConfig.of(**{"tickets": small.store, "out": out, "log_steps": 1, **_PLAIN, **changes}))


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in figures.NAMES} for line in lines]


def _weights(run: Path, name: str = "model") -> dict[str, Tensor]:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return load_file(checkpoint / f"{name}.safetensors")


@pytest.fixture(scope="module")
def val_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_shards(tmp_path_factory.mktemp("val"), [11, 9], fashion_samples(20, split="test"))


@pytest.mark.long
def test_half_precision_learns_and_resumes_to_the_same_bits(small: SmallStore, tmp_path: Path) -> None:
    options = {"precision": "fp16", "epochs": 2, "clip_grad": 1.0}
    _train(small, tmp_path / "whole", **options)
    _train(small, tmp_path / "part", max_steps=7, **options)
    checkpoint = latest_checkpoint(tmp_path / "part")
    assert checkpoint is not None
    scale = load_training_state(checkpoint, torch.device("cpu"))["scaler"]
    assert scale["scale"] < 65536  # where it began: gradients were too large for it, and those steps were skipped
    assert 0 < scale["_growth_tracker"] < 7  # steps since the last of these
    _train(small, tmp_path / "part", resume=True, **options)
    assert _metrics(tmp_path / "part") == _metrics(tmp_path / "whole")
    whole, part = _weights(tmp_path / "whole"), _weights(tmp_path / "part")
    assert [name for name in whole if not torch.equal(whole[name], part[name])] == []
    _train(small, tmp_path / "fp32", **{**options, "precision": "fp32", "max_steps": 1})
    first, exact = (_metrics(tmp_path / run)[0]["loss"] for run in ("whole", "fp32"))
    assert first == pytest.approx(exact, rel=1e-3)
    assert first != exact  # it was rounded


@pytest.mark.long
def test_averaged_weights_are_tested_too(small: SmallStore, val_shards: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = _train(small, out, val_shards=val_shards, test="random", val_interval=2, keep_checkpoints=2)
    tested = [line for line in _metrics(out) if "val_top1" in line]
    assert [line["epoch"] for line in tested] == [1, 2]  # every second, and the last
    assert result.validation is not None
    assert result.ema_validation is not None
    options = {"checkpoint": out, "shards": val_shards, "test": "random", "workers": 0, "device": "cpu"}
    averaged = evaluate(EvalConfig.of(ema=True, **options))
    assert averaged.loss == pytest.approx(result.ema_validation.loss, rel=1e-6)
    newest = latest_checkpoint(out)
    assert newest is not None
    plain = evaluate(EvalConfig.of(**{**options, "checkpoint": newest / "model.safetensors"}))
    assert plain.loss == pytest.approx(result.validation.loss, rel=1e-6)
    assert plain.loss != pytest.approx(averaged.loss, rel=1e-6)
    best = load_student(out).info
    assert best is not None
    assert best.top1 == max(max(line["val_top1"], line["val_ema_top1"]) for line in tested)
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "latest",
        "step-00000012",
        "step-00000018",
    ]


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_a_compiled_run_compiles_for_training_and_for_testing_once(
    small: SmallStore, val_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_as_asked = Student.compile
    monkeypatch.setattr(Student, "compile", lambda student: compile_as_asked(student, backend="eager", fullgraph=True))
    torch._dynamo.reset()
    counters.clear()
    options = {"val_shards": val_shards, "test": "random", "compile": True}  # a last batch of 2 images
    _train(small, tmp_path / "run", **options)
    assert counters["stats"]["unique_graphs"] == 2
    _train(small, tmp_path / "plain", **{**options, "compile": False})
    losses = [[line["loss"] for line in _metrics(tmp_path / run) if "loss" in line] for run in ("run", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    tests = [[line["val_loss"] for line in _metrics(tmp_path / run) if "val_loss" in line] for run in ("run", "plain")]
    assert tests[0] == pytest.approx(tests[1], rel=1e-4)


def test_convolutions_have_channels_last() -> None:
    assert create_student("resnet18", num_classes=10).channels_last
    assert not create_student(MODEL, num_classes=10).channels_last


class _Heard:
    """A logger of one's own."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.is_closed = False

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        self.lines.append((step, dict(values)))

    def close(self) -> None:
        self.is_closed = True


def test_a_logger_of_ones_own_hears_what_is_written(small: SmallStore, tmp_path: Path) -> None:
    heard = _Heard()
    config = TrainConfig.of(**{"tickets": small.store, "out": tmp_path / "run", "log_steps": 2, **_PLAIN, "epochs": 1})
    train(config, logger=heard)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": step, **values} for step, values in heard.lines] == lines
    assert [step for step, _ in heard.lines] == [2, 4, 6]
    assert heard.is_closed


def test_weights_and_biases_where_it_is_not_installed(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(OptionError, match=r"`log='wandb'` needs wandb; install it with: pip install 'data"):
        _train(small, tmp_path / "run", log="wandb")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_weights_and_biases_offline(small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _train(small, tmp_path / "run", log="wandb", max_steps=2)
    _train(small, tmp_path / "run", log="wandb", epochs=3, resume=True)
    assert len((tmp_path / "run" / "wandb-id").read_text().strip()) == 8
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 2
    assert run_log.create_logger(None, tmp_path, {}) is None


# Figures


def test_figures_are_of_all_processes_and_of_each_patch() -> None:
    student = create_student(MODEL, num_classes=10)
    found = Figures(student, num_keep=25, images_per_step=12, world_size=2, precision="fp32", tf32=True)
    assert found.since_last() == {}
    assert list(found.waited([1, 2])) == [1, 2]
    found.stepped()
    figures_now = found.since_last()
    assert set(figures_now) == {"images_per_s", "patches_per_s", "wait_share", "tflops_per_s"}
    assert figures_now["patches_per_s"] == pytest.approx(25 * figures_now["images_per_s"])
    assert found.work.flops is not None
    assert figures_now["tflops_per_s"] * 1e12 == pytest.approx(found.work.flops * figures_now["images_per_s"])
    assert 0 <= figures_now["wait_share"] <= 1
    left = found.seconds_left(4, 0)
    assert left is not None
    assert left > 0


def test_steps_on_all_patches_take_as_much_longer_as_they_compute_more(monkeypatch: pytest.MonkeyPatch) -> None:
    student = create_student(MODEL, num_classes=10)
    given = {"images_per_step": 1, "world_size": 1, "precision": "fp32", "tf32": True}
    found = Figures(student, num_keep=25, ends_dense=True, **given)  # type: ignore[arg-type]
    now = found._run.began
    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert found.seconds_left(4, 4) is None
    assert found.whole.flops is not None
    assert found.usual.flops is not None
    share = found.whole.flops / found.usual.flops
    assert share > 1.5
    for _ in found.waited(range(10)):
        now += 2  # of each step, all of it computed
        found.stepped()
    assert found.seconds_left(4, 0) == pytest.approx(8)
    assert found.seconds_left(4, 6) == pytest.approx(8 + 12 * share)
    found.begin_epoch(is_dense=True)
    now += 2 * share
    found.stepped()
    assert found.seconds_left(0, 5) == pytest.approx(10 * share)


def test_fewer_patches_are_less_arithmetic() -> None:
    student = create_student(MODEL, num_classes=10)
    counts = [
        Figures(student, num_keep=k, images_per_step=1, world_size=1, precision="fp32", tf32=True).work.flops
        for k in (10, 25, None)
    ]
    assert counts == sorted(counts, key=lambda each: each or 0)
    assert len(set(counts)) == 3


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", True, 989),
        ("NVIDIA H100 PCIe", "bf16", True, 756),
        ("NVIDIA A100-SXM4-80GB", "fp32", True, 156),
        ("NVIDIA A100-SXM4-80GB", "fp32", False, 19.5),
        ("NVIDIA L40S", "fp16", True, 362),
        ("NVIDIA L40", "fp16", True, None),
        ("NVIDIA L4", "bf16", True, 121),
        ("Tesla V100-SXM2-32GB", "fp16", True, 125),
        ("Tesla V100-SXM2-32GB", "bf16", True, None),
        ("NVIDIA GeForce RTX 4090", "bf16", True, None),
    ],
)
def test_peaks_by_name(name: str, precision: str, tf32: bool, teraflops: float | None) -> None:
    assert peak_of(name, precision, tf32=tf32) == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_figures_in_words() -> None:
    assert in_words({}) == ""
    said = in_words(
        {"patches_per_s": 12345.6, "tflops_per_s": 181.4, "peak_share": 0.4, "wait_share": 0.12, "memory_gb": 9.96}
    )
    assert said == "12,346 patches/s, 181 TFLOP/s (40% of peak), 12% waiting, 10.0 GB"
    assert [in_hours(s) for s in (12.4, 200, 7500, 360_000)] == ["12 s", "3 min", "2 h 05 min", "100 h 00 min"]


def test_batches_move_whole() -> None:
    batch = Batch(
        images=torch.ones(2, 3),
        labels=torch.tensor([1, 2]),
        keep_indices=None,
        num_skipped=3,
        token_labels=TokenLabels(torch.ones(2, 1, 1), torch.ones(2, 1, 1)),
        keys=("a", "b"),
    )
    (there,) = on_device([batch], torch.device("meta"))
    assert isinstance(there, Batch)
    assert isinstance(there.token_labels, TokenLabels)
    assert {tensor.device.type for tensor in (there.images, there.labels, *there.token_labels)} == {"meta"}
    assert (there.keep_indices, there.num_skipped, there.keys) == (None, 3, ("a", "b"))


@pytest.mark.parametrize(
    ("can_bake", "way_out"),
    [(True, "bake the patches (dataltt bake), or use more `workers`"), (False, "use more `workers`")],
)
def test_what_is_waiting_in_words(can_bake: bool, way_out: str) -> None:
    said = waiting_in_words(0.314, can_bake=can_bake)
    assert said == f"note: 31% of this epoch went into waiting for images; {way_out}"
