"""The paper's rows: their table, its words and costs, and a small row run from its shards to its arms."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import read_manifest
from dataltt.pipeline.studies import paper_study
from dataltt.pipeline.studies.arms import Tickets
from dataltt.pipeline.studies.engine import StudyInputs, run_study
from dataltt.pipeline.studies.paper_describe import command_of, cost_of, describe_row, num_keep
from dataltt.pipeline.studies.paper_rows import PAPER_ROWS, STUDENTS, PaperRow, controls_of
from dataltt.pipeline.studies.paper_study import arms_of, study_of, train_config
from dataltt.stages.models.cost import student_gmacs
from dataltt.stages.models.families import create_student
from dataltt.stages.models.weights import load_vit, weights_sha256
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.config import check_options
from dataltt.stages.training.optimization import scaled_lr

from ...helpers import fashion_samples, make_shards, recorded, run_cli, save_selector_weights

_BY_NAME = {row.name: row for row in PAPER_ROWS}


def _row(**changes: Any) -> PaperRow:
    return PaperRow(**{"name": "paper_test", "student": "vit_fashion", "keep_rate": 0.8, **changes})


def _row_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyInputs:
    """Eight images of 28 px, one epoch of everything."""
    monkeypatch.setattr(paper_study, "EPOCHS", 1)
    monkeypatch.setattr(paper_study, "FIT_EPOCHS", 1)
    shards = make_shards(tmp_path / "shards", (8,), fashion_samples(8))
    return StudyInputs.of(
        out=tmp_path / "study",
        seeds=(0,),
        shards=shards,
        test_shards=shards,
        checkpoint=save_selector_weights(tmp_path / "weights.safetensors"),
        num_views=2,
        batch_size=4,
        workers=0,
        device="cpu",
    )


@pytest.mark.long
def test_a_row_of_the_paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its stages and arms, for a student and a selector that are small enough: fitted, selected with views, trained."""
    inputs = _row_inputs(tmp_path, monkeypatch)
    row = _row(recipe={"opt": "sgd", "clip_grad": 2.0})
    study = study_of(row, inputs, SilentReporter())
    document = run_study(replace(study, cost=None), inputs, SilentReporter())
    manifest = read_manifest(str(tmp_path / "study" / "train.zarr"))
    assert (manifest.num_views, manifest.view.kind, manifest.selector.keep_rate) == (2, "replay", 0.8)
    assert manifest.selector.weights_sha256 != weights_sha256(load_vit("vit_fashion", inputs.checkpoint))
    arms = {r["arm"]: r["num_steps"] for r in document["results"]}
    names = ("ticket", "random", "fixed-random", "inverse", "random-matched", "center", "resize")
    assert arms == {"dense": 2, **{f"{name}-r0.8": 2 for name in names}, "random-matched-r0.8": 4}
    assert study.cost is not None
    assert study.cost.model == "vit_fashion"
    # Every arm is shown the same stored views, and trained by the row's recipe.
    for arm in arms:
        config = recorded(tmp_path / "study" / "runs" / f"{arm}-0")
        assert (config["view_mode"], config["num_views"], config["opt"], config["clip_grad"]) == (
            "replay",
            2,
            "sgd",
            2.0,
        )


def test_a_row_needs_its_selector_no_more_once_it_has_selected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs = _row_inputs(tmp_path, monkeypatch)
    row = _row()
    study = study_of(row, inputs, SilentReporter())
    shutil.rmtree(inputs.out / "selector")
    assert study_of(row, inputs.but(batch_size=2), SilentReporter()).arms[0].name == study.arms[0].name
    assert not (inputs.out / "selector").exists()


@pytest.mark.parametrize("listed", [10, None])
def test_a_row_takes_its_classes_from_the_shards_or_imagenet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: int | None
) -> None:
    """Shards in the layout of timm/imagenet-1k-wds have no classes.json beside them."""
    inputs = _row_inputs(tmp_path, monkeypatch)
    if listed is None:
        (tmp_path / "shards" / "classes.json").unlink()
    study = study_of(_row(), inputs, SilentReporter())
    config = recorded(inputs.out / "selector")
    assert config["num_classes"] == (listed or 1000)
    assert study.cost is not None
    assert study.cost.num_classes == config["num_classes"]


def test_a_selector_that_is_not_fitted_selects_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inputs = _row_inputs(tmp_path, monkeypatch)
    row = _row(augment="crop", fit=False)
    study_of(row, inputs, SilentReporter())
    manifest = read_manifest(str(tmp_path / "study" / "train.zarr"))
    assert manifest.selector.weights_sha256 == weights_sha256(load_vit("vit_fashion", inputs.checkpoint))
    assert manifest.view.augment is not None
    assert manifest.view.augment["name"] == "crop"
    assert not (tmp_path / "study" / "selector").exists()


