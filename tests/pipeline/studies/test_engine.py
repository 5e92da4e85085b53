"""Studies: every arm with every seed, nothing twice, and the same report after an interruption."""

from __future__ import annotations

import functools
import inspect
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import Selector, read_manifest
from dataltt.pipeline.reports.study_report import write_study_report
from dataltt.pipeline.studies import catalog, engine, fashion, paper, paper_row
from dataltt.pipeline.studies import compare_views as views
from dataltt.pipeline.studies.arms import Tickets, claims, paper_arms
from dataltt.pipeline.studies.cost import CostPlan, measured_cost
from dataltt.pipeline.studies.engine import Arm, Comparison, Evaluation, Study, StudyInputs, bytes_per_image, run_study
from dataltt.pipeline.studies.paper_row import Row, arms_of, study_of, train_config
from dataltt.stages.analysis.statistics import paired, spread
from dataltt.stages.models.cascade import keep_counts
from dataltt.stages.models.cost import student_gmacs
from dataltt.stages.models.families import create_student, family_of
from dataltt.stages.models.registry import load_vit, weights_sha256
from dataltt.stages.models.student import PatchInput
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.config import TrainConfig, check_options, matched_epochs
from dataltt.stages.training.optimization import scaled_lr

from ...helpers import (
    SmallStore,
    fashion_samples,
    make_shards,
    make_store,
    run_cli,
    run_on_two_ranks,
    save_selector_weights,
)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("study"), augment="crop", views=4)


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("study-center"))


def _study(replayed: SmallStore, center: SmallStore, **changes: Any) -> Study:
    base = TrainConfig(out=Path(), tickets=replayed.store, epochs=2, batch_size=12, workers=0, device="cpu", lr=0.01)
    dense = Evaluation(on="dense")
    ticket = Evaluation(on="ticket", tickets=center.store)
    arms = (
        Arm(name="ticket", train=base, tests=(ticket, dense), stored=("tickets", "views/boxes", "views/flips")),
        Arm(name="dense", train=replace(base, control="dense"), tests=(dense,)),
    )
    comparison = Comparison(name="(c) − (a)", first=("dense", "dense"), second=("ticket", "ticket"))
    return Study(name="test", arms=arms, test_shards=center.shards, comparisons=(comparison,), **changes)


def _run(replayed: SmallStore, center: SmallStore, out: Path, seeds: tuple[int, ...]) -> dict[str, Any]:
    inputs = StudyInputs(out=out, seeds=seeds, device="cpu")
    found = run_study(_study(replayed, center, note={"epochs": 2}), inputs, SilentReporter())
    document: dict[str, Any] = json.loads((out / "study.json").read_text())
    assert document == found
    assert document["study"] == "test"
    assert document["epochs"] == 2
    assert document["seeds"] == list(seeds)
    return document


