"""Fitting a selector: the whole pass with token dropping against a plain one, its schedule, and real short fits."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import CheckpointError, ModelError, OptionError, TicketStore
from dataltt.stages.data.images import center_crop, decode_image, normalize, to_tensor
from dataltt.stages.data.shards import RawSample
from dataltt.stages.models.cascade import keep_counts
from dataltt.stages.models.checkpoints import CheckpointInfo, latest_checkpoint, read_info, save_weights
from dataltt.stages.models.dropping_vit import DroppingViT, shrunk_share
from dataltt.stages.models.lvvit import LVViT
from dataltt.stages.models.registry import canonical_name, center_view_of, create_vit
from dataltt.stages.models.selector import TicketSelector
from dataltt.stages.models.weights import weights_sha256
from dataltt.stages.options import CascadeOptions
from dataltt.stages.selection.config import SelectConfig
from dataltt.stages.selection.select import select
from dataltt.stages.training.fit_selector import SELECTOR_FILE, FitSelectorConfig, fit_selector
from dataltt.stages.training.train import TrainResult
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ...helpers import (
    MODEL,
    NUM_PATCHES,
    CliResult,
    fashion_samples,
    file_digests,
    make_shards,
    randomize,
    recorded,
    run_cli,
    run_on_two_ranks,
    save_selector_weights,
)
from ...reference_cascade import reference_order_and_logits

pytestmark = pytest.mark.usefixtures("own_folder")

_BLOCKS = (1, 3, 4)
_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 3},
    "layer scale": {"init_values": 0.1},
    "qk-norm": {"qk_norm": True},
    "no embedding for prefix tokens": {"no_embed_class": True, "reg_tokens": 2},
    "no bias": {"qkv_bias": False, "proj_bias": False},
    "norm within": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "average pooling": {"global_pool": "avg"},
}


def _dropping(vit: Any, name: str = "the ViT", *, shrink_epochs: float = 0, **cascade: Any) -> DroppingViT:
    return DroppingViT(vit, name, cascade=CascadeOptions.of(**cascade), shrink_epochs=shrink_epochs)


def _vit(variant: str = "plain", **changes: Any) -> VisionTransformer:
    """96 px, 36 patches, 6 blocks, random weights."""
    options: dict[str, Any] = {"img_size": 96, "patch_size": 16, "embed_dim": 32, "depth": 6, "num_heads": 2}
    vit = VisionTransformer(**{**options, "num_classes": 5, **_VARIANTS[variant], **changes}).eval()
    randomize(vit)
    return vit


def _lvvit() -> LVViT:
    """Like LV-ViT-S in small: 16 blocks, of which 4, 8 and 12 drop, residuals halved."""
    vit = LVViT(img_size=64, embed_dim=32, depth=16, num_heads=2, num_classes=5, skip_lam=2.0).eval()
    randomize(vit)
    return vit


def _noise(count: int, image_px: int = 96, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, image_px, image_px, generator=torch.Generator().manual_seed(0))


def _gradients(module: nn.Module, logits: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    logits.square().sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def _plain_logits(vit: VisionTransformer, images: Tensor, blocks: Sequence[int], counts: Sequence[int]) -> Tensor:
    """The pass image by image, whole attention matrices, all rows computed and then dropped."""
    num_prefix, rows = vit.num_prefix_tokens, []
    for image in images:
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(image[None])))
        for index, block in enumerate(vit.blocks):
            assert isinstance(block, nn.Module)
            attn: Any = block.attn
            normed = block.norm1(x)  # type: ignore[operator]
            qkv = attn.qkv(normed)[0].reshape(x.shape[1], 3, attn.num_heads, attn.head_dim).permute(1, 2, 0, 3)
            query, key, value = attn.q_norm(qkv[0]), attn.k_norm(qkv[1]), qkv[2]
            matrix = (query @ key.mT / math.sqrt(attn.head_dim)).softmax(-1)  # [H, N, N]
            out = (matrix @ value).transpose(0, 1).reshape(1, x.shape[1], -1)
            x = x + block.ls1(attn.proj(attn.norm(out)))  # type: ignore[operator]
            if index in blocks:
                scores = matrix[:, 0, num_prefix:].mean(0).tolist()
                best = sorted(range(len(scores)), key=lambda i: -scores[i])[: counts[list(blocks).index(index)]]
                x = x[:, [*range(num_prefix), *(num_prefix + i for i in best)]]
            x = x + block.ls2(block.mlp(block.norm2(x)))  # type: ignore[operator]
        rows.append(vit.forward_head(vit.norm(x))[0])
    return torch.stack(rows)


# The pass


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_keeping_everything_is_timms_forward(variant: str, training: bool) -> None:
    vit, images = _vit(variant), _noise(3)
    student = _dropping(vit, drop_blocks=_BLOCKS, keep_rate=1.0).train(training)
    torch.testing.assert_close(student(images), vit(images), rtol=0, atol=1e-5)


def test_keeping_everything_is_lvvits_forward() -> None:
    vit, images = _lvvit(), _noise(2, 64)
    student = _dropping(vit, drop_blocks=(4, 8, 12), keep_rate=1.0).eval()
    torch.testing.assert_close(student(images), vit(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep_rate", [0.9, 0.7, 0.4])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_logits_and_tickets_are_the_references(variant: str, keep_rate: float) -> None:
    vit, images = _vit(variant), _noise(4)
    counts = keep_counts(36, CascadeOptions(keep_rate=keep_rate))
    order, logits = reference_order_and_logits(vit, images, _BLOCKS, counts)
    student = _dropping(vit, drop_blocks=_BLOCKS, keep_rate=keep_rate).eval()
    torch.testing.assert_close(student(images), logits, rtol=0, atol=2e-5)
    tokens, kept = student.features(images)
    assert tokens.shape == (4, vit.num_prefix_tokens + counts[-1], 32)
    assert torch.equal(kept, order[:, : counts[-1]])


@pytest.mark.parametrize("variant", _VARIANTS)
def test_gradients_are_those_of_the_plain_pass(variant: str) -> None:
    vit, images = _vit(variant), _noise(3)
    student = _dropping(vit, drop_blocks=_BLOCKS, ratio=0.3)
    student.train()
    expected = _gradients(vit, _plain_logits(vit, images, _BLOCKS, student.keep_counts))
    found = _gradients(vit, student(images))
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)
    for name in ("patch_embed.proj.weight", "pos_embed", "blocks.1.attn.qkv.weight", "head.weight"):
        assert float(found[name].abs().max()) > 0, name


def test_gradients_of_lvvit_reach_both_heads() -> None:
    vit, images = _lvvit(), _noise(2, 64)
    student = _dropping(vit, drop_blocks=(4, 8, 12), ratio=0.5).eval()  # the stem's batch norm as in testing
    expected = _gradients(vit, _plain_logits(vit, images, (4, 8, 12), student.keep_counts))
    found = _gradients(vit, student(images))
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)
    assert float(found["aux_head.weight"].abs().max()) > 0


def _tickets(student: DroppingViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """Its own and the selector's, sorted."""
    kept = student.features(images)[1]
    order = TicketSelector(student.net, student.drop_blocks, student.keep_counts)(images)
    return kept.sort(dim=1).values, order[:, : student.keep_counts[-1]].sort(dim=1).values


