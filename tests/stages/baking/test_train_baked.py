"""Training on baked patches: the same samples in the same order, and the same weights, as on the source shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import BakedError, OptionError, TicketMismatchError
from dataltt.stages.models.checkpoints import latest_checkpoint
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.train import train
from safetensors.torch import load_file

from ...helpers import SmallStore
from .conftest import bake_of

pytestmark = pytest.mark.long

_PLAIN: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "lr": 0.05,
    "workers": 0,
    "device": "cpu",
    "log_steps": 1,
    "ema_decay": 0,
    "shuffle_buffer": 7,
    "view_mode": "replay",
}
_UNMIXED: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0}


def _train(out: Path, **options: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps, and the final weights."""
    config = TrainConfig.of(out=out, **{**_PLAIN, **options})
    train(config)
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = latest_checkpoint(out)
    assert last is not None
    return losses, load_file(last / "model.safetensors")


def _assert_same(
    a: tuple[list[float], dict[str, torch.Tensor]], b: tuple[list[float], dict[str, torch.Tensor]]
) -> None:
    assert a[0] == b[0]
    assert len(a[0]) == 12
    assert a[1].keys() == b[1].keys()
    assert all(torch.equal(tensor, b[1][name]) for name, tensor in a[1].items())


@pytest.mark.parametrize(
    "options", [{}, {"control": "random"}, {"control": "center"}, {"control": "resize"}, {"control": "dense"}]
)
def test_all_patches_give_the_same_weights(drawn: SmallStore, tmp_path: Path, options: dict[str, Any]) -> None:
    bake_of(drawn, tmp_path / "baked")
    replayed = _train(tmp_path / "replayed", tickets=drawn.store, **options)
    _assert_same(replayed, _train(tmp_path / "run", baked=tmp_path / "baked", **options))


def test_repeated_pictures_give_the_same_weights(drawn: SmallStore, tmp_path: Path) -> None:
    options = {"repeats": 2, "random_erasing": 0.5}
    bake_of(drawn, tmp_path / "baked")
    replayed = _train(tmp_path / "replayed", tickets=drawn.store, **options)
    _assert_same(replayed, _train(tmp_path / "run", baked=tmp_path / "baked", **options))
    bake_of(drawn, tmp_path / "kept", "kept")
    replayed = _train(tmp_path / "replayed-unmixed", tickets=drawn.store, **options, **_UNMIXED)
    _assert_same(replayed, _train(tmp_path / "run-kept", baked=tmp_path / "kept", **options, **_UNMIXED))


@pytest.mark.parametrize("patches", ["kept", "0.7"])
@pytest.mark.parametrize("erasing", [0.0, 0.5])
def test_kept_patches_unmixed_give_the_same_weights(
    drawn: SmallStore, tmp_path: Path, patches: str, erasing: float
) -> None:
    bake_of(drawn, tmp_path / "baked", patches)
    options = {**_UNMIXED, "random_erasing": erasing}
    replayed = _train(tmp_path / "replayed", tickets=drawn.store, **options)
    _assert_same(replayed, _train(tmp_path / "run", baked=tmp_path / "baked", **options))


def test_a_store_without_ranks(unranked: SmallStore, tmp_path: Path) -> None:
    bake_of(unranked, tmp_path / "all")
    bake_of(unranked, tmp_path / "kept", "kept")
    replayed = _train(tmp_path / "mixed", tickets=unranked.store)
    _assert_same(replayed, _train(tmp_path / "run-all", baked=tmp_path / "all"))
    replayed = _train(tmp_path / "unmixed", tickets=unranked.store, **_UNMIXED)
    _assert_same(replayed, _train(tmp_path / "run-kept", baked=tmp_path / "kept", **_UNMIXED))


def test_a_run_goes_on_with_workers(drawn: SmallStore, tmp_path: Path) -> None:
    bake_of(drawn, tmp_path / "baked", "kept")
    options = {**_PLAIN, "baked": tmp_path / "baked"}
    whole = _train(tmp_path / "whole", **options)
    train(TrainConfig.of(**options, out=tmp_path / "run", max_steps=6))
    last = _train(tmp_path / "run", **{**options, "workers": 1, "resume": True})
    _assert_same(whole, last)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["ticket_store"] == {
        "digest": drawn.manifest.digest
    }


def test_mixed_kept_patches_train_in_every_way(drawn: SmallStore, unranked: SmallStore, tmp_path: Path) -> None:
    for name, store, patches in (("a", drawn, "kept"), ("b", drawn, "0.7"), ("c", unranked, "kept")):
        bake_of(store, tmp_path / name, patches)
        losses, _ = _train(tmp_path / f"run-{name}", baked=tmp_path / name, grad_accum=2)
        assert len(losses) == 12
    # Cut down by rank, as the store's own tickets would be.
    options = {"ratio": 0.3, **_UNMIXED}
    replayed = _train(tmp_path / "thin", tickets=drawn.store, **options)
    _assert_same(replayed, _train(tmp_path / "run-thin", baked=tmp_path / "b", **options))


