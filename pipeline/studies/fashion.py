"""The paper's comparison on the embedded images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import SelectConfig
from ..demo.run import BATCH_SIZE, EPOCHS, MODEL, demo_recipe, pack_fashion
from .arms import Tickets, claims, paper_arms
from .cost import CostPlan
from .engine import Study, finish_run, make_once, make_store
from .inputs import StudyInputs

RATIOS = (0.7, 0.5, 0.3)
NUM_TRAIN: int | None = None  # all 10,000
NUM_TEST: int | None = None  # all 2,000
_COST_BATCH = 256


def fashion(inputs: StudyInputs, reporter: Reporter) -> Study:
    """The whole comparison on Fashion-MNIST: a 64-dim ViT, 10,000 training images.

    Paper: its main comparison of (a), (b) and (c), at small scale, with the controls of its ablations.
    Command: dataltt study fashion
    Tickets: at ratios .7, .5 and .3, by one dense model that is no arm of the study (seed "selector").
    Arms: dense; for each ratio tickets, random, fixed-random, inverse, random for as many tokens as dense sees, and
    what needs no selector: the central patches (center), the whole picture made smaller (resize).
    Cost: per seed 22 runs of 4 epochs (matched-token ones of 6, 8 and 13); 16 of them took an hour on a CPU core that
    others used.
    To expect: (a) some points below (c), and the further above (b) the fewer patches are kept; see docs/results.md.
    """
    shards, test_shards = pack_fashion_shards(inputs, {"train": NUM_TRAIN, "test": NUM_TEST}, reporter)
    batch_size = inputs.batch_size or BATCH_SIZE
    base = demo_recipe(EPOCHS, batch_size).but(shards=shards, model=MODEL, out=inputs.folder, **inputs.runtime.flat())
    selector = finish_run(base.but(control="dense", out=inputs.folder / "selector", seed=SELECTOR_SEED), reporter)
    tickets = []
    for ratio in RATIOS:
        stores = []
        for split, of in (("train", shards), ("test", test_shards)):
            config = SelectConfig.of(
                model=MODEL,
                checkpoint=selector,
                shards=of,
                out=inputs.folder / f"{split}-{ratio}.zarr",
                ratio=ratio,
                ranks=True,
                workers=inputs.runtime.workers,
                device=inputs.runtime.device,
            )
            stores.append(make_store(config, reporter))
        tickets.append(Tickets(label=str(ratio), train=stores[0], test=stores[1]))
    labels = [t.label for t in tickets]
    return Study(
        name="fashion",
        arms=paper_arms(base, tickets, test_shards=test_shards),
        comparisons=claims(labels),
        test_shards=test_shards,
        cost=CostPlan(
            model=MODEL,
            stores=tuple(t.train for t in tickets),
            batch_size=_COST_BATCH,
            num_classes=10,
            device=inputs.runtime.device,
        ),
        note={"model": MODEL, "epochs": EPOCHS, "batch_size": batch_size, "num_train": NUM_TRAIN or 10_000},
    )


SELECTOR_SEED = 1_000_003  # no seed of a study


def pack_fashion_shards(inputs: StudyInputs, counts: Mapping[str, int | None], reporter: Reporter) -> tuple[str, str]:
    """Packs the first embedded images of each split, once; returns the globs of the training and test shards."""
    folder = inputs.folder / "shards"
    for split, count in counts.items():
        pack = partial(pack_fashion, folder, split, count, reporter)
        make_once(pack, folder / f"{split}-000000.tar", inputs.runtime.device)
    return str(folder / "train-*.tar"), str(folder / "test-*.tar")