@pytest.mark.parametrize("model", STUDENTS)
def test_gmacs_of_the_table_are_those_of_the_counter(model: str) -> None:
    packed = "swin" in model
    whole = create_student(model, patch_input="zero" if packed else None, num_classes=1000)
    found = {196: student_gmacs(whole, None)}
    for kept in STUDENTS[model].gmacs.keys() - found.keys():
        student = whole
        if packed:
            student = create_student(model, patch_input="small-dense", num_keep=kept, num_classes=1000)
        found[kept] = student_gmacs(student, kept)
    assert found == pytest.approx(STUDENTS[model].gmacs, abs=5.1e-5)


def test_the_table_holds_each_row_once() -> None:
    assert len(PAPER_ROWS) == len(_BY_NAME) == 28
    runs = [(r.student, r.keep_rate, r.selector_name, r.patch_input, r.augment, str(r.recipe)) for r in PAPER_ROWS]
    assert len(set(runs)) == 28
    rates = [0.95, 0.9, 0.85, 0.8, 0.75]
    main = {s: [r.keep_rate for r in PAPER_ROWS if r.student == s and r.like is None] for s in STUDENTS}
    assert main == {
        "deit_t": rates,
        "deit_s": rates,
        "deit_b": [0.95, 0.9],
        "deit_b_576": [0.95],
        "lvvit_s": [0.85],
        "lvvit_t": [0.85],
        "swin_t": [0.9, 0.8, 0.9],
        "swin_s": [0.9],
        "swin_b": [0.9],
        "resnet50": [0.9],
    }
    for row in PAPER_ROWS:
        assert f"{row.keep_rate:g}".replace(".", "") in row.name or row.name.endswith("small_dense")
        assert (row.scripts is None) == (row.name in {*_WITHOUT_SCRIPTS, "paper_resnet50_09"})
        if row.scripts is not None and row.student != "deit_b_576":
            assert f"-keeprate{row.keep_rate:g}-" in row.scripts


_WITHOUT_SCRIPTS = ("paper_lvvit_t_085", "paper_swin_s_small_dense", "paper_swin_b_small_dense")


def test_selectors_without_published_weights_need_a_checkpoint() -> None:
    assert {r.name for r in PAPER_ROWS if r.checkpoint} == {
        "paper_deit_b_576_095",
        "paper_lvvit_s_085",
        "paper_deit_s_085_tiny_selector",
        "paper_deit_s_09_tiny_selector",
        "paper_deit_b_09_tiny_selector",
    }
    assert all(bool(r.checkpoint_note) == bool(r.checkpoint) for r in PAPER_ROWS)
    assert {r.selector for r in PAPER_ROWS if not r.fit} == {"deit_t"}


def test_an_ablation_changes_one_thing() -> None:
    plain = PaperRow(name="", student="", keep_rate=0.0)
    ablations = [r for r in PAPER_ROWS if r.like is not None]
    assert len(ablations) == 7
    for row in ablations:
        assert row.like is not None
        like = _BY_NAME[row.like]
        assert (row.student, row.keep_rate, like.recipe, like.selector) == (like.student, like.keep_rate, {}, None)
        if row.name == f"{row.like}_lr_1e_3":
            assert (row.recipe, row.selector, row.fit) == ({"lr": 1e-3}, None, True)
        else:
            assert row.name == f"{row.like}_tiny_selector"
            assert (row.recipe, row.selector, row.fit) == (plain.recipe, "deit_t", False)
            assert (row.checkpoint is None) == (row.after is None)


@pytest.mark.parametrize("row", [r for r in PAPER_ROWS if r.after], ids=lambda r: r.name)
def test_a_row_that_comes_after_another_selects_by_its_student(row: PaperRow) -> None:
    """The checkpoint is where the earlier study puts that student."""
    assert row.after is not None
    before = _BY_NAME[row.after]
    assert (before.student, before.keep_rate) == (row.selector, row.keep_rate)
    tickets = Tickets(label=f"r{before.keep_rate:g}", train="train.zarr", test="test.zarr")
    inputs = StudyInputs.of(out=Path(), seeds=(0,), shards="train.tar", test_shards="test.tar")
    ticket = next(a for a in arms_of(before, tickets, inputs) if a.train.control == "ticket")
    assert row.checkpoint == f"studies/{row.after}/runs/{ticket.name}-0"


