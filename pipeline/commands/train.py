"""dataltt train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import (
    BadImage,
    ChangedImage,
    Control,
    Device,
    EvalOn,
    Json,
    MissingTicket,
    OnBadImage,
    OnChangedImage,
    OnMissingTicket,
    OnOtherPixels,
    Optimizer,
    Precision,
    Recount,
    SwinInput,
    TokenLabels,
    Views,
    Workers,
    print_json,
)
from ..progress import reporting

_DATA, _RECIPE, _VIEWS, _RUN = "Data", "Recipe (defaults: DeiT)", "Views (defaults: DeiT)", "Run"


def train(
    tickets: Annotated[
        str | None, typer.Option(help="Ticket store of the training shards.", rich_help_panel=_DATA)
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(help="Training shards, in quotes; default: the store's.", rich_help_panel=_DATA),
    ] = None,
    val_shards: Annotated[str | None, typer.Option(help="Validation shards, in quotes.", rich_help_panel=_DATA)] = None,
    val_tickets: Annotated[str | None, typer.Option(help="Their ticket store.", rich_help_panel=_DATA)] = None,
    test: Annotated[
        EvalOn | None,
        typer.Option(
            help="Patches to validate on, and so what `best` means. Default: ticket; dense for --control dense.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Default: from classes.json beside the shards, or labels in the store.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    on_missing_ticket: MissingTicket = OnMissingTicket.error,
    on_changed_image: ChangedImage = OnChangedImage.error,
    on_bad_image: BadImage = OnBadImage.error,
    recount: Recount = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Student: deit_t/s/b, deit_b_576, lvvit_t/s, swin_t/s/b, resnet50, or such a timm model. Default: the "
            "selector's architecture.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    swin_input: Annotated[
        SwinInput | None,
        typer.Option(
            help="How tickets reach a Swin. zero: other patches are set to zero; saves nothing (default). small-dense: "
            "kept ones packed into a smaller image; needs a square number of them.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    token_labels: Annotated[
        TokenLabels | None,
        typer.Option(
            help="What an LV-ViT's tokens learn. store: maps that dataltt label wrote (default). image: its label.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(help="Weights to start from: a file or a run's folder. Default: random.", rich_help_panel=_RECIPE),
    ] = None,
    control: Annotated[
        Control, typer.Option(help="Which patches to train on: the ticket, or a control.", rich_help_panel=_RECIPE)
    ] = Control.ticket,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: 300, of a ResNet 90.", rich_help_panel=_RECIPE)
    ] = None,
    match_tokens: Annotated[
        bool,
        typer.Option(
            "--match-tokens",
            help="Train for so many more epochs that as many tokens are seen as on all patches (epochs / r³ of a keep "
            "rate r, epochs / R of a ratio R).",
            rich_help_panel=_RECIPE,
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per process and step.", rich_help_panel=_RECIPE)] = 128,
    lr: Annotated[
        float,
        typer.Option(help="Learning rate for a global batch of 512; scaled linearly.", rich_help_panel=_RECIPE),
    ] = 5e-4,
    min_lr: Annotated[float, typer.Option(help="Where the cosine ends.", rich_help_panel=_RECIPE)] = 1e-5,
    warmup_epochs: Annotated[
        float | None, typer.Option(help="Default: 5, or a fifth of a short run.", rich_help_panel=_RECIPE)
    ] = None,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=_RECIPE)] = 0.05,
    opt: Annotated[
        Optimizer, typer.Option(help="sgd is with Nesterov momentum.", rich_help_panel=_RECIPE)
    ] = Optimizer.adamw,
    momentum: Annotated[float, typer.Option(help="Of sgd.", rich_help_panel=_RECIPE)] = 0.9,
    clip_grad: Annotated[
        float | None,
        typer.Option(help="Largest joint norm of the gradients. Default: not clipped.", rich_help_panel=_RECIPE),
    ] = None,
    smoothing: Annotated[float, typer.Option(help="Label smoothing.", rich_help_panel=_RECIPE)] = 0.1,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth.", rich_help_panel=_RECIPE)] = 0.1,
    views: Annotated[
        Views | None,
        typer.Option(
            help="replay: the store's own views. warp: fresh crops, tickets follow by rank. static: the centre view. "
            "Default: what the store was selected for; fresh crops without a store.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    num_views: Annotated[
        int | None, typer.Option(min=1, help="Use only the store's first so many views.", rich_help_panel=_VIEWS)
    ] = None,
    augment: Annotated[
        str | None,
        typer.Option(
            help="Policy of static and warped views: deit, deit3, crop. Default: the store's, or deit.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    min_crop: Annotated[
        float | None,
        typer.Option(help="Smallest crop of warped views, as a share of the area.", rich_help_panel=_VIEWS),
    ] = None,
    hflip: Annotated[
        float | None, typer.Option(help="Share of images mirrored, instead of the recipe's.", rich_help_panel=_VIEWS)
    ] = None,
    auto_augment: Annotated[
        str | None,
        typer.Option(
            help="timm's RandAugment notation (only operations that move no pixel are used), 3a, or none, instead of "
            "the recipe's.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    color_jitter: Annotated[
        float | None, typer.Option(help="Instead of the recipe's; not with RandAugment.", rich_help_panel=_VIEWS)
    ] = None,
    random_erasing: Annotated[
        float, typer.Option(help="Probability per image; erases whole patches.", rich_help_panel=_VIEWS)
    ] = 0.25,
    mixup: Annotated[float, typer.Option(help="α; 0 for none.", rich_help_panel=_VIEWS)] = 0.8,
    cutmix: Annotated[float, typer.Option(help="α; 0 for none.", rich_help_panel=_VIEWS)] = 1.0,
    mix_prob: Annotated[float, typer.Option(help="Share of batches that are mixed.", rich_help_panel=_VIEWS)] = 1.0,
    mix_switch: Annotated[float, typer.Option(help="Share of those by cutmix.", rich_help_panel=_VIEWS)] = 0.5,
    on_other_pixels: Annotated[
        OnOtherPixels,
        typer.Option(
            help="Replayed views that this installation's libraries draw otherwise: stop, or allow other colours.",
            rich_help_panel=_VIEWS,
        ),
    ] = OnOtherPixels.error,
    ema_decay: Annotated[float, typer.Option(help="Weight average; 0 for none.", rich_help_panel=_RECIPE)] = 0.99996,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. Default: runs/STORE-CONTROL.", rich_help_panel=_RUN)
    ] = None,
    precision: Annotated[Precision, typer.Option(rich_help_panel=_RUN)] = Precision.fp32,
    compile_: Annotated[bool, typer.Option("--compile", help="torch.compile it.", rich_help_panel=_RUN)] = False,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many.", rich_help_panel=_RUN)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=_RUN)
    ] = False,
    seed: Annotated[int, typer.Option(rich_help_panel=_RUN)] = 0,
    workers: Workers = None,
    device: Device = "auto",
    shuffle_buffer: Annotated[
        int, typer.Option(min=1, help="Samples that each loader process mixes.", rich_help_panel=_RUN)
    ] = 2000,
    log_steps: Annotated[int, typer.Option(min=1, help="Steps between metrics.", rich_help_panel=_RUN)] = 50,
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Checkpoint inside epochs too, every so many.", rich_help_panel=_RUN)
    ] = None,
    as_json: Json = False,
) -> None:
    """Stage two: train a student on shards joined with their tickets.

    Example: dataltt train --tickets store.zarr --model deit_s --out runs/deit_s_50 --val-shards 'imagenet/val-*.tar'
    --val-tickets val.zarr

    Controls: --control random draws K patches anew for every image and step, fixed-random once per image, inverse
    takes the K lowest-ranked (needs ranks), dense takes all. They are shown the same views, mixed in the same way.

    Views: a ticket belongs to one view of an image. replay shows the views that the selector saw, view (epoch mod V)
    in each epoch. static shows the centre view, mirrored and recoloured but never cropped. warp crops afresh and lets
    ranks follow, approximately. What each costs and buys: docs/views.md.
    """
    from dataclasses import asdict

    from ...stages.runtime.distributed import is_main_process
    from ...stages.training.config import TrainConfig
    from ...stages.training.train import train as run

    if out is None:
        store = tickets.rstrip("/").rsplit("/", 1)[-1].removesuffix(".zarr") if tickets else model or "student"
        out = Path("runs") / f"{store}-{control.value}"
    config = TrainConfig(
        out=out,
        tickets=tickets,
        shards=shards,
        val_shards=val_shards,
        val_tickets=val_tickets,
        test=test.value if test else None,
        model=model,
        num_classes=num_classes,
        control=control.value,
        swin_input=swin_input.value if swin_input else None,
        token_labels=token_labels.value if token_labels else None,
        init=init,
        epochs=epochs,
        match_tokens=match_tokens,
        batch_size=batch_size,
        lr=lr,
        min_lr=min_lr,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        opt=opt.value,
        momentum=momentum,
        clip_grad=clip_grad,
        smoothing=smoothing,
        drop_path=drop_path,
        views=views.value if views else None,
        num_views=num_views,
        augment=augment,
        min_crop=min_crop,
        hflip=hflip,
        auto_augment=auto_augment,
        color_jitter=color_jitter,
        random_erasing=random_erasing,
        mixup=mixup,
        cutmix=cutmix,
        mix_prob=mix_prob,
        mix_switch=mix_switch,
        on_other_pixels=on_other_pixels.value,
        ema_decay=ema_decay,
        precision=precision.value,
        compile=compile_,
        max_steps=max_steps,
        resume=resume,
        seed=seed,
        workers=workers,
        device=device,
        shuffle_buffer=shuffle_buffer,
        log_steps=log_steps,
        checkpoint_steps=checkpoint_steps,
        on_missing_ticket=on_missing_ticket.value,
        on_changed_image=on_changed_image.value,
        on_bad_image=on_bad_image.value,
        recount=recount,
    )
    with reporting() as reporter:
        result = run(config, reporter)
    if not is_main_process():
        return
    if as_json:
        print_json(asdict(result))
        return
    best = f", best top-1 {result.best_top1:.2f} on {result.protocol}" if result.best_top1 is not None else ""
    typer.echo(f"{out}: step {result.step}, epoch {result.epoch}{best}")
    if result.num_skipped:
        typer.secho(f"{result.num_skipped} sample(s) were left out, as asked", fg=typer.colors.YELLOW, err=True)
