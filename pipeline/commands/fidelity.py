"""dataltt fidelity"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Device, Json, Workers, print_json
from ..progress import reporting


def fidelity(
    model: Annotated[str, typer.Option(help="The selector: deit_t, deit_s, deit_b, or a timm name.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Its weights (.safetensors or .pth). Default: timm's pretrained ones.")
    ] = None,
    tickets: Annotated[
        str | None, typer.Option(help="Measure this store. Default: tickets are selected for a sample of --shards.")
    ] = None,
    shards: Annotated[str | None, typer.Option(help="Images, in quotes. Default with --tickets: the store's.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Final share of patches kept. Default: 0.5.")] = None,
    keep_rate: Annotated[float | None, typer.Option(help="Or: share kept at each drop block.")] = None,
    augment: Annotated[str, typer.Option(help="Policy of the views: deit, deit3, crop.")] = "deit",
    min_crop: Annotated[
        float | None, typer.Option(help="Smallest crop, as a share of the image's area. Default: the policy's.")
    ] = None,
    views: Annotated[int, typer.Option(min=1, help="Views per image that warped maps are made of.")] = 8,
    images: Annotated[int, typer.Option(help="How many images; whole batches of 32 are measured.")] = 192,
    seed: Annotated[int, typer.Option(help="Seed of views, crops and mixing.")] = 0,
    png: Annotated[Path | None, typer.Option(help="Write the table as a picture.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure how well cached tickets agree with the selector run online on what the student really sees.

    One row for each way to train: static, warped, replayed, mixed. The figure is the intersection over union of the
    two sets of kept patches; a random subset of half the patches reaches about .33.

    Example: dataltt fidelity --model deit_t --shards 'photos/val-*.tar' --png fidelity.png
    """
    from dataclasses import asdict

    from ...artifacts_schema import OptionError
    from ...stages.analysis.fidelity import FidelityConfig
    from ...stages.analysis.fidelity import fidelity as run
    from ..reports.figures import fidelity_figure

    if png is not None and not png.parent.is_dir():
        raise OptionError(f"--png {png}: there is no folder {png.parent}")
    config = FidelityConfig(
        model=model,
        checkpoint=checkpoint,
        tickets=tickets,
        shards=shards,
        ratio=0.5 if ratio is None and keep_rate is None else ratio,
        keep_rate=keep_rate,
        augment=augment,
        min_crop=min_crop,
        views=views,
        images=images,
        seed=seed,
        workers=workers,
        device=device,
    )
    with reporting() as reporter:
        result = run(config, reporter)
    title = f"IoU with the online ticket: {result.num_keep} of {result.num_patches} patches, policy {result.augment}"
    if png is not None:
        fidelity_figure([(r.name, r.mean, r.percentile_5) for r in result.rows], title).savefig(png, dpi=150)
    if as_json:
        print_json(asdict(result))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("what train would use", "mean", "5th percentile", "images", title=title)
    for row in result.rows:
        table.add_row(row.name, f"{row.mean:.3f}", f"{row.percentile_5:.3f}", str(row.num_images))
    Console().print(table)
    if png is not None:
        typer.echo(f"picture: {png}")
