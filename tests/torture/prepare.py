"""Inputs of the commands that are tortured: shards, weights, stores, and a folder of images."""

from __future__ import annotations

from pathlib import Path

from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.stages.runtime.version import tool_version

from ..helpers import fashion_samples, make_store


def prepare(folder: str) -> None:
    """Writes them below a folder."""
    root = Path(folder)
    make_store(root / "made", augment="deit", num_views=2, seed=1)
    store = root / "made" / "store.zarr"
    version = tool_version()
    for i in range(3):
        subset_store(
            str(store),
            Wanted(shards=f"train-{i:06d}.tar"),
            Target(path=root / f"part-{i}.zarr", tool_version=version),
        )
    thin_store(str(store), Target(path=root / "thinned.zarr", tool_version=version), ratio=0.25)
    for i, sample in enumerate(fashion_samples(60)):
        path = root / "images" / f"class{sample.label}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
