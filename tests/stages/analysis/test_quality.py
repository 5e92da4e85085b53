"""Judging of tickets without training: against eval, against select, against timm; and errors that say what to give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import DatalttError
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.pipeline.reports.quality_figure import quality_figure
from dataltt.stages.analysis.config import QualityConfig
from dataltt.stages.analysis.judged_images import _Reader
from dataltt.stages.analysis.judging import METRICS
from dataltt.stages.analysis.quality import Judged, judge_all, quality
from dataltt.stages.analysis.quality_plan import QualityPlan, plan_quality
from dataltt.stages.analysis.quality_result import QualityResult, Scored, difference
from dataltt.stages.data.images import normalize
from dataltt.stages.models.registry import create_vit
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection import scorers
from dataltt.stages.selection.select import select
from dataltt.stages.training.config import EvalConfig
from dataltt.stages.training.evaluate import evaluate
from safetensors.torch import save_file

from ...helpers import (
    MODEL,
    NUM_PATCHES,
    Sample,
    SmallStore,
    fashion_samples,
    make_shards,
    make_store,
    run_cli,
    save_selector_weights,
    select_config,
)

_N = 36


def _config(small: SmallStore, **changes: object) -> QualityConfig:
    options = {"judge": MODEL, "judge_checkpoint": small.weights, "device": "cpu", "workers": 0, "batch_size": 10}
    return QualityConfig.of(**{**options, **changes})  # type: ignore[arg-type]


def _quality(small: SmallStore, **changes: object) -> QualityResult:
    return quality(_config(small, **changes))


def _judged(small: SmallStore, **changes: object) -> tuple[QualityPlan, Judged]:
    config = _config(small, **changes)
    plan = plan_quality(config, torch.device("cpu"), SilentReporter())
    return plan, judge_all(plan, config, SilentReporter())[0]


def _refused(small: SmallStore, **changes: object) -> str:
    with pytest.raises(DatalttError) as caught:
        _quality(small, **changes)
    return str(caught.value)


def _rows(result: QualityResult) -> dict[tuple[str, int], Scored]:
    return {(row.arm, row.num_keep): row for row in result.rows}


@pytest.fixture(scope="module")
def of_store(small: SmallStore) -> QualityResult:
    """The store at its own share and at a smaller one."""
    return _quality(small, tickets=[small.store], ratios=(0.5, 0.3))


@pytest.mark.parametrize("test", ["ticket", "random", "center", "resize", "dense"])
def test_figures_are_those_of_eval(small: SmallStore, of_store: QualityResult, test: str) -> None:
    options = {"checkpoint": small.weights, "model": MODEL, "shards": small.shards, "tickets": small.store}
    theirs = evaluate(EvalConfig.of(**options, test=test, device="cpu", workers=0, batch_size=10))  # type: ignore[arg-type]
    name = {"ticket": small.store}.get(test, test)
    row = of_store.all_patches if test == "dense" else _rows(of_store)[name, 25]
    found = row.figures
    assert found.top1 is not None
    assert found.top5 is not None
    assert found.loss is not None
    assert (found.top1.mean, found.top5.mean) == pytest.approx((theirs.top1, theirs.top5))
    assert found.loss.mean == pytest.approx(theirs.loss, rel=1e-6)


def test_all_of_it_says_what_it_is(small: SmallStore, of_store: QualityResult) -> None:
    assert (of_store.measure, of_store.unknown_labels, of_store.num_images) == ("top1", None, _N)
    assert [(row.arm, row.num_keep, row.num_tokens) for row in of_store.rows] == [
        *[(small.store, 25, 25), ("random", 25, 25), ("center", 25, 25), ("resize", 25, 25)],
        *[(small.store, 15, 15), ("random", 15, 15), ("center", 15, 15), ("resize", 15, 16)],
    ]
    assert [row.is_approximate for row in of_store.rows] == [False] * 4 + [True] + [False] * 3
    assert [row.is_self_judged for row in of_store.rows] == [True, False, False, False] * 2
    assert of_store.all_patches.figures.agreement is not None
    assert of_store.all_patches.figures.agreement.low == 100
    assert len(of_store.conclusions) == 2
    labels = [sample.label for sample in small.samples]
    assert {c.label: c.num_images for c in of_store.classes} == {label: labels.count(label) for label in set(labels)}


def test_differences_are_paired_image_by_image(small: SmallStore, of_store: QualityResult) -> None:
    plan, judged = _judged(small, tickets=[small.store])
    tickets, resized = judged[0, 25], judged[3, 25]
    assert plan.arms[3][1].name == "resize"
    ours = difference(of_store.gains, small.store, "resize", 25, "agreement")
    column = METRICS.index("agreement")
    assert ours.mean == pytest.approx((tickets - resized)[:, column].mean())
    other_way = difference(of_store.gains, "resize", small.store, 25, "agreement")
    assert (other_way.mean, other_way.low, other_way.high) == (-ours.mean, -ours.high, -ours.low)
    for label, figure in _rows(of_store)[small.store, 25].by_class.items():
        of_class = [sample.label == label for sample in small.samples]
        assert figure.mean == pytest.approx(tickets[of_class, METRICS.index("top1")].mean())


def test_by_rank_it_is_the_thinned_store(small: SmallStore, of_store: QualityResult, tmp_path: Path) -> None:
    thin = tmp_path / "thin.zarr"
    thin_store(small.store, Target(path=thin, tool_version="test"), ratio=0.3)
    result = _quality(small, tickets=[str(thin)], shards=small.shards)
    row = _rows(result)[str(thin), 15]
    assert row.figures == _rows(of_store)[small.store, 15].figures
    assert row.is_approximate


@pytest.mark.long
def test_images_of_another_size(small: SmallStore, tmp_path: Path) -> None:
    config = select_config(small.shards, small.weights, tmp_path / "a.zarr", image_px=32)
    select(config)
    options = {"checkpoint": small.weights, "model": MODEL, "shards": small.shards, "tickets": str(config.out)}
    theirs = evaluate(EvalConfig.of(**options, test="ticket", device="cpu", workers=0, batch_size=10))  # type: ignore[arg-type]
    result = _quality(small, tickets=[str(config.out)], selector=["cascade"])
    stored, selected = result.rows[:2]
    assert (stored.num_keep, result.num_patches, stored.is_self_judged) == (32, 64, True)
    assert stored.figures == selected.figures
    assert stored.figures.of("top1").mean == pytest.approx(theirs.top1)


@pytest.mark.long
@pytest.mark.parametrize("selector", ["cascade", "gradient", "variance"])
def test_a_selector_is_what_select_would_store(small: SmallStore, selector: str, tmp_path: Path) -> None:
    weights: Any = None if selector == "variance" else small.weights
    shards, stores = small.shards.replace("*", "000001"), []
    for ratio in (0.5, 0.2):
        config = select_config(shards, weights, tmp_path / f"{ratio}.zarr", selector=selector, ratio=ratio)
        select(config)
        stores.append(str(config.out))
    _, ours = _judged(small, selector=[selector], shards=shards, ratios=(0.5, 0.2))
    _, theirs = _judged(small, tickets=stores)
    assert (ours[0, 25] == theirs[0, 25]).all()
    assert (ours[0, 10] == theirs[1, 10]).all()


def test_several_are_compared_at_each_share(small: SmallStore) -> None:
    result = _quality(small, selector=["cascade", "attention", "variance"], shards=small.shards, ratios=(0.5,))
    assert [row.arm for row in result.rows] == ["cascade", "attention", "variance", "random", "center", "resize"]
    assert [row.is_self_judged for row in result.rows] == [True, True, False, False, False, False]
    assert {(gain.arm, gain.other) for gain in result.gains} >= {("cascade", "attention"), ("attention", "variance")}
    best = max(result.rows[:3], key=lambda row: row.figures.of("top1").mean)
    whose = " (judged by its own network)" if best.is_self_judged else ""
    assert result.conclusions[0].startswith(f"at 25 of 49 patches {best.arm}{whose} leads: ")


def test_without_a_share_it_is_the_usual_ones(small: SmallStore) -> None:
    result = _quality(small, selector=["variance"], shards=small.shards, images=5)
    assert [row.num_keep for row in result.rows[::4]] == [35, 25, 15]
    assert result.num_images == 5


def test_with_all_patches_logits_are_timm_s(small: SmallStore) -> None:
    plan, judged = _judged(small, selector=["attention"], shards=small.shards, ratios=(1.0,), images=10)
    assert (judged[0, 49][:, METRICS.index("agreement")] == 100).all()
    assert judged[0, 49] == pytest.approx(judged[None, 49], abs=1e-4)
    batch = next(_Reader(plan.source).batches(0, 10))
    net = create_vit(MODEL).eval()
    net.load_state_dict(plan.judge.student.net.state_dict())
    (shown,) = plan.arms[0][1].shown(batch)
    with torch.inference_mode():
        theirs = net(normalize(batch.images, plan.judge.view))
    assert torch.equal(plan.judge.logits(batch, None), theirs)
    assert torch.allclose(plan.judge.logits(batch, shown), theirs, atol=1e-5)


def test_runs_of_images_make_up_the_whole(small: SmallStore) -> None:
    plan, _ = _judged(small, tickets=[small.store])
    reader = _Reader(plan.source)
    whole = list(reader.batches(0, _N))
    parts = [*reader.batches(0, 17), *reader.batches(17, _N)]
    for of in (whole, parts):
        assert torch.cat([b.numbers for b in of]).tolist() == list(range(_N))
        assert [key for b in of for key in b.keys] == [sample.key for sample in small.samples]
    assert torch.equal(torch.cat([b.images for b in whole]), torch.cat([b.images for b in parts]))


def test_the_same_seed_gives_the_same_result(small: SmallStore) -> None:
    options = {"selector": ["variance"], "shards": small.shards, "ratios": (0.3,), "images": 8}
    first, again, other = (_quality(small, **options, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert other != first


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store of drawn views, without ranks."""
    return make_store(tmp_path_factory.mktemp("views"), counts=(8,), augment="deit", num_views=2, ranks=False)