@pytest.mark.parametrize(
    ("name", "num", "cost"),
    [
        ("paper_deit_s_08", 101, (4.5989, 0.49836, 586, 0.97346, 4.96361)),
        ("paper_lvvit_t_085", 121, (2.8680, 0.73923, 488, 1.20248, 5.89860)),
        ("paper_swin_t_zero_08", 101, (4.4906, 1.0, 586, 1.95333, 7.95333)),
        ("paper_swin_b_small_dense", 144, (15.4309, 0.73087, 412, 1.00372, 6.38891)),
        ("paper_resnet50_09", 144, (4.0892, 1.0, 123, 1.36667, 8.10136)),
    ],
)
def test_cost_of_a_row(name: str, num: int, cost: tuple[float, ...]) -> None:
    row = _BY_NAME[name]
    found = cost_of(row)
    assert num_keep(row) == num
    assert (found.dense_gmacs, found.arm, found.matched_epochs, found.matched, found.total) == pytest.approx(
        cost, abs=1e-5
    )


@pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda r: r.name)
def test_a_row_is_described_by_the_command_that_it_names(row: PaperRow) -> None:
    command = command_of(row)
    before, _, after = command.partition(" dataltt ")
    assert before == "torchrun --nproc-per-node 8 --no-python"
    result = run_cli(*shlex.split(after), "--describe")
    assert result.code == 0, result.err
    assert result.out == f"{describe_row(row)}\n"
    text = " ".join(result.out.split())
    assert f"Command: {command} " in text
    for fact in (row.change, row.checkpoint_note, row.scripts, row.scripts_note, row.cost_note, row.like, row.after):
        assert fact is None or fact in text
    assert max(len(line) for line in result.out.splitlines()) <= 120


_TEXTS = {
    "paper_lvvit_s_085": """\
LV-ViT-S at keep rate .85 (121 of 196 patches), token labels by NFNet-F6.

Paper: (a), (b) and (c) on ImageNet, LV-ViT-S at keep rate .85; upstream: scripts/run-lvvit-small-keeprate0.85-*.sh.
Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_lvvit_s_085 --shards 'train-*.tar'
--test-shards 'val-*.tar' --precision bf16 --seeds 0 --checkpoint lvvit_s-26M-224-83.3.pth.tar
The checkpoint is TokenLabeling's release 1.0. As a selector, LV-ViT-S drops at blocks 4, 8 and 12.
Where NFNet-F6 cannot be downloaded, the study stops before it labels; then
dataltt label --tickets studies/paper_lvvit_s_085/train.zarr --model dm_nfnet_f6 --checkpoint FILE
and the same command again.
Tickets: by a fine-tuned LV-ViT-S.
Cost: 5.4 dense trainings (6.55 GMACs per image): dense 1, ticket, random, fixed-random, inverse and center .66
each, random-matched 1.08 (488 epochs). Labelling 16 views by NFNet-F6 comes to another .6, once.
To expect: (a) ≈ (c) > (b). The published dense LV-ViT-S has 83.3 % top-1.
""",
    "paper_deit_b_576_095": """\
The 576-wide DeiT-Base at keep rate .95 (170 of 196 patches).

Paper: (a), (b) and (c) on ImageNet, the 576-wide DeiT-Base at keep rate .95; upstream:
scripts/run-deit-base-dim576-*.sh.
Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_b_576_095 --shards 'train-*.tar'
--test-shards 'val-*.tar' --precision bf16 --seeds 0 --checkpoint runs/dense
There are no published weights to start the selector from: train it first, with dataltt train --control dense
--model deit_b_576 --shards … --out runs/dense; that costs another 1.
Tickets: by a fine-tuned 576-wide DeiT-Base.
Cost: 7.2 dense trainings (10.04 GMACs per image): dense 1, ticket, random, fixed-random, inverse, center and resize
.86 each, random-matched 1.01 (350 epochs).
To expect: (a) ≈ (c) > (b). There is no published dense figure.
""",
    "paper_swin_s_small_dense": """\
Swin-S on 144 of 196 patches packed into 192 px (window 6).

Paper: (a), (b) and (c) for Swin, small dense input, at a larger size; upstream has scripts of Swin-T alone.
Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_swin_s_small_dense --shards 'train-*.tar'
--test-shards 'val-*.tar' --precision bf16 --seeds 0
Tickets: by a fine-tuned DeiT-Small at keep rate .9.
Cost: 6.4 dense trainings (8.74 GMACs per image): dense 1, ticket, random, fixed-random, inverse, center and resize
.73 each, random-matched 1.00 (412 epochs).
To expect: (a) ≈ (c) > (b). The published dense Swin-S has 83.0 % top-1.
""",
    "paper_resnet50_09": """\
ResNet-50, all but 144 of 196 patches set to zero.

Paper: upstream's variant for CNNs, scripts-cnn/run-resnet50-block-data-keeprate0.9-*.sh.
Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_resnet50_09 --shards 'train-*.tar'
--test-shards 'val-*.tar' --precision bf16 --seeds 0
Tickets: by a fine-tuned DeiT-Small at keep rate .9.
Cost: 8.1 dense trainings (4.09 GMACs per image, 90 epochs), for zeros save nothing: dense, ticket, random,
fixed-random, inverse and center 1 each, resize .73, random-matched 1.37 (123 epochs). Fitting the selector and
selecting come to another .38.
To expect: unknown: (a) − (b) says whether tickets matter to a CNN. Torchvision's dense ResNet-50 has 76.1 % top-1.
""",
    "paper_deit_s_085_tiny_selector": """\
DeiT-Small at keep rate .85 (121 of 196 patches), selected by a DeiT-Tiny.

Paper: its ablation of the selector's size, a DeiT-Tiny selector for DeiT-Small at keep rate .85; upstream:
scripts/run-deit-small-keeprate0.85-LTH-tiny-teacher.sh.
Command: torchrun --nproc-per-node 8 --no-python dataltt study paper_deit_s_085_tiny_selector --shards 'train-*.tar'
--test-shards 'val-*.tar' --precision bf16 --seeds 0 --checkpoint studies/paper_deit_t_085/runs/ticket-r0.85-0
The checkpoint is the student that paper_deit_t_085 trained on tickets.
Tickets: by a DeiT-Tiny that was itself trained on tickets.
Cost: 5.6 dense trainings (4.60 GMACs per image): dense 1, ticket, random, fixed-random, inverse, center and resize
.60 each, random-matched .98 (488 epochs). paper_deit_t_085 comes before it.
To expect: (a) close to that of paper_deit_s_085, (c) the same.
""",
}


