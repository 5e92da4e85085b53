"""dataltt eval"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import (
    BadImage,
    ChangedImage,
    Device,
    EvalOn,
    Json,
    MissingTicket,
    OnBadImage,
    OnChangedImage,
    OnMissingTicket,
    Precision,
    Recount,
    Workers,
    print_json,
)
from ..progress import reporting


def eval_(
    checkpoint: Annotated[
        Path, typer.Option(help="A run's folder (its best weights, else the newest), or a weights file.")
    ],
    test: Annotated[EvalOn, typer.Option(help="Patches to test on.")],
    shards: Annotated[
        str | None, typer.Option(help="Shards to test on, in quotes. Default: $DATALTT_SHARDS, else dataltt.toml.")
    ] = None,
    tickets: Annotated[
        str | None, typer.Option(help="Their ticket store (for --test ticket, and for how many random or own patches).")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Needed for weights that dataltt did not write.")] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Test a run's averaged weights.")] = False,
    num_keep: Annotated[
        int | None, typer.Option(min=1, help="How many random or own patches. Default: as in training.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    workers: Workers = None,
    device: Device = "auto",
    precision: Annotated[Precision, typer.Option()] = Precision.fp32,
    seed: Annotated[int, typer.Option(help="Seed of random patches.")] = 0,
    on_missing_ticket: MissingTicket = OnMissingTicket.error,
    on_changed_image: ChangedImage = OnChangedImage.error,
    on_bad_image: BadImage = OnBadImage.error,
    recount: Recount = False,
    as_json: Json = False,
) -> None:
    """Test a student: top-1, top-5 and loss on tickets, random patches, all, or those its own attention chooses.

    Example: dataltt eval --checkpoint runs/deit_s_50 --shards 'imagenet/val-*.tar' --tickets val.zarr --test ticket
    """
    from dataclasses import asdict

    from ...stages.data.shards import default_shards_spec
    from ...stages.runtime.distributed import is_main_process
    from ...stages.training.evaluate import EvalConfig, evaluate

    config = EvalConfig(
        checkpoint=checkpoint,
        shards=shards or default_shards_spec(),
        test=test.value,
        tickets=tickets,
        model=model,
        ema=ema,
        num_keep=num_keep,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision.value,
        seed=seed,
        on_missing_ticket=on_missing_ticket.value,
        on_changed_image=on_changed_image.value,
        on_bad_image=on_bad_image.value,
        recount=recount,
    )
    with reporting() as reporter:
        metrics = evaluate(config, reporter)
    if not is_main_process():
        return
    if as_json:
        print_json({"checkpoint": str(checkpoint), "test": test.value, **asdict(metrics)})
    else:
        skipped = f", {metrics.num_skipped} left out" if metrics.num_skipped else ""
        typer.echo(
            f"{test.value}: top-1 {metrics.top1:.2f} %, top-5 {metrics.top5:.2f} %, loss {metrics.loss:.4f} "
            f"on {metrics.num_samples} images{skipped}"
        )