@pytest.mark.long
def test_of_drawn_views_the_first_is_replayed(views: SmallStore, tmp_path: Path) -> None:
    other = select_config(
        views.shards, views.weights, tmp_path / "a.zarr", selector="attention", augment="deit", num_views=3
    )
    select(other)
    stores = [views.store, str(other.out)]
    plan, judged = _judged(views, tickets=stores, selector=["cascade", "attention"])
    # Views are drawn by (seed, key, number), so that the first of two is the first of three, and what a selector sees.
    assert (judged[0, 25] == judged[2, 25]).all()
    assert (judged[1, 25] == judged[3, 25]).all()
    assert [arm.name for _, arm in plan.arms[:4]] == [*stores, "cascade", "attention"]


@pytest.mark.long
def test_adaptive_tickets_are_judged_at_their_budget(small: SmallStore, tmp_path: Path) -> None:
    config = select_config(small.shards, small.weights, tmp_path / "a.zarr", ratio=None, budget=0.5, ranks=True)
    select(config)
    options = {"checkpoint": small.weights, "model": MODEL, "shards": small.shards, "tickets": str(config.out)}
    theirs = evaluate(EvalConfig.of(**options, test="ticket", device="cpu", workers=0, batch_size=10))  # type: ignore[arg-type]
    result = _quality(small, tickets=[str(config.out), small.store])
    row = _rows(result)[str(config.out), 25]
    assert row.figures.top1 is not None
    assert row.figures.loss is not None
    assert row.figures.top1.mean == pytest.approx(theirs.top1)
    assert row.figures.loss.mean == pytest.approx(theirs.loss, rel=1e-6)
    assert not row.is_approximate
    assert [r.arm for r in result.rows] == [str(config.out), small.store, "random", "center", "resize"]


