"""Options of measuring fidelity, and of judging tickets. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..options import (
    CascadeOptions,
    Checkpoint,
    DecoderChoice,
    Group,
    ImagePx,
    MinCrop,
    OnChangedImage,
    OnOtherPixels,
    Option,
    RemoteOptions,
    RuntimeOptions,
    Seed,
    shares,
)

BATCH_SIZE = 32
DEFAULT_RATIOS = (0.7, 0.5, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityConfig(Group):
    """Options of `dataltt fidelity`."""

    model: Annotated[str, Option(help="The selector: deit_t, deit_s, deit_b, or a timm name.", is_common=True)]
    checkpoint: Checkpoint = None
    image_px: ImagePx = None
    selector: Annotated[
        str | None,
        Option(help="How patches are chosen, as of dataltt select. Default: as in the store, else the cascade."),
    ] = None
    selector_option: Annotated[
        tuple[str, ...],
        Option(help="A setting of `selector`; may be given again.", metavar="NAME=VALUE"),
    ] = ()
    tickets: Annotated[
        str | None,
        Option(help="Measure this store. Default: tickets are selected for a sample of `shards`.", is_common=True),
    ] = None
    shards: Annotated[
        str | None, Option(help="Images, in quotes. Default with `tickets`: the store's.", is_common=True)
    ] = None
    cascade: CascadeOptions = CascadeOptions()
    augment: Annotated[str, Option(help="Policy of the views: deit, deit3, crop.")] = "deit"
    min_crop: MinCrop = None
    num_views: Annotated[int, Option(help="Views per image that warped maps are made of.", min=1)] = 8
    images: Annotated[
        int, Option(help=f"How many images; whole batches of {BATCH_SIZE} are measured.", min=BATCH_SIZE)
    ] = 192
    seed: Seed = 0
    runtime: RuntimeOptions = RuntimeOptions()
    remote: RemoteOptions = RemoteOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig(Group):
    """Options of `dataltt quality`."""

    tickets: Annotated[
        tuple[str, ...], Option(help="A ticket store to judge; may be given again, to compare.", is_common=True)
    ] = ()
    selector: Annotated[
        tuple[str, ...],
        Option(
            help="A selector to run and judge: cascade, attention, rollout, gradient, variance, or one of a package; "
            "may be given again, to compare.",
            is_common=True,
        ),
    ] = ()
    image_px: ImagePx = None
    selector_option: Annotated[
        tuple[str, ...],
        Option(help="A setting of every `selector` that has it; may be given again.", metavar="NAME=VALUE"),
    ] = ()
    model: Annotated[
        str | None, Option(help="The selectors' ViT: deit_t, deit_s, deit_b, or a timm name.", is_common=True)
    ] = None
    checkpoint: Checkpoint = None
    judge: Annotated[
        str | None, Option(help="The ViT that judges. Default: `model`, with its weights.", is_common=True)
    ] = None
    judge_checkpoint: Annotated[
        Path | None,
        Option(help="Its weights, or a run's folder. Default: timm's pretrained ones.", is_common=True),
    ] = None
    shards: Annotated[
        str | None,
        Option(
            help="Images, in quotes. Default: $DATALTT_SHARDS, else with `tickets` the first store's.",
            is_common=True,
            variable="DATALTT_SHARDS",
        ),
    ] = None
    ratios: Annotated[
        tuple[float, ...] | None,
        Option(
            help="Shares of patches kept, e.g. 0.7,0.5,0.3 (the default of selectors). Default with `tickets`: each "
            "store's own; others go by its ranks, and are approximate.",
            parser=shares,
            metavar="R,R,…",
            is_common=True,
        ),
    ] = None
    images: Annotated[
        int | None, Option(help="How many images, the first of the shards. Default: all.", min=2, is_common=True)
    ] = None
    batch_size: Annotated[int, Option(help="Images per forward pass.", min=1)] = 64
    decoder: DecoderChoice = None
    on_changed_image: OnChangedImage = "error"
    on_other_pixels: OnOtherPixels = "error"
    seed: Seed = 0
    runtime: RuntimeOptions = RuntimeOptions()
    remote: RemoteOptions = RemoteOptions()
