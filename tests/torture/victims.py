"""Commands to be killed: what they are given, and what is compared of what they wrote.

Imports nothing that reads a store: processes are forked from this one, and Zarr's event loop does not survive that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..helpers import MODEL

Fingerprint = dict[str, str]
# Of a metrics line: what the clock says.
_CLOCKED = ("images_per_s", "patches_per_s", "wait_share", "tflops_per_s", "peak_share", "memory_gb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the commands work on: shards, weights, a store of them all, stores of one shard each, and image files."""

    folder: Path
    shards: str
    weights: Path
    store: Path
    parts: tuple[Path, ...]
    images: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """Command, and how its result is known again.

    Attributes:
        arguments: of the command line, for a folder of its own. The same again after a kill.
        prepare: puts there what the command changes.
        fingerprint: of what it wrote below that folder.
        ranks: processes that do it together.
        watched: files whose appearance is a moment to kill at, as patterns.
    """

    name: str
    arguments: Callable[[Inputs, Path], list[object]]
    fingerprint: Callable[[Path], Fingerprint]
    prepare: Callable[[Inputs, Path], None] = lambda inputs, folder: None
    ranks: int = 1
    watched: tuple[str, ...] = ()


def files_of(folder: Path) -> Fingerprint:
    """SHA-256 of each file, with the clock taken out of manifests; locks are no result."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == "baked.json" or (path.name == "zarr.json" and b'"dataltt' in content):
            content = json.dumps(_without_clock(json.loads(content)), sort_keys=True).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def _without_clock(document: Any) -> Any:
    if isinstance(document, dict):
        return {k: _without_clock(v) for k, v in document.items() if k not in ("created", "checksum", "objects")}
    return [_without_clock(each) for each in document] if isinstance(document, list) else document


def store_in(folder: Path) -> Fingerprint:
    """The store `out.zarr`, all of its arrays."""
    return files_of(folder / "out.zarr")


def run_in(folder: Path) -> Fingerprint:
    """Weights that a run ended with, its average, and its metrics without the clock."""
    run = folder / "run"
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    found = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in _WEIGHTS}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = json.dumps([{k: v for k, v in line.items() if k not in _CLOCKED} for line in lines])
    return found


_WEIGHTS = ("model.safetensors", "ema.safetensors")


def _select(inputs: Inputs, folder: Path) -> list[object]:
    plain = ["select", "--model", MODEL, "--checkpoint", inputs.weights, "--shards", inputs.shards, "--ratio", 0.5]
    drawn = ["--ranks", "--augment", "deit", "--num-views", 3, "--batch-size", 4, "--workers", 0, "--device", "cpu"]
    return [*plain, *drawn, "--rank-timeout-s", 10, "--out", folder / "out.zarr"]


def _train(workers: int) -> Callable[[Inputs, Path], list[object]]:
    def arguments(inputs: Inputs, folder: Path) -> list[object]:
        data = ["train", "--tickets", inputs.store, "--shards", inputs.shards, "--model", MODEL, "--epochs", 4]
        recipe = ["--batch-size", 6, "--lr", 0.05, "--ema-decay", 0.9, "--log-steps", 1, "--checkpoint-steps", 2]
        place = ["--workers", workers, "--device", "cpu", "--rank-timeout-s", 10]
        return [*data, *recipe, *place, "--out", folder / "run", "--auto-resume"]

    return arguments


def _copy_store(inputs: Inputs, folder: Path) -> None:
    import shutil

    shutil.copytree(inputs.store, folder / "out.zarr")


def _label(inputs: Inputs, folder: Path) -> list[object]:
    plain = ["label", "--tickets", folder / "out.zarr", "--shards", inputs.shards, "--model", MODEL]
    return [*plain, "--checkpoint", inputs.weights, "--batch-size", 4, "--workers", 0, "--device", "cpu"]


def _merge(inputs: Inputs, folder: Path) -> list[object]:
    return ["store", "merge", *inputs.parts, "--out", folder / "out.zarr"]


def _subset(inputs: Inputs, folder: Path) -> list[object]:
    return ["store", "thin", inputs.store, "--ratio", 0.25, "--out", folder / "out.zarr"]


def _push(inputs: Inputs, folder: Path) -> list[object]:
    return ["push", inputs.store, folder / "out.zarr"]


def _pull(inputs: Inputs, folder: Path) -> list[object]:
    return ["pull", inputs.store, folder / "out.zarr"]


def _pack(inputs: Inputs, folder: Path) -> list[object]:
    return ["pack", inputs.images, folder / "shards", "--name", "train", "--max-count", 30]


def _bake(inputs: Inputs, folder: Path) -> list[object]:
    plain = ["bake", "--tickets", inputs.store, "--shards", inputs.shards, "--patches", "kept", "--workers", 0]
    return [*plain, "--encoding", "raw", "--rank-timeout-s", 10, "--out", folder / "baked"]


def _baked(folder: Path) -> Fingerprint:
    return files_of(folder / "baked")


def _packed(folder: Path) -> Fingerprint:
    return files_of(folder / "shards")


def _select_again(inputs: Inputs, folder: Path) -> list[object]:
    return [*_select(inputs, folder), "--overwrite"]


_PARTS = ("out.zarr.parts/*", "*.lock", "out.zarr")
_CHECKPOINTS = ("run/checkpoints/step-*", "run/checkpoints/.step-*", "run/config.json", "run/lock.json")
VICTIMS = (
    Victim(name="select", arguments=_select, fingerprint=store_in, watched=_PARTS),
    Victim(name="select", arguments=_select, fingerprint=store_in, watched=_PARTS, ranks=2),
    Victim(
        name="select --overwrite",
        arguments=_select_again,
        fingerprint=store_in,
        prepare=_copy_store,
        watched=("out.zarr.parts/*", "out.zarr.old-*", "out.zarr.tmp-*"),
    ),
    Victim(name="train", arguments=_train(0), fingerprint=run_in, watched=_CHECKPOINTS),
    Victim(name="train with a loader process", arguments=_train(1), fingerprint=run_in, watched=_CHECKPOINTS),
    Victim(name="train", arguments=_train(0), fingerprint=run_in, watched=_CHECKPOINTS, ranks=2),
    Victim(name="label", arguments=_label, fingerprint=store_in, prepare=_copy_store, watched=("out.zarr.labels/*",)),
    Victim(name="push", arguments=_push, fingerprint=store_in, watched=("out.zarr", "out.zarr/*")),
    Victim(name="pull", arguments=_pull, fingerprint=store_in, watched=("out.zarr", "out.zarr/*")),
    Victim(name="store merge", arguments=_merge, fingerprint=store_in, watched=(".out.zarr*", "*.tmp*")),
    Victim(name="store thin", arguments=_subset, fingerprint=store_in, watched=(".out.zarr*", "*.tmp*")),
    Victim(name="bake", arguments=_bake, fingerprint=_baked, watched=("baked/*", "baked/view-000/*")),
    Victim(name="bake", arguments=_bake, fingerprint=_baked, watched=("baked/*", "baked/view-000/*"), ranks=2),
    Victim(name="pack", arguments=_pack, fingerprint=_packed, watched=("shards", "shards/*", ".shards*")),
)
# Of two ranks training alone, and without loader processes, which take seconds to start.
QUICK_VICTIMS = tuple(v for v in VICTIMS if (v.ranks == 1 or v.name == "train") and "loader" not in v.name)