class _BySize:
    """Keeps the first patches or the last, by how many are to be kept."""

    needs_weights: ClassVar[bool] = False
    asked: ClassVar[list[int]] = []

    def __init__(self, vit: torch.nn.Module) -> None:
        pass

    def scores(
        self, images: torch.Tensor, labels: torch.Tensor | None, num_keep: int, *, names: Sequence[str]
    ) -> torch.Tensor:
        self.asked.append(num_keep)
        order = torch.arange(NUM_PATCHES, dtype=torch.float32)
        return (order if num_keep > 20 else -order).expand(len(images), -1)


def test_others_selectors_are_run_for_each_share(small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scorers.SHIPPED, "by-size", _BySize)  # type: ignore[arg-type]
    monkeypatch.setattr("dataltt.stages.analysis.quality_arms.is_same_for_all", lambda named: False)
    plan, _ = _judged(small, selector=["by-size"], shards=small.shards, ratios=(0.5, 0.2), images=2)
    shown = {s.num_keep: s.keep_indices for s in plan.arms[0][1].shown(next(_Reader(plan.source).batches(0, 2)))}
    assert shown[25] is not None
    assert shown[10] is not None
    assert shown[25][0].tolist() == list(range(24, 49))
    assert shown[10][0].tolist() == list(range(10))


