"""Stores of drawn views, with ranks and without, and folders that were baked of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema.baked import BakedManifest
from dataltt.stages.baking.bake import bake
from dataltt.stages.baking.config import BakeConfig
from dataltt.stages.models.registry import create_vit
from dataltt.stages.selection.select import select
from safetensors.torch import save_file

from ...helpers import Sample, SmallStore, encode, make_shards, make_store, randomize, select_config


def bake_of(store: SmallStore, out: Path, patches: str = "all", **options: object) -> BakedManifest:
    """Bakes a store in this process."""
    plain = BakeConfig.of(tickets=store.store, out=out, patches=patches)
    manifest = bake(plain.but(**{"workers": 0, **options}))
    assert manifest is not None
    return manifest


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """36 images in 3 shards, 3 views each, with ranks."""
    return make_store(tmp_path_factory.mktemp("drawn"), augment="deit", num_views=3, seed=5)


@pytest.fixture(scope="session")
def unranked(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """The same without ranks, and with two views."""
    return make_store(tmp_path_factory.mktemp("unranked"), augment="deit", num_views=2, seed=5, ranks=False)


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Eight smooth colour images, 2 views each, as 14×14 patches of 16 px."""
    folder = tmp_path_factory.mktemp("coloured")
    y, x = np.mgrid[0:90, 0:120] / 120
    samples = []
    for i in range(8):
        waves = [np.sin((3 + i) * x + c) * np.cos((5 - c) * y + i) for c in range(3)]
        pixels = np.rint(127 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)
        samples.append(Sample(key=f"n{i % 2}/{i}", image=encode(pixels), label=i % 4))
    shards = make_shards(folder / "shards", (4, 4), samples)
    vit = create_vit("deit_t")
    randomize(vit)
    weights = folder / "selector.safetensors"
    save_file(vit.state_dict(), weights)
    options = select_config(shards, weights, folder / "store.zarr", augment="crop", num_views=2, ranks=True)
    manifest = select(options.but(model="deit_t"))
    assert manifest is not None
    return SmallStore(
        folder=folder,
        shards=shards,
        weights=weights,
        path=folder / "store.zarr",
        samples=tuple(samples),
        manifest=manifest,
    )
