"""Runs the arms of a study, one after the other, and collects what they came to.

Every run has a folder of its own; what is finished is skipped, what was cut off goes on, so a study may be interrupted,
extended by seeds, or shared out over processes (one per seed) that write into the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...artifacts_schema import TicketStore, read_manifest
from ...artifacts_schema.files import write_atomically
from ...stages.analysis.statistics import Claim, Paired, Verdict, paired, spread, verdict
from ...stages.models.checkpoints import last_weights
from ...stages.options import EvalProtocol
from ...stages.runtime.distributed import is_main_process, process_group
from ...stages.runtime.reporting import Reporter
from ...stages.selection.config import LabelConfig, SelectConfig
from ...stages.selection.label import label
from ...stages.selection.select import select
from ...stages.training.config import EvalConfig, TrainConfig
from ...stages.training.defaults import out_of
from ...stages.training.eval_loop import Metrics
from ...stages.training.evaluate import evaluate
from ...stages.training.train import train
from ..reports.study_report import STUDY_FILE
from .cost import CostPlan, measured_cost
from .inputs import StudyInputs

_RESULT_FILE = "result.json"
_DONE_FILE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Test of an arm's students: a protocol, and the tickets it is about. `name` stands in the table."""

    on: EvalProtocol
    tickets: str | None = None
    name: str = ""

    @property
    def label(self) -> str:
        """Name in the table: `name`, else the protocol."""
        return self.name or self.on


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Arm of a comparison: how to train (`train.out` and `train.seed` are filled in), and what to test on.

    `stored` names the arrays of the store that this arm reads beyond keys and labels; their bytes are what it costs.
    `seeds` limits an arm to fewer seeds than the study's; arms of a `group` (a ratio) are drawn together.
    """

    name: str
    train: TrainConfig
    tests: tuple[Evaluation, ...]
    stored: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A paired difference of two (arm, test label), and what is claimed of it, if anything."""

    name: str
    first: tuple[str, str]
    second: tuple[str, str]
    claim: Claim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A whole comparison, set up and ready to run."""

    name: str
    arms: tuple[Arm, ...]
    test_shards: str
    comparisons: tuple[Comparison, ...] = ()
    cost: CostPlan | None = None
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """Result of one arm under one test. Top-1 in per cent by seed, their mean and standard deviation.

    `tflops` is the arithmetic of a seed's training, counted; None of runs that an earlier version trained.
    """

    arm: str
    group: str
    trained_on: str
    tested_on: str
    top1: dict[int, float]
    mean: float
    sd: float | None
    loss: float
    bytes_per_image: float
    num_steps: int
    tflops: float | None


class _Done(NamedTuple):
    """A run that is trained and tested: metrics by test, its steps, and its arithmetic in 10¹² operations."""

    metrics: dict[str, Metrics]
    num_steps: int
    tflops: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A comparison's outcome, in points of top-1."""

    name: str
    first: str
    second: str
    paired: Paired
    claim: Claim | None
    verdict: Verdict | None


def bytes_per_image(arm: Arm) -> float:
    """Bytes per image of the arrays that an arm reads, of as many views as it uses."""
    if arm.train.tickets is None or not arm.stored:
        return 0.0
    store = TicketStore.open(arm.train.tickets)
    stored = store.num_stored_bytes()
    share = (arm.train.num_views or store.manifest.num_views) / store.manifest.num_views
    return sum(stored.get(name, 0) for name in arm.stored) * share / store.manifest.num_images


def exists(path: Path, device: str) -> bool:
    """Tells whether something is there, asked by all ranks before one of them goes on to make it."""
    with process_group(device) as process:
        found = path.exists()
        process.barrier()
    return found


def make_once(make: Callable[[], object], path: Path, device: str) -> None:
    """Lets rank 0 make what is not there yet, and the others wait."""
    with process_group(device) as process:
        if process.is_main and not path.exists():
            make()
        process.barrier()


def make_store(config: SelectConfig, reporter: Reporter) -> str:
    """Selects into a store, if it is not there yet."""
    with process_group(config.runtime.device) as process:
        if not exists(config.out, config.runtime.device):
            reporter.message(f"selecting {config.out.name}")
            select(config, reporter)
            process.barrier()  # rank 0 has written it
    read_manifest(str(config.out))
    return str(config.out)


def label_store(config: LabelConfig, reporter: Reporter) -> None:
    """Adds token labels to a store that has none."""
    with process_group(config.runtime.device) as process:
        missing = read_manifest(config.tickets).token_labels is None
        process.barrier()
        if missing:
            label(config, reporter)
            process.barrier()