def _unlabelled(tmp_path: Path) -> str:
    samples = [Sample(key=s.key, image=s.image, label=None if i == 3 else s.label) for i, s in enumerate(_SIX)]
    return make_shards(tmp_path, (6,), samples)


def _other_classes(tmp_path: Path) -> str:
    shards = make_shards(tmp_path, (6,), _SIX)
    (tmp_path / "classes.json").write_text(json.dumps({"shoe": 0, "shirt": 9, "hat": 11}))
    return shards


def _too_many(tmp_path: Path) -> str:
    return make_shards(tmp_path, (6,), [Sample(key=s.key, image=s.image, label=10 + i) for i, s in enumerate(_SIX)])


_SIX = fashion_samples(6)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_unlabelled, "1 of 6 images have no label"),
        (_other_classes, "classes.json beside the shards does not list the 10 classes of the judge's head"),
        (_too_many, "labels go up to 15, and the judge's head has 10 classes"),
    ],
)
def test_without_labels_agreement_is_measured(small: SmallStore, make: Any, reason: str, tmp_path: Path) -> None:
    result = _quality(small, selector=["variance"], shards=make(tmp_path), ratios=(0.5,))
    assert (result.measure, result.unknown_labels) == ("agreement", reason)
    assert all(row.figures.top1 is row.figures.loss is None for row in result.rows)
    assert all(row.figures.agreement is not None for row in result.rows)
    assert "points of agreement" in result.conclusions[0]


