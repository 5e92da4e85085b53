"""The paper's comparison on photographs, at a size that two CPU cores manage."""

from __future__ import annotations

from pathlib import Path

from ...artifacts_schema import read_manifest
from ...stages.models.checkpoints import find_weights
from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import LabelConfig, SelectConfig
from ...stages.training.config import FitSelectorConfig, TrainConfig
from ...stages.training.fit_selector import fit_selector
from ...stages.training.optimization import BASE_BATCH_SIZE
from .arms import PLAIN_CONTROLS, Tickets, claims, paper_arms
from .cost import CostPlan
from .engine import Arm, Evaluation, Study, label_store, make_store
from .inputs import StudyInputs
from .recipes import short_recipe

RATIO, SWIN_RATIO = 0.5, 0.51  # 98 of 196 patches; 100 of them, the nearest square, for small-dense Swin
MODEL, EPOCHS, BATCH_SIZE, PEAK_LR = "vit_micro", 12, 20, 2e-3
CONTROLS = ("random", *PLAIN_CONTROLS)
# Larger students, to show that they train: one seed, few steps of a one-epoch schedule.
LARGE_EPOCHS, LARGE_STEPS, LARGE_PEAK_LR = 1, 80, 5e-4
FIT_EPOCHS, FIT_PEAK_LR = 1, 2e-4
_COST_BATCH = 32


def photos(inputs: StudyInputs, reporter: Reporter) -> Study:
    """The comparison on photographs at 224 px, by a small ViT from scratch.

    Paper: its main comparison of (a), (b) and (c), at small scale; Swin small-dense and LV-ViT-T for one seed.
    Command: dataltt study photos --shards 'photos/train-*.tar' --test-shards 'photos/test-*.tar' --checkpoint
    deit_tiny_patch16_224.safetensors
    Tickets: at ratio .5 by the checkpoint, a pretrained DeiT-Tiny, as it is. Token labels for LV-ViT-T: by the same
    DeiT-Tiny, fitted to these classes with token dropping (fit-selector).
    Arms: dense, tickets, random, center and resize of `vit_micro` (64 dim, 4 blocks), 12 epochs; tickets of Swin-T
    small-dense and of LV-ViT-T, 80 steps, first seed only.
    Cost: per seed 5 runs; 3 of them took about half an hour for 3,068 images on a CPU core that other jobs shared.
    To expect: students far from trained after so few images, and (a) not above (b); docs/results.md has the figures.
    """
    inputs.needs("photos", "shards", "test_shards", "checkpoint")
    assert inputs.shards is not None
    assert inputs.test_shards is not None
    select = SelectConfig.of(
        model="deit_t",
        checkpoint=inputs.checkpoint,
        shards=inputs.shards,
        out=inputs.folder,
        workers=inputs.runtime.workers,
        device=inputs.runtime.device,
    )
    stores = {ratio: _stores(select, ratio, inputs.test_shards, reporter) for ratio in (RATIO, SWIN_RATIO)}
    base = short_recipe(inputs, model=MODEL, epochs=EPOCHS, batch_size=BATCH_SIZE, peak_lr=PEAK_LR)
    tickets = [stores[RATIO]]
    _label_tickets(stores[RATIO].train, inputs, reporter)
    large = _large_arms(base, stores, inputs)
    return Study(
        name="photos",
        arms=(*paper_arms(base, tickets, test_shards=inputs.test_shards, controls=CONTROLS), *large),
        comparisons=claims([t.label for t in tickets], CONTROLS),
        test_shards=inputs.test_shards,
        cost=CostPlan(
            model=MODEL,
            stores=(stores[RATIO].train,),
            batch_size=_COST_BATCH,
            num_classes=10,
            device=inputs.runtime.device,
        ),
        note={"model": MODEL, "epochs": EPOCHS, "batch_size": inputs.batch_size or BATCH_SIZE},
    )


def _stores(select: SelectConfig, ratio: float, test_shards: str, reporter: Reporter) -> Tickets:
    of = select.but(ratio=ratio, ranks=True)
    train = make_store(of.but(out=select.out / f"train-{ratio}.zarr"), reporter)
    test = make_store(of.but(out=select.out / f"test-{ratio}.zarr", shards=test_shards), reporter)
    return Tickets(label=str(ratio), train=train, test=test)


def _large_arms(base: TrainConfig, stores: dict[float, Tickets], inputs: StudyInputs) -> list[Arm]:
    """Swin-T on packed tickets, and LV-ViT-T with token labels and MixToken."""
    first = inputs.seeds[:1]
    few = base.but(
        epochs=LARGE_EPOCHS,
        max_steps=LARGE_STEPS,
        warmup_epochs=LARGE_EPOCHS / 8,
        lr=LARGE_PEAK_LR * BASE_BATCH_SIZE / base.recipe.batch_size,
        test="ticket",
        val_shards=inputs.test_shards,
    )
    found = []
    for name, model, ratio, changes in (
        ("swin_t-small-dense", "swin_t", SWIN_RATIO, {"swin_input": "small-dense"}),
        ("lvvit_t", "lvvit_t", RATIO, {"cutmix": 1.0}),
    ):
        store = stores[ratio]
        train = few.but(model=model, tickets=store.train, val_tickets=store.test, **changes)
        tests = (Evaluation(on="ticket", tickets=store.test), Evaluation(on="random", tickets=store.test))
        found.append(Arm(name=f"{name}-ticket-{ratio}", train=train, tests=tests, seeds=first, group=store.label))
    return found


def _label_tickets(store: str, inputs: StudyInputs, reporter: Reporter) -> None:
    """Writes token labels by a DeiT-Tiny that was fitted to these classes, once."""
    assert inputs.shards is not None
    if read_manifest(store).token_labels is not None:
        return
    out = inputs.folder / "labeller"
    batch_size = inputs.batch_size or BATCH_SIZE
    config = FitSelectorConfig.of(
        model="deit_t",
        checkpoint=inputs.checkpoint,
        shards=inputs.shards,
        out=out,
        ratio=RATIO,
        epochs=FIT_EPOCHS,
        batch_size=batch_size,
        lr=FIT_PEAK_LR * BASE_BATCH_SIZE / batch_size,
        workers=inputs.runtime.workers,
        device=inputs.runtime.device,
        auto_resume=True,
    )
    fit_selector(config, reporter)
    label_store(
        LabelConfig.of(
            model="deit_t",
            checkpoint=Path(find_weights(out)),
            tickets=store,
            shards=inputs.shards,
            workers=inputs.runtime.workers,
            device=inputs.runtime.device,
        ),
        reporter,
    )