@pytest.mark.parametrize("name", _TEXTS)
def test_a_row_in_words(name: str) -> None:
    own, common, rest = describe_row(_BY_NAME[name]).partition(
        "\nThe paper's rows on ImageNet: for whoever has the data"
    )
    assert own == _TEXTS[name]
    assert common
    assert rest.endswith("fresh crops instead of 16 stored views.")


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
def test_families_are_trained_by_the_recipe_that_the_docs_name(family: str, options: dict[str, Any]) -> None:
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
    rows = [row for row in PAPER_ROWS if row.student.startswith(students[family])]
    assert rows
    tickets = Tickets(label="r", train="train.zarr", test="test.zarr")
    inputs = StudyInputs.of(out=Path(), seeds=(0,), shards="train.tar", test_shards="test.tar")
    plain = train_config(_row(student="deit_s"), tickets, inputs).flat()
    for row in rows:
        found = train_config(row, tickets, inputs).flat()
        changed = {k: v for k, v in found.items() if v != plain[k] and k not in ("model", "swin_input", "warmup_lr")}
        assert (plain["repeats"], changed.pop("repeats")) == (3, 1)  # DeiT's alone
        if family == "Swin":
            assert changed.pop("drop_path") == {"swin_t": 0.2, "swin_s": 0.3, "swin_b": 0.5}[row.student]
        assert changed == options


@pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda r: r.name)
def test_a_row_can_be_trained(row: PaperRow) -> None:
    """Its options are such as training takes, and its peak rate is upstream's on eight GPUs."""
    inputs = StudyInputs.of(out=Path(), seeds=(0,), shards="train.tar", test_shards="test.tar")
    tickets = Tickets(label="r", train="train.zarr", test="test.zarr")
    arms = arms_of(row, tickets, inputs)
    assert [arm.name for arm in arms] == [
        "dense",
        *(f"{name}-r" for name in ("ticket", "random", "fixed-random", "inverse", "random-matched", "center")),
        *(["resize-r"] if "resize" in controls_of(row) else []),
    ]
    for arm in arms:
        check_options(arm.train)
        assert arm.train.tickets == "train.zarr"
    family = row.student.split("_")[0]
    peak = 2e-3 if row.name.endswith("lr_1e_3") else {"lvvit": 1.6e-3, "resnet50": 0.2048}.get(family, 1e-3)
    assert scaled_lr(arms[0].train, world_size=8) == pytest.approx(peak)
