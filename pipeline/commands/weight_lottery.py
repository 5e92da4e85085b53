"""dataltt weight-lottery"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import Device, Json, Workers, print_json
from ..progress import reporting

if TYPE_CHECKING:
    from ...stages.training.config import TrainConfig

_DATA, _RECIPE, _PRUNING = "Data", "Recipe (defaults: the demo's; with --shards DeiT's)", "Pruning"


class Scope(StrEnum):
    """Among which weights the smallest are looked for."""

    all_layers = "global"
    layer = "layer"


def weight_lottery(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("weight-lottery"),
    rounds: Annotated[int, typer.Option(help="Rounds of pruning.", rich_help_panel=_PRUNING)] = 7,
    rate: Annotated[
        float, typer.Option(help="Share of the remaining weights that a round prunes.", rich_help_panel=_PRUNING)
    ] = 0.2,
    scope: Annotated[
        Scope,
        typer.Option(
            help="Prune the smallest weights of all layers together, or of each layer.", rich_help_panel=_PRUNING
        ),
    ] = Scope.all_layers,
    rewind_step: Annotated[
        int,
        typer.Option(
            help="Reset to the weights after this step of the dense run; 0: to the initialisation.",
            rich_help_panel=_PRUNING,
        ),
    ] = 0,
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 0,1,2.")] = "0,1,2",
    shards: Annotated[
        str | None,
        typer.Option(help="Training shards, in quotes. Default: embedded images.", rich_help_panel=_DATA),
    ] = None,
    test_shards: Annotated[
        str | None, typer.Option(help="Test shards, in quotes (with --shards).", rich_help_panel=_DATA)
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help="Train on the first so many embedded images alone.", rich_help_panel=_DATA
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The ViT. Default: vit_fashion; with --shards none.", rich_help_panel=_RECIPE)
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: 4; with --shards 300.", rich_help_panel=_RECIPE)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images per process and step. Default: 50; with --shards 128.", rich_help_panel=_RECIPE
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate for a global batch of 512; scaled linearly.", rich_help_panel=_RECIPE),
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Iterative magnitude pruning: are there winning tickets among a ViT's weights?

    Each round prunes a share of the weights that are left in the linear layers of the blocks, resets the others, and
    trains again: the ticket. It is compared with the same mask on fresh weights, and with random masks.

    Done runs are skipped and interrupted ones go on, so the same command can be given again, also with more --rounds
    or --seeds. Everything is in lottery.json, the plot in lottery.png. With --out STUDY/weight-lottery the plot also
    stands in that study's report, beside the data-level comparison.

    Example: dataltt weight-lottery --images 2000 --seeds 0,1,2
    """
    from ...artifacts_schema import OptionError
    from ...stages.weight_lottery.config import LotteryConfig
    from ..studies.lottery import NUM_FASHION, run_weight_lottery

    try:
        numbers = tuple(int(s) for s in seeds.split(","))
    except ValueError:
        raise OptionError(f"--seeds {seeds!r} should be whole numbers such as 0,1,2") from None
    train, tested = _recipe(out, shards, test_shards, images, model, epochs)
    given = {"model": model, "epochs": epochs, "batch_size": batch_size, "lr": lr, "workers": workers, "device": device}
    config = LotteryConfig(
        out=out,
        train=_with(train, given),
        test_shards=tested,
        rounds=rounds,
        rate=rate,
        scope=scope.value,
        rewind_step=rewind_step,
        seeds=numbers,
    )
    with reporting() as reporter:
        document = run_weight_lottery(config, reporter, num_fashion=(images or NUM_FASHION) if shards is None else None)
    if document is None:
        return
    if as_json:
        print_json(document)
        return
    _print(document, out)


def _recipe(
    out: Path,
    shards: str | None,
    test_shards: str | None,
    images: int | None,
    model: str | None,
    epochs: int | None,
) -> tuple[TrainConfig, str]:
    """How to train, and the shards to test on."""
    from ...artifacts_schema import OptionError
    from ..studies.lottery import deit_config, fashion_config

    if shards is None:
        if test_shards is not None:
            raise OptionError("--test-shards without --shards; give the shards to train on as well, or neither")
        return fashion_config(out, epochs=epochs)
    if images is not None:
        raise OptionError("--images is of the embedded images; leave it out, or leave --shards out")
    if test_shards is None or model is None:
        raise OptionError("--shards needs --test-shards (what to test on) and --model, e.g. deit_t")
    return deit_config(out, shards, model), test_shards


def _with(train: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """The recipe with the options that were given."""
    from dataclasses import replace

    return replace(train, **{k: v for k, v in given.items() if v is not None})


def _print(document: Mapping[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from ...stages.analysis.statistics import Paired, lottery_conclusion
    from ..studies.lottery import FIGURE_FILE

    table = Table("round", "remaining %", "ticket", "fresh", "random mask", "ticket − fresh", title="Top-1 in per cent")
    table.add_row("dense", "100.0", _figure(document["dense"]), "", "", "")
    for row in document["rounds"]:
        arms = [_figure(row["arms"][name]) for name in ("ticket", "fresh", "random-mask")]
        difference = str(Paired(**row["ticket_minus_fresh"]))
        table.add_row(str(row["round"]), f"{100 * row['remaining']:.1f}", *arms, difference)
    console = Console()
    console.print(table)
    console.print(lottery_conclusion(document), highlight=False, markup=False)
    console.print(f"plot: {out / FIGURE_FILE}", highlight=False, markup=False)


def _figure(arm: Mapping[str, Any]) -> str:
    return f"{arm['mean']:.2f}" + ("" if arm["sd"] is None else f" ± {arm['sd']:.2f}")