def test_a_jpeg_bake_trains(coloured: SmallStore, tmp_path: Path) -> None:
    bake_of(coloured, tmp_path / "baked", "kept", encoding="jpeg")
    options = {**_PLAIN, "batch_size": 4, "epochs": 1}
    train(TrainConfig.of(**options, baked=tmp_path / "baked", out=tmp_path / "run"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"control": "random"}, r"`control='random'` needs other patches than the 25 of 49 in .*`patches='all'`"),
        ({"control": "dense"}, r"`control='dense'` needs other patches"),
        ({"dense_epochs": 1}, r"`dense_epochs=1` needs other patches"),
        ({"control": "center"}, r"`control='center'` needs other patches"),
        ({"control": "resize"}, r"`control='resize'` needs other patches"),
        ({"model": "resnet50"}, r"resnet50 needs whole images, and .* has 25 of 49 patches; train a plain ViT"),
        ({"shards": "x.tar"}, r"`shards` beside `baked`: the folder has its own"),
        ({"view_mode": "warp"}, r"`view_mode='warp'`: a baked folder replays its views; leave it out"),
        ({"repeats": 4}, r"`repeats=4` of 3 view\(s\) would show one twice"),
        ({"num_views": 4}, r"`num_views=4`: .* has 3; ask for at most so many"),
        ({"token_labels": "store"}, r"`token_labels='store'`: .* has none"),
        ({"num_classes": 4}, r"`num_classes=4`, and labels in these shards go up to 9"),
    ],
)
def test_options_that_need_more(drawn: SmallStore, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    bake_of(drawn, tmp_path / "baked", "kept")
    with pytest.raises(OptionError, match=said):
        _train(tmp_path / "run", **{"baked": tmp_path / "baked", **options})
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_store_of_another_bake(drawn: SmallStore, unranked: SmallStore, tmp_path: Path) -> None:
    bake_of(drawn, tmp_path / "baked", "kept")
    with pytest.raises(TicketMismatchError, match=r"was baked of other tickets than those of .* ticket digest"):
        _train(tmp_path / "run", baked=tmp_path / "baked", tickets=unranked.store)
    _train(tmp_path / "run", baked=tmp_path / "baked", tickets=drawn.store, max_steps=1)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2048])


def _change(folder: Path, old: bytes, new: bytes) -> None:
    """Changes bytes of the first shard, of every view, but no size."""
    for path in folder.glob("view-*/train-000000.tar"):
        content = path.read_bytes()
        assert content.count(old)
        path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (
            lambda f: (f / "view-001" / "train-000001.tar").unlink(),
            BakedError,
            "view-001/.*1.tar is not there",
        ),
        (lambda f: _cut(f / "view-000" / "train-000002.tar"), BakedError, "has 48128 bytes and was written with 50176"),
        (lambda f: (f / "baked.json").unlink(), BakedError, r"is not a baked folder \(it has no baked.json\)"),
        (lambda f: (f / "baked.json").write_text("{"), BakedError, "baked.json cannot be read"),
        (lambda f: (f / "baked.json").write_text("{}"), BakedError, "is not that of a baked folder"),
        (lambda f: _edit(f, "num_baked", 24), BakedError, "its checksum is another: it is damaged or was changed"),
        (lambda f: _change(f, b"00000.idx", b"00000.idy"), BakedError, "sample 'train/00000' has no .idx"),
        (lambda f: _change(f, b"00000000620", b"00000000600"), BakedError, "train-000000.tar: .*it is damaged"),
        (lambda f: _change(f, b"ustar", b"rusty"), BakedError, "is cut off, or has no tar header at byte 0"),
    ],
)
def test_a_damaged_folder(
    drawn: SmallStore, tmp_path: Path, damage: Callable[[Path], Any], error: type[Exception], said: str
) -> None:
    bake_of(drawn, tmp_path / "baked", "kept")
    damage(tmp_path / "baked")
    with pytest.raises(error, match=said):
        _train(tmp_path / "run", baked=tmp_path / "baked")


def _edit(folder: Path, name: str, value: Any) -> None:
    document = json.loads((folder / "baked.json").read_text())
    (folder / "baked.json").write_text(json.dumps({**document, name: value}))


def test_a_mosaic_of_another_size(coloured: SmallStore, tmp_path: Path) -> None:
    bake_of(coloured, tmp_path / "baked", "kept", encoding="jpeg")
    (path,) = (tmp_path / "baked" / "view-000").glob("*0.tar")
    content = bytearray(path.read_bytes())
    place = content.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    content[place + 5 : place + 9] = bytes([0, 160, 0, 176])
    path.write_bytes(content)
    said = (
        r"train-000000.tar: member n0/0.jpg has 176×160 px of 3 channel\(s\), and a mosaic of 98 patches has 160×160 px"
    )
    with pytest.raises(BakedError, match=said):
        train(TrainConfig.of(**{**_PLAIN, "batch_size": 4}, baked=tmp_path / "baked", out=tmp_path / "run"))
