"""Options of a weight lottery, and what all of its runs share; numbers that cannot be meant are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ...artifacts_schema.errors import OptionError, OutputExistsError
from ...artifacts_schema.files import write_atomically, writing
from ..options import Group, Option, options_of, seed_numbers
from ..training.config import TrainConfig

if TYPE_CHECKING:
    from ..training.plan import RunPlan

LOTTERY_CONFIG_FILE = "lottery-config.json"
Scope = Literal["global", "layer"]
Compared = Literal["all", "ends"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningOptions(Group):
    """Options of how weights are pruned, round by round."""

    panel: ClassVar[str] = "Pruning"

    rounds: Annotated[int, Option(help="Rounds of pruning.", min=1)] = 7
    rate: Annotated[float, Option(help="Share of the remaining weights that a round prunes.", above=0, below=1)] = 0.2
    scope: Annotated[
        Scope, Option(help="Prune the smallest weights of all layers together (global), or of each layer.")
    ] = "global"
    rewind_step: Annotated[
        int, Option(help="Reset to the weights after this step of the dense run; 0: to the initialisation.", min=0)
    ] = 0
    compare: Annotated[
        Compared, Option(help="Train what tickets are compared with in all rounds, or in the first and last (ends).")
    ] = "all"

    def is_compared(self, number: int) -> bool:
        """Tells whether fresh weights and random masks are trained in a round, counted from 1."""
        return self.compare == "all" or number in (1, self.rounds)


Seeds = Annotated[tuple[int, ...], Option(help="Seeds, e.g. 0,1,2.", parser=seed_numbers, metavar="N,N,…")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LotteryConfig:
    """Configuration of a weight lottery.

    Attributes:
        train: how to train, on all patches; its folder and seed are filled in, and nothing is validated.
    """

    out: Path
    train: TrainConfig
    test_shards: str
    pruning: PruningOptions = PruningOptions()
    seeds: tuple[int, ...] = (0, 1, 2)


def check_lottery(config: LotteryConfig) -> None:
    """Refuses what can be refused before anything is read.

    Raises:
        OptionError, OutputExistsError
    """
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        listed = ",".join(str(s) for s in config.seeds)
        raise OptionError(f"`seeds={listed!r}` should be one or more different numbers, e.g. 0,1,2")
    if config.train.control != "dense" or config.train.recipe.ema_decay > 0:
        raise OptionError("a weight lottery trains on all patches and averages no weights: control dense, ema_decay 0")
    # Shards may have been packed into it beforehand.
    found = {p.name for p in config.out.iterdir() if ".tmp-" not in p.name} if config.out.is_dir() else set()
    if (
        config.out.exists()
        and not (config.out / LOTTERY_CONFIG_FILE).exists()
        and (found - {"shards"} or config.out.is_file())
    ):
        raise OutputExistsError(f"{config.out} exists and holds no weight lottery; choose another `out`")


def check_rounds(config: LotteryConfig, counts: list[int], num_steps: int) -> None:
    """Refuses rounds that prune nothing or everything, and a rewind step beyond the run.

    Args:
        counts: weights that remain after rounds 0, 1, …
        num_steps: steps of a run.

    Raises:
        OptionError: the numbers cannot be meant.
    """
    if config.pruning.rewind_step >= num_steps:
        raise OptionError(
            f"`rewind_step={config.pruning.rewind_step}` should be less than the {num_steps} steps of a run; lower it"
        )
    if counts[-1] == 0 or any(before == after for before, after in pairwise(counts)):
        raise OptionError(
            f"`rate={config.pruning.rate:g}`, `rounds={config.pruning.rounds}`: of {counts[0]} weights there remain "
            f"{counts[-1]}, and every round should prune some and leave some; give other numbers"
        )


def saved_lottery(out: Path) -> dict[str, Any]:
    """Reads the options that the lottery in a folder recorded; empty if there is none."""
    path = out / LOTTERY_CONFIG_FILE
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def shared_config(config: LotteryConfig, plan: RunPlan, world_size: int) -> dict[str, Any]:
    """Returns everything that the numbers depend on, beside rounds and seeds, of which there may come more."""
    shared = [d.name for d in options_of(TrainConfig) if d.option.on_resume not in ("free", "unrecorded")]
    shared += ["batch_size", "workers"]  # a run may go on with others, but the arms of a comparison have the same order
    resolved = plan.config.flat()
    found = {name: resolved[name] for name in shared if name != "seed"}
    found |= {"rate": config.pruning.rate, "scope": config.pruning.scope, "rewind_step": config.pruning.rewind_step}
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
        raise OptionError(f"{out} holds another weight lottery ({listed}); give the same options, or another `out`")
    if write and not saved:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / LOTTERY_CONFIG_FILE, (json.dumps(shared, indent=1) + "\n").encode())
