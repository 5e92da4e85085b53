"""Every family of students from the command line: it trains, resumes to the same weights, and is tested."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from dataltt.stages.models.cascade import default_drop_blocks
from dataltt.stages.models.checkpoints import find_weights, read_info
from dataltt.stages.models.registry import create_network, create_vit
from dataltt.stages.models.weights import read_weights
from safetensors.torch import save_file

from ...helpers import CliResult, fashion_samples, make_shards, make_store, randomize, recorded, run_cli

NUM_IMAGES = 8
COMMON = ("--workers", 0, "--device", "cpu")
RUN: dict[str, object] = {"--epochs": 1, "--batch-size": 2, "--warmup-epochs": 0, "--lr": 0.01, "--mixup": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Eight images, and stores of 100 and 98 of 14×14 patches of each."""

    shards: str
    square: str
    half: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("students")
    shards = make_shards(folder / "shards", (NUM_IMAGES,), fashion_samples(NUM_IMAGES))
    vit = create_vit("vit_micro", num_classes=10)
    randomize(vit)
    weights = folder / "selector.safetensors"
    save_file(vit.state_dict(), weights)
    stores = {}
    for ratio in (0.51, 0.5):
        stores[ratio] = str(folder / f"{ratio}.zarr")
        result = run_cli(
            "select",
            *("--model", "vit_micro", "--checkpoint", weights, "--shards", shards, "--out", stores[ratio]),
            *("--ratio", ratio, "--ranks", *COMMON),
        )
        assert result.code == 0, result.err
    return Made(shards=shards, square=stores[0.51], half=stores[0.5])


def _train(made: Made, out: Path, *options: object, store: str | None = None) -> CliResult:
    rest = [word for name, value in RUN.items() if name not in options for word in (name, value)]
    return run_cli("train", "--tickets", store or made.half, "--out", out, *COMMON, *rest, *options)


def _eval(made: Made, run: Path, test: str, store: str) -> dict[str, float]:
    result = run_cli(
        "eval", "--checkpoint", run, "--shards", made.shards, "--tickets", store, "--test", test, *COMMON, "--json"
    )
    assert result.code == 0, result.err
    found: dict[str, float] = json.loads(result.out)
    assert found["num_samples"] == NUM_IMAGES
    return found


STUDENTS = {
    "lvvit": ("half", ("--model", "lvvit_t", "--token-labels", "image", "--cutmix", 1)),
    "swin-small-dense": ("square", ("--model", "swin_t", "--swin-input", "small-dense")),
    "resnet": ("half", ("--model", "resnet18")),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["lvvit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet", "swin-small-dense"))]
)
def test_it_trains_resumes_and_is_tested(made: Made, name: str, tmp_path: Path) -> None:
    of, options = STUDENTS[name]
    store = getattr(made, of)
    result = _train(made, tmp_path / "whole", *options, store=store)
    assert result.code == 0, result.err
    for more in (("--max-steps", 1), ("--resume",)):
        result = _train(made, tmp_path / "part", *options, *more, store=store)
        assert result.code == 0, result.err
    files = [find_weights(tmp_path / run) for run in ("whole", "part")]
    whole, part = (read_weights(file) for file in files)
    assert all(torch.equal(whole[key], part[key]) for key in whole)
    info = read_info(files[0])
    assert info is not None
    assert (info.step, info.num_classes) == (4, 10)
    tested = _eval(made, tmp_path / "whole", "ticket", store)
    assert 0 <= tested["top1"] <= tested["top5"] <= 100
    assert _eval(made, tmp_path / "whole", "random", store)["loss"] != tested["loss"]


@pytest.mark.slow
@pytest.mark.long
def test_a_zeroed_swin_is_tested_on_all_patches_too(made: Made, tmp_path: Path) -> None:
    result = _train(made, tmp_path / "run", "--model", "swin_t", "--max-steps", 1, "--control", "random")
    assert result.code == 0, result.err
    assert recorded(tmp_path / "run")["swin_input"] == "zero"
    assert "98 of 196 patches (the others are set to zero, which saves no compute)" in result.err + result.out
    losses = {on: _eval(made, tmp_path / "run", on, made.half)["loss"] for on in ("dense", "ticket", "random")}
    assert len(set(losses.values())) == 3