def finish_run(config: TrainConfig, reporter: Reporter) -> Path:
    """Trains a run to its end, from where it stands, once; returns its last weights."""
    out = out_of(config)
    done = out / _DONE_FILE
    if not exists(done, config.runtime.device):
        train(config.but(auto_resume=True), reporter)
        make_once(done.touch, done, config.runtime.device)
    return last_weights(out)


def run_study(study: Study, inputs: StudyInputs, reporter: Reporter) -> dict[str, Any]:
    """Trains and tests every arm with every seed, and writes out/study.json.

    Returns:
        The document that was written.
    """
    done: dict[str, dict[int, _Done]] = {arm.name: {} for arm in study.arms}
    for seed in inputs.seeds:
        for arm in study.arms:
            if arm.seeds is not None and seed not in arm.seeds:
                continue
            reporter.heading(f"{arm.name}, seed {seed}")
            done[arm.name][seed] = _run(study, arm, seed, inputs, reporter)
    rows = [_row(arm, test, done[arm.name]) for arm in study.arms if done[arm.name] for test in arm.tests]
    differences = list(_differences(study.comparisons, rows))
    cost = None if study.cost is None else measured_cost(study.cost, inputs.folder / "cost.json", reporter)
    document = {
        "study": study.name,
        **study.note,
        "seeds": list(inputs.seeds),
        "results": [asdict(r) for r in rows],
        "differences": [asdict(d) for d in differences],
        "cost": cost,
    }
    if is_main_process():
        write_atomically(inputs.folder / STUDY_FILE, (json.dumps(document, indent=1) + "\n").encode())
    # As a program would read it: with seeds as text.
    found: dict[str, Any] = json.loads(json.dumps(document))
    return found


def _row(arm: Arm, test: Evaluation, done: Mapping[int, _Done]) -> ResultRow:
    metrics = {seed: each.metrics[test.label] for seed, each in done.items()}
    last = list(done.values())[-1]
    top1 = {seed: m.top1 for seed, m in metrics.items()}
    mean, sd = spread(top1)
    return ResultRow(
        arm=arm.name,
        group=arm.group,
        trained_on=arm.train.control,
        tested_on=test.label,
        top1=top1,
        mean=mean,
        sd=sd,
        loss=spread({seed: m.loss for seed, m in metrics.items()})[0],
        bytes_per_image=bytes_per_image(arm),
        num_steps=last.num_steps,
        tflops=last.tflops,
    )


def _differences(comparisons: Sequence[Comparison], rows: Sequence[ResultRow]) -> list[Difference]:
    found = {(r.arm, r.tested_on): r.top1 for r in rows}
    return [
        _difference(c, paired(found[c.first], found[c.second]))
        for c in comparisons
        if c.first in found and c.second in found and set(found[c.first]) & set(found[c.second])
    ]


def _difference(comparison: Comparison, found: Paired) -> Difference:
    return Difference(
        name=comparison.name,
        first=" on ".join(comparison.first),
        second=" on ".join(comparison.second),
        paired=found,
        claim=comparison.claim,
        verdict=verdict(found, comparison.claim) if comparison.claim else None,
    )


def _run(study: Study, arm: Arm, seed: int, inputs: StudyInputs, reporter: Reporter) -> _Done:
    """Trains and tests one run, or reads what an earlier call made of it; tests that are new are made up for."""
    out = inputs.folder / "runs" / f"{arm.name}-{seed}"
    path = out / _RESULT_FILE
    document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"step": None, "tests": {}}
    found = {label: Metrics(**m) for label, m in document["tests"].items()}
    missing = [t for t in arm.tests if t.label not in found]
    if not missing:
        shown = ", ".join(f"{t.label} {found[t.label].top1:.2f}" for t in arm.tests)
        reporter.message(f"done before: {shown}")
        return _Done(found, document["step"], document.get("tflops"))
    step, tflops = document["step"], document.get("tflops")
    if step is None:
        config = arm.train.but(out=out, seed=seed, auto_resume=True)
        result = train(config, reporter)
        step, tflops = result.step, result.tflops
    for test in missing:
        found[test.label] = _test(study, arm, test, last_weights(out), inputs, reporter)
    if is_main_process():
        document = {"step": step, "tflops": tflops, "tests": {label: asdict(m) for label, m in found.items()}}
        write_atomically(path, (json.dumps(document) + "\n").encode())
    with process_group(inputs.runtime.device) as process:
        process.barrier()
    return _Done(found, step, tflops)


def _test(study: Study, arm: Arm, test: Evaluation, weights: Path, inputs: StudyInputs, reporter: Reporter) -> Metrics:
    config = EvalConfig.of(
        checkpoint=weights,
        shards=study.test_shards,
        tickets=test.tickets,
        test=test.on,
        **inputs.runtime.flat(),
    )
    metrics = evaluate(config, reporter)
    reporter.message(f"tested on {test.label}: top-1 {metrics.top1:.2f}")
    return metrics
