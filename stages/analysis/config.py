"""Options of measuring fidelity. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..options import CascadeOptions, Checkpoint, Group, ImagePx, MinCrop, Option, RemoteOptions, RuntimeOptions, Seed

BATCH_SIZE = 32


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
