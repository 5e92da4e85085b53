"""dataltt select"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import BadImage, Device, Json, OnBadImage, Precision, Workers, print_json
from ..progress import reporting


def select(
    model: Annotated[str, typer.Option(help="deit_t, deit_s, deit_b, lvvit_s, or a timm plain ViT with a CLS token.")],
    out: Annotated[Path, typer.Option(help="The ticket store to write.")] = Path("store.zarr"),
    shards: Annotated[
        str | None,
        typer.Option(
            help="WebDataset shards: braces or a glob (in quotes), or a URL. Default: "
            "$DATALTT_SHARDS, else [data] shards in dataltt.toml."
        ),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Final share of patches kept, in (0, 1].")] = None,
    keep_rate: Annotated[float | None, typer.Option(help="Or: share kept at each drop block, as upstream.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights (.safetensors or .pth), or a run's folder (of fit-selector, train). Default: timm's "
            "pretrained ones."
        ),
    ] = None,
    drop_blocks: Annotated[
        str | None, typer.Option(help="Zero-based blocks that drop patches, e.g. 3,6,9 (the default of 12 blocks).")
    ] = None,
    augment: Annotated[
        str,
        typer.Option(
            help="Policy that views are drawn by, for train --views replay: deit, deit3, crop (no colours). whole: the "
            "whole image, for --views warp. none: the centre view, for testing, and for --views static."
        ),
    ] = "none",
    views: Annotated[
        int | None,
        typer.Option(help="Views per image. Default: 16 of a policy that draws, else 1 (2: and its mirror image)."),
    ] = None,
    min_crop: Annotated[
        float | None, typer.Option(help="Smallest crop, as a share of the image's area. Default: the policy's, 0.08.")
    ] = None,
    ranks: Annotated[
        bool, typer.Option(help="Store every patch's rank too (for --views warp, --control inverse, mixing by rank).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of random views.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 128,
    workers: Workers = None,
    device: Device = "auto",
    precision: Annotated[Precision, typer.Option(help="fp32, or bf16 (faster; tickets differ a little).")] = (
        Precision.fp32
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished store.")] = False,
    on_bad_image: BadImage = OnBadImage.error,
    name: Annotated[str | None, typer.Option(help="Data set name for the manifest.")] = None,
    split: Annotated[str | None, typer.Option(help="Split name for the manifest.")] = None,
    as_json: Json = False,
) -> None:
    """Stage one: run a ticket selector once over the shards and write a ticket store.

    Runs in one process, or in many under torchrun. Interrupted, the same command goes on where it stopped.

    A ticket belongs to one view. The centre view's (the default) does not fit random crops, so training on it never
    crops; to train with crops, select views that are drawn by a policy. docs/views.md says which to choose.

    Example: dataltt select --model deit_b --ratio 0.5 --shards 'imagenet/train-{000000..001023}.tar'
    """
    from ...artifacts_schema import OptionError
    from ...stages.data.shards import default_shards_spec
    from ...stages.selection.select import SelectConfig
    from ...stages.selection.select import select as run

    try:
        blocks = None if drop_blocks is None else tuple(int(b) for b in drop_blocks.split(","))
    except ValueError:
        raise OptionError(f"--drop-blocks {drop_blocks!r} should be block numbers such as 3,6,9") from None
    config = SelectConfig(
        model=model,
        shards=shards or default_shards_spec(),
        out=out,
        checkpoint=checkpoint,
        ratio=ratio,
        keep_rate=keep_rate,
        drop_blocks=blocks,
        augment=augment,
        min_crop=min_crop,
        views=views,
        ranks=ranks,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision.value,
        overwrite=overwrite,
        on_bad_image=on_bad_image.value,
        name=name,
        split=split,
    )
    with reporting() as reporter:
        manifest = run(config, reporter)
    if manifest is None:
        return  # not rank 0
    if as_json:
        print_json({"store": str(out), **manifest.to_json()})
        return
    kept = f"{manifest.num_keep} of {manifest.num_patches} patches ({manifest.num_keep / manifest.num_patches:.1%})"
    typer.echo(f"{out}: {kept} of {manifest.num_images} images; next: dataltt train --tickets {out}")
    if manifest.skipped:
        typer.secho(
            f"{len(manifest.skipped)} image(s) could not be decoded and have no ticket; the manifest lists them "
            f"(dataltt inspect {out} --json)",
            fg=typer.colors.YELLOW,
            err=True,
        )
