"""Weight-level lottery tickets: masks in exact numbers, arms that differ in nothing else, and interruptions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import CheckpointError, DatalttError, ModelError, OptionError, OutputExistsError
from dataltt.pipeline.demo.run import demo_recipe, pack_fashion
from dataltt.pipeline.reports.figures import lottery_figure
from dataltt.pipeline.studies.lottery import DOCUMENT_FILE, deit_config, fashion_config, run_weight_lottery
from dataltt.stages.analysis.statistics import lottery_conclusion
from dataltt.stages.models.checkpoints import latest_checkpoint, read_info
from dataltt.stages.models.registry import create_network
from dataltt.stages.runtime.randomness import isolated_rng
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.train import train
from dataltt.stages.weight_lottery.config import LotteryConfig, PruningOptions
from dataltt.stages.weight_lottery.masks import (
    apply_mask,
    full_mask,
    merge_masks,
    next_mask,
    num_remaining,
    prunable_layers,
    random_mask,
    read_mask,
    remaining_counts,
    save_mask,
)
from dataltt.stages.weight_lottery.run import run_lottery
from safetensors.torch import load_file
from torch import Tensor

from ...helpers import MODEL, fashion_samples, file_digests, make_shards, randomize, recorded, run_cli

_PER_BLOCK = {"attn.qkv": 3 * 64 * 64, "attn.proj": 64 * 64, "mlp.fc1": 4 * 64 * 64, "mlp.fc2": 4 * 64 * 64}
_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """16 training and 20 test images."""

    train: str
    test: str


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("lottery-shards")
    return Shards(
        train=make_shards(folder, (10, 6), fashion_samples(16)),
        test=make_shards(folder, (20,), fashion_samples(20, split="test"), name="test"),
    )


def _config(shards: Shards, out: Path, **changes: Any) -> LotteryConfig:
    """Two rounds of runs of two epochs of four steps."""
    base, _ = fashion_config(out, epochs=2)
    recipe = base.but(shards=shards.train, batch_size=4, lr=0.2, workers=0, device="cpu", drop_path=0.1)
    plain = LotteryConfig(
        out=out, train=recipe, test_shards=shards.test, pruning=PruningOptions(rounds=2, rate=0.5), seeds=(0,)
    )
    return _changed(plain, **changes)


def _changed(config: LotteryConfig, **changes: Any) -> LotteryConfig:
    """The lottery with other numbers of pruning, or other parts."""
    pruning = {name: changes.pop(name) for name in list(changes) if name in PruningOptions().flat()}
    return replace(config, pruning=config.pruning.but(**pruning), **changes)


@pytest.fixture(scope="module")
def done(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole lottery that rewinds to step 3, of two seeds. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("lottery") / "out"
    run_weight_lottery(_config(shards, out, rewind_step=3, seeds=(0, 1)), SilentReporter())
    return out


def _weights(out: Path, run: str) -> dict[str, Tensor]:
    return load_file(out / "seed-0" / run / "model.safetensors")


def _masked(weights: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(weights[f"{layer}.weight"], kept) for layer, kept in mask.items()]


def _layers() -> dict[str, torch.nn.Linear]:
    return prunable_layers(create_network(MODEL), MODEL)


# Masks.


def test_the_linear_layers_of_the_blocks_are_pruned_and_nothing_else() -> None:
    sizes = {name: layer.weight.numel() for name, layer in _layers().items()}
    assert sizes == {f"blocks.{b}.{n}": size for b in range(6) for n, size in _PER_BLOCK.items()}
    assert num_remaining(full_mask(_layers())) == 6 * 12 * 64 * 64


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_rounds_prune_the_smallest_of_the_remaining_weights(scope: Any) -> None:
    """Against a brute-force reference that sorts the remaining magnitudes."""
    net = create_network(MODEL)
    mask = full_mask(prunable_layers(net, MODEL))
    sizes = [kept.numel() for kept in mask.values()]
    counts = remaining_counts(sizes, rate=0.3, rounds=3, scope=scope)
    for number in (1, 2, 3):
        randomize(net, seed=number)  # as if it had been trained
        weights = net.state_dict()
        previous, mask = mask, next_mask(weights, mask, rate=0.3, scope=scope)
        assert num_remaining(mask) == counts[number]
        groups = [list(mask)] if scope == "global" else [[name] for name in mask]
        for group in groups:
            remaining = torch.cat([weights[f"{n}.weight"][previous[n]].abs() for n in group])
            num_pruned = round(0.3 * len(remaining))
            threshold = remaining.sort().values[num_pruned]
            for name in group:
                assert torch.equal(mask[name], previous[name] & (weights[f"{name}.weight"].abs() >= threshold))
    assert counts[0] == 294_912
    expected = 294_912
    if scope == "global":
        for number in (1, 2, 3):
            expected -= round(0.3 * expected)
            assert counts[number] == expected


def test_random_masks_keep_as_many_of_each_layer_and_depend_on_their_names_alone() -> None:
    net = create_network(MODEL)
    randomize(net)
    mask = next_mask(net.state_dict(), full_mask(prunable_layers(net, MODEL)), rate=0.6, scope="global")
    before = torch.get_rng_state()
    found = random_mask(mask, 0, "random mask", 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert {n: int(k.sum()) for n, k in found.items()} == {n: int(k.sum()) for n, k in mask.items()}
    assert len({int(k.sum()) / k.numel() for k in mask.values()}) > 1  # layers are pruned unequally
    again, other = random_mask(mask, 0, "random mask", 1), random_mask(mask, 0, "random mask", 2)
    assert all(torch.equal(found[n], again[n]) for n in mask)
    assert not any(torch.equal(found[n], other[n]) for n in mask)
    # Independent of the mask whose counts it has: the overlap is what chance gives.
    overlap = sum(int((found[n] & mask[n]).sum()) for n in mask)
    chance = sum(int(k.sum()) ** 2 / k.numel() for k in mask.values())
    assert overlap == pytest.approx(chance, rel=0.03)


def test_masks_are_multiplied_in_as_the_forward_pass_does_it() -> None:
    net = create_network(MODEL)
    randomize(net)
    mask = next_mask(net.state_dict(), full_mask(prunable_layers(net, MODEL)), rate=0.5, scope="global")
    names = set(net.state_dict())
    apply_mask(net, mask)
    plain = merge_masks(net.state_dict())
    assert set(plain) == names
    assert all(bool((w[~kept] == 0).all()) for w, kept in _masked(plain, mask))
    other = create_network(MODEL)
    other.load_state_dict(plain)
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net.eval()(images), other.eval()(images), rtol=0, atol=0)


def test_a_mask_file_is_of_these_layers_or_refused(tmp_path: Path) -> None:
    mask = full_mask(_layers())
    mask["blocks.0.attn.qkv"][0, 0] = False
    path = tmp_path / "mask.safetensors"
    save_mask(path, mask)
    found = read_mask(path, mask)
    assert list(found) == list(mask)
    assert all(torch.equal(found[n], mask[n]) for n in mask)
    with pytest.raises(CheckpointError, match=r"mask.safetensors is no mask of this network"):
        read_mask(path, {"blocks.0.attn.qkv": mask["blocks.0.attn.qkv"]})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"mask.safetensors cannot be read"):
        read_mask(path, mask)


# Runs.


def test_a_mask_of_all_weights_trains_to_the_dense_numbers(shards: Shards, tmp_path: Path) -> None:
    """prune's reparametrisation changes nothing by itself, so the arms differ in masks and weights alone."""
    base = _config(shards, tmp_path).train

    def masked(student: Any) -> Any:
        apply_mask(student.net, full_mask(prunable_layers(student.net, MODEL)))
        return student

    train(base.but(out=tmp_path / "dense"))
    train(base.but(out=tmp_path / "masked"), prepare=masked)
    dense, other = (latest_checkpoint(tmp_path / name) for name in ("dense", "masked"))
    assert dense is not None
    assert other is not None
    expected, found = load_file(dense / "model.safetensors"), merge_masks(load_file(other / "model.safetensors"))
    assert set(found) == set(expected)
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.long
def test_pruned_weights_are_zero_and_masks_nested(done: Path) -> None:
    everything = full_mask(_layers())
    mask_1, mask_2 = (read_mask(done / "seed-0" / f"mask-{r}.safetensors", everything) for r in (1, 2))
    assert [num_remaining(m) for m in (mask_1, mask_2)] == [147_456, 73_728]
    assert all(not bool((mask_2[n] & ~mask_1[n]).any()) for n in everything)
    for number, mask in ((1, mask_1), (2, mask_2)):
        random = random_mask(mask, 0, "random mask", number)
        for arm, kept_of in (("ticket", mask), ("fresh", mask), ("random-mask", random)):
            pairs = _masked(_weights(done, f"{arm}-{number}"), kept_of)
            assert all(bool((w[~kept] == 0).all()) for w, kept in pairs)
            assert all(bool((w[kept] != 0).all()) for w, kept in pairs)
    # Each mask is made of what the round before it trained.
    for trained, before, mask in (("dense", everything, mask_1), ("ticket-1", mask_1, mask_2)):
        expected = next_mask(_weights(done, trained), before, rate=0.5, scope="global")
        assert all(torch.equal(mask[n], expected[n]) for n in mask)


