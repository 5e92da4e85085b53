"""From scratch to the end: the paper's comparison on the embedded images, trained until the curves are flat."""

from __future__ import annotations

from pathlib import Path

from ...stages.models.checkpoints import find_weights
from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import SelectConfig
from ...stages.training.config import FitSelectorConfig, TrainConfig
from ...stages.training.fit_selector import fit_selector
from ..demo.run import BATCH_SIZE, MODEL, PEAK_LR
from .arms import PLAIN_CONTROLS, Tickets, claims, paper_arms
from .engine import Study, exists, finish_run, make_store
from .fashion import SELECTOR_SEED, pack_fashion_shards
from .inputs import StudyInputs
from .recipes import short_recipe

RATIO = 0.5
EPOCHS, FIT_EPOCHS = 40, 10
NUM_VIEWS, MIN_CROP = 8, 0.5
NUM_TRAIN: int | None = None  # all 10,000
NUM_TEST: int | None = None  # all 2,000
FIT_PEAK_LR = 3e-4
CONTROLS = ("random", *PLAIN_CONTROLS)


def converged(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Fashion-MNIST until the curves are flat: 40 epochs of mirrored crops, tickets by a converged and fitted selector.

    Paper: its main comparison of (a), (b) and (c), and its selector: trained to the end, then fitted with dropping.
    Command: dataltt study converged
    Tickets: at ratio .5 of 8 stored views, by a dense model of 40 epochs (seed "selector") fitted for 10; tested on the
    centre view. DeiT's recipe scaled down: its optimiser, smoothing and mirrored crops (of at least half the image);
    neither mixing, erasing nor stochastic depth, which so small a network does without.
    Arms: dense, tickets, random, center, resize, all on the same stored views.
    Cost: the selector 50 epochs; per seed 5 runs of 40 epochs, of which dense takes twice what the others take: an
    hour on a CPU core.
    To expect: on tickets, tickets 5 points above random subsets, level with central patches, 3.5 below all
    patches, and 3 below smaller pictures, which come to what all patches come to (three seeds).
    """
    shards, test_shards = pack_fashion_shards(inputs, {"train": NUM_TRAIN, "test": NUM_TEST}, reporter)
    recipe = short_recipe(inputs, model=MODEL, epochs=EPOCHS, batch_size=BATCH_SIZE, peak_lr=PEAK_LR)
    recipe = recipe.but(shards=shards, view_mode="replay", augment=None, val_interval=4)
    select = SelectConfig.of(
        model=MODEL,
        checkpoint=_selector(inputs, recipe, reporter),
        shards=shards,
        out=inputs.folder / "train.zarr",
        ratio=RATIO,
        augment="crop",
        min_crop=MIN_CROP,
        num_views=NUM_VIEWS,
        ranks=True,
        workers=inputs.runtime.workers,
        device=inputs.runtime.device,
    )
    of_tests = select.but(
        shards=test_shards, out=inputs.folder / "test.zarr", augment="none", min_crop=None, num_views=1
    )
    tickets = Tickets(label=str(RATIO), train=make_store(select, reporter), test=make_store(of_tests, reporter))
    arms = paper_arms(
        recipe.but(tickets=tickets.train),  # all patches are shown the same views, too
        [tickets],
        test_shards=test_shards,
        controls=CONTROLS,
        tests=("ticket", "random", "dense"),
    )
    note = {
        "model": MODEL,
        "epochs": EPOCHS,
        "batch_size": inputs.batch_size or BATCH_SIZE,
        "num_train": NUM_TRAIN or 10_000,
    }
    return Study(
        name="converged",
        arms=arms,
        comparisons=claims([tickets.label], CONTROLS),
        test_shards=test_shards,
        note={**note, "views": NUM_VIEWS, "fit_epochs": FIT_EPOCHS},
    )


def _selector(inputs: StudyInputs, recipe: TrainConfig, reporter: Reporter) -> Path:
    """Trains a dense model on fresh crops to the end and fits it with token dropping, once; returns its weights."""
    fitted = inputs.folder / "selector-fitted"
    if exists(inputs.folder / "test.zarr", inputs.runtime.device):  # selected already: nobody reads it again
        return fitted
    fresh = {"view_mode": "warp", "augment": "crop", "min_crop": MIN_CROP}
    dense = finish_run(
        recipe.but(control="dense", out=inputs.folder / "selector", seed=SELECTOR_SEED, **fresh), reporter
    )
    fit = FitSelectorConfig.of(
        model=MODEL,
        checkpoint=dense,
        shards=recipe.shards,
        out=fitted,
        ratio=RATIO,
        epochs=FIT_EPOCHS,
        batch_size=recipe.recipe.batch_size,
        lr=recipe.recipe.lr * FIT_PEAK_LR / PEAK_LR,
        augment="crop",
        min_crop=MIN_CROP,
        auto_augment="none",
        random_erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        auto_resume=True,
        **inputs.runtime.flat(),
    )
    fit_selector(fit, reporter)
    return find_weights(fitted)