@pytest.mark.parametrize("share", [{"ratio": 0.5}, {"keep_rate": 0.7}, {"ratio": 0.02}])
def test_the_kept_patches_are_the_selectors_ticket(share: dict[str, float]) -> None:
    vit = create_vit(MODEL)
    randomize(vit)
    student = _dropping(vit, MODEL, drop_blocks=(1, 3, 5), **share).eval()
    ours, theirs = _tickets(student, _noise(16, 28, 1))
    assert torch.equal(ours, theirs)
    student = _dropping(_lvvit(), drop_blocks=(4, 8, 12), **share).eval()
    ours, theirs = _tickets(student, _noise(8, 64))
    assert torch.equal(ours, theirs)


def test_dropout_and_stochastic_depth_act_in_training_alone() -> None:
    images = _noise(8)
    for changes in ({"attn_drop_rate": 0.5}, {"proj_drop_rate": 0.5}, {"drop_path_rate": 0.5}):
        vit = _vit(depth=2, **changes)
        student = _dropping(vit, drop_blocks=(1,), keep_rate=0.5)
        student.train()
        vit.blocks[0].eval()  # so that the block that drops is the only one to draw
        torch.manual_seed(0)
        assert not torch.equal(student(images), student(images)), changes
        student.eval()
        assert torch.equal(student(images), student(images)), changes


