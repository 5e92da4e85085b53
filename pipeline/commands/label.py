"""dataltt label"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import ChangedImage, Device, Json, OnChangedImage, OnOtherPixels, Precision, Workers, print_json
from ..progress import reporting


def label(
    tickets: Annotated[str, typer.Option(help="The ticket store to add token labels to.")],
    model: Annotated[str, typer.Option(help="The network that labels: an alias (deit_b), or any timm classifier.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights (.safetensors or .pth), or a run's folder. Default: timm's pretrained ones."),
    ] = None,
    shards: Annotated[
        str | None, typer.Option(help="The shards that the store was made from. Default: where it says they are.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=1, help="Classes of the network. Default: as many as the checkpoint has.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Views per forward pass.")] = 128,
    workers: Workers = None,
    device: Device = "auto",
    precision: Annotated[Precision, typer.Option(help="fp32, or bf16 (faster; scores differ a little).")] = (
        Precision.fp32
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace token labels that the store has.")] = False,
    on_changed_image: ChangedImage = OnChangedImage.error,
    on_other_pixels: Annotated[
        OnOtherPixels,
        typer.Option(help="Views that are drawn otherwise here than in the store: stop, or allow."),
    ] = OnOtherPixels.error,
    as_json: Json = False,
) -> None:
    """Add token labels to a ticket store: per patch, the five likeliest classes of a strong network (for LV-ViT).

    The network sees the very views that the tickets are of. Runs in one process, or in many under torchrun.
    Interrupted, the same command goes on where it stopped; the store is changed only when all labels are there.

    Example: dataltt label --tickets store.zarr --model resnet50
    """
    from ...artifacts_schema import TicketStore
    from ...stages.selection.label import LabelConfig
    from ...stages.selection.label import label as run

    config = LabelConfig(
        model=model,
        store=tickets,
        checkpoint=checkpoint,
        shards=shards,
        num_classes=num_classes,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision.value,
        overwrite=overwrite,
        on_changed_image=on_changed_image.value,
        on_other_pixels=on_other_pixels.value,
    )
    with reporting() as reporter:
        manifest = run(config, reporter)
    if manifest is None:
        return  # not rank 0
    stored = TicketStore.open(tickets).num_stored_bytes()
    bytes_per_image = sum(stored[f"token_labels/{name}"] for name in ("ids", "scores")) / manifest.num_images
    if as_json:
        print_json({"store": tickets, "token_label_bytes_per_image": bytes_per_image, **manifest.to_json()})
        return
    views = f"{manifest.num_views} view{'s' if manifest.num_views > 1 else ''}"
    typer.echo(
        f"{tickets}: token labels of {manifest.num_images} images in {views}, {bytes_per_image:.0f} bytes per image; "
        f"next: dataltt train --model lvvit_t --tickets {tickets}"
    )
