"""dataltt fit-selector"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..options import BadImage, Device, Json, OnBadImage, Precision, Views, Workers, print_json
from ..progress import reporting

_DATA, _SELECTOR, _RECIPE, _RUN = "Data", "Selector", "Recipe (defaults: the paper's, else DeiT's)", "Run"


def fit_selector(
    model: Annotated[
        str,
        typer.Option(
            help="deit_t, deit_s, deit_b, lvvit_s, or any timm plain ViT with a CLS token.", rich_help_panel=_SELECTOR
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights to start from (.safetensors or .pth), or a run's folder. Default: timm's pretrained ones.",
            rich_help_panel=_SELECTOR,
        ),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Final share of patches kept, in (0, 1].", rich_help_panel=_SELECTOR)
    ] = None,
    keep_rate: Annotated[
        float | None,
        typer.Option(help="Or: share kept at each drop block, as upstream.", rich_help_panel=_SELECTOR),
    ] = None,
    drop_blocks: Annotated[
        str | None,
        typer.Option(
            help="Zero-based blocks that drop patches, e.g. 3,6,9 (the default of 12 blocks).",
            rich_help_panel=_SELECTOR,
        ),
    ] = None,
    shrink_epochs: Annotated[
        float,
        typer.Option(
            help="The share kept falls from 1 on a cosine over so many epochs. 0: as asked from the start.",
            rich_help_panel=_SELECTOR,
        ),
    ] = 0,
    shards: Annotated[
        str | None,
        typer.Option(
            help="Training shards, in quotes. Default: $DATALTT_SHARDS, else [data] shards in dataltt.toml.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    val_shards: Annotated[
        str | None,
        typer.Option(help="Validation shards, in quotes; tested while dropping tokens.", rich_help_panel=_DATA),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(min=1, help="Default: from classes.json beside the shards.", rich_help_panel=_DATA),
    ] = None,
    on_bad_image: BadImage = OnBadImage.error,
    epochs: Annotated[int, typer.Option(min=1, rich_help_panel=_RECIPE)] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per process and step.", rich_help_panel=_RECIPE)] = 128,
    lr: Annotated[
        float,
        typer.Option(help="Learning rate for a global batch of 512; scaled linearly.", rich_help_panel=_RECIPE),
    ] = 2e-5,
    min_lr: Annotated[float, typer.Option(help="Where the cosine ends.", rich_help_panel=_RECIPE)] = 2e-6,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=_RECIPE)] = 1e-6,
    warmup_epochs: Annotated[float, typer.Option(rich_help_panel=_RECIPE)] = 0,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth.", rich_help_panel=_RECIPE)] = 0.0,
    mixup: Annotated[float, typer.Option(help="α; 0 for none.", rich_help_panel=_RECIPE)] = 0.8,
    cutmix: Annotated[float, typer.Option(help="α; 0 for none.", rich_help_panel=_RECIPE)] = 1.0,
    augment: Annotated[
        str | None, typer.Option(help="deit, deit3, crop. Default: deit.", rich_help_panel=_RECIPE)
    ] = None,
    views: Annotated[
        Views | None,
        typer.Option(help="warp: fresh crops. static: the centre view. Default: fresh crops.", rich_help_panel=_RECIPE),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/MODEL-selector-SHARE.", rich_help_panel=_RUN)
    ] = None,
    precision: Annotated[Precision, typer.Option(rich_help_panel=_RUN)] = Precision.fp32,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many.", rich_help_panel=_RUN)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=_RUN)
    ] = False,
    seed: Annotated[int, typer.Option(rich_help_panel=_RUN)] = 0,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fine-tune a dense ViT with token dropping, for better tickets: EViT without token fusion.

    Its output is the folder of a run, for select --checkpoint. Fit one for each share that you select with; a selector
    may be smaller or larger than the student, as long as both see the same patches. Runs in one process, or in many
    under torchrun.

    Example: dataltt fit-selector --model deit_b --keep-rate 0.7 --shards 'imagenet/train-{000000..001023}.tar'
    --val-shards 'imagenet/val-*.tar'
    """
    from dataclasses import asdict

    from ...artifacts_schema import OptionError
    from ...stages.data.shards import default_shards_spec
    from ...stages.runtime.distributed import is_main_process
    from ...stages.training.fit_selector import FitSelectorConfig
    from ...stages.training.fit_selector import fit_selector as run

    try:
        blocks = None if drop_blocks is None else tuple(int(b) for b in drop_blocks.split(","))
    except ValueError:
        raise OptionError(f"--drop-blocks {drop_blocks!r} should be block numbers such as 3,6,9") from None
    dial = f"--ratio {ratio:g}" if ratio is not None else f"--keep-rate {keep_rate:g}" if keep_rate is not None else ""
    config = FitSelectorConfig(
        model=model,
        checkpoint=checkpoint,
        ratio=ratio,
        keep_rate=keep_rate,
        drop_blocks=blocks,
        shrink_epochs=shrink_epochs,
        shards=shards or default_shards_spec(),
        val_shards=val_shards,
        num_classes=num_classes,
        on_bad_image=on_bad_image.value,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        min_lr=min_lr,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        drop_path=drop_path,
        mixup=mixup,
        cutmix=cutmix,
        augment=augment,
        views=views.value if views else None,
        out=out or Path("runs") / f"{model}-selector-{dial.rpartition(' ')[2]}",
        precision=precision.value,
        max_steps=max_steps,
        resume=resume,
        seed=seed,
        workers=workers,
        device=device,
    )
    with reporting() as reporter:
        result = run(config, reporter)
    if not is_main_process():
        return
    if as_json:
        print_json(asdict(result))
        return
    best = f", best top-1 {result.best_top1:.2f}" if result.best_top1 is not None else ""
    also = f" --drop-blocks {drop_blocks}" if drop_blocks else ""
    typer.echo(
        f"{config.out}: step {result.step}, epoch {result.epoch}{best}; next: dataltt select --model {model} "
        f"--checkpoint {shlex.quote(str(config.out))} {dial}{also} --shards {shlex.quote(config.shards)}"
    )
    if result.num_skipped:
        typer.secho(f"{result.num_skipped} sample(s) were left out, as asked", fg=typer.colors.YELLOW, err=True)