def test_it_chooses_its_patches_itself() -> None:
    student = _dropping(_vit(), drop_blocks=_BLOCKS, ratio=0.5)
    with pytest.raises(ModelError, match="chooses its patches itself"):
        student(_noise(1), torch.arange(4)[None])


# The schedule


def test_the_share_falls_on_a_cosine() -> None:
    assert shrunk_share(0.5, 0, 10) == 1
    assert shrunk_share(0.5, 2.5, 10) == pytest.approx(0.5 + 0.25 * (1 + math.sqrt(0.5)))
    assert shrunk_share(0.5, 5, 10) == pytest.approx(0.75)
    assert shrunk_share(0.5, 7.5, 10) == pytest.approx(0.5 + 0.25 * (1 - math.sqrt(0.5)))
    assert shrunk_share(0.5, 10, 10) == 0.5
    assert shrunk_share(0.5, 11, 10) == 0.5
    assert shrunk_share(0.7, 0, 0) == 0.7
    assert shrunk_share(None, 3, 10) is None


@pytest.mark.parametrize("target", [0.1, 0.3, 0.7, 1 / 3, 1.0])
def test_the_share_never_rises_nor_leaves_its_bounds(target: float) -> None:
    shares = [shrunk_share(target, epoch / 64, 3) for epoch in range(200)]
    assert all(share is not None and target - 1e-12 <= share <= 1 for share in shares)
    assert shares == sorted(shares, key=lambda share: -(share or 0))


@pytest.mark.parametrize("dial", ["ratio", "keep_rate"])
def test_counts_follow_the_schedule_in_training_alone(dial: str) -> None:
    share: dict[str, Any] = {dial: 0.5}
    student = _dropping(_vit(), drop_blocks=_BLOCKS, shrink_epochs=4, **share)
    expected = {
        0: (36, 36, 36),
        2: keep_counts(36, CascadeOptions.of(**{dial: 0.75})),
        4: keep_counts(36, CascadeOptions.of(**{dial: 0.5})),
        9: keep_counts(36, CascadeOptions.of(**{dial: 0.5})),
    }
    assert student.keep_counts == expected[4]
    images = _noise(1)
    for epochs in (0, 2, 4, 9, 2):  # a resumed run may begin anywhere
        student.begin_step(epochs)
        student.train()
        assert student.features(images)[1].shape[1] == expected[epochs][-1]
        student.eval()
        assert student.features(images)[1].shape[1] == expected[4][-1]


def test_without_a_schedule_the_target_counts_from_the_start() -> None:
    student = _dropping(_vit(), drop_blocks=_BLOCKS, keep_rate=0.7).train()
    assert student.counts_after(0) == student.keep_counts == (26, 19, 14)
    assert student.features(_noise(1))[1].shape[1] == 14


@pytest.mark.parametrize("blocks", [(3, 6), (-1, 3), (3, 1), (3, 3), ()])
def test_drop_blocks_that_are_not_there(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="drop blocks"):
        _dropping(_vit(), drop_blocks=blocks, ratio=0.5)


# Fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Shards of 36 and 20 images, and weights to start from."""

    shards: str
    val_shards: str
    weights: Path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("given")
    return Given(
        shards=make_shards(folder, (12, 12, 12), fashion_samples(36)),
        val_shards=make_shards(folder, (11, 9), fashion_samples(20, split="test"), name="val"),
        weights=save_selector_weights(folder / "dense.safetensors"),
    )


def _config(given: Given, out: Path, **changes: Any) -> FitSelectorConfig:
    """Two epochs of six steps, with everything that is drawn at random and a keep rate that falls."""
    defaults: dict[str, Any] = {
        "model": MODEL,
        "checkpoint": given.weights,
        "shards": given.shards,
        "val_shards": given.val_shards,
        "keep_rate": 0.7,
        "shrink_epochs": 1.5,
        "epochs": 2,
        "batch_size": 6,
        "lr": 0.05,
        "workers": 0,
        "device": "cpu",
        "log_steps": 1,
    }
    return FitSelectorConfig.of(out=out, **{**defaults, **changes})


def _fit(given: Given, out: Path, **changes: Any) -> TrainResult:
    return fit_selector(_config(given, out, **changes))


