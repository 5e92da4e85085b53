"""Labelling: a classifier's label maps of the very views that a store's tickets are of, or one clear sentence."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from dataltt.artifacts_schema import (
    DatalttError,
    LabelMaps,
    Manifest,
    ModelError,
    OptionError,
    TicketStore,
    read_manifest,
)
from dataltt.artifacts_schema.local_notes import write_local_notes
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing.label_parts import label_parts_dir
from dataltt.stages.data.drawing import CenterViews, PolicyViews
from dataltt.stages.data.images import decode_bytes, to_pillow, to_tensor
from dataltt.stages.data.policies import POLICIES
from dataltt.stages.models.dense_labels import DenseLabeller, resized
from dataltt.stages.models.lvvit import LVViT
from dataltt.stages.models.registry import create_network, create_vit
from dataltt.stages.models.weights import weights_sha256
from dataltt.stages.selection import label as label_module
from dataltt.stages.selection.config import LabelConfig
from dataltt.stages.selection.label import label
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...helpers import (
    GRID,
    MODEL,
    NUM_PATCHES,
    Sample,
    SmallStore,
    encode,
    fashion_samples,
    file_digests,
    make_shards,
    make_store,
    randomize,
    run_cli,
    run_on_two_ranks,
    save_selector_weights,
)
from ...schema_helpers import edit_manifest

# --- the network ---


def _net(name: str, **kwargs: Any) -> nn.Module:
    net: nn.Module = timm.create_model(name, num_classes=7, **kwargs)
    randomize(net)
    return net.eval()


def _images(size: int = 32, count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


_POOLED = [
    ("resnet18", {}, 64, (2, 2)),
    ("test_efficientnet", {}, 64, (2, 2)),
    ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2, "embed_dim": 16, "depths": (1, 1),
                                      "num_heads": (2, 2)}, 32, (4, 4)),
    ("vit_tiny_patch16_224", {"img_size": 48, "embed_dim": 32, "depth": 1, "num_heads": 2, "global_pool": "avg",
                              "fc_norm": False}, 48, (3, 3)),
    ("vit_medium_patch16_reg4_gap_256", {"img_size": 48, "embed_dim": 32, "depth": 1, "num_heads": 2,
                                         "fc_norm": False}, 48, (3, 3)),
    ("mixer_s32_224", {"img_size": 96}, 96, (3, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "size", "grid"), _POOLED, ids=[p[0] for p in _POOLED])
def test_the_mean_over_positions_is_the_networks_own_output(
    name: str, kwargs: dict[str, Any], size: int, grid: tuple[int, int]
) -> None:
    """Of networks with a linear head on the mean: the head on each position alone gives terms of one sum."""
    net, images = _net(name, **kwargs), _images(size)
    with torch.no_grad():
        logits = DenseLabeller(net, name)(images)
        own = net(images)
    assert logits.shape == (2, 7, *grid)
    assert logits.flatten(2).std(dim=2).min() > 1e-3  # positions differ
    torch.testing.assert_close(logits.mean(dim=(2, 3)), own, rtol=1e-4, atol=1e-4)


def test_of_a_cls_head_each_patch_token_takes_the_cls_tokens_place() -> None:
    net: Any = _net("deit_tiny_patch16_224", img_size=48, embed_dim=32, depth=2, num_heads=2)
    images = _images(48)
    with torch.no_grad():
        tokens = net.forward_features(images)[:, 1:]
        expected = net.head(tokens)
        found = DenseLabeller(net, "vit")(images)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)


def test_of_two_heads_each_patch_token_takes_both_tokens_places() -> None:
    net: Any = _net("deit_tiny_distilled_patch16_224", img_size=48, embed_dim=32, depth=2, num_heads=2)
    images = _images(48)
    with torch.no_grad():
        tokens = net.forward_features(images)[:, 2:]
        expected = (net.head(tokens) + net.head_dist(tokens)) / 2
        found = DenseLabeller(net, "vit")(images)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)


def test_of_an_lvvit_the_head_on_patch_tokens_labels() -> None:
    net = LVViT(img_size=64, embed_dim=24, depth=2, num_heads=2, num_classes=7).eval()
    randomize(net)
    images = _images(64)
    with torch.no_grad():
        expected = net.aux_head(net.forward_features(images)[:, 1:])
        found = DenseLabeller(net, "lvvit")(images)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)


def test_rows_and_columns_of_the_map_are_those_of_the_image() -> None:
    """A bright spot shows where it is: the map is not transposed."""
    net, images = _net("resnet18"), torch.zeros(1, 3, 96, 160)
    images[:, :, :32, 128:] = 5
    with torch.no_grad():
        labeller = DenseLabeller(net, "resnet18")
        change = (labeller(images) - labeller(torch.zeros(1, 3, 96, 160))).abs().sum(dim=1)[0]
    assert change.shape == (3, 5)
    assert int(change.argmax()) in (3, 4, 8, 9)


def _bilinear(maps: npt.NDArray[np.float32], grid: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Maps [C, h, w] enlarged, pixel centres at (i + 1/2) / n, edges repeated: one value after the other."""
    _, height, width = maps.shape
    result = np.empty((len(maps), *grid))
    for i, j in itertools.product(range(grid[0]), range(grid[1])):
        y = min(max((i + 0.5) * height / grid[0] - 0.5, 0), height - 1)
        x = min(max((j + 0.5) * width / grid[1] - 0.5, 0), width - 1)
        y0, x0 = math.floor(y), math.floor(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        top = maps[:, y0, x0] * (1 - x + x0) + maps[:, y0, x1] * (x - x0)
        bottom = maps[:, y1, x0] * (1 - x + x0) + maps[:, y1, x1] * (x - x0)
        result[:, i, j] = top * (1 - y + y0) + bottom * (y - y0)
    return result


def _top5(logits: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Logits [classes, ...] to the five likeliest classes and their probabilities, [..., 5]."""
    exp = np.exp(logits - logits.max(axis=0))
    probabilities = np.moveaxis(exp / exp.sum(axis=0), 0, -1)
    order = np.argsort(-probabilities, axis=-1)[..., :5]
    return order, np.take_along_axis(probabilities, order, axis=-1)


@pytest.mark.parametrize("positions_at_a_time", [1 << 26, 1])
def test_labels_are_the_five_likeliest_of_interpolated_logits(
    positions_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataltt.stages.models.dense_labels._LOGITS", positions_at_a_time)
    labeller = DenseLabeller(_net("test_resnet"), "test_resnet")
    images = _images(160, count=3)
    ids, scores = labeller.label(images, (6, 9))
    with torch.no_grad():
        logits = labeller(images).numpy()
    assert logits.shape == (3, 7, 5, 5)
    for image in range(3):
        expected_ids, expected = _top5(_bilinear(logits[image], (6, 9)))
        assert np.array_equal(ids[image].numpy(), expected_ids.reshape(-1, 5))
        np.testing.assert_allclose(scores[image].numpy(), expected.reshape(-1, 5), atol=1e-5)


def test_images_of_another_size_are_resized_to_the_networks_own() -> None:
    labeller = DenseLabeller(_net("test_resnet"), "test_resnet")
    images = _images(40)
    found = labeller.label(images, (5, 5))
    enlarged = torch.from_numpy(np.stack([_bilinear(image.numpy(), (160, 160)) for image in images])).float()
    expected = labeller.label(enlarged, (5, 5))
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-4)
    assert resized(images, (40, 40)) is images


@pytest.mark.parametrize("num_classes", [0, 4, 65_537])
def test_numbers_of_classes_that_do_not_fit_are_refused(num_classes: int) -> None:
    net = create_vit(MODEL, num_classes=num_classes)
    with pytest.raises(ModelError, match=f"vit_fashion has {num_classes} classes"):
        DenseLabeller(net, MODEL)


def test_networks_without_a_map_are_refused() -> None:
    class Flat(nn.Module):
        num_classes = 7

        def forward_features(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))

        def forward_head(self, features: Tensor) -> Tensor:
            return features

    with pytest.raises(ModelError, match="flat has no feature map"):
        DenseLabeller(Flat(), "flat")(_images())
    with pytest.raises(ModelError, match="plain has no features apart from its head"):
        plain = nn.Linear(3, 7)
        plain.num_classes = 7  # type: ignore[assignment]
        DenseLabeller(plain, "plain")


# --- the stage ---


def _config(small: SmallStore, **changes: Any) -> LabelConfig:
    """A quick labelling of a small store by its own selector."""
    defaults: dict[str, Any] = {"model": MODEL, "checkpoint": small.weights, "batch_size": 5, "workers": 0}
    return LabelConfig.of(tickets=small.store, device="cpu", **{**defaults, **changes})


def _views(small: SmallStore, sample: Sample) -> list[Image.Image]:
    """The views of an image, drawn as stage one draws them."""
    m = small.manifest
    image = decode_bytes(sample.image, "L", m.view.decoder_name)
    if m.view.kind == "center":
        return [to_pillow(CenterViews(m.view, 28).draw(image, n).image) for n in range(m.num_views)]
    assert m.view.augment is not None
    drawn = PolicyViews(POLICIES[m.view.augment["name"]], m.view, 28)
    return [
        to_pillow(drawn.draw_number(image, m.view.augment["seed"], sample.key, n).image) for n in range(m.num_views)
    ]


def _expected(small: SmallStore, weights: Path, samples: Sequence[Sample]) -> LabelMaps:
    """Maps [R, V, P, 5] of the small model, one view after the other."""
    net: Any = create_vit(MODEL)
    net.load_state_dict(load_file(weights))
    net.eval()
    ids, scores = [], []
    for sample in samples:
        for view in _views(small, sample):
            pixels = (to_tensor(view).float() / 255 - 0.2860) / 0.3530
            with torch.no_grad():
                logits = net.head(net.forward_features(pixels[None])[0, 1:]).numpy()
            own_ids, own_scores = _top5(logits.T)
            ids.append(own_ids)
            scores.append(own_scores)
    shape = (len(samples), small.manifest.num_views, NUM_PATCHES, 5)
    return LabelMaps(np.array(ids).reshape(shape).astype(np.uint16), np.array(scores).reshape(shape).astype(np.float16))


def _read(small: SmallStore) -> LabelMaps:
    store = TicketStore.open(small.store)
    return store.read_token_labels(range(store.manifest.num_images))


def _check(small: SmallStore, weights: Path, samples: Sequence[Sample]) -> None:
    found, expected = _read(small), _expected(small, weights, samples)
    assert np.array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores.astype(np.float32), expected.scores.astype(np.float32), atol=1e-3)
    assert [c.name for c in verify_store(small.store) if not c.ok] == []


_STORES: list[dict[str, Any]] = [
    {},
    {"num_views": 2},
    {"augment": "crop", "num_views": 3, "seed": 4},
    {"augment": "deit", "num_views": 2},
    {"augment": "whole", "num_views": 2},
]


@pytest.mark.parametrize("changes", _STORES, ids=["centre", "and mirrored", "crop", "deit", "whole"])
def test_labels_are_of_the_stores_own_views(tmp_path: Path, changes: dict[str, Any]) -> None:
    changes = dict(changes)
    seed = changes.pop("seed", 0)
    small = make_store(tmp_path, counts=(4, 3), seed=seed, **changes)
    weights = save_selector_weights(tmp_path / "labeller.safetensors", seed=9)
    manifest = label(_config(small, checkpoint=weights))
    assert manifest is not None
    labeller = manifest.token_labels
    assert labeller is not None
    assert (labeller.model, labeller.num_classes, labeller.precision) == (MODEL, 10, "fp32")
    net = create_vit(MODEL)
    randomize(net, 9)
    assert labeller.weights_sha256 == weights_sha256(net)
    _check(small, weights, small.samples)
    assert not label_parts_dir(small.path).exists()


@pytest.mark.parametrize("moved", [True, False])
def test_classes_of_a_labeller_that_a_run_trained_are_compared_by_name(tmp_path: Path, moved: bool) -> None:
    small = make_store(tmp_path, counts=(3,))
    listed = json.loads((tmp_path / "shards/classes.json").read_text())
    first, second, *rest = listed
    run = tmp_path / "run"
    run.mkdir()
    weights = save_selector_weights(run / "best.safetensors", seed=9)
    (run / "config.json").write_text("{}")
    names = [second, first, *rest] if moved else [first, second, *rest]
    (run / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    for checkpoint in (run, weights):
        if not moved:
            assert label(_config(small, checkpoint=checkpoint, overwrite=True)) is not None
            continue
        with pytest.raises(OptionError) as caught:
            label(_config(small, checkpoint=checkpoint))
        assert str(caught.value) == (
            f"class {first!r} is number 1 in {run}/classes.json and 0 in {tmp_path}/shards/classes.json; label with a "
            "model that was trained on the classes of these images"
        )
    assert (TicketStore.open(small.store).manifest.token_labels is None) == moved


def test_grey_images_are_shown_to_an_rgb_network_at_its_own_size(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(3,))
    net = create_network("test_resnet", num_classes=12)
    randomize(net)
    save_file(net.state_dict(), tmp_path / "resnet.safetensors")
    manifest = label(_config(small, model="test_resnet", checkpoint=tmp_path / "resnet.safetensors"))
    assert manifest is not None
    assert manifest.token_labels is not None
    assert (manifest.token_labels.model, manifest.token_labels.num_classes) == ("test_resnet", 12)
    found = _read(small)
    labeller = DenseLabeller(net, "test_resnet")
    config = timm.data.resolve_model_data_config(net)
    mean, std = (np.array(config[name])[:, None, None] for name in ("mean", "std"))
    for row, sample in enumerate(small.samples):
        (view,) = _views(small, sample)
        pixels = (np.asarray(view.convert("RGB"), np.float64).transpose(2, 0, 1) / 255 - mean) / std
        enlarged = torch.from_numpy(_bilinear(pixels.astype(np.float32), (160, 160))).float()
        with torch.no_grad():
            logits = labeller(enlarged[None])[0].numpy()
        ids, scores = _top5(_bilinear(logits, GRID))
        np.testing.assert_allclose(found.scores[row, 0].astype(np.float32), scores.reshape(-1, 5), atol=1e-3)
        assert (found.ids[row, 0] == ids.reshape(-1, 5)).mean() > 0.99  # near ties may change places


def test_an_rgb_store_and_a_grey_network_do_not_go_together(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(2,))
    edit_manifest(small.path, lambda m: m["view"].update(mean=[0.5] * 3, std=[0.5] * 3))
    with pytest.raises(ModelError, match=r"vit_fashion takes 1 channel\(s\), and .*store.zarr shows images of 3"):
        label(_config(small))


@pytest.mark.slow
@pytest.mark.two_ranks
def test_batch_size_workers_and_ranks_change_nothing(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(4, 3, 2), num_views=2)
    label(_config(small))
    found, digests = _read(small), file_digests(small.path / "token_labels")
    label(_config(small, batch_size=3, workers=1, overwrite=True))
    again = _read(small)
    assert np.array_equal(again.ids, found.ids)
    np.testing.assert_allclose(again.scores.astype(np.float32), found.scores.astype(np.float32), atol=1e-3)
    options = ("--tickets", small.store, "--model", MODEL, "--checkpoint", small.weights, "--device", "cpu")
    result = run_on_two_ranks(tmp_path, "label", *options, "--overwrite", "--batch-size", "5", "--workers", "0")
    assert result.code == 0, result.err
    assert result.out.count("token labels of 9 images in 2 views") == 1
    assert file_digests(small.path / "token_labels") == digests


def test_an_interrupted_labelling_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_store(tmp_path, counts=(4, 3, 2))
    before = file_digests(small.path)
    done: list[str] = []
    of_network = label_module._label_maps

    def failing(model: Any, images: Any, *args: Any) -> LabelMaps:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append("batch")
        return of_network(model, images, *args)

    with monkeypatch.context() as patch:
        patch.setattr(label_module, "_label_maps", failing)
        with pytest.raises(KeyboardInterrupt):
            label(_config(small))
    assert file_digests(small.path) == before
    parts = sorted(p.name for p in label_parts_dir(small.path).glob("part-*.parquet"))
    assert parts == ["part-000000.parquet", "part-000001.parquet"]

    other = save_selector_weights(tmp_path / "other.safetensors", seed=3)
    with pytest.raises(
        DatalttError, match=r"holds parts of another labelling .it differs in weights_sha256.; run that"
    ):
        label(_config(small, checkpoint=other))

    done.clear()
    num_batches = 0

    def counting(*args: Any) -> LabelMaps:
        nonlocal num_batches
        num_batches += 1
        return of_network(*args)

    monkeypatch.setattr(label_module, "_label_maps", counting)
    label(_config(small))
    assert num_batches == 1  # the third shard
    _check(small, small.weights, small.samples)


def test_parts_of_another_store_are_not_gone_on_with(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(4,))
    plan = label_parts_dir(small.path)
    plan.mkdir()
    (plan / "plan.json").write_text(json.dumps({"tickets": "another"}))
    (plan / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(DatalttError, match="holds parts of another labelling"):
        label(_config(small))
    label(_config(small, overwrite=True))
    _check(small, small.weights, small.samples)


def _noise(seed: int) -> bytes:
    return encode(np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8))


def _changed_shards(name: str, samples: list[Sample]) -> list[Sample]:
    a, b, c, d = samples
    return {
        "missing inside": [a, c, d],
        "missing at the end": [a, b, c],
        "extra inside": [a, replace(b, key="train/extra"), b, c, d],
        "extra at the end": [a, b, c, d, replace(a, key="train/extra")],
        "reordered": [a, c, b, d],
        "changed": [a, b, replace(c, image=_noise(0)), d],
        "not an image": [a, b, replace(c, image=b"not an image"), d],
    }[name]


_MISFITS = [
    ("missing inside", {}, ("train-000000.tar: sample 'train/00002' stands where", "'train/00001'", "the `shards`")),
    ("missing at the end", {}, ("train-000000.tar: sample 'train/00003' of", "is missing", "the `shards`")),
    ("extra inside", {}, ("train-000000.tar: sample 'train/extra' is not in", "the `shards`")),
    ("extra at the end", {}, ("train-000000.tar: sample 'train/extra' is not in", "the `shards`")),
    ("reordered", {}, ("train-000000.tar: sample 'train/00002' stands where", "in another order")),
    (
        "changed",
        {},
        ("train-000000.tar: the image of sample 'train/00002' is not the one", "`on_changed_image='allow'`"),
    ),
    ("not an image", {"on_changed_image": "allow"}, ("image of sample 'train/00002' cannot be decoded", "mend")),
]


@pytest.mark.parametrize(("name", "options", "words"), _MISFITS, ids=[m[0] for m in _MISFITS])
def test_samples_that_are_not_the_stores_rows_are_named(
    tmp_path: Path, name: str, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    small = make_store(tmp_path, counts=(4, 2))
    before = file_digests(small.path)
    samples = _changed_shards(name, list(small.samples[:4]))
    shards = make_shards(tmp_path / "others", [len(samples), 2], [*samples, *small.samples[4:]])
    with pytest.raises(DatalttError) as caught:
        label(_config(small, shards=shards, **options))
    for word in words:
        assert word in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert file_digests(small.path) == before


def test_reencoded_copies_are_labelled_where_allowed(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(4,), augment="crop", num_views=2)
    copies = [
        replace(s, image=encode(np.asarray(Image.open(io.BytesIO(s.image))), "PNG", compress_level=0))
        for s in small.samples
    ]
    shards = make_shards(tmp_path / "copies", [4], copies)
    with pytest.raises(DatalttError, match="`on_changed_image='allow'`"):
        label(_config(small, shards=shards))
    label(_config(small, shards=shards, on_changed_image="allow", overwrite=True))
    _check(small, small.weights, small.samples)


def test_skipped_samples_are_passed_over(tmp_path: Path) -> None:
    samples = fashion_samples(5)
    samples[1] = replace(samples[1], image=b"not an image")
    small = make_store(tmp_path, counts=(3, 2), samples=samples, on_bad_image="skip")
    assert small.manifest.skipped_keys == {"train/00001"}
    label(_config(small))
    _check(small, small.weights, [s for s in samples if s.key != "train/00001"])


def test_shards_of_no_or_only_skipped_samples_are_labelled(tmp_path: Path) -> None:
    samples = fashion_samples(4)
    samples[0] = replace(samples[0], image=b"not an image")
    small = make_store(tmp_path, counts=(1, 3), samples=samples, on_bad_image="skip")
    label(_config(small))
    _check(small, small.weights, samples[1:])


def test_shards_are_the_stores_own_all_of_them(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(2, 2))
    some = str(tmp_path / "shards" / "train-000001.tar")
    with pytest.raises(DatalttError, match=r"shard train-000000.tar of .* is not among the shards given"):
        label(_config(small, shards=some))
    make_shards(tmp_path / "shards", [1], fashion_samples(1, first=50), name="more")
    with pytest.raises(DatalttError, match=r"more-000000.tar is not a shard of"):
        label(_config(small, shards=str(tmp_path / "shards" / "*.tar")))
    moved = (tmp_path / "shards").rename(tmp_path / "elsewhere")
    with pytest.raises(DatalttError, match=r"are not here .*; pass `shards`"):
        label(_config(small))
    label(_config(small, shards=str(moved / "train-*.tar")))
    _check(small, small.weights, small.samples)


def test_a_store_cannot_name_commands_as_its_shards(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(2,))
    write_local_notes(small.path, shards=f"pipe:touch {tmp_path / 'ran'}/train-000000.tar")
    with pytest.raises(DatalttError, match="pass `shards` to say that you mean them"):
        label(_config(small))
    assert not (tmp_path / "ran").exists()


def test_views_that_are_drawn_otherwise_here_are_labelled_only_where_allowed(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(3,), augment="crop", num_views=2)
    edit_manifest(small.path, lambda m: m["view"]["augment"].update(pixels_xxh3="0" * 16))
    with pytest.raises(DatalttError, match="gives other pixels here"):
        label(_config(small))
    label(_config(small, on_other_pixels="allow"))
    _check(small, small.weights, small.samples)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, "there are no pretrained weights of vit_fashion; give `checkpoint`"),
        ({"checkpoint": Path("nowhere.safetensors")}, "there are no weights at nowhere.safetensors"),
        ({"model": "no_such_model"}, "`model='no_such_model'` is neither an alias"),
        ({"model": "test_vit"}, "does not hold weights of test_vit"),
        ({"num_classes": 12}, "has 10 classes; leave it out"),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"tickets": "s3://bucket/store.zarr"}, "fetch it: dataltt pull s3://bucket/store.zarr"),
        ({"tickets": "nowhere.zarr"}, "there is no ticket store at nowhere.zarr"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    small: SmallStore, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(DatalttError) as caught:
        label(_config(small).but(**changes))
    assert words in str(caught.value)
    assert not label_parts_dir(small.path).exists()


# --- the command ---


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(4, 3), num_views=2)
    options = ("--tickets", small.store, "--model", MODEL, "--checkpoint", small.weights, "--workers", 0)
    result = run_cli("label", *options, "--device", "cpu")
    assert result.code == 0, result.err
    stored = TicketStore.open(small.store).num_stored_bytes()
    per_image = (stored["token_labels/ids"] + stored["token_labels/scores"]) / 7
    expected = f"{small.store}: token labels of 7 images in 2 views, {per_image:.0f} bytes per image; "
    assert result.out.startswith(expected)
    again = run_cli("label", *options)
    assert again.code == 1
    assert "has token labels of vit_fashion; " in again.err
    asked = run_cli("label", *options, "--overwrite", "--json")
    assert asked.code == 0, asked.err
    document = json.loads(asked.out)
    assert document["token_label_bytes_per_image"] == pytest.approx(per_image)
    assert document["token_labels"]["num_classes"] == 10
    shown = run_cli("inspect", small.store)
    assert "token labels" in shown.out
    assert "by vit_fashion (10 classes, fp32)" in " ".join(shown.out.split())
    assert "token_labels/scores" in shown.out
    assert "token_labels" in run_cli("verify", small.store).out


def test_the_manifest_names_the_moment_that_the_environment_fixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_store(tmp_path, counts=(2,))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    found: Manifest | None = label(_config(small))
    assert found is not None
    assert found == read_manifest(small.store)
    assert found.token_labels is not None
    assert found.token_labels.created == "1970-01-01T00:00:00+00:00"