@pytest.mark.long
def test_a_packed_swin_is_not_tested_on_all_patches(made: Made, tmp_path: Path) -> None:
    options = ("--model", "swin_t", "--swin-input", "small-dense", "--max-steps", 1)
    result = _train(made, tmp_path / "run", *options, store=made.square)
    assert result.code == 0, result.err
    refused = {
        "--test dense shows 196 patches": ("--test", "dense"),
        "--test random shows 98 patches": ("--test", "random", "--tickets", made.half),
    }
    for sentence, on in refused.items():
        result = run_cli("eval", "--checkpoint", tmp_path / "run", "--shards", made.shards, *on, *COMMON)
        assert result.code == 1
        built_for = "and this student (--swin-input small-dense) is built for images packed from 100; "
        assert f"{sentence}, {built_for}" in result.err
    assert f"{made.half} keeps 98: select these shards with the ratio of the training shards" in result.err
    result = run_cli(
        "eval", "--checkpoint", tmp_path / "run", "--shards", made.shards, "--test", "own", "--tickets", made.square
    )
    assert result.code == 1
    assert "--test own: swin_tiny_patch4_window7_224 has no CLS token whose attention could choose" in result.err


def test_own_patches_of_a_model_without_cls_are_refused_at_once(made: Made, tmp_path: Path) -> None:
    options = ("--val-shards", made.shards, "--val-tickets", made.half, "--test", "own")
    result = _train(made, tmp_path / "run", "--model", "resnet18", *options)
    assert result.code == 1
    assert "--test own: resnet18 has no CLS token" in result.err
    assert not (tmp_path / "run").exists()


def test_own_patches_are_those_of_the_students_attention(made: Made, tmp_path: Path) -> None:
    """The loss of `eval --test own` is that of the tickets which the student, as a selector, writes into a store."""
    result = _train(made, tmp_path / "run", "--model", "vit_micro")
    assert result.code == 0, result.err
    weights = find_weights(tmp_path / "run")
    result = run_cli(
        "select",
        *("--model", "vit_micro", "--checkpoint", weights, "--shards", made.shards, "--ratio", 0.5),
        *("--out", tmp_path / "own.zarr", *COMMON),
    )
    assert result.code == 0, result.err
    own = _eval(made, tmp_path / "run", "own", made.half)
    assert own["loss"] == pytest.approx(_eval(made, tmp_path / "run", "ticket", str(tmp_path / "own.zarr"))["loss"])
    assert own["loss"] != pytest.approx(_eval(made, tmp_path / "run", "ticket", made.half)["loss"], abs=1e-6)


@pytest.mark.long
def test_lvvit_learns_the_token_labels_of_the_store(made: Made, tmp_path: Path) -> None:
    """Labels change the loss, of dense students too, and must be of as many classes."""
    store = tmp_path / "labelled.zarr"
    shutil.copytree(made.half, store)
    for classes in (10, 7):
        net = create_network("resnet18", num_classes=classes)
        save_file(net.state_dict(), tmp_path / f"labeller-{classes}.safetensors")
    label = ("label", "--tickets", store, "--shards", made.shards, "--model", "resnet18", *COMMON)
    result = run_cli(*label, "--checkpoint", tmp_path / "labeller-10.safetensors")
    assert result.code == 0, result.err
    options = ("--model", "lvvit_t", "--cutmix", 1, "--log-steps", 1, "--ema-decay", 0)
    losses = {}
    for run, more in {"image": ("--token-labels", "image"), "store": (), "dense": ("--control", "dense")}.items():
        result = _train(made, tmp_path / run, *options, *more, "--max-steps", 1, store=str(store))
        assert result.code == 0, result.err
        losses[run] = json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert len(set(losses.values())) == 3

    result = run_cli(*label, "--checkpoint", tmp_path / "labeller-7.safetensors", "--overwrite")
    assert result.code == 0, result.err
    assert "note: resnet18 has 7 classes, and classes.json beside the shards lists 10" in result.out + result.err
    result = _train(made, tmp_path / "refused", *options, store=str(store))
    assert result.code == 1
    assert "has token labels of 7 classes (resnet18), and the images have 10" in result.err
    # --num-classes does not make the labels' classes those of the images.
    result = _train(made, tmp_path / "refused", *options, "--num-classes", 7, store=str(store))
    assert result.code == 1
    assert "has token labels of 7 classes (resnet18), and the images have 10" in result.err


def test_lvvit_selects(made: Made, tmp_path: Path) -> None:
    """Without drop blocks given, those of 16 blocks are 4, 8, 12 (12 blocks: 3, 6, 9)."""
    vit = create_vit("lvvit_t", num_classes=10)
    randomize(vit)
    save_file(vit.state_dict(), tmp_path / "lvvit.safetensors")
    result = run_cli(
        "select",
        *("--model", "lvvit_t", "--checkpoint", tmp_path / "lvvit.safetensors", "--shards", made.shards),
        *("--ratio", 0.5, "--out", tmp_path / "store.zarr", *COMMON, "--json"),
    )
    assert result.code == 0, result.err
    manifest = json.loads(result.out)
    assert (manifest["selector"]["model"], manifest["num_keep"]) == ("lvvit_t", 98)
    assert manifest["selector"]["drop_blocks"] == [3, 6, 9]
    assert default_drop_blocks(len(create_vit("lvvit_s").blocks)) == (4, 8, 12)