def _weights(run: Path) -> dict[str, Tensor]:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return load_file(checkpoint / "model.safetensors")


def _check_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, given: Given) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = _fit(given, out)
    assert (result.step, result.epoch, result.protocol) == (12, 2, "dense")
    return out


def test_a_run_says_what_it_fits(whole: Path) -> None:
    assert json.loads((whole / SELECTOR_FILE).read_text()) == {
        "model": canonical_name(MODEL),
        "drop_blocks": [1, 3, 5],
        "ratio": None,
        "keep_rate": 0.7,
        "keep_counts": [35, 25, 18],
        "shrink_epochs": 1.5,
    }
    info = read_info(whole / "best.safetensors")
    assert info is not None
    assert (info.model, info.control, info.protocol) == (MODEL, "dense", "dense")


def test_defaults_are_the_papers(given: Given, tmp_path: Path) -> None:
    where: dict[str, Any] = {"batch_size": 36, "workers": 0, "device": "cpu", "max_steps": 1}
    out = tmp_path / "run"
    fit_selector(
        FitSelectorConfig.of(model=MODEL, shards=given.shards, out=out, checkpoint=given.weights, ratio=0.5, **where)
    )
    config = recorded(out)
    expected = {"epochs": 30, "lr": 2e-5, "min_lr": 2e-6, "weight_decay": 1e-6, "warmup_epochs": 0}
    expected |= {"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "drop_path": 0.0, "random_erasing": 0.25}
    assert {name: config[name] for name in expected} == expected
    assert (config["view_mode"], config["augment"], config["control"]) == ("warp", "deit", "dense")


def test_the_learning_rate_starts_at_its_height_and_falls_to_its_end(given: Given, tmp_path: Path) -> None:
    _fit(given, tmp_path / "run", epochs=5, val_shards=None, lr=0.5, min_lr=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines]
    assert rates[0] == pytest.approx(0.5 * 6 / 512)
    assert rates == sorted(rates, reverse=True)
    assert 1e-4 <= rates[-1] < 2e-4


def test_the_first_step_is_that_of_the_dropping_vit(given: Given, tmp_path: Path) -> None:
    """The loss that a run writes down is that of the plain pass, with the share kept that was asked for."""
    plain = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "drop_path": 0.0, "random_erasing": 0.0, "hflip": 0.0}
    options = {**plain, "view_mode": "static", "auto_augment": "none", "batch_size": 36, "val_shards": None}
    losses = []
    for name, changes in (("dropping", {"ratio": 0.1}), ("dense", {"ratio": 1.0})):
        _fit(given, tmp_path / name, max_steps=1, shrink_epochs=0, keep_rate=None, **options, **changes)
        losses += _losses(tmp_path / name)
    vit = create_vit(MODEL).eval()
    vit.load_state_dict(load_file(given.weights))
    samples = fashion_samples(36)
    images, labels = _center_images(vit), torch.tensor([s.label for s in samples])
    counts = [keep_counts(NUM_PATCHES, CascadeOptions(ratio=ratio)) for ratio in (0.1, 1.0)]
    with torch.no_grad():
        logits = [_plain_logits(vit, images, (1, 3, 5), count) for count in counts]
    expected = [float(nn.functional.cross_entropy(each, labels)) for each in logits]
    assert losses == pytest.approx(expected, rel=1e-4)
    assert abs(losses[0] - losses[1]) > 1e-3


def _center_images(vit: VisionTransformer) -> Tensor:
    """The training images as the centre view shows them, normalised."""
    view, found = center_view_of(vit), []
    for sample in fashion_samples(36):
        raw = RawSample(shard="train", key=sample.key, image=sample.image, label=sample.label or 0)
        found.append(to_tensor(center_crop(decode_image(raw, "L", "pillow", ""), view, 28)))
    return normalize(torch.stack(found), view)


@pytest.mark.parametrize("stops", [(4,), (1, 6, 9)])
def test_a_resumed_fit_is_the_uninterrupted_one(
    given: Given, whole: Path, tmp_path: Path, stops: Sequence[int]
) -> None:
    out = tmp_path / "run"
    for i, stop in enumerate(stops):
        assert _fit(given, out, max_steps=stop, resume=i > 0).step == stop
    assert _fit(given, out, resume=True).step == 12
    _check_equal(_weights(out), _weights(whole))
    _check_equal(load_file(out / "best.safetensors"), load_file(whole / "best.safetensors"))
    assert (out / SELECTOR_FILE).read_text() == (whole / SELECTOR_FILE).read_text()


