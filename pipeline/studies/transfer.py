"""Transfer: pretrained students fine-tuned on few labelled photographs, where nothing is learnt from scratch."""

from __future__ import annotations

from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import SelectConfig
from ...stages.training.config import TrainConfig
from .arms import PLAIN_CONTROLS, Tickets, claims, paper_arms
from .engine import Arm, Comparison, Study, make_store
from .inputs import StudyInputs
from .recipes import short_recipe

RATIOS = (0.5, 0.3)
EPOCHS = (3, 10)
MODEL = "deit_t"
BATCH_SIZE, PEAK_LR = 32, 1e-4
CONTROLS = ("random", *PLAIN_CONTROLS)


def transfer(inputs: StudyInputs, reporter: Reporter) -> Study:
    """Fine-tuning on photographs: a pretrained DeiT-Tiny chooses the patches, and the same network is trained on.

    Paper: none of its tables; its main comparison of (a), (b) and (c) where students begin with pretrained weights.
    Command: dataltt study transfer --shards 'photos/train-*.tar' --test-shards 'photos/test-*.tar' --checkpoint
    deit_tiny_patch16_224.safetensors --seeds 0,1,2,3,4
    Tickets: at ratios .5 and .3 by the checkpoint, as it is, of the centre view.
    Arms: for 3 and for 10 epochs dense, and for each ratio tickets, random, center and resize.
    Cost: per seed 18 runs, 117 passes over the photographs: an hour for 1,405 of them on two CPU cores that others use.
    To expect: after 3 epochs tickets above random subsets, by 4 points at ratio .5 and by 10 at .3, after 10 epochs
    not at .5, and by 3 points at .3; smaller pictures above both.
    """
    inputs.needs("transfer", "shards", "test_shards", "checkpoint")
    assert inputs.test_shards is not None
    tickets = [tickets_of(inputs, ratio, reporter) for ratio in RATIOS]
    labels = [t.label for t in tickets]
    arms: list[Arm] = []
    comparisons: list[Comparison] = []
    for epochs in EPOCHS:
        prefix = f"{epochs}-epochs-"
        arms += paper_arms(
            transfer_recipe(inputs, epochs),
            tickets,
            test_shards=inputs.test_shards,
            controls=CONTROLS,
            tests=("ticket", "random", "dense"),
            prefix=prefix,
        )
        comparisons += claims(labels, CONTROLS, prefix)
    note = {"model": MODEL, "epochs": list(EPOCHS), "batch_size": inputs.batch_size or BATCH_SIZE, "peak_lr": PEAK_LR}
    return Study(
        name="transfer",
        arms=tuple(arms),
        comparisons=tuple(comparisons),
        test_shards=inputs.test_shards,
        note=note,
    )


def tickets_of(inputs: StudyInputs, ratio: float, reporter: Reporter, *, image_px: int | None = None) -> Tickets:
    """Tickets by the checkpoint, as it is, of both sets of shards; of images of `image_px`, or its own size."""
    size = "" if image_px is None else f"-{image_px}px"
    config = SelectConfig.of(
        model=MODEL,
        checkpoint=inputs.checkpoint,
        shards=inputs.shards,
        image_px=image_px,
        out=inputs.folder / f"train-{ratio}{size}.zarr",
        ratio=ratio,
        ranks=True,
        workers=inputs.runtime.workers,
        device=inputs.runtime.device,
    )
    test = config.but(out=inputs.folder / f"test-{ratio}{size}.zarr", shards=inputs.test_shards)
    return Tickets(label=str(ratio), train=make_store(config, reporter), test=make_store(test, reporter))


def transfer_recipe(inputs: StudyInputs, epochs: int) -> TrainConfig:
    """Short, beginning with pretrained weights."""
    plain = short_recipe(inputs, model=MODEL, epochs=epochs, batch_size=BATCH_SIZE, peak_lr=PEAK_LR)
    return plain.but(init=inputs.checkpoint, val_interval=epochs)
