"""Which views to train on: dense, replayed views, warped crops, the centre view, random subsets, at equal steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ...artifacts_schema import OptionError
from ...stages.checkpoints import latest_checkpoint
from ...stages.reporting import Reporter
from ...stages.select import SelectConfig
from ...stages.train import BASE_BATCH_SIZE, train
from ...stages.train_config import TrainConfig
from ..demo import MODEL, pack_fashion
from .engine import Arm, ArmResult, make_store, run_study

RATIO = 0.5
RECIPE, MIN_CROP = "crop", 0.5  # crops of at least half the area, mirrored, no colours: short runs learn with it
EPOCHS = 24
PHOTO_EPOCHS = 16
NUM_VIEWS = (1, 4, 16)
NUM_FASHION = 1000
BATCH_SIZE, PHOTO_BATCH_SIZE = 50, 20
PEAK_LR, PHOTO_PEAK_LR = 1.5e-3, 2e-3
_VIEW_ARRAYS = ("tickets", "views/boxes", "views/flips")


def views_fashion(out: Path, *, seeds: tuple[int, ...], workers: int | None, reporter: Reporter) -> list[ArmResult]:
    """Views on Fashion-MNIST: 1,000 training and 2,000 test images, the demo's ViT as selector and student.

    Command: dataltt study views-fashion. The selector is a dense student, trained for as many epochs on centre views.
    Cost: 22 runs of 24 epochs. To expect: docs/views.md.
    """
    for split, count in (("train", NUM_FASHION), ("test", None)):
        if not list((out / "shards").glob(f"{split}-*.tar")):
            pack_fashion(out / "shards", split, count, reporter)
    shards, test_shards = str(out / "shards" / "train-*.tar"), str(out / "shards" / "test-*.tar")
    base = _base(out, shards, MODEL, EPOCHS, BATCH_SIZE, PEAK_LR, workers)
    selector = out / "selector"
    if not (selector / "done").exists():
        reporter.message("training the selector: a dense student")
        plain: dict[str, Any] = {
            "hflip": 0.0,
            "auto_augment": "none",
            "random_erasing": 0.0,
            "mixup": 0.0,
            "cutmix": 0.0,
        }
        resume = (selector / "config.json").exists()
        train(replace(base, control="dense", views="static", out=selector, resume=resume, **plain), reporter)
        (selector / "done").touch()
    checkpoint = latest_checkpoint(selector)
    assert checkpoint is not None
    select = SelectConfig(
        model=MODEL, checkpoint=checkpoint / "model.safetensors", shards=shards, out=out, ratio=RATIO, workers=workers
    )
    return _compare(out, base, select, test_shards, seeds, reporter, "views-fashion")


def views_photos(
    out: Path,
    *,
    shards: str,
    test_shards: str,
    checkpoint: Path,
    seeds: tuple[int, ...],
    workers: int | None,
    reporter: Reporter,
) -> list[ArmResult]:
    """Views on photographs: a pretrained DeiT-Tiny selects, a small ViT (`vit_micro`) is trained from scratch.

    Command: dataltt study views-photos --shards 'photos/train-*.tar' --test-shards 'photos/test-*.tar' --checkpoint
    deit_tiny_patch16_224.safetensors. Cost: 18 selector passes and 21 runs of 16 epochs. To expect: docs/views.md.
    """
    base = _base(out, shards, "vit_micro", PHOTO_EPOCHS, PHOTO_BATCH_SIZE, PHOTO_PEAK_LR, workers)
    select = SelectConfig(model="deit_t", checkpoint=checkpoint, shards=shards, out=out, ratio=RATIO, workers=workers)
    return _compare(out, base, select, test_shards, seeds, reporter, "views-photos")


STUDIES = ("views-fashion", "views-photos")


def run_views_study(
    name: str,
    out: Path,
    *,
    shards: str | None,
    test_shards: str | None,
    checkpoint: Path | None,
    seeds: tuple[int, ...],
    workers: int | None,
    reporter: Reporter,
) -> list[ArmResult]:
    """Runs a study by name.

    Raises:
        OptionError: an unknown name, or what the study needs is not given.
    """
    if name == "views-fashion":
        return views_fashion(out, seeds=seeds, workers=workers, reporter=reporter)
    if name != "views-photos":
        raise OptionError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    if shards is None or test_shards is None or checkpoint is None:
        raise OptionError("views-photos needs --shards, --test-shards and --checkpoint (of a DeiT-Tiny)")
    return views_photos(
        out,
        shards=shards,
        test_shards=test_shards,
        checkpoint=checkpoint,
        seeds=seeds,
        workers=workers,
        reporter=reporter,
    )


def _base(
    out: Path, shards: str, model: str, epochs: int, batch_size: int, peak_lr: float, workers: int | None
) -> TrainConfig:
    """What all arms share: DeiT's optimiser and schedule, shortened, with a learning rate for small batches."""
    return TrainConfig(
        out=out,
        shards=shards,
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        lr=peak_lr * BASE_BATCH_SIZE / batch_size,
        warmup_epochs=epochs / 8,
        drop_path=0.0,
        random_erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        ema_decay=0.0,
        shuffle_buffer=10_000,
        workers=workers,
    )


def _compare(
    out: Path,
    base: TrainConfig,
    select: SelectConfig,
    test_shards: str,
    seeds: tuple[int, ...],
    reporter: Reporter,
    name: str,
) -> list[ArmResult]:
    """Selects what the arms need, and runs them."""
    stores = {
        "center": replace(select, out=out / "center.zarr"),
        "whole": replace(select, out=out / "whole.zarr", augment="whole", ranks=True),
        "views": replace(select, out=out / "views.zarr", augment=RECIPE, min_crop=MIN_CROP, views=max(NUM_VIEWS)),
        "test": replace(select, out=out / "test.zarr", shards=test_shards),
    }
    made = {key: make_store(config, reporter) for key, config in stores.items()}
    fresh = replace(base, views="warp", augment=RECIPE, min_crop=MIN_CROP)
    replay = replace(base, tickets=made["views"], views="replay")
    arms = [
        Arm(name="dense", train=replace(fresh, control="dense"), test="dense"),
        *(
            Arm(name=f"replay-{n}", train=replace(replay, num_views=n), test="ticket", stored=_VIEW_ARRAYS)
            for n in NUM_VIEWS
        ),
        Arm(name="warp", train=replace(fresh, tickets=made["whole"]), test="ticket", stored=("ranks",)),
        Arm(
            name="static",
            train=replace(base, tickets=made["center"], views="static", augment=RECIPE),
            test="ticket",
            stored=("tickets",),
        ),
        Arm(name="random", train=replace(fresh, tickets=made["center"], control="random"), test="ticket"),
    ]
    note = {"study": name, "epochs": base.epochs, "ratio": RATIO, "recipe": RECIPE, "min_crop": MIN_CROP}
    return run_study(arms, seeds, out, test_shards=test_shards, test_tickets=made["test"], reporter=reporter, note=note)