@pytest.mark.long
def test_a_study_skips_what_is_done_and_goes_on_with_the_rest(
    replayed: SmallStore, center: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = engine.train

    def counted(config: TrainConfig, reporter: Any) -> Any:
        trained.append(f"{config.out.name}{' resumed' if config.resume else ''}")
        return train(config, reporter)

    monkeypatch.setattr(engine, "train", counted)
    whole = _run(replayed, center, tmp_path / "whole", (0, 1))
    assert trained == ["ticket-0", "dense-0", "ticket-1", "dense-1"]
    rows = whole["results"]
    named = [(r["arm"], r["trained_on"], r["tested_on"]) for r in rows]
    assert named == [("ticket", "ticket", "ticket"), ("ticket", "ticket", "dense"), ("dense", "dense", "dense")]
    assert all(r["num_steps"] == 6 and set(r["top1"]) == {"0", "1"} for r in rows)
    assert rows[0]["mean"] == pytest.approx(sum(rows[0]["top1"].values()) / 2)
    (difference,) = whole["differences"]
    each = [rows[2]["top1"][s] - rows[0]["top1"][s] for s in ("0", "1")]
    assert difference["paired"]["mean"] == pytest.approx(sum(each) / 2)

    trained.clear()
    assert _run(replayed, center, tmp_path / "whole", (0, 1)) == whole
    assert trained == []

    # Cut off after one run, inside of another, and between two tests of a third.
    part = tmp_path / "part"
    _run(replayed, center, part, (0,))
    (part / "runs" / "dense-0" / "result.json").unlink()
    shutil.rmtree(part / "runs" / "ticket-0")
    trained.clear()
    assert _run(replayed, center, part, (0, 1)) == whole
    assert trained == ["ticket-0", "dense-0 resumed", "ticket-1", "dense-1"]
    result = part / "runs" / "ticket-0" / "result.json"
    document = json.loads(result.read_text())
    del document["tests"]["dense"]
    result.write_text(json.dumps(document))
    trained.clear()
    assert _run(replayed, center, part, (0, 1)) == whole
    assert trained == []


@pytest.mark.long
def test_an_interrupted_study_goes_on_to_the_same_report(
    replayed: SmallStore, center: SmallStore, tmp_path: Path
) -> None:
    """Interrupted inside each piece of work in turn, by whoever listens to its progress."""

    class Interrupter(SilentReporter):
        def __init__(self, after: int) -> None:
            self.left = after

        def advance(self, amount: int, note: str = "") -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    whole = _run(replayed, center, tmp_path / "whole", (0,))
    write_study_report(tmp_path / "whole")
    out, inputs = tmp_path / "part", StudyInputs(out=tmp_path / "part", seeds=(0,), device="cpu")
    times, after = 0, 2
    while True:
        try:
            run_study(_study(replayed, center, note={"epochs": 2}), inputs, Interrupter(after))
        except KeyboardInterrupt:
            times, after = times + 1, after + 3
            continue
        break
    assert times >= 3
    assert json.loads((out / "study.json").read_text()) == whole
    write_study_report(out)
    assert (out / "report.html").read_text() == (tmp_path / "whole" / "report.html").read_text()


def test_one_seed_has_no_deviation(replayed: SmallStore, center: SmallStore, tmp_path: Path) -> None:
    document = _run(replayed, center, tmp_path, (3,))
    (ticket, _, dense) = document["results"]
    assert ticket["sd"] is None
    assert list(ticket["top1"]) == ["3"]
    assert dense["bytes_per_image"] == 0
    assert document["differences"][0]["paired"]["low"] is None


def test_paired_differences_and_their_interval() -> None:
    """The interval of three differences 1, 2, 3 by the table of Student's t: 2 ± 4.3027 / √3."""
    found = paired({0: 11.0, 1: 22.0, 2: 33.0, 7: 5.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert (found.mean, found.num_seeds) == (2.0, 3)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5)
    assert found.high == pytest.approx(2 + 4.302653 / 3**0.5)
    assert str(found) == "+2.00 [-0.48, +4.48]"
    assert str(paired({0: 1.0}, {0: 3.5})) == "-2.50"
    with pytest.raises(ValueError, match="no seed"):
        paired({0: 1.0}, {1: 1.0})
    assert spread({0: 1.0, 1: 3.0}) == (2.0, pytest.approx(2**0.5))


def test_matched_epochs_are_upstreams() -> None:
    store = {
        "model": "m",
        "weights_sha256": "0" * 64,
        "drop_blocks": [3, 6, 9],
        "keep_counts": [1],
        "precision": "fp32",
    }
    upstream = {0.95: 350, 0.9: 412, 0.85: 488, 0.8: 586, 0.75: 711}
    found = {r: matched_epochs(300, Selector(**store, keep_rate=r)) for r in upstream}
    # 488.5 is rounded to even here, and up in METHOD.
    assert found == {**upstream, 0.85: found[0.85]}
    assert found[0.85] in (488, 489)
    assert matched_epochs(4, Selector(**store, ratio=0.3)) == 13


def test_bytes_are_those_of_the_views_that_are_used(replayed: SmallStore, center: SmallStore) -> None:
    (arm, dense) = _study(replayed, center).arms
    assert bytes_per_image(dense) == 0
    half = replace(arm, train=replace(arm.train, num_views=2))
    assert bytes_per_image(half) == pytest.approx(bytes_per_image(arm) / 2)
    folder = replayed.path
    stored = [p for name in arm.stored for p in (folder / name).rglob("*") if p.is_file()]
    assert bytes_per_image(arm) == pytest.approx(sum(p.stat().st_size for p in stored) / 36)


def test_the_papers_arms_differ_in_their_patches_alone() -> None:
    base = TrainConfig(out=Path(), model="vit_fashion", shards="s", epochs=4)
    arms = paper_arms(base, [Tickets(label="0.5", train="a.zarr", test="b.zarr")], test_shards="t")
    assert [a.name for a in arms] == [
        "dense",
        "ticket-0.5",
        "random-0.5",
        "fixed-random-0.5",
        "inverse-0.5",
        "random-matched-0.5",
    ]
    assert [(t.label, t.on, t.tickets) for t in arms[0].tests] == [
        ("dense", "dense", None),
        ("ticket 0.5", "ticket", "b.zarr"),
    ]
    for arm in arms[1:]:
        assert [t.on for t in arm.tests] == ["ticket", "random", "dense", "own"]
        same = replace(arm.train, control="ticket", match_tokens=False)
        assert same == arms[1].train
    assert arms[5].train.match_tokens
    first = claims(["0.5"])[0]
    assert (first.name, first.first, first.second) == (
        "(a) − (b), 0.5",
        ("ticket-0.5", "ticket"),
        ("random-0.5", "ticket"),
    )


def test_cost_is_measured_once(center: SmallStore, tmp_path: Path) -> None:
    plan = CostPlan(model="vit_fashion", stores=(center.store,), batch_size=2, num_classes=10, device="cpu", repeats=1)
    found = measured_cost(plan, tmp_path / "cost.json", SilentReporter())
    assert [(r["way"], r["num_keep"]) for r in found["rows"]] == [
        ("dense", 49),
        ("cached tickets", 25),
        ("online (upstream)", 25),
    ]
    dense, cached, online = found["rows"]
    assert dense["training_share"] == dense["time_share"] == 1
    assert cached["student_gmacs"] == online["student_gmacs"] < dense["student_gmacs"]
    assert cached["selector_gmacs"] == 0 < online["selector_gmacs"] < dense["student_gmacs"]
    share = (3 * online["student_gmacs"] + online["selector_gmacs"]) / (3 * dense["student_gmacs"])
    assert online["training_share"] == pytest.approx(share)
    assert all(row["step_s"] > 0 for row in found["rows"])
    assert "CPU" in found["device"]
    assert measured_cost(plan, tmp_path / "cost.json", SilentReporter()) == found


def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "EPOCHS", 1)
    monkeypatch.setattr(views, "NUM_FASHION", 100)
    monkeypatch.setattr(views, "NUM_VIEWS", (1, 2))
    monkeypatch.setattr(fashion, "EPOCHS", 1)
    monkeypatch.setattr(fashion, "NUM_TRAIN", 100)
    monkeypatch.setattr(fashion, "NUM_TEST", 50)
    monkeypatch.setattr(fashion, "RATIOS", (0.5,))
    monkeypatch.setattr(fashion, "_COST_BATCH", 4)


@pytest.mark.long
def test_the_views_study_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a user runs it, but for its size."""
    _tiny(monkeypatch)
    options = ("study", "views-fashion", "--out", tmp_path / "study", "--workers", 0)
    result = run_cli(*options, "--seeds", "0", "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["results"]
    assert [row["arm"] for row in rows] == ["dense", "replay-1", "replay-2", "warp", "static", "random"]
    assert {row["num_steps"] for row in rows} == {2}
    assert {row["tested_on"] for row in rows} == {"dense", "ticket"}
    bytes_of = {row["arm"]: row["bytes_per_image"] for row in rows}
    assert bytes_of["dense"] == bytes_of["random"] == 0
    assert bytes_of["replay-2"] == pytest.approx(2 * bytes_of["replay-1"])
    again = run_cli(*options, "--seeds", "0")
    assert again.code == 0, again.err
    assert "replay-2" in again.out


@pytest.mark.long
def test_the_fashion_study_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The paper's comparison as a user runs it, but for its size, and the page that it ends with."""
    _tiny(monkeypatch)
    out = tmp_path / "study"
    result = run_cli("study", "fashion", "--out", out, "--workers", 0, "--seeds", "0,1", "--device", "cpu")
    assert result.code == 0, result.err
    document = json.loads((out / "study.json").read_text())
    arms = ["ticket-0.5", "random-0.5", "fixed-random-0.5", "inverse-0.5", "random-matched-0.5"]
    assert list(dict.fromkeys(r["arm"] for r in document["results"])) == ["dense", *arms]
    steps = {r["arm"]: r["num_steps"] for r in document["results"]}
    assert steps == {**dict.fromkeys(["dense", *arms], 2), "random-matched-0.5": 4}
    assert [d["name"] for d in document["differences"]] == [
        "(a) − (b), 0.5",
        "(a) − fixed-random, 0.5",
        "(a) − inverse, 0.5",
        "(a) − random-matched, 0.5",
        "(c) − (a), 0.5",
    ]
    assert all(d["paired"]["low"] <= d["paired"]["mean"] <= d["paired"]["high"] for d in document["differences"])
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 1  # curves; with one ratio there is nothing to draw over ratios
    assert "(a) − (b), 0.5" in page
    assert "online (upstream)" in page
    assert "(a) − (b)" in result.out


@pytest.mark.two_ranks
def test_a_study_on_two_ranks(tmp_path: Path) -> None:
    script = tmp_path / "tiny.py"
    script.write_text(
        "from dataltt.pipeline.studies import fashion\n"
        "fashion.EPOCHS, fashion.NUM_TRAIN, fashion.NUM_TEST, fashion.RATIOS = 1, 100, 50, (0.5,)\n"
        "fashion._COST_BATCH = 4\n"
        "from dataltt.pipeline.cli import main\n"
        "main()\n"
    )
    out = tmp_path / "study"
    result = run_on_two_ranks(
        tmp_path, "study", "fashion", "--out", out, "--workers", 0, "--seeds", 0, "--device", "cpu", script=script
    )
    assert result.code == 0, result.err[-2000:]
    document = json.loads((out / "study.json").read_text())
    assert {r["num_steps"] for r in document["results"]} == {1, 2}
    assert (out / "report.html").exists()


def _row_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyInputs:
    """Eight images of 28 px, one epoch of everything."""
    monkeypatch.setattr(paper_row, "EPOCHS", 1)
    monkeypatch.setattr(paper_row, "FIT_EPOCHS", 1)
    shards = make_shards(tmp_path / "shards", (8,), fashion_samples(8))
    return StudyInputs(
        out=tmp_path / "study",
        seeds=(0,),
        shards=shards,
        test_shards=shards,
        checkpoint=save_selector_weights(tmp_path / "weights.safetensors"),
        views=2,
        batch_size=4,
        workers=0,
        device="cpu",
    )


@pytest.mark.long
def test_a_row_of_the_paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its stages and arms, for a student and a selector that are small enough: fitted, selected with views, trained."""
    inputs = _row_inputs(tmp_path, monkeypatch)
    row = Row(student="vit_fashion", keep_rate=0.8, recipe={"opt": "sgd", "clip_grad": 2.0})
    study = study_of("paper_test", row, inputs, SilentReporter())
    document = run_study(replace(study, cost=None), inputs, SilentReporter())
    manifest = read_manifest(str(tmp_path / "study" / "train.zarr"))
    assert (manifest.num_views, manifest.view.kind, manifest.selector.keep_rate) == (2, "replay", 0.8)
    assert manifest.selector.weights_sha256 != weights_sha256(load_vit("vit_fashion", inputs.checkpoint))
    arms = {r["arm"]: r["num_steps"] for r in document["results"]}
    names = ("ticket", "random", "fixed-random", "inverse", "random-matched")
    assert arms == {"dense": 2, **{f"{name}-r0.8": 2 for name in names}, "random-matched-r0.8": 4}
    assert study.cost is not None
    assert study.cost.model == "vit_fashion"
    # Every arm is shown the same stored views, and trained by the row's recipe.
    for arm in arms:
        config = json.loads((tmp_path / "study" / "runs" / f"{arm}-0" / "config.json").read_text())
        assert (config["views"], config["num_views"], config["opt"], config["clip_grad"]) == ("replay", 2, "sgd", 2.0)


def test_a_row_needs_its_selector_no_more_once_it_has_selected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs = _row_inputs(tmp_path, monkeypatch)
    row = Row(student="vit_fashion", keep_rate=0.8)
    study = study_of("paper_test", row, inputs, SilentReporter())
    shutil.rmtree(inputs.out / "selector")
    assert (
        study_of("paper_test", row, replace(inputs, batch_size=2), SilentReporter()).arms[0].name == study.arms[0].name
    )
    assert not (inputs.out / "selector").exists()


@pytest.mark.parametrize("listed", [10, None])
def test_a_row_takes_its_classes_from_the_shards_or_imagenet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: int | None
) -> None:
    """Shards in the layout of timm/imagenet-1k-wds have no classes.json beside them."""
    inputs = _row_inputs(tmp_path, monkeypatch)
    if listed is None:
        (tmp_path / "shards" / "classes.json").unlink()
    study = study_of("paper_test", Row(student="vit_fashion", keep_rate=0.8), inputs, SilentReporter())
    config = json.loads((inputs.out / "selector" / "config.json").read_text())
    assert config["num_classes"] == (listed or 1000)
    assert study.cost is not None
    assert study.cost.num_classes == config["num_classes"]


def test_a_selector_that_is_not_fitted_selects_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs = _row_inputs(tmp_path, monkeypatch)
    row = Row(student="vit_fashion", keep_rate=0.8, augment="crop", fit=False)
    study_of("paper_test", row, inputs, SilentReporter())
    manifest = read_manifest(str(tmp_path / "study" / "train.zarr"))
    assert manifest.selector.weights_sha256 == weights_sha256(load_vit("vit_fashion", inputs.checkpoint))
    assert manifest.view.augment is not None
    assert manifest.view.augment["name"] == "crop"
    assert not (tmp_path / "study" / "selector").exists()


def _row_of(recipe: catalog.Recipe, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Row]:
    """What a recipe of the paper asks to be made of it."""
    found: list[tuple[str, Row]] = []
    module = inspect.getmodule(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(module, "study_of", lambda name, row, *rest: found.append((name, row)))
        recipe(StudyInputs(out=Path(), seeds=(0,)), SilentReporter())
    return found[0]


@functools.cache
def _gmacs(name: str, patch_input: PatchInput | None, num_keep: int) -> tuple[float, float]:
    """GMACs on all patches, and the share of them on K."""
    whole = create_student(name, patch_input=patch_input, num_classes=1000)
    packed = whole
    if patch_input == "small-dense":
        packed = create_student(name, patch_input=patch_input, num_keep=num_keep, num_classes=1000)
    dense = student_gmacs(whole, None)
    return dense, student_gmacs(packed, num_keep) / dense


_NUMBER = r"(\d*\.\d+|\d+)"


@pytest.mark.long
@pytest.mark.parametrize("recipe", paper.RECIPES, ids=lambda r: r.__name__)
def test_a_row_says_what_it_costs(recipe: catalog.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of its docstring are those that the counter gives for its student."""
    name, row = _row_of(recipe, monkeypatch)
    assert name == recipe.__name__
    text = " ".join((inspect.getdoc(recipe) or "").split())
    num_keep = keep_counts(196, ratio=None, keep_rate=row.keep_rate)[-1]
    dense, share = _gmacs(row.student, row.patch_input, num_keep)
    family_epochs = family_of(row.student).epochs
    epochs = round(family_epochs / row.keep_rate**3)
    matched = epochs / family_epochs * share
    assert f"{num_keep} of 196 patches" in text
    assert re.search(rf"\({dense:.2f} GMACs per image", text)
    each = re.search(rf"inverse {_NUMBER} each, random-matched {_NUMBER} \({epochs} epochs\)", text)
    assert each is not None
    assert float(each[1]) == pytest.approx(share, abs=0.005)
    assert float(each[2]) == pytest.approx(matched, abs=0.005)
    total = re.search(rf"Cost: {_NUMBER} dense trainings", text)
    assert total is not None
    assert float(total[1]) == pytest.approx(1 + 4 * share + matched, abs=0.05)
    assert f"{name} --shards" in text
    assert ("--seeds 0 --checkpoint" in text) == row.needs_checkpoint
    tickets = re.search(r"Tickets: (.*?) Cost:", text)
    assert tickets is not None
    assert ("fine-tuned" in tickets[1]) == row.fit
    family = {"deit_t": "DeiT-Tiny", "deit_s": "DeiT-Small", "deit_b": "DeiT-Base", "lvvit_s": "LV-ViT-S"}
    assert family.get(row.selector or row.student, "one of its own kind") in tickets[1]


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("LV-ViT", {"lr": 8e-4, "mixup": 0, "ema_decay": 0.99992}),
        ("Swin", {"warmup_epochs": 20, "clip_grad": 5, "ema_decay": 0}),
        (
            "ResNet-50",
            {
                "opt": "sgd",
                "lr": 0.1024,
                "min_lr": 1e-6,
                "warmup_epochs": 3,
                "weight_decay": 2e-5,
                "drop_path": 0,
                "random_erasing": 0,
                "mixup": 0,
                "cutmix": 0,
                "ema_decay": 0,
            },
        ),
    ],
)
def test_families_are_trained_by_the_recipe_that_the_docs_name(
    family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of docs/method.md, these options, and what every row of the family differs from DeiT's recipe in."""
    line = next(
        line
        for line in (Path(__file__).parents[3] / "docs" / "method.md").read_text().splitlines()
        if line.startswith(f"| {family} |")
    )
    command = line.split("`")[1].split()
    documented = {k.removeprefix("--").replace("-", "_"): v for k, v in zip(command[::2], command[1::2], strict=True)}
    assert documented.keys() == options.keys()
    assert all(v == options[k] if k == "opt" else float(v) == options[k] for k, v in documented.items())
    students = {"LV-ViT": "lvvit", "Swin": "swin", "ResNet-50": "resnet50"}
    rows = [row for name, row in (_row_of(r, monkeypatch) for r in paper.RECIPES) if students[family] in name]
    assert rows
    tickets = Tickets(label="r", train="train.zarr", test="test.zarr")
    inputs = StudyInputs(out=Path(), seeds=(0,), shards="train.tar", test_shards="test.tar")
    plain = asdict(train_config(Row(student="deit_s", keep_rate=0.9), tickets, inputs))
    for row in rows:
        found = asdict(train_config(row, tickets, inputs))
        changed = {k: v for k, v in found.items() if v != plain[k] and k not in ("model", "swin_input", "warmup_lr")}
        if family == "Swin":
            assert changed.pop("drop_path") == {"swin_t": 0.2, "swin_s": 0.3, "swin_b": 0.5}[row.student]
        assert changed == options


@pytest.mark.parametrize("recipe", paper.RECIPES, ids=lambda r: r.__name__)
def test_a_row_can_be_trained(recipe: catalog.Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options are such as training takes, and its peak rate is upstream's on eight GPUs."""
    name, row = _row_of(recipe, monkeypatch)
    inputs = StudyInputs(out=Path(), seeds=(0,), shards="train.tar", test_shards="test.tar")
    tickets = Tickets(label="r", train="train.zarr", test="test.zarr")
    arms = arms_of(row, tickets, inputs)
    assert [arm.name for arm in arms] == [
        "dense",
        *(f"{name}-r" for name in ("ticket", "random", "fixed-random", "inverse", "random-matched")),
    ]
    for arm in arms:
        check_options(arm.train)
        assert arm.train.tickets == "train.zarr"
    peak = (
        2e-3 if name.endswith("lr_1e_3") else {"lvvit": 1.6e-3, "resnet50": 0.2048}.get(row.student.split("_")[0], 1e-3)
    )
    assert scaled_lr(arms[0].train, world_size=8) == pytest.approx(peak)


def test_the_studies_are_listed() -> None:
    result = run_cli("study", "list")
    assert result.code == 0, result.err
    assert [line.split()[0] for line in result.out.splitlines()] == list(catalog.RECIPES)


@pytest.mark.parametrize("name", sorted(catalog.RECIPES))
def test_every_recipe_says_what_it_is(name: str) -> None:
    result = run_cli("study", name, "--describe")
    assert result.code == 0, result.err
    begins = [line.split(":")[0] for line in result.out.splitlines() if ":" in line]
    assert [word for word in begins if word in ("Paper", "Command", "Cost", "To expect")] == [
        "Paper",
        "Command",
        "Cost",
        "To expect",
    ]
    assert f"dataltt study {name} " in " ".join(result.out.split()) + " "


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("nonsense",), "there is no study 'nonsense'; all of them: dataltt study list"),
        (("paper_deit_s_8",), "did you mean paper_deit_s_08?"),
        (("views-photos",), "the study views-photos needs --shards, --test-shards, --checkpoint"),
        (("paper-deit-s-08", "--shards", "a.tar"), "needs --test-shards"),
        (
            ("paper_lvvit_s_085", "--shards", "a.tar", "--test-shards", "a.tar"),
            "the study paper_lvvit_s_085 needs --checkpoint; see dataltt study paper_lvvit_s_085 --describe",
        ),
        (("paper-deit-s-08", "--shards", "no.tar", "--test-shards", "no.tar"), "no.tar"),
        (("fashion", "--seeds", "one"), "--seeds 'one' should be whole numbers such as 0,1,2"),
    ],
)
def test_bad_input_is_one_sentence(options: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = run_cli("study", *options, "--out", tmp_path / "study")
    assert result.code == 1
    assert sentence in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()