@pytest.mark.long
def test_from_the_command_line(small: SmallStore, tmp_path: Path) -> None:
    judge = ("--judge", MODEL, "--judge-checkpoint", small.weights, "--device", "cpu", "--workers", 0)
    options = (*judge, "--tickets", small.store, "--selector", "variance", "--ratios", "0.5,.3", "--images", 24)
    result = run_cli("quality", *options, "--picture", tmp_path / "a.svg", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert [row["num_keep"] for row in document["rows"]] == [25] * 5 + [15] * 5
    assert document["all_patches"]["figures"]["agreement"]["mean"] == 100
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    table = run_cli("quality", *options, "--picture", tmp_path / "a.png")
    assert table.code == 0, table.err
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    for part in ("≈ by rank", "all patches", "points of top-1 more than", *document["conclusions"]):
        assert part in table.out


def test_the_picture_has_a_line_for_each_arm(small: SmallStore, of_store: QualityResult) -> None:
    figure = quality_figure(of_store)
    (axes,) = figure.axes
    assert len(axes.containers) == 4
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (named[0], named[2:]) == ("all patches", ["random", "center", "resize"])
    heights = axes.containers[0].lines[0].get_ydata()
    assert list(heights) == [_rows(of_store)[small.store, k].figures.of("top1").mean for k in (25, 15)]


@pytest.mark.long
def test_what_cannot_be_judged(small: SmallStore, views: SmallStore, tmp_path: Path) -> None:
    store, shards = {"tickets": [small.store]}, {"shards": small.shards}
    cases: list[tuple[dict[str, object], str]] = [
        ({}, "what is to be judged? give `tickets`"),
        ({**store, "judge": None, "judge_checkpoint": None}, "who judges? give `judge`"),
        ({"selector": ["variance"]}, "which shards?"),
        ({**store, "tickets": [small.store] * 2}, "is given twice"),
        ({**shards, "selector": ["cascade"] * 2}, "is given twice"),
        ({**shards, "selector": ["random"]}, "are shown beside it anyway"),
        ({**shards, "selector": ["attentions"]}, "did you mean attention?"),
        ({**shards, "selector": ["gradient"], "selector_option": ["labels=true"]}, "by the images' labels"),
        ({**shards, "selector": ["gradient", "variance"], "selector_option": ["seed=1"]}, "is no setting of gradient"),
        ({**store, "ratios": (0.5, 2.0)}, "2.0 is no share of 49 patches"),
        ({**store, "ratios": (1e-12,)}, "is no share of 49 patches"),
        ({**store, "judge_checkpoint": None}, "give `judge_checkpoint`"),
        ({**store, "judge": "deit_x"}, "`judge='deit_x'` is neither"),
        ({"tickets": [views.store], "ratios": (0.3,)}, "has no ranks to go by"),
        ({"tickets": [small.store, views.store]}, "other views than"),
        ({**store, "shards": views.shards, "images": 0}, "`images=0` should be at least 2"),
        ({**store, "decoder": "pillow"}, "`decoder='pillow'`"),
        ({**store, "judge_checkpoint": small.folder / "nothing"}, "nothing"),
        ({**store, "judge": "resnet50", "judge_checkpoint": None}, "resnet50 is not a plain ViT"),
        ({**store, "checkpoint": small.weights}, "there is no `selector`"),
        ({**shards, "selector": ["attention"], "checkpoint": small.weights}, "give its name as `model`"),
    ]
    for changes, sentence in cases:
        assert sentence in _refused(small, **changes), changes


def test_a_judge_that_sees_other_patches_or_says_nothing(small: SmallStore, tmp_path: Path) -> None:
    other = create_vit("vit_micro")
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    said = _refused(small, tickets=[small.store], judge="vit_micro", judge_checkpoint=tmp_path / "other.safetensors")
    assert "`image_px=28` is no multiple of the 16-px patches of vit_micro" in said
    headless = create_vit(MODEL, num_classes=0)
    save_file(headless.state_dict(), tmp_path / "headless.safetensors")
    said = _refused(small, tickets=[small.store], judge_checkpoint=tmp_path / "headless.safetensors")
    assert "head" in said


def test_images_that_a_store_does_not_have(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (3,), fashion_samples(3, first=100))
    said = _refused(small, tickets=[small.store], shards=shards)
    assert "has no ticket in" in said
    assert "skip" not in said


def test_tickets_by_labels_are_refused(small: SmallStore, tmp_path: Path) -> None:
    config = select_config(
        small.shards,
        small.weights,
        tmp_path / "a.zarr",
        selector="gradient",
        selector_option=("labels=true",),
        split="train",
    )
    select(config)
    assert "were chosen by the images' labels (gradient of" in _refused(small, tickets=[str(config.out)])


def test_another_network_judges(small: SmallStore, tmp_path: Path) -> None:
    other = save_selector_weights(tmp_path / "other.safetensors", seed=1)
    options = {"selector": ["attention"], "shards": small.shards, "ratios": (0.5,), "images": 8}
    plan, judged = _judged(small, **options, model=MODEL, checkpoint=other)
    assert plan.arms[0][1].weights_sha256 != plan.judge.sha256
    _, own = _judged(small, **options)
    assert not np.array_equal(judged[0, 25], own[0, 25])
    assert np.array_equal(judged[1, 25], own[1, 25])
