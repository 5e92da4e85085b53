"""Training and testing on adaptive tickets: each image its own number of patches, in whatever batch it stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import OptionError, TicketStore
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.stream_config import StreamConfig
from dataltt.stages.grid import Box
from dataltt.stages.models.cost import student_gmacs
from dataltt.stages.models.families import create_student
from dataltt.stages.padding import NO_PATCH, PatchesShown, groups_of
from dataltt.stages.training import train as train_module
from dataltt.stages.training.adaptive import check_counts
from dataltt.stages.training.config import EvalConfig, TrainConfig
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.figures import Figures
from dataltt.stages.training.mixing import Mix, mix_batch, mix_kept, mixed_counts
from dataltt.stages.training.ticket_batches import ticket_batches
from dataltt.stages.training.ticket_images import join_tickets
from dataltt.stages.training.train import TrainResult, train
from safetensors.torch import load_file

from ...helpers import GRID, MODEL, NUM_PATCHES, SmallStore, make_store

_PLAIN: dict[str, Any] = {
    "batch_size": 12,
    "epochs": 2,
    "ema_decay": 0,
    "device": "cpu",
    "workers": 0,
    "log_steps": 1,
    "lr": 0.05,
}


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(
        tmp_path_factory.mktemp("adaptive"), budget=0.4, selector="attention", ranks=True, augment="deit", num_views=2
    )


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("center"), budget=0.4, selector="attention", ranks=True)


def _config(store: SmallStore, out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig.of(
        **{"tickets": store.store, "shards": store.shards, "out": out, "val_tickets": None, **_PLAIN, **changes}
    )


# Batches


def _kept_by_key(store: SmallStore, **changes: Any) -> dict[str, list[int]]:
    data = ticket_batches(store.shards, **{"tickets": store.store, "batch_size": 7, "training": False, **changes})
    found = {}
    for batch in data:
        assert batch.keep_indices is not None
        assert batch.counts is not None
        for key, row, count in zip(batch.keys, batch.keep_indices.tolist(), batch.counts, strict=True):
            assert row[count:] == [NO_PATCH] * (len(row) - count)
            found[key] = row[:count]
        assert batch.keep_indices.shape[1] == max(batch.counts)
    return found


def test_images_of_a_batch_come_with_their_own_tickets(center: SmallStore) -> None:
    assert _kept_by_key(center) == {key: np.flatnonzero(mask).tolist() for key, mask in center.masks().items()}


def test_controls_have_each_images_own_number(center: SmallStore) -> None:
    own = {key: int(mask.sum()) for key, mask in center.masks().items()}
    assert len(set(own.values())) > 2
    for subset in ("random", "fixed-random", "center", "inverse"):
        assert {key: len(kept) for key, kept in _kept_by_key(center, subset=subset).items()} == own
    assert all(batch.counts is None for batch in ticket_batches(center.shards, **_dense(center)))


def _dense(store: SmallStore) -> dict[str, Any]:
    return {"tickets": store.store, "batch_size": 7, "training": False, "subset": "dense"}


def test_replayed_views_have_each_their_own_number(adaptive: SmallStore) -> None:
    counts = [{key: int(mask.sum()) for key, mask in adaptive.masks(view).items()} for view in (0, 1)]
    data = ticket_batches(adaptive.shards, tickets=adaptive.store, batch_size=6, view_mode="replay")
    for epoch in (0, 1, 2):
        data.set_epoch(epoch)
        for batch in data:
            assert batch.counts == tuple(counts[epoch % 2][key] for key in batch.keys)


# Mixing


@pytest.mark.parametrize("mix", [Mix(), Mix(lam=0.3), Mix(box=Box(1, 4, 2, 6))], ids=["none", "mixup", "cutmix"])
def test_mixed_images_keep_the_highest_scores_of_the_mean_number(mix: Mix) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (5, 1, 28, 28), generator=generator, dtype=torch.uint8)
    scores = torch.rand(5, NUM_PATCHES, generator=generator)
    counts = (4, 30, 11, 9, 22)
    part = 1 - 12 / 49 if mix.box else mix.lam
    expected = tuple(round(part * a + (1 - part) * b) for a, b in zip(counts, counts[::-1], strict=True))
    assert mixed_counts(counts, mix, GRID) == expected
    mixed = mix_batch(images.float(), scores, mix, grid=GRID, num_keep=counts)
    assert mixed.counts == expected
    assert mixed.keep_indices is not None
    inside = torch.zeros(GRID, dtype=torch.bool)
    inside[1:4, 2:6] = mix.box is not None
    flat = inside.flatten()
    blended = (
        torch.where(flat, scores.flip(0), scores) if mix.box else mix.lam * scores + (1 - mix.lam) * scores.flip(0)
    )
    for i, count in enumerate(expected):
        row = mixed.keep_indices[i].tolist()
        assert row[:count] == blended[i].topk(count).indices.sort().values.tolist()
        assert row[count:] == [NO_PATCH] * (len(row) - count)
        share = (~flat)[row[:count]].float().mean() if mix.box else torch.tensor(part)
        assert mixed.weights[i] == pytest.approx(float(share))
    of_kept = mix_kept(images, scores, mix, grid=GRID, num_keep=counts, normalize=lambda p: p.float())
    assert of_kept.counts == expected
    student = create_student(MODEL).eval()
    whole = student(mixed.images, mixed.keep_indices, expected)
    torch.testing.assert_close(student(of_kept.images, of_kept.keep_indices, expected), whole, rtol=1e-4, atol=1e-5)


# Runs


@pytest.mark.long
@pytest.mark.parametrize("mixes", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_that_is_cut_off_goes_on_with_the_same_weights(adaptive: SmallStore, tmp_path: Path, mixes: bool) -> None:
    mixing = {} if mixes else {"mixup": 0.0, "cutmix": 0.0}
    whole = train(_config(adaptive, tmp_path / "whole", **mixing))
    for stop in (2, 4, None):
        result = train(_config(adaptive, tmp_path / "run", max_steps=stop, resume=stop != 2, **mixing))
    assert result == replace(whole, run=result.run)
    weights = [load_file(tmp_path / run / "checkpoints" / "step-00000006" / "model.safetensors") for run in _RUNS]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
    assert whole.patches_kept is not None
    assert whole.patches_padded is not None
    assert 0.4 * NUM_PATCHES - 0.5 < whole.patches_kept < whole.patches_padded < 0.4 * NUM_PATCHES + 3


_RUNS = ("whole", "run")


@pytest.mark.long
def test_what_a_run_computes_is_counted_with_its_padding(
    center: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(train_module._Trainer):  # type: ignore[misc]
        def _train_step(self, batch: Batch) -> None:
            assert batch.counts is not None
            seen.append(batch.counts)
            super()._train_step(batch)

    monkeypatch.setattr(train_module, "_Trainer", Watched)
    result = train(_config(center, tmp_path / "run", mixup=0.0, cutmix=0.0))
    student = create_student(MODEL)
    gmacs = sum(len(g.images) * student_gmacs(student, g.num_patches) for counts in seen for g in groups_of(counts))
    assert result.tflops == pytest.approx(gmacs * 2 * 3 / 1000, rel=1e-6)
    assert result.patches_kept == np.mean(np.concatenate(seen))


def test_figures_expect_the_mean_before_the_first_batch() -> None:
    student, shown = create_student(MODEL), PatchesShown()
    figures = Figures(student, num_keep=20, padded=shown, images_per_step=1, world_size=1, precision="fp32", tf32=False)
    assert figures.usual.flops == pytest.approx(student_gmacs(student, 20) * 6e9)
    shown.add([24] * 8)
    assert figures.usual.flops == pytest.approx(student_gmacs(student, 24) * 6e9)
    assert figures.usual.num_patches == 24


@pytest.fixture(scope="module")
def run(center: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("run") / "run"
    return train(_config(center, out, max_steps=2, control="random"))


@pytest.mark.parametrize("protocol", ["ticket", "random", "center", "resize", "own"])
def test_a_test_does_not_depend_on_batches(center: SmallStore, run: TrainResult, protocol: str) -> None:
    options = {"checkpoint": Path(run.run), "shards": center.shards, "tickets": center.store, "test": protocol}
    found = [evaluate(EvalConfig.of(**options, batch_size=size, workers=0, device="cpu")) for size in (36, 1)]
    assert found[0].top1 == found[1].top1
    assert found[0].loss == pytest.approx(found[1].loss, rel=1e-5)


# What does not go with them


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"view_mode": "warp", "augment": "deit"}, "the views of this `view_mode` need, they do not say; select with"),
        ({"view_mode": "static", "control": "random"}, "the views of this `view_mode` need, they do not say"),
        ({"compile": True}, "`compile` (leave it out) would compile the student anew for every batch; select"),
        ({"model": "resnet50", "ratio": 0.2}, "has adaptive tickets (`budget=0.4`), and `ratio=0.2` cuts down tickets"),
    ],
)
def test_what_needs_equal_numbers_is_refused(
    adaptive: SmallStore, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError) as raised:
        train(_config(adaptive, tmp_path / "run", **options))
    assert said in str(raised.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_students_that_take_one_number_are_refused(center: SmallStore) -> None:
    manifest = TicketStore.open(center.store).manifest
    student = create_student("swin_tiny_patch4_window7_224", num_keep=144, patch_input="small-dense")
    stream = StreamConfig(
        shards=(), view=manifest.view, image_px=28, mode="L", grid=GRID, subset="ticket", num_keep=20,
        own_counts=True, batch_size=1, num_classes=10, seed=0,
    )  # fmt: skip
    with pytest.raises(OptionError, match=r"has adaptive tickets .* and swin takes equally many patches of every"):
        check_counts(manifest, center.store, stream, student, "swin")
    with pytest.raises(OptionError, match="a loader's own batches need equal numbers; join it with `dataset`"):
        join_tickets([], tickets=center.store)