def test_matched_tokens_lengthen_training(made: Made, tmp_path: Path) -> None:
    options = ("--model", "vit_micro", "--control", "random", "--match-tokens", "--epochs", 3)
    result = _train(made, tmp_path / "run", *options)
    assert result.code == 0, result.err
    config = recorded(tmp_path / "run")
    assert config["epochs"] == 6
    assert "3 epochs become 6, to see as many tokens as on all patches" in result.out + result.err
    assert f"step {6 * NUM_IMAGES // 2}, epoch 6" in result.out


def test_training_can_start_from_weights(made: Made, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert _train(made, first, "--model", "vit_micro").code == 0
    result = _train(made, tmp_path / "second", "--model", "vit_micro", "--init", first, "--lr", 0, "--min-lr", 0)
    assert result.code == 0, result.err
    assert "initial weights" in result.err + result.out
    before, after = (read_weights(find_weights(run)) for run in (first, tmp_path / "second"))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_a_run_is_resumed_by_the_command_that_began_it(made: Made, tmp_path: Path) -> None:
    options = ("--shards", made.shards, "--model", "vit_micro", "--out", tmp_path / "run", *COMMON, "--epochs", 1)
    of_run = ("--batch-size", 2, "--max-steps", 1)
    vit = create_vit("vit_micro", num_classes=10)
    save_file(vit.state_dict(), tmp_path / "weights.safetensors")
    result = run_cli(
        "fit-selector", "--checkpoint", tmp_path / "weights.safetensors", "--ratio", 0.5, *options, *of_run
    )
    assert result.code == 0, result.err
    assert "drops patches to 98 of 196" in result.out + result.err
    select = ("select", "--model", "vit_micro", "--checkpoint", tmp_path / "run", "--shards", made.shards)
    noted = run_cli(*select, "--ratio", 0.7, "--out", tmp_path / "other.zarr", *COMMON)
    assert "was fitted with --ratio 0.5" in noted.out + noted.err
    result = run_cli("train", "--control", "dense", "--resume", *options, *of_run)
    assert result.code == 1
    assert "is the record of dataltt fit-selector, not of train" in result.err


REFUSED = {
    "no square": (
        ("--model", "swin_t", "--swin-input", "small-dense"),
        "98 is no square; select 81 (--ratio 0.41) or 100 (--ratio 0.51)",
    ),
    "no family": (("--model", "convnext_tiny"), "--model convnext_tiny: tickets reach ViT, LV-ViT, Swin, ResNet"),
    "input of another family": (
        ("--model", "vit_micro", "--swin-input", "zero"),
        "--swin-input zero: vit_micro computes on kept patches alone; it is for Swin, so leave it out",
    ),
    "no token labels": (("--model", "lvvit_t"), "has no token labels; write them with: dataltt label"),
    "labels for a model without head": (
        ("--model", "vit_micro", "--token-labels", "image"),
        "--token-labels: vit_micro has no head that would learn them; leave it out",
    ),
    "tokens that dense training sees anyway": (
        ("--model", "vit_micro", "--control", "dense", "--match-tokens"),
        "--match-tokens: dense training sees all tokens already; leave it out",
    ),
    "another grid": (("--model", "vit_fashion"), "holds tickets for 14×14 patches of 16 px (224 px), and vit_fashion"),
    "nothing to start from": (("--model", "vit_micro", "--init", "nowhere"), "there are no weights at nowhere"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_bad_input_is_one_sentence(made: Made, name: str, tmp_path: Path) -> None:
    options, sentence = REFUSED[name]
    result = _train(made, tmp_path / "run", *options)
    assert result.code == 1
    assert sentence in result.err
    assert not (tmp_path / "run").exists()


def test_swin_of_another_grid_is_refused(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(4,))
    result = run_cli("train", "--tickets", small.store, "--model", "swin_t", "--out", tmp_path / "run", *COMMON)
    assert result.code == 1
    assert "holds tickets for 7×7 patches of 4 px (28 px), and swin_tiny_patch4_window7_224 sees 14×14" in result.err


def test_matching_tokens_needs_a_store(made: Made, tmp_path: Path) -> None:
    result = run_cli(
        "train",
        *("--shards", made.shards, "--control", "dense", "--model", "vit_micro", "--match-tokens"),
        *("--out", tmp_path / "run", *COMMON),
    )
    assert result.code == 1
    assert "--match-tokens needs --tickets" in result.err