def test_a_fit_cut_off_before_its_first_checkpoint_resumes_from_the_start(
    given: Given, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    _fit(given, out, max_steps=2)
    shutil.rmtree(out / "checkpoints")
    (out / SELECTOR_FILE).unlink()
    _fit(given, out, resume=True)
    _check_equal(_weights(out), _weights(whole))
    assert (out / SELECTOR_FILE).read_text() == (whole / SELECTOR_FILE).read_text()


def _losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_schedule_and_the_share_matter(given: Given, whole: Path, tmp_path: Path) -> None:
    for changes in ({"shrink_epochs": 0}, {"keep_rate": 0.5}, {"drop_blocks": (0, 1, 2)}):
        out = tmp_path / "-".join(changes)
        _fit(given, out, max_steps=5, val_shards=None, **changes)
        assert _losses(out) != _losses(whole)[:5]


@pytest.mark.slow
@pytest.mark.two_ranks
def test_two_ranks_fit_as_one(tmp_path: Path) -> None:
    """As many samples as a global batch, so that one step sees what the two half steps see."""
    shards = make_shards(tmp_path / "shards", (7, 1, 4), fashion_samples(12))
    given = Given(shards=shards, val_shards=shards, weights=save_selector_weights(tmp_path / "dense.safetensors"))
    options = {"epochs": 4, "drop_path": 0.0, "lr": 0.5, "mixup": 0.0, "cutmix": 0.0, "shrink_epochs": 2.0}
    _fit(given, tmp_path / "one", batch_size=12, val_shards=None, **options)
    out = tmp_path / "two"
    result = run_on_two_ranks(
        tmp_path,
        *("fit-selector", "--model", MODEL, "--checkpoint", given.weights, "--shards", shards, "--out", out),
        *("--keep-rate", 0.7, "--batch-size", 6, "--workers", 0, "--device", "cpu", "--json"),
        *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["step"] == 4
    assert (out / SELECTOR_FILE).read_text() == (tmp_path / "one" / SELECTOR_FILE).read_text()
    ours, theirs, start = _weights(out), _weights(tmp_path / "one"), load_file(given.weights)
    for name, tensor in theirs.items():
        if name.endswith("attn.qkv.bias"):
            continue  # softmax does not see the keys' bias: its gradient is rounding noise, which Adam scales up
        # Rounding, which Adam scales up.
        assert float((ours[name] - tensor).norm()) < 5e-3 * float((tensor - start[name]).norm()), name


# From the command line to tickets


def _fit_cli(given: Given, out: Path, *options: object, model: str = MODEL, keep: bool = True) -> CliResult:
    return run_cli(
        *("fit-selector", "--model", model, "--checkpoint", given.weights, "--shards", given.shards, "--out", out),
        *("--device", "cpu", "--workers", 0, *(("--keep-rate", 0.7) if keep else ()), *options),
    )


def _select(run: Path, given: Given, out: Path, **changes: Any) -> TicketStore:
    options: dict[str, Any] = {"keep_rate": 0.7, "model": MODEL, "shards": given.shards, **changes}
    manifest = select(SelectConfig.of(checkpoint=run, out=out, workers=0, device="cpu", **options))
    assert manifest is not None
    return TicketStore.open(str(out))


def test_a_fit_from_the_command_line_selects_tickets(given: Given, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fitted = _fit_cli(given, out, "--epochs", 1, "--batch-size", 6, "--lr", 0.05, "--drop-blocks", "1,2,4")
    assert fitted.code == 0, fitted.err
    assert "keeps 35, 25, 18 of 49 patches at blocks 1, 2, 4" in fitted.err
    assert "initial weights" in fitted.err
    _, _, command = fitted.out.strip().partition("; next: dataltt ")
    assert command == (
        f"select --model {MODEL} --checkpoint {out} --keep-rate 0.7 --drop-blocks 1,2,4 --shards '{given.shards}'"
    )
    store = tmp_path / "store.zarr"
    words = [word.strip("'") for word in command.split(" ")]
    selected = run_cli(*words, "--out", store, "--device", "cpu", "--workers", 0)
    assert selected.code == 0, selected.err
    opened = TicketStore.open(str(store))
    assert (opened.manifest.num_keep, opened.manifest.num_images) == (18, 36)
    vit = create_vit(MODEL)
    vit.load_state_dict(_weights(out))
    assert opened.manifest.selector.weights_sha256 == weights_sha256(vit)
    assert opened.manifest.selector.weights_sha256 != _dense_sha256(given)


def _dense_sha256(given: Given) -> str:
    vit = create_vit(MODEL)
    vit.load_state_dict(load_file(given.weights))
    return weights_sha256(vit)


def test_select_takes_a_runs_best_weights_else_its_newest(given: Given, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    digests = []
    for name, file in (("best", run / "best.safetensors"), ("newest", None)):
        vit = create_vit(MODEL)
        vit.load_state_dict(_weights(run) if file is None else load_file(file))
        store = _select(run, given, tmp_path / f"{name}.zarr")
        assert store.manifest.selector.weights_sha256 == weights_sha256(vit)
        digests.append(store.manifest.selector.weights_sha256)
        if file is not None:
            # Told apart whichever epoch was the best.
            other = {key: value + 1 for key, value in load_file(file).items()}
            info = read_info(file)
            assert info is not None
            save_weights(file, other, info)
            changed = _select(run, given, tmp_path / "changed.zarr").manifest.selector.weights_sha256
            assert changed not in digests
            file.unlink()


def test_select_refuses_a_run_of_another_model(given: Given, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.safetensors holds weights of vit_fashion, not of deit_t"):
        _select(whole, given, tmp_path / "store.zarr", model="deit_t")
    # Of the same shapes, but shown images normalised in another way.
    info = read_info(whole / "best.safetensors")
    assert isinstance(info, CheckpointInfo)
    other = tmp_path / "other.safetensors"
    save_weights(other, load_file(whole / "best.safetensors"), replace(info, model="vit_other"))
    with pytest.raises(CheckpointError, match=rf"holds weights of vit_other, not of {MODEL}; give `model='vit_other'"):
        _select(other, given, tmp_path / "store.zarr")
    with pytest.raises(CheckpointError, match="there are no weights at"):
        _select(tmp_path, given, tmp_path / "store.zarr")


# Weights to start from


def test_a_head_for_another_number_of_classes_starts_afresh(given: Given, tmp_path: Path) -> None:
    vit = create_vit(MODEL, num_classes=7)
    randomize(vit)
    save_file(vit.state_dict(), tmp_path / "seven.safetensors")
    result = _fit_cli(
        replace(given, weights=tmp_path / "seven.safetensors"), tmp_path / "run", "--max-steps", 1, "--batch-size", 6
    )
    assert result.code == 0, result.err
    assert "its head starts afresh for 10 classes" in result.err
    assert len(_weights(tmp_path / "run")["head.weight"]) == 10


def test_a_run_can_be_fitted_further(given: Given, whole: Path, tmp_path: Path) -> None:
    result = _fit(given, tmp_path / "run", checkpoint=whole, epochs=1, shrink_epochs=0)
    assert result.step == 6


def test_lvvit_can_be_fitted(given: Given, tmp_path: Path) -> None:
    """Its token labels are not needed: both heads learn through the logits that they add up to."""
    samples = fashion_samples(4)
    shards = make_shards(tmp_path / "shards", (4,), samples)
    vit = create_vit("lvvit_t", num_classes=10)
    save_file(vit.state_dict(), tmp_path / "lvvit.safetensors")
    config = _config(given, tmp_path / "run", model="lvvit_t", checkpoint=tmp_path / "lvvit.safetensors")
    result = fit_selector(config.but(shards=shards, val_shards=None, batch_size=2, max_steps=1))
    assert result.step == 1
    fitted = json.loads((tmp_path / "run" / SELECTOR_FILE).read_text())
    assert (fitted["model"], fitted["drop_blocks"], fitted["keep_counts"]) == ("lvvit_t", [3, 6, 9], [138, 97, 68])
    before, after = vit.state_dict(), _weights(tmp_path / "run")
    for name in ("aux_head.weight", "head.weight", "patch_embed.conv1.weight", "blocks.11.attn.qkv.weight"):
        assert not torch.equal(before[name], after[name]), name


# Refusals


def _check_sentence(result: CliResult, *parts: str) -> None:
    assert result.code == 1, result
    assert result.out == ""
    assert "Traceback" not in result.err
    said = [line for line in result.err.splitlines() if line.startswith("dataltt: ")]
    assert len(said) == 1, result.err
    for part in parts:
        assert part in said[0]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ((), ("exactly one of --ratio", "--keep-rate")),
        (("--ratio", 0.5, "--keep-rate", 0.7), ("exactly one of --ratio", "--keep-rate")),
        (("--ratio", 1.5), ("--ratio 1.5", "(0, 1]")),
        (("--ratio", 0.5, "--drop-blocks", "1,3,6"), ("drop blocks 1,3,6", "0 to 5")),
        (("--ratio", 0.5, "--drop-blocks", "3,1"), ("drop blocks", "increasing")),
        (("--ratio", 0.5, "--drop-blocks", "a,b"), ("--drop-blocks a,b",)),
        (("--ratio", 0.5, "--shrink-epochs", -1), ("--shrink-epochs -1", "at least 0")),
        (("--ratio", 0.5, "--shrink-epochs", 3, "--epochs", 2), ("--shrink-epochs 3", "2 epochs")),
        (("--ratio", 0.5, "--shrink-epochs", "nan"), ("--shrink-epochs nan",)),
        (("--ratio", 0.5, "--lr", -1), ("--lr -1",)),
        (("--ratio", 0.5, "--view-mode", "replay"), ("--view-mode replay",)),
        (("--ratio", 0.5, "--batch-size", 6, "--resume"), ("there is no run in",)),
    ],
)
def test_options_that_cannot_be_meant(
    given: Given, tmp_path: Path, options: Sequence[object], parts: Sequence[str]
) -> None:
    _check_sentence(_fit_cli(given, tmp_path / "run", *options, keep=False), *parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "part"),
    [("resnet50", "not a plain ViT"), ("swin_t", "not a plain ViT"), ("vit_nothing", "neither an alias")],
)
def test_models_that_cannot_select(given: Given, tmp_path: Path, model: str, part: str) -> None:
    _check_sentence(_fit_cli(given, tmp_path / "run", model=model), model, part)


def test_weights_of_another_model(given: Given, tmp_path: Path) -> None:
    result = _fit_cli(given, tmp_path / "run", model="deit_t")
    _check_sentence(result, str(given.weights), "does not hold weights of deit_t")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there(given: Given, tmp_path: Path) -> None:
    call = ("fit-selector", "--shards", given.shards, "--ratio", 0.5, "--out", tmp_path / "run", "--device", "cpu")
    _check_sentence(run_cli(*call, "--model", MODEL), "no pretrained weights", "--checkpoint")
    _check_sentence(run_cli(*call, "--model", MODEL, "--checkpoint", tmp_path / "gone.pth"), "gone.pth")
    _check_sentence(run_cli("fit-selector", "--model", MODEL, "--ratio", 0.5), "which shards?")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep_rate": 0.8}, "keep_rate was 0.7 and is 0.8"),
        ({"keep_rate": None, "ratio": 0.5}, "ratio was None and is 0.5"),
        ({"shrink_epochs": 0}, "shrink_epochs was 1.5 and is 0"),
        ({"drop_blocks": (1, 2, 3)}, r"drop_blocks was \[1, 3, 5\] and is \[1, 2, 3\]"),
    ],
)
def test_resuming_another_selector(given: Given, whole: Path, changes: dict[str, Any], said: str) -> None:
    before = file_digests(whole)
    with pytest.raises(OptionError, match=rf".* fits another selector \(.*{said}"):
        _fit(given, whole, resume=True, **changes)
    assert file_digests(whole) == before


def test_resuming_with_another_recipe(given: Given, whole: Path) -> None:
    with pytest.raises(OptionError, match=r".* is another run \(.*weight_decay was"):
        _fit(given, whole, resume=True, weight_decay=0.5)


def test_resuming_what_fits_no_selector(given: Given, whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / SELECTOR_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=SELECTOR_FILE):
        _fit(given, run, resume=True)
    (run / SELECTOR_FILE).unlink()
    with pytest.raises(OptionError, match="fits no selector"):
        _fit(given, run, resume=True)