@pytest.mark.long
@pytest.mark.parametrize("rewind_step", [0, 3])
def test_each_arm_starts_from_its_weights_on_the_same_batches(
    shards: Shards, done: Path, tmp_path: Path, rewind_step: int
) -> None:
    """A reference for every arm, trained by hand."""
    out = done
    if not rewind_step:
        out = tmp_path / "out"
        run_lottery(_config(shards, out, rounds=1))
    config = _config(shards, out).train
    if rewind_step:
        dense = tmp_path / "dense"
        train(config.but(out=dense, max_steps=rewind_step))
        checkpoint = latest_checkpoint(dense)
        assert checkpoint is not None
        start = load_file(checkpoint / "model.safetensors")
        found = load_file(out / "seed-0" / "rewind.safetensors")
        assert all(torch.equal(start[n], found[n]) for n in start)
    else:
        with isolated_rng(0, "initialisation"):
            start = create_network(MODEL, num_classes=10, drop_path_rate=0.1).state_dict()
    with isolated_rng(0, "fresh weights", 1):
        fresh = create_network(MODEL, num_classes=10, drop_path_rate=0.1).state_dict()
    mask = read_mask(out / "seed-0" / "mask-1.safetensors", full_mask(_layers()))
    references = {
        "dense": None,
        "ticket-1": (start, mask),
        "fresh-1": (fresh, mask),
        "random-mask-1": (start, random_mask(mask, 0, "random mask", 1)),
    }
    for name, given in references.items():
        run = tmp_path / "references" / name

        def prepare(student: Any, given: Any = given) -> Any:
            if given is not None:
                student.net.load_state_dict(given[0])
                apply_mask(student.net, given[1])
            return student

        train(config.but(out=run), prepare=prepare)
        checkpoint = latest_checkpoint(run)
        assert checkpoint is not None
        expected = merge_masks(load_file(checkpoint / "model.safetensors"))
        info = read_info(out / "seed-0" / name / "model.safetensors")
        assert info is not None
        assert (info.step, info.control) == (_STEPS, "dense")
        assert all(torch.equal(t, expected[n]) for n, t in _weights(out, name).items()), name


