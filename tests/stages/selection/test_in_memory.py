"""Tickets in memory: those that a selection writes of the same images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import CheckpointError, ModelError, OptionError, open_store
from dataltt.stages.models.prune import prune
from dataltt.stages.models.weights import load_vit
from dataltt.stages.selection.in_memory import BatchTickets, tickets_for
from dataltt.stages.selection.select import select
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from ...helpers import MODEL, NUM_PATCHES, Sample, SmallStore, encode_image, fashion, make_store, select_config

_SIZES = ((28, 28), (40, 33), (64, 90), (29, 28))
_NUM_KEEP = 25


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store of images of several sizes, half of them in colour."""
    samples = []
    for i, pixels in enumerate(fashion("train")[0][:12]):
        image = Image.fromarray(pixels).resize(_SIZES[i % 4], Image.Resampling.BILINEAR)
        image = image.convert("RGB") if i % 2 else image
        samples.append(Sample(key=f"image-{i:02d}", image=encode_image(image), label=i % 10))
    return make_store(tmp_path_factory.mktemp("sizes"), counts=(7, 5), samples=samples)


@pytest.fixture(scope="module")
def vit(small: SmallStore) -> VisionTransformer:
    return load_vit(MODEL, small.weights)


def _pictures(small: SmallStore) -> list[Image.Image]:
    return [Image.open(io.BytesIO(s.image)) for s in small.samples]


def _check(found: BatchTickets, small: SmallStore) -> None:
    """Exactly the store's tickets and ranks."""
    stored = open_store(small.path).tickets(range(len(small.samples)))
    assert found.keep_indices.dtype == found.ranks.dtype == torch.int64
    assert found.keep_indices.tolist() == [t.kept[0].tolist() for t in stored]
    assert found.ranks.tolist() == [t.ranks[0].tolist() for t in stored if t.ranks is not None]


@pytest.mark.parametrize("batch_size", [1, 5, 128])
def test_a_named_model_gives_what_select_writes(small: SmallStore, batch_size: int) -> None:
    found = tickets_for(
        MODEL, _pictures(small), ratio=0.5, checkpoint=small.weights, device="cpu", batch_size=batch_size
    )
    _check(found, small)
    assert found.images.shape == (12, 1, 28, 28)
    assert found.images.dtype == torch.uint8


def test_a_vit_gives_the_same_and_stays_as_it_was(small: SmallStore, vit: VisionTransformer) -> None:
    vit.train()
    vit.blocks[1].eval()
    vit.head.weight.requires_grad_(False)
    for net in (vit, prune(vit)):
        _check(tickets_for(net, _pictures(small), ratio=0.5, drop_blocks=(1, 3, 5)), small)
    assert vit.training
    assert not vit.blocks[1].training
    frozen = [n for n, p in vit.named_parameters() if not p.requires_grad]
    assert frozen == ["head.weight"]
    vit.head.weight.requires_grad_(True)


def test_a_tensor_of_pixels_is_images_of_one_size(small: SmallStore, vit: VisionTransformer) -> None:
    for size in _SIZES[:3]:
        images = [p.resize(size).convert("L") for p in _pictures(small)]
        pixels = torch.from_numpy(np.stack([np.array(i) for i in images]))[:, None]
        expected = tickets_for(vit, images, ratio=0.5)
        for tensor in (pixels, pixels.expand(-1, 3, -1, -1)):
            found = tickets_for(vit, tensor, ratio=0.5)
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one, other)


def test_tickets_go_into_a_pruned_vit(small: SmallStore, vit: VisionTransformer) -> None:
    found = tickets_for(vit, _pictures(small), ratio=0.5)
    net = prune(vit)
    net(found.images.float(), found.keep_indices).sum().backward()
    assert net.head.weight.grad is not None


def test_how_much_is_kept_is_said_as_in_select(small: SmallStore, vit: VisionTransformer, tmp_path: Path) -> None:
    found = tickets_for(vit, _pictures(small), keep_rate=0.8, drop_blocks=[1, 2])
    assert found.keep_indices.shape == (12, 32)  # 49 → 40 → 32
    assert found.ranks.sort(dim=1).values.tolist() == [list(range(NUM_PATCHES))] * 12
    assert torch.equal(found.ranks.gather(1, found.keep_indices).sort(dim=1).values, torch.arange(32).expand(12, -1))
    other = make_store(tmp_path, counts=(12,), samples=small.samples, keep_rate=0.8, drop_blocks=(1, 2))
    _check(found, other)


