"""Options of selecting tickets and of labelling tokens, in groups. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from ...artifacts_schema.locking import LOCK_TIMEOUT_S
from ..options import (
    CascadeOptions,
    Checkpoint,
    DecoderChoice,
    Group,
    ImagePx,
    LockTimeout,
    MinCrop,
    OnBadImage,
    OnChangedImage,
    OnOtherPixels,
    Option,
    Overwrite,
    PublicationOptions,
    RemoteOptions,
    RuntimeOptions,
    Seed,
    Shards,
)

MAX_VIEWS = 4096  # what a manifest may say


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnViewOptions(Group):
    """Options of the views of an image that tickets are selected for."""

    panel: ClassVar[str] = "Views"

    augment: Annotated[
        str,
        Option(
            help="Policy that views are drawn by, to be replayed (`view_mode='replay'`): deit, deit3, crop (no "
            "colours). whole: the whole image, for `view_mode='warp'`. none: the centre view, for testing, and for "
            "`view_mode='static'`."
        ),
    ] = "none"
    num_views: Annotated[
        int | None,
        Option(
            help="Views per image. Default: 16 of a policy that draws, else 1 (2: and its mirror image).",
            min=1,
            max=MAX_VIEWS,
        ),
    ] = None
    min_crop: MinCrop = None
    decoder: DecoderChoice = None
    seed: Seed = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig(Group):
    """Options of `dataltt select`. `SelectConfig.of(model=…, ratio=…)` makes one of plain names."""

    model: Annotated[
        str, Option(help="deit_t, deit_s, deit_b, lvvit_s, or a timm plain ViT with a CLS token.", is_common=True)
    ]
    checkpoint: Checkpoint = None
    image_px: ImagePx = None
    selector: Annotated[
        str,
        Option(
            help="How patches are chosen: cascade, attention, rollout, gradient; random, center, variance (of `model` "
            "only grid and view count); or one that another package adds (docs/selectors.md).",
        ),
    ] = "cascade"
    selector_option: Annotated[
        tuple[str, ...],
        Option(help="A setting of `selector`, e.g. seed=1 of random; may be given again.", metavar="NAME=VALUE"),
    ] = ()
    shards: Shards = None
    out: Annotated[
        Path,
        Option(
            help="The ticket store to write.",
            is_common=True,
            instead_of_url="select into a folder, then: dataltt push FOLDER URL",
        ),
    ] = Path("store.zarr")
    extend: Annotated[
        str | None,
        Option(
            help="A store of the same selector, views and ratio: only shards that it lacks are selected, and `out` has "
            "its tickets too."
        ),
    ] = None
    cascade: CascadeOptions = CascadeOptions()
    budget: Annotated[
        float | None,
        Option(
            help="Or, instead of `ratio`: mean share of patches kept, of each view as many as it needs, from half the "
            "budget to half as much again (docs/adaptive.md).",
            above=0,
            max=1,
        ),
    ] = None
    views: DrawnViewOptions = DrawnViewOptions()
    ranks: Annotated[
        bool,
        Option(help="Store every patch's rank too (for `view_mode='warp'`, `control='inverse'`, mixing by rank)."),
    ] = False
    batch_size: Annotated[int, Option(help="Views per forward pass.", min=1)] = 128
    on_bad_image: OnBadImage = "error"
    overwrite: Overwrite = False
    name: Annotated[str | None, Option(help="Data set name for the manifest.")] = None
    split: Annotated[str | None, Option(help="Split name for the manifest.")] = None
    publication: PublicationOptions = PublicationOptions()
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    runtime: RuntimeOptions = RuntimeOptions()
    remote: RemoteOptions = RemoteOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig(Group):
    """Options of `dataltt label`."""

    tickets: Annotated[str, Option(help="The ticket store to add token labels to.", is_common=True)]
    model: Annotated[
        str, Option(help="The network that labels: an alias (deit_b), or any timm classifier.", is_common=True)
    ]
    checkpoint: Checkpoint = None
    shards: Annotated[
        str | None,
        Option(help="The shards that the store was made from. Default: where it says they are.", is_common=True),
    ] = None
    num_classes: Annotated[
        int | None, Option(help="Classes of the network. Default: as many as the checkpoint has.", min=1)
    ] = None
    batch_size: Annotated[int, Option(help="Views per forward pass.", min=1)] = 128
    overwrite: Overwrite = False
    on_changed_image: OnChangedImage = "error"
    on_other_pixels: OnOtherPixels = "error"
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    runtime: RuntimeOptions = RuntimeOptions()
    remote: RemoteOptions = RemoteOptions()
