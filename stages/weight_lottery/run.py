"""Iterative magnitude pruning of a ViT: does it hold winning tickets at the level of weights?

Frankle and Carbin, arXiv 1803.03635: train, prune a share of the remaining weights by magnitude, reset what is left to
its initial values, train again; a round. A mask with these weights is a winning ticket if it does better than the same
mask with other initial weights. Rewinding (Frankle et al., arXiv 1912.05671) resets to the weights of an early step.

Arms of a seed: `dense` (round 0), and in each round (the last two in the first and last alone, if so asked)
  ticket        the mask of that round, initial (or early) weights of the dense run
  fresh         the same mask, weights drawn afresh; never rewound
  random-mask   a random mask with as many weights in each layer, weights as the ticket's

Pruned are the weights, not the biases, of the linear layers inside the blocks; not the head, nor the patch embedding.
Every run takes the same number of steps of the whole schedule (so a rewound ticket has had `rewind_step` steps more)
on the same batches in the same order, and is tested on all patches with its last weights.

  OUT/lottery-config.json              what all runs share
  OUT/seed-S/rewind.safetensors        the dense run's weights after step `rewind_step`
  OUT/seed-S/mask-R.safetensors        the mask of round R
  OUT/seed-S/{dense,ticket-R,…}/       a run as `dataltt train` writes it; beside that
    model.safetensors                  its last weights with the mask multiplied in, for `dataltt eval`
    result.json                        how they did
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ...artifacts_schema import CheckpointError
from ...artifacts_schema.files import write_atomically
from ..data.shards import resolve_shards
from ..models.checkpoints import latest_checkpoint, read_info, save_weights
from ..models.families import create_student
from ..models.student import Student
from ..models.weights import load_weights, read_weights
from ..runtime.distributed import Process, process_group
from ..runtime.randomness import isolated_rng
from ..runtime.reporting import Reporter, SilentReporter
from ..training.config import EvalConfig, TrainConfig
from ..training.eval_loop import Metrics
from ..training.evaluate import evaluate
from ..training.plan import RunPlan, plan_run
from ..training.train import train
from .config import (
    LotteryConfig,
    begin_lottery,
    check_lottery,
    check_rounds,
    saved_lottery,
    shared_config,
)
from .masks import (
    Mask,
    apply_mask,
    full_mask,
    merge_masks,
    next_mask,
    prunable_layers,
    random_mask,
    read_mask,
    remaining_counts,
    save_mask,
)

LotteryArm = Literal["dense", "ticket", "fresh", "random-mask"]
PRUNED_ARMS: tuple[LotteryArm, ...] = ("ticket", "fresh", "random-mask")

_RESULT_FILE = "result.json"
_WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class LotteryRun:
    """Result of one run."""

    arm: LotteryArm
    round: int
    seed: int
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class LotteryResult:
    """Results of all runs. `num_remaining` weights by round, from 0 on; `train` has every default filled in."""

    runs: list[LotteryRun]
    num_remaining: list[int]
    num_steps: int
    num_images: int
    train: TrainConfig


def run_lottery(config: LotteryConfig, reporter: Reporter | None = None) -> LotteryResult:
    """Runs what is not done yet; under torchrun, this process's share of it.

    Given again after an interruption, it skips finished runs and goes on with the one that was cut off. Rounds and
    seeds may be added.

    Raises:
        DatalttError: anything that the user can mend.
    """
    check_lottery(config)
    with process_group(config.train.runtime.device) as process:
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        saved = saved_lottery(config.out)
        base = config.train.but(
            out=config.out / "unused", seed=config.seeds[0], val_shards=None, max_steps=None, resume=False
        )
        if base.runtime.workers is None:  # the order of samples depends on it
            base = base.but(workers=saved.get("workers"))
        plan = plan_run(base, process, quiet)
        layers = prunable_layers(plan.student.net, str(config.train.student.model))
        sizes = [layer.weight.numel() for layer in layers.values()]
        counts = remaining_counts(
            sizes, rate=config.pruning.rate, rounds=config.pruning.rounds, scope=config.pruning.scope
        )
        num_steps = plan.steps_per_epoch * plan.epochs
        check_rounds(config, counts, num_steps)
        resolve_shards(config.test_shards)  # refused now rather than after the first run
        process.barrier()  # until all ranks have looked at the folder
        begin_lottery(config.out, saved, shared_config(config, plan, process.world_size), write=process.is_main)
        base = base.but(workers=plan.config.runtime.workers)
        lottery = _Lottery(config, base, plan, full_mask(layers), process, quiet)
        runs = [run for seed in config.seeds for run in lottery.runs_of(seed)]
    return LotteryResult(
        runs=runs,
        num_remaining=counts,
        num_steps=num_steps,
        num_images=plan.stream.num_samples,
        train=plan.config,
    )


class _Lottery:
    """The runs of a lottery that can start."""

    def __init__(
        self,
        config: LotteryConfig,
        base: TrainConfig,
        plan: RunPlan,
        everything: Mask,
        process: Process,
        reporter: Reporter,
    ) -> None:
        """`base` is what each run is given; `plan` what that comes to, whatever the seed."""
        self.config, self.base, self.resolved = config, base, plan.config
        self.num_steps = plan.steps_per_epoch * plan.epochs
        self.everything, self.process, self.reporter = everything, process, reporter

    def runs_of(self, seed: int) -> Iterator[LotteryRun]:
        """The runs of a seed, in the order in which they need each other."""
        folder = self.config.out / f"seed-{seed}"
        trained = folder / "dense"
        early = self._rewind_weights(folder, seed)
        yield self._run("dense", 0, seed, trained, lambda student: student)
        mask = self.everything
        for number in range(1, self.config.pruning.rounds + 1):
            mask = self._mask(folder / f"mask-{number}.safetensors", mask, trained)
            arms = self._arms(mask, early, seed, number)
            for arm, prepare in arms.items():
                if arm == "ticket" or self.config.pruning.is_compared(number):
                    yield self._run(arm, number, seed, folder / f"{arm}-{number}", prepare)
            trained = folder / f"ticket-{number}"

    def _arms(
        self, mask: Mask, early: Path | None, seed: int, number: int
    ) -> dict[LotteryArm, Callable[[Student], Student]]:
        """Preparation of the student of each arm; it comes with the initial weights of the seed."""

        def rewound(student: Student) -> Student:
            if early is not None:
                load_weights(student.net, read_weights(early), str(early), str(self.resolved.student.model))
            return student

        def ticket(student: Student) -> Student:
            apply_mask(rewound(student).net, mask)
            return student

        def fresh(student: Student) -> Student:
            with isolated_rng(seed, "fresh weights", number):
                other = create_student(
                    str(self.resolved.student.model),
                    image_px=student.geometry.image_px,
                    num_classes=self.resolved.data.num_classes,
                    drop_path_rate=self.resolved.recipe.drop_path,
                )
            student.net.load_state_dict(other.net.state_dict())
            apply_mask(student.net, mask)
            return student

        def other_mask(student: Student) -> Student:
            apply_mask(rewound(student).net, random_mask(mask, seed, "random mask", number))
            return student

        return {"ticket": ticket, "fresh": fresh, "random-mask": other_mask}

    def _mask(self, path: Path, before: Mask, trained: Path) -> Mask:
        """The mask of a round, made of what the round before it trained, or as an earlier call made it."""
        if self.process.is_main and not path.exists():
            weights = read_weights(trained / _WEIGHTS_FILE)
            save_mask(path, next_mask(weights, before, rate=self.config.pruning.rate, scope=self.config.pruning.scope))
        self.process.barrier()
        return read_mask(path, before)

    def _rewind_weights(self, folder: Path, seed: int) -> Path | None:
        """The dense run's weights after the step to rewind to, for which the run is stopped there; None: initial."""
        if not self.config.pruning.rewind_step:
            return None
        path, run, step = folder / "rewind.safetensors", folder / "dense", self.config.pruning.rewind_step
        if path.exists():
            return path
        if _step_of(run) > step:
            raise CheckpointError(f"{path} is not there, and {run} is past step {step}; delete {run} to train it again")
        self.reporter.heading(f"dense, seed {seed}, up to step {step}")
        self._train(run, seed, lambda student: student, until=step)
        if self.process.is_main:
            _copy_last_weights(run, path)
        self.process.barrier()
        return path

    def _run(
        self, arm: LotteryArm, number: int, seed: int, out: Path, prepare: Callable[[Student], Student]
    ) -> LotteryRun:
        """Trains and tests one run, or reads what an earlier call made of it."""
        result = out / _RESULT_FILE
        self.reporter.heading(f"{arm}, round {number}, seed {seed}" if number else f"{arm}, seed {seed}")
        if result.exists():
            metrics = Metrics(**json.loads(result.read_text())["metrics"])
            self.reporter.message(f"done before: top-1 {metrics.top1:.2f}")
            return LotteryRun(arm=arm, round=number, seed=seed, metrics=metrics)
        self._train(out, seed, prepare, until=self.num_steps)
        if self.process.is_main:
            _copy_last_weights(out, out / _WEIGHTS_FILE)
        self.process.barrier()
        c = self.base
        test = EvalConfig(
            checkpoint=out / _WEIGHTS_FILE,
            shards=self.config.test_shards,
            test="dense",
            runtime=c.runtime,
            on_bad_image=c.data.on_bad_image,
        )
        metrics = evaluate(test, self.reporter)
        if self.process.is_main:
            write_atomically(result, (json.dumps({"metrics": asdict(metrics)}) + "\n").encode())
        self.process.barrier()
        return LotteryRun(arm=arm, round=number, seed=seed, metrics=metrics)

    def _train(self, out: Path, seed: int, prepare: Callable[[Student], Student], *, until: int) -> None:
        if _step_of(out) >= until:  # interrupted between its end and its test
            return
        config = self.base.but(out=out, seed=seed, auto_resume=True, max_steps=until)
        train(config, self.reporter, prepare=prepare, command="weight-lottery")


def _step_of(run: Path) -> int:
    """The step of a run's newest checkpoint; 0 if there is none."""
    checkpoint = latest_checkpoint(run)
    info = None if checkpoint is None else read_info(checkpoint / _WEIGHTS_FILE)
    return 0 if info is None else info.step


def _copy_last_weights(run: Path, path: Path) -> None:
    """Writes the weights of a run's newest checkpoint as those of a plain network."""
    checkpoint = latest_checkpoint(run)
    info = None if checkpoint is None else read_info(checkpoint / _WEIGHTS_FILE)
    if checkpoint is None or info is None:
        raise CheckpointError(f"{run} has ended without a checkpoint; delete it to train it again")
    save_weights(path, merge_masks(read_weights(checkpoint / _WEIGHTS_FILE)), info)