@pytest.mark.long
def test_the_document_says_what_the_runs_came_to(done: Path) -> None:
    document = json.loads((done / DOCUMENT_FILE).read_text())
    assert (document["num_prunable"], document["num_steps"], document["num_images"]) == (294_912, _STEPS, 16)
    assert [(r["round"], r["num_remaining"], r["remaining"]) for r in document["rounds"]] == [
        (1, 147_456, 0.5),
        (2, 73_728, 0.25),
    ]

    def result(seed: int, run: str) -> float:
        metrics = json.loads((done / f"seed-{seed}" / run / "result.json").read_text())["metrics"]
        assert metrics["num_samples"] == 20
        top1: float = metrics["top1"]
        return top1

    for number, row in enumerate(document["rounds"], 1):
        top1 = {}
        for arm in ("ticket", "fresh", "random-mask"):
            top1[arm] = [result(seed, f"{arm}-{number}") for seed in (0, 1)]
            assert row["arms"][arm]["top1"] == {"0": top1[arm][0], "1": top1[arm][1]}
            assert row["arms"][arm]["mean"] == pytest.approx(sum(top1[arm]) / 2)
            assert row["arms"][arm]["sd"] == pytest.approx(abs(top1[arm][0] - top1[arm][1]) / 2**0.5)
        for key, other in (("ticket_minus_fresh", "fresh"), ("ticket_minus_random_mask", "random-mask")):
            first, second = (a - b for a, b in zip(top1["ticket"], top1[other], strict=True))
            half = 12.7062047 * abs(first - second) / 2  # t of one degree of freedom; sd / √2 = |difference| / 2
            mean = (first + second) / 2
            assert row[key]["mean"] == pytest.approx(mean)
            assert (row[key]["low"], row[key]["high"]) == pytest.approx((mean - half, mean + half))
    means = [row["ticket_minus_fresh"]["mean"] for row in document["rounds"]]
    assert document["all_rounds"]["ticket_minus_fresh"]["mean"] == pytest.approx(sum(means) / 2)
    assert (done / "lottery.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_a_pruned_run_is_tested_like_any_other(shards: Shards, done: Path) -> None:
    run = done / "seed-1" / "ticket-2"
    options = ("--shards", shards.test, "--test", "dense", "--workers", 0, "--device", "cpu", "--json")
    tested = run_cli("eval", "--checkpoint", run, *options)
    assert tested.code == 0, tested.err
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    assert {k: v for k, v in json.loads(tested.out).items() if k in metrics} == metrics


# Interruptions.


class _InterruptingReporter(SilentReporter):
    """Raises KeyboardInterrupt at the n-th report of progress."""

    def __init__(self, reports: int) -> None:
        self.left = reports

    def advance(self, amount: int, note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.long
def test_it_comes_to_the_same_however_often_it_is_interrupted(shards: Shards, done: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path / "out", rewind_step=3, seeds=(0, 1))
    shutil.copytree(done / "seed-1", config.out / "seed-1")
    shutil.copy(done / "lottery-config.json", config.out)
    for reports in (1, 4, 6, 9, 12, 17, 31):
        with pytest.raises(KeyboardInterrupt):
            run_weight_lottery(config, _InterruptingReporter(reports))
        assert not (config.out / DOCUMENT_FILE).exists()
    run_weight_lottery(config, SilentReporter())
    for name in (DOCUMENT_FILE, "lottery.png", "lottery-config.json"):
        assert (config.out / name).read_bytes() == (done / name).read_bytes(), name
    digests, expected = (
        {k: v for k, v in file_digests(root).items() if k.endswith(".safetensors")} for root in (config.out, done)
    )
    assert digests == expected


@pytest.mark.long
def test_what_is_lost_is_made_again_and_what_is_done_is_not(shards: Shards, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    for path in out.glob("seed-*/*/config.json"):  # the runs' own configurations name their folders
        path.write_text(path.read_text().replace(str(done), str(out)))
    shutil.rmtree(out / "seed-0" / "ticket-1")
    (out / "seed-0" / "mask-2.safetensors").unlink()
    (out / "seed-1" / "fresh-2" / "result.json").unlink()
    (out / DOCUMENT_FILE).unlink()
    untouched = [out / "seed-0" / "dense", out / "seed-1" / "ticket-2"]
    before = [(p / "result.json").stat().st_mtime_ns for p in untouched]
    run_weight_lottery(_config(shards, out, rewind_step=3, seeds=(0, 1)), SilentReporter())
    assert [(p / "result.json").stat().st_mtime_ns for p in untouched] == before
    assert (out / DOCUMENT_FILE).read_bytes() == (done / DOCUMENT_FILE).read_bytes()
    (out / "seed-0" / "rewind.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"rewind.safetensors is not there.*delete .*dense to train it again"):
        run_lottery(_config(shards, out, rewind_step=3))
    shutil.rmtree(out / "seed-0" / "dense")
    run_lottery(_config(shards, out, rewind_step=3))
    assert file_digests(out)["seed-0/rewind.safetensors"] == file_digests(done)["seed-0/rewind.safetensors"]


@pytest.mark.long
def test_rounds_and_seeds_may_be_added_but_nothing_else_changed(shards: Shards, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    config = _config(shards, out, rewind_step=3)
    whole = json.loads((out / DOCUMENT_FILE).read_text())
    less = run_weight_lottery(_changed(config, rounds=1, seeds=(1,)), SilentReporter())
    assert less is not None
    assert less["all_rounds"]["ticket_minus_fresh"]["low"] is None
    assert [row["arms"]["ticket"]["top1"] for row in less["rounds"]] == [
        {"1": whole["rounds"][0]["arms"]["ticket"]["top1"]["1"]}
    ]
    ends = run_weight_lottery(_changed(config, rounds=3, compare="ends"), SilentReporter())
    assert ends is not None
    arms = ["ticket", "fresh", "random-mask"]
    assert [list(row["arms"]) for row in ends["rounds"]] == [arms, ["ticket"], arms]
    assert [row["ticket_minus_fresh"] is None for row in ends["rounds"]] == [False, True, False]
    means = [ends["rounds"][at]["ticket_minus_fresh"]["mean"] for at in (0, 2)]
    assert ends["all_rounds"]["ticket_minus_fresh"]["mean"] == pytest.approx(sum(means) / 2)
    assert "over 2 round(s)" in lottery_conclusion(ends)
    lottery_figure(ends)
    more = run_weight_lottery(_changed(config, rounds=3), SilentReporter())
    assert more is not None
    assert [row["num_remaining"] for row in more["rounds"]] == [147_456, 73_728, 36_864]
    assert more["rounds"][1]["arms"]["fresh"]["top1"]["0"] == whole["rounds"][1]["arms"]["fresh"]["top1"]["0"]
    before = file_digests(out)
    for changed in (
        _changed(config, rate=0.4),
        _changed(config, scope="layer"),
        _changed(config, rewind_step=0),
        _changed(config, train=config.train.but(lr=0.3)),
        _changed(config, train=config.train.but(workers=1)),
    ):
        with pytest.raises(OptionError, match=r"holds another weight lottery \(\w+ was .* and is .*\); give the same"):
            run_lottery(changed)
    # Left to itself, it takes the number of workers that the order of samples began with.
    run_lottery(_changed(config, train=config.train.but(workers=None)))
    assert file_digests(out) == before


# Refusals.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0.0}, "`rate=0` should be above 0 and below 1"),
        ({"rate": 1.0}, "`rate=1` should be above 0 and below 1"),
        ({"rounds": 0}, "`rounds=0` should be at least 1"),
        ({"rewind_step": -1}, "`rewind_step=-1` should be at least 0"),
        ({"rewind_step": _STEPS}, "`rewind_step=8` should be less than the 8 steps"),
        ({"seeds": ()}, "`seeds=''` should be"),
        ({"seeds": (1, 1)}, "`seeds='1,1'` should be"),
        ({"rate": 1e-9}, "there remain 294912, and every round should prune some"),
        ({"rate": 0.99, "rounds": 4}, "there remain 0, and every round should"),
        ({"test_shards": "nowhere/*.tar"}, "nowhere"),
        ({"train": {"ema_decay": 0.9}}, "averages no weights"),
        ({"train": {"model": "resnet50"}}, "`model='resnet50'` has no blocks with linear layers"),
        ({"train": {"model": "swin_t"}}, "`model='swin_t'` has no blocks with linear layers"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    shards: Shards, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    config = _config(shards, out)
    recipe = config.train.but(**changes.get("train", {}))
    with pytest.raises(DatalttError, match=message) as caught:
        run_lottery(_changed(config, **{**changes, "train": recipe}))
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_networks_without_linear_layers_in_blocks_are_refused() -> None:
    with pytest.raises(ModelError, match="`model='a convolution'` has no blocks with linear layers"):
        prunable_layers(torch.nn.Conv2d(1, 1, 1), "a convolution")


def test_a_folder_with_something_else_in_it_is_refused(shards: Shards, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists and holds no weight lottery; choose another `out`"):
        run_weight_lottery(_config(shards, tmp_path), SilentReporter(), num_fashion=50)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


# Faces.


def test_recipes_are_the_demos_and_deits(tmp_path: Path) -> None:
    base, test_shards = fashion_config(tmp_path)
    assert test_shards == str(tmp_path / "shards" / "test-*.tar")
    train_shards = str(tmp_path / "shards" / "train-*.tar")
    assert base == demo_recipe(4).but(out=tmp_path, shards=train_shards, model="vit_fashion", control="dense")
    assert deit_config(tmp_path, "s", "deit_t") == TrainConfig.of(
        out=tmp_path, shards="s", model="deit_t", control="dense", ema_decay=0.0
    )
    assert deit_config(tmp_path, "s", "lvvit_t").student.token_labels == "image"


def _document(differences: Mapping[str, Any], num_seeds: int) -> dict[str, Any]:
    row = {"ticket_minus_fresh": {**differences, "num_seeds": num_seeds}}
    return {"num_rounds": 1, "rounds": [row], "all_rounds": row}


def test_the_conclusion_is_the_intervals() -> None:
    one = lottery_conclusion(_document({"mean": 1.5, "low": None, "high": None}, 1))
    assert one == (
        "One seed only: over 1 round(s), ticket − fresh is +1.50 points of top-1, and whether that is more than chance "
        "takes more seeds."
    )
    above = lottery_conclusion(_document({"mean": 1.5, "low": 1.0, "high": 2.0}, 3))
    assert above == (
        "The ticket beats the same mask with fresh weights: over 1 round(s), ticket − fresh is +1.50 [+1.00, +2.00] "
        "points of top-1; the 95 % interval lies above 0 (taken singly, it lies above 0 in 1 of 1 rounds)."
    )
    around = lottery_conclusion(_document({"mean": 0.5, "low": -1.0, "high": 2.0}, 3))
    assert around.startswith("The ticket is not shown to beat the same mask with fresh weights:")
    assert around.endswith("the 95 % interval includes 0 (taken singly, it lies above 0 in 0 of 1 rounds).")
    below = lottery_conclusion(_document({"mean": -1.5, "low": -2.0, "high": -1.0}, 3))
    assert below.startswith("The ticket does worse than the same mask")


@pytest.mark.long
def test_the_figure_shows_every_arm_over_remaining_weights(done: Path) -> None:
    document = json.loads((done / DOCUMENT_FILE).read_text())
    axes = lottery_figure(document).axes[0]
    assert axes.get_xscale() == "log"
    left, right = axes.get_xlim()
    assert left > 50 > 25 > right
    assert [t.get_text() for t in axes.get_xticklabels()] == ["50", "25"]
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 4
    shown = {tuple(line.get_ydata()) for line in axes.get_lines()}  # type: ignore[arg-type]
    for arm in ("ticket", "fresh", "random-mask"):
        assert tuple(row["arms"][arm]["mean"] for row in document["rounds"]) in shown
    assert (document["dense"]["mean"],) * 2 in shown
    document["seeds"] = [0]
    for row in document["rounds"]:
        for arm in row["arms"].values():
            arm["sd"] = None
    assert "one seed" in lottery_figure(document).axes[0].get_title()


@pytest.mark.long
def test_the_command_runs_on_embedded_images(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack_fashion(out / "shards", "test", 30, SilentReporter())  # what is packed is not packed again
    options = ("--out", out, "--rounds", 1, "--seeds", "0", "--epochs", 1, "--workers", 0)
    done = run_cli("weight-lottery", *options, "--images", 100, "--device", "cpu")
    assert done.code == 0, done.err
    assert "80.0" in done.out
    assert "One seed only: over 1 round(s)" in " ".join(done.out.split())
    written = json.loads((out / DOCUMENT_FILE).read_text())
    assert (written["num_images"], written["num_steps"], written["batch_size"]) == (100, 2, 50)
    again = run_cli("weight-lottery", *options, "--images", 100, "--device", "cpu", "--json")
    assert json.loads(again.out) == written
    other = run_cli("weight-lottery", *options, "--images", 60, "--device", "cpu")
    assert other.code == 1
    assert "holds 100 training images; give --images 100, or another --out" in other.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rate", "1.5"), "--rate 1.5 should be above 0 and below 1"),
        (("--seeds", "a"), "--seeds a should be whole numbers"),
        (("--shards", "a.tar"), "--shards needs --test-shards"),
        (("--shards", "a.tar", "--test-shards", "b.tar"), "and --model, e.g. deit_t"),
        (("--test-shards", "b.tar"), "--test-shards without --shards"),
        (("--shards", "a.tar", "--images", "9"), "--images is of the embedded images"),
        (("--shards", "a.tar", "--test-shards", "b.tar", "--model", "deit_x"), "neither an alias"),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = run_cli("weight-lottery", "--out", tmp_path / "out", *options)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_takes_any_shards(shards: Shards, tmp_path: Path) -> None:
    done = run_cli(
        "weight-lottery", "--out", tmp_path / "out", "--shards", shards.train, "--test-shards", shards.test,
        "--model", MODEL, "--epochs", 1, "--batch-size", 8, "--rounds", 1, "--rate", 0.9, "--scope", "layer",
        "--seeds", "3", "--workers", 0, "--device", "cpu", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert (document["scope"], document["lr"], document["num_steps"], document["seeds"]) == ("layer", 5e-4, 2, [3])
    run = recorded(tmp_path / "out" / "seed-3" / "fresh-1")
    assert (run["mixup"], run["random_erasing"], run["ema_decay"]) == (0.8, 0.25, 0.0)
