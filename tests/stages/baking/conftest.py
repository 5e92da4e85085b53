"""Stores of drawn views, with ranks and without, and folders that were baked of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataltt.artifacts_schema.baked import BakedManifest
from dataltt.stages.baking.bake import bake
from dataltt.stages.baking.config import BakeConfig

from ...helpers import SmallStore, make_store


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