@pytest.mark.parametrize("name", ["attention", "rollout", "gradient", "center", "variance"])
def test_any_selector_gives_what_select_writes(
    name: str, small: SmallStore, vit: VisionTransformer, tmp_path: Path
) -> None:
    out = tmp_path / "store.zarr"
    weights = small.weights if name in ("attention", "rollout", "gradient") else None
    config = select_config(small.shards, small.weights, out, ranks=True, selector=name, image_px=32)
    select(config.but(checkpoint=weights))
    stored = [t.ranks[0].tolist() for t in open_store(out).tickets(range(12)) if t.ranks is not None]
    options = {"ratio": 0.5, "selector": name, "batch_size": 5}
    found = tickets_for(MODEL, _pictures(small), checkpoint=weights, image_px=32, device="cpu", **options)
    assert found.ranks.tolist() == stored
    assert found.images.shape == (12, 1, 32, 32)
    theirs = tickets_for(load_vit(MODEL, small.weights, image_px=32), _pictures(small), **options)
    assert torch.equal(theirs.keep_indices, found.keep_indices)


def test_random_tickets_are_drawn_by_the_seed_and_an_images_place(small: SmallStore, vit: VisionTransformer) -> None:
    def drawn(seed: int, batch_size: int) -> list[list[int]]:
        given = {"selector": "random", "selector_options": {"seed": seed}, "batch_size": batch_size}
        return tickets_for(vit, _pictures(small), ratio=0.5, **given).keep_indices.tolist()

    assert drawn(1, 5) == drawn(1, 128) != drawn(2, 128)
    assert len({tuple(kept) for kept in drawn(1, 5)}) == 12


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(2, 1, 28, 28), r"are a tensor float32 \[2, 1, 28, 28\]; give a list .* not normalised"),
        (torch.zeros(1, 28, 28, dtype=torch.uint8), r"uint8 \[1, 28, 28\]"),
        (torch.zeros(2, 4, 28, 28, dtype=torch.uint8), r"uint8 \[2, 4, 28, 28\]"),
        ([torch.zeros(1, 28, 28)], "`images` are of type list of Tensor"),
        (Image.new("L", (28, 28)), "`images` are of type Image; give a list of PIL images"),
        ([], "`images` are none"),
    ],
)
def test_images_of_another_kind_are_refused(vit: VisionTransformer, images: Any, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        tickets_for(vit, images, ratio=0.5)


def test_options_that_cannot_be_meant_are_refused(small: SmallStore, vit: VisionTransformer) -> None:
    images = _pictures(small)[:1]
    with pytest.raises(OptionError, match="exactly one of"):
        tickets_for(vit, images)
    with pytest.raises(OptionError, match="`batch_size` 0"):
        tickets_for(vit, images, ratio=0.5, batch_size=0)
    with pytest.raises(OptionError, match="`checkpoint` is for a model that is given by name"):
        tickets_for(vit, images, ratio=0.5, checkpoint=small.weights)
    with pytest.raises(ModelError, match="the blocks of the ViT are 0 to 5"):
        tickets_for(vit, images, ratio=0.5, drop_blocks=(3, 6))
    with pytest.raises(OptionError, match="`image_px` is for a model that is given by name"):
        tickets_for(vit, images, ratio=0.5, image_px=32)
    with pytest.raises(OptionError, match="`keep_rate` is of the cascade, and 'center' drops no patches"):
        tickets_for(vit, images, keep_rate=0.5, selector="center")
    with pytest.raises(OptionError, match="'gradient' would choose by labels, and `images` have none"):
        tickets_for(vit, images, ratio=0.5, selector="gradient", selector_options={"labels": True})
    with pytest.raises(OptionError, match="`selector_option='a=1'` is no setting of the selector 'center'"):
        tickets_for(vit, images, ratio=0.5, selector="center", selector_options={"a": 1})
    with pytest.raises(ModelError, match="not a plain ViT"):
        tickets_for(torch.nn.Linear(2, 2), images, ratio=0.5)
    with pytest.raises(CheckpointError, match="there are no weights at"):
        tickets_for(MODEL, images, ratio=0.5, checkpoint="nowhere.safetensors")
