"""Runs the arms of a study, one after the other, and collects what they came to.

Every run has a folder of its own; what is finished is skipped, what was cut off goes on, so a study may be interrupted,
extended by seeds, or shared out over processes (one per seed) that write into the same folder.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...artifacts_schema import TicketStore
from ...artifacts_schema.parts import write_atomically
from ...stages.checkpoints import latest_checkpoint
from ...stages.evaluate import EvalConfig, EvalProtocol, Metrics, evaluate
from ...stages.reporting import Reporter
from ...stages.select import SelectConfig, select
from ...stages.train import train
from ...stages.train_config import TrainConfig

_RESULT_FILE = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One thing that is compared: how to train (`train.out` and `train.seed` are filled in), and what to test on.

    `stored` names the arrays of the store that this arm reads beyond keys and labels; their bytes are what it costs.
    """

    name: str
    train: TrainConfig
    test: EvalProtocol
    stored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """Top-1 in per cent by seed, their mean and standard deviation, and what the arm's tickets take on disk."""

    name: str
    tested_on: str
    top1: dict[int, float]
    mean: float
    sd: float | None
    bytes_per_image: float
    num_steps: int


def bytes_per_image(arm: Arm) -> float:
    """Bytes per image of the arrays that an arm reads, of as many views as it uses."""
    if arm.train.tickets is None or not arm.stored:
        return 0.0
    store = TicketStore.open(arm.train.tickets)
    stored = store.num_stored_bytes()
    share = (arm.train.num_views or store.manifest.num_views) / store.manifest.num_views
    return sum(stored.get(name, 0) for name in arm.stored) * share / store.manifest.num_images


def make_store(config: SelectConfig, reporter: Reporter) -> str:
    """Selects into a store, if it is not there yet."""
    if not config.out.exists():
        reporter.message(f"selecting {config.out.name}")
        select(config, reporter)
    return str(config.out)


def run_study(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    out: Path,
    *,
    test_shards: str,
    test_tickets: str,
    reporter: Reporter,
    note: dict[str, Any],
) -> list[ArmResult]:
    """Trains and tests every arm with every seed, and writes out/study.json.

    Args:
        note: what else study.json should say (the recipe's numbers).
    """
    found: list[ArmResult] = []
    measured: dict[str, dict[int, Metrics]] = {arm.name: {} for arm in arms}
    steps = 0
    for seed in seeds:
        for arm in arms:
            reporter.message(f"\n{arm.name}, seed {seed}")
            test = _tester(arm, test_shards, test_tickets, reporter)
            measured[arm.name][seed], steps = _run(arm, seed, out / "runs" / f"{arm.name}-{seed}", test, reporter)
    for arm in arms:
        top1 = {seed: metrics.top1 for seed, metrics in measured[arm.name].items()}
        found.append(
            ArmResult(
                name=arm.name,
                tested_on=arm.test,
                top1=top1,
                mean=statistics.fmean(top1.values()),
                sd=statistics.stdev(top1.values()) if len(top1) > 1 else None,
                bytes_per_image=bytes_per_image(arm),
                num_steps=steps,
            )
        )
    document = {**note, "seeds": list(seeds), "arms": [asdict(a) for a in found]}
    write_atomically(out / "study.json", (json.dumps(document, indent=1) + "\n").encode())
    return found


def _tester(arm: Arm, shards: str, tickets: str, reporter: Reporter) -> Callable[[Path], Metrics]:
    def test(weights: Path) -> Metrics:
        config = EvalConfig(
            checkpoint=weights, shards=shards, tickets=tickets, test=arm.test, workers=arm.train.workers
        )
        return evaluate(config, reporter)

    return test


def _run(arm: Arm, seed: int, out: Path, test: Callable[[Path], Metrics], reporter: Reporter) -> tuple[Metrics, int]:
    """Trains and tests one run, or reads what an earlier call made of it."""
    result = out / _RESULT_FILE
    if result.exists():
        document = json.loads(result.read_text())
        reporter.message(f"done before: top-1 {document['metrics']['top1']:.2f}")
        return Metrics(**document["metrics"]), document["step"]
    done = train(replace(arm.train, out=out, seed=seed, resume=(out / "config.json").exists()), reporter)
    checkpoint = latest_checkpoint(out)
    assert checkpoint is not None, f"{out} has ended without a checkpoint"
    metrics = test(checkpoint / "model.safetensors")
    write_atomically(result, (json.dumps({"step": done.step, "metrics": asdict(metrics)}) + "\n").encode())
    return metrics, done.step
