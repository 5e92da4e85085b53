"""Comparison of views to train on: dense, replayed, warped crops, the centre view, random subsets, at equal steps."""

from __future__ import annotations

from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import SelectConfig
from ...stages.training.config import TrainConfig
from ..demo.run import MODEL
from .arms import PLAIN_CONTROLS
from .engine import Arm, Evaluation, Study, finish_run, make_store
from .fashion import pack_fashion_shards
from .inputs import StudyInputs
from .recipes import short_recipe

RATIO = 0.5
POLICY, MIN_CROP = "crop", 0.5  # crops of at least half the area, mirrored, no colours: short runs learn with it
EPOCHS = 24
PHOTO_EPOCHS = 16
NUM_VIEWS = (1, 4, 16)
NUM_FASHION = 1000
BATCH_SIZE, PHOTO_BATCH_SIZE = 50, 20
PEAK_LR, PHOTO_PEAK_LR = 1.5e-3, 2e-3
_VIEW_ARRAYS = ("tickets", "views/boxes", "views/flips")


def views_fashion(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Views on Fashion-MNIST: 1,000 training images, the demo's ViT.

    Paper: none of its tables; it selects online (METHOD: why tickets are cached).
    Command: dataltt study views-fashion
    The selector is a dense student, trained for as many epochs on centre views.
    Cost: 28 runs of 24 epochs.
    To expect: docs/views.md.
    """
    out = inputs.folder
    shards, test_shards = pack_fashion_shards(inputs, {"train": NUM_FASHION, "test": None}, reporter)
    base = _base(inputs, shards, MODEL, EPOCHS, BATCH_SIZE, PEAK_LR)
    plain = base.but(hflip=0.0, auto_augment="none", random_erasing=0.0, mixup=0.0, cutmix=0.0)
    selector = finish_run(plain.but(control="dense", view_mode="static", out=out / "selector"), reporter)
    select = SelectConfig.of(
        model=MODEL, checkpoint=selector, shards=shards, out=out, ratio=RATIO, workers=inputs.runtime.workers
    )
    return _compare(inputs, base, select, test_shards, reporter, "views-fashion")


def views_photos(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Views on photographs: a pretrained DeiT-Tiny selects, `vit_micro` is trained.

    Paper: none of its tables; it selects online (METHOD: why tickets are cached).
    Command: dataltt study views-photos --shards 'photos/train-*.tar' --test-shards 'photos/test-*.tar' --checkpoint
    deit_tiny_patch16_224.safetensors
    Cost: 18 selector passes and 27 runs of 16 epochs.
    To expect: docs/views.md.
    """
    inputs.needs("views-photos", "shards", "test_shards", "checkpoint")
    assert inputs.shards is not None
    assert inputs.test_shards is not None
    base = _base(inputs, inputs.shards, "vit_micro", PHOTO_EPOCHS, PHOTO_BATCH_SIZE, PHOTO_PEAK_LR)
    select = SelectConfig.of(
        model="deit_t",
        checkpoint=inputs.checkpoint,
        shards=inputs.shards,
        out=inputs.folder,
        ratio=RATIO,
        workers=inputs.runtime.workers,
    )
    return _compare(inputs, base, select, inputs.test_shards, reporter, "views-photos")


def _base(inputs: StudyInputs, shards: str, model: str, epochs: int, batch_size: int, peak_lr: float) -> TrainConfig:
    """Options that all arms share; how they are shown their images is theirs."""
    plain = short_recipe(inputs, model=model, epochs=epochs, batch_size=batch_size, peak_lr=peak_lr)
    return plain.but(shards=shards, view_mode=None, augment=None)


def _compare(
    inputs: StudyInputs, base: TrainConfig, select: SelectConfig, test_shards: str, reporter: Reporter, name: str
) -> Study:
    """Selects what the arms need, and lists them."""
    out = inputs.folder
    stores = {
        "center": select.but(out=out / "center.zarr"),
        "whole": select.but(out=out / "whole.zarr", augment="whole", ranks=True),
        "views": select.but(out=out / "views.zarr", augment=POLICY, min_crop=MIN_CROP, num_views=max(NUM_VIEWS)),
        "test": select.but(out=out / "test.zarr", shards=test_shards),
    }
    made = {key: make_store(config, reporter) for key, config in stores.items()}
    fresh = base.but(view_mode="warp", augment=POLICY, min_crop=MIN_CROP)
    replay = base.but(tickets=made["views"], view_mode="replay")
    static = base.but(tickets=made["center"], view_mode="static", augment=POLICY)
    tickets = (Evaluation(on="ticket", tickets=made["test"]),)
    arms = (
        Arm(name="dense", train=fresh.but(control="dense"), tests=(Evaluation(on="dense"),)),
        *(
            Arm(name=f"replay-{n}", train=replay.but(num_views=n), tests=tickets, stored=_VIEW_ARRAYS)
            for n in NUM_VIEWS
        ),
        Arm(name="warp", train=fresh.but(tickets=made["whole"]), tests=tickets, stored=("ranks",)),
        Arm(name="static", train=static, tests=tickets, stored=("tickets",)),
        Arm(name="random", train=fresh.but(tickets=made["center"], control="random"), tests=tickets),
        *(
            Arm(
                name=name,
                train=fresh.but(tickets=made["center"], control=name),
                tests=(Evaluation(on=name, tickets=made["test"]),),
            )
            for name in PLAIN_CONTROLS
        ),
    )
    note = {"epochs": base.recipe.epochs, "ratio": RATIO, "policy": POLICY, "min_crop": MIN_CROP}
    return Study(name=name, arms=arms, test_shards=test_shards, note=note)
