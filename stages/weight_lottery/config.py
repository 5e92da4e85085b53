"""What a weight lottery is asked to do, and what all of its runs share; numbers that cannot be meant are refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...artifacts_schema import OptionError, OutputExistsError
from ...artifacts_schema.files import write_atomically
from ..training.config import TrainConfig
from ..training.plan import RunPlan
from ..training.run_log import FREE_ON_RESUME
from .masks import Scope

LOTTERY_CONFIG_FILE = "lottery-config.json"
# Differ between the runs of a lottery, or say only where and how fast it runs.
_NOT_SHARED = FREE_ON_RESUME | {"out", "seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LotteryConfig:
    """What `dataltt weight-lottery` is asked to do.

    Attributes:
        train: how to train, on all patches; `out` and `seed` are filled in, and nothing is validated.
        rate: the share of the remaining weights that a round prunes.
        rewind_step: 0 resets to the initial weights, k to those after step k of the dense run.
    """

    out: Path
    train: TrainConfig
    test_shards: str
    rounds: int = 7
    rate: float = 0.2
    scope: Scope = "global"
    rewind_step: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)


def check_lottery(config: LotteryConfig) -> None:
    """Refuses what can be refused before anything is read.

    Raises:
        OptionError, OutputExistsError
    """
    if not 0 < config.rate < 1:
        raise OptionError(f"--rate {config.rate:g} should lie between 0 and 1, both excluded: a share of the weights")
    if config.rounds < 1:
        raise OptionError(f"--rounds {config.rounds} should be at least 1")
    if config.rewind_step < 0:
        raise OptionError(f"--rewind-step {config.rewind_step} should be 0 (the initialisation) or a step of the run")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        listed = ",".join(str(s) for s in config.seeds)
        raise OptionError(f"--seeds {listed!r} should be one or more different numbers, e.g. 0,1,2")
    if config.train.control != "dense" or config.train.ema_decay > 0:
        raise OptionError("a weight lottery trains on all patches and averages no weights: control dense, ema_decay 0")
    # Shards may have been packed into it beforehand.
    found = {p.name for p in config.out.iterdir() if ".tmp-" not in p.name} if config.out.is_dir() else set()
    if (
        config.out.exists()
        and not (config.out / LOTTERY_CONFIG_FILE).exists()
        and (found - {"shards"} or config.out.is_file())
    ):
        raise OutputExistsError(f"{config.out} exists and holds no weight lottery; choose another --out")


def check_rounds(config: LotteryConfig, counts: list[int], num_steps: int) -> None:
    if config.rewind_step >= num_steps:
        raise OptionError(
            f"--rewind-step {config.rewind_step} should be less than the {num_steps} steps of a run; lower it"
        )
    if counts[-1] == 0 or any(before == after for before, after in pairwise(counts)):
        raise OptionError(
            f"--rate {config.rate:g}, --rounds {config.rounds}: of {counts[0]} weights there remain {counts[-1]}, and "
            "every round should prune some and leave some; give other numbers"
        )


def saved_lottery(out: Path) -> dict[str, Any]:
    path = out / LOTTERY_CONFIG_FILE
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def shared_config(config: LotteryConfig, plan: RunPlan, world_size: int) -> dict[str, Any]:
    """Everything that the numbers depend on, beside rounds and seeds, of which there may come more."""
    found = {k: v for k, v in asdict(plan.config).items() if k not in _NOT_SHARED}
    found |= {"rate": config.rate, "scope": config.scope, "rewind_step": config.rewind_step}
    found |= {"test_shards": config.test_shards, "num_images": plan.stream.num_samples}
    found["world_size"] = world_size
    document: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return document


def begin_lottery(out: Path, saved: dict[str, Any], shared: dict[str, Any], *, write: bool) -> None:
    """Writes down what the runs share, or checks that it is what an earlier call wrote.

    Raises:
        OptionError: it is not.
    """
    different = sorted(k for k in {*saved, *shared} if saved and saved.get(k) != shared.get(k))
    if different:
        listed = ", ".join(f"{k} was {saved.get(k)!r} and is {shared.get(k)!r}" for k in different)
        raise OptionError(f"{out} holds another weight lottery ({listed}); give the same options, or another --out")
    if write and not saved:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / LOTTERY_CONFIG_FILE, (json.dumps(shared, indent=1) + "\n").encode())
