"""Runs the weight lottery as a study: embedded images if need be, the runs, lottery.json and lottery.png.

Claim 1 of Shen et al. 2023: weight-level winning tickets are hard to find in ViTs. The pruned network with its original
weights would have to do better than the same mask with fresh ones.

Command: dataltt weight-lottery. Cost: 22 runs of the demo's dense kind per seed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...artifacts_schema import OptionError
from ...artifacts_schema.files import write_atomically
from ...stages.analysis.statistics import paired, spread
from ...stages.data.counting import count_shards
from ...stages.data.shards import resolve_shards
from ...stages.models.families import family_of
from ...stages.runtime.distributed import process_group
from ...stages.runtime.reporting import Reporter
from ...stages.training.config import TrainConfig
from ...stages.weight_lottery.config import LotteryConfig, check_lottery
from ...stages.weight_lottery.run import PRUNED_ARMS, LotteryArm, LotteryResult, run_lottery
from ..demo.run import EPOCHS, MODEL, demo_recipe, pack_fashion
from ..reports.figures import lottery_figure
from ..reports.study_report import LOTTERY_FOLDER, write_study_report
from .engine import STUDY_FILE

NUM_FASHION = 10_000  # embedded training images
DOCUMENT_FILE, FIGURE_FILE = "lottery.json", "lottery.png"
# What a ticket is compared with, and how the document calls the difference.
DIFFERENCES: Mapping[str, LotteryArm] = {"ticket_minus_fresh": "fresh", "ticket_minus_random_mask": "random-mask"}


def run_weight_lottery(
    config: LotteryConfig, reporter: Reporter, *, num_fashion: int | None = None
) -> dict[str, Any] | None:
    """Runs a lottery and writes out/lottery.json and out/lottery.png; inside a study's folder, its report too.

    Args:
        num_fashion: train on the first so many embedded images, packed to where `fashion_config` looks for them.

    Returns:
        What stands in lottery.json; None in processes other than the main one.

    Raises:
        DatalttError: anything that the user can mend.
    """
    check_lottery(config)
    with process_group(config.train.runtime.device) as process:
        if num_fashion is not None:
            if process.is_main:
                _pack(config.out / "shards", num_fashion, reporter)
            process.barrier()
        result = run_lottery(config, reporter)
    if not process.is_main:
        return None
    document = document_of(config, result)
    write_atomically(config.out / DOCUMENT_FILE, (json.dumps(document, indent=1) + "\n").encode())
    picture = io.BytesIO()
    lottery_figure(document).savefig(picture, format="png", dpi=150)
    write_atomically(config.out / FIGURE_FILE, picture.getvalue())
    if config.out.name == LOTTERY_FOLDER and (config.out.parent / STUDY_FILE).exists():
        write_study_report(config.out.parent)
    # As a reader of the file finds it: JSON's keys are text.
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read


def fashion_config(out: Path, *, epochs: int | None = None) -> tuple[TrainConfig, str]:
    """The demo's dense recipe on embedded images in out/shards, and the shards to test on."""
    shards, test_shards = (str(out / "shards" / f"{split}-*.tar") for split in ("train", "test"))
    base = demo_recipe(EPOCHS if epochs is None else epochs)
    return base.but(out=out, shards=shards, model=MODEL, control="dense"), test_shards


def deit_config(out: Path, shards: str, model: str) -> TrainConfig:
    """DeiT's recipe on all patches of any shards, as `dataltt train --control dense` has it, without the average."""
    return TrainConfig.of(
        out=out,
        shards=shards,
        model=model,
        control="dense",
        token_labels="image" if family_of(model).learns_token_labels else None,
        ema_decay=0.0,
    )


def _pack(folder: Path, num_images: int, reporter: Reporter) -> None:
    for split, count in (("train", num_images), ("test", None)):
        if not list(folder.glob(f"{split}-*.tar")):
            pack_fashion(folder, split, count, reporter)
    shards = resolve_shards(str(folder / "train-*.tar"))
    found = sum(s.num_samples for s in count_shards(shards, None, reporter))
    if found != num_images:
        raise OptionError(
            f"--images {num_images}: {folder} holds {found} training images; give --images {found}, or another --out"
        )


def document_of(config: LotteryConfig, result: LotteryResult) -> dict[str, Any]:
    """Document of a lottery: numbers by arm, round and seed, and the ticket's paired differences from its controls."""
    top1: dict[tuple[str, int], dict[int, float]] = {}
    loss: dict[tuple[str, int], dict[int, float]] = {}
    for run in result.runs:
        top1.setdefault((run.arm, run.round), {})[run.seed] = run.metrics.top1
        loss.setdefault((run.arm, run.round), {})[run.seed] = run.metrics.loss

    def arm(name: str, number: int) -> dict[str, Any]:
        mean, sd = spread(top1[name, number])
        return {"top1": top1[name, number], "mean": mean, "sd": sd, "loss": loss[name, number]}

    numbers = range(1, config.pruning.rounds + 1)
    compared = [number for number in numbers if config.pruning.is_compared(number)]

    def average(name: str) -> dict[int, float]:
        return {s: sum(top1[name, r][s] for r in compared) / len(compared) for s in config.seeds}

    def difference(number: int, other: str) -> dict[str, Any] | None:
        return asdict(paired(top1["ticket", number], top1[other, number])) if number in compared else None

    rounds = [
        {
            "round": number,
            "num_remaining": result.num_remaining[number],
            "remaining": result.num_remaining[number] / result.num_remaining[0],
            "arms": {name: arm(name, number) for name in PRUNED_ARMS if (name, number) in top1},
            **{name: difference(number, other) for name, other in DIFFERENCES.items()},
        }
        for number in numbers
    ]
    averages = {name: average(name) for name in PRUNED_ARMS}
    return {
        "model": result.train.student.model,
        "epochs": result.train.recipe.epochs,
        "batch_size": result.train.recipe.batch_size,
        "lr": result.train.recipe.lr,
        "num_steps": result.num_steps,
        "num_images": result.num_images,
        "num_prunable": result.num_remaining[0],
        "num_rounds": config.pruning.rounds,
        "rate": config.pruning.rate,
        "scope": config.pruning.scope,
        "rewind_step": config.pruning.rewind_step,
        "seeds": list(config.seeds),
        "dense": arm("dense", 0),
        "rounds": rounds,
        # Of each seed's averages over the rounds where they are compared.
        "all_rounds": {k: asdict(paired(averages["ticket"], averages[o])) for k, o in DIFFERENCES.items()},
    }
