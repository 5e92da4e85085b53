"""Groups of options of training, testing and fitting a selector; config.py makes configurations of them.

Defaults are DeiT's recipe (Touvron et al. 2021), as Shen et al. 2023 use it. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from ...artifacts_schema.locking import LOCK_TIMEOUT_S
from ..options import (
    DecoderChoice,
    Group,
    ImagePx,
    LockTimeout,
    MinCrop,
    OnBadImage,
    Option,
    PatchInput,
    PlaceOptions,
    Seed,
    TokenTargets,
    ViewMode,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions(Group):
    """Data of a run beside its training shards."""

    panel: ClassVar[str] = "Data"

    val_shards: Annotated[
        str | None, Option(help="Validation shards, in quotes.", is_common=True, on_resume="added")
    ] = None
    num_classes: Annotated[
        int | None,
        Option(help="Default: from classes.json beside the shards, or labels in the store.", min=1),
    ] = None
    on_bad_image: OnBadImage = "error"
    shuffle_buffer: Annotated[int, Option(help="Samples that each loader process mixes.", min=1)] = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentOptions(Group):
    """The network that is trained."""

    panel: ClassVar[str] = "Student"

    model: Annotated[
        str | None,
        Option(
            help="Student: deit_t/s/b, deit_b_576, lvvit_t/s, swin_t/s/b, resnet50, or such a timm model. Default: the "
            "selector's architecture.",
            is_common=True,
        ),
    ] = None
    init: Annotated[
        Path | None,
        Option(help="Weights to start from: a file or a run's folder. Default: random.", on_resume="place"),
    ] = None
    image_px: ImagePx = None
    swin_input: Annotated[
        PatchInput | None,
        Option(
            help="How tickets reach a Swin. zero: other patches are set to zero; saves nothing (default). small-dense: "
            "kept ones packed into a smaller image; needs a square number of them."
        ),
    ] = None
    token_labels: Annotated[
        TokenTargets | None,
        Option(help="What an LV-ViT's tokens learn. store: maps that dataltt label wrote (default). image: its label."),
    ] = None
    compile: Annotated[bool, Option(help="torch.compile it.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Group):
    """Options of how a network is trained. Defaults: DeiT's."""

    panel: ClassVar[str] = "Recipe (defaults: DeiT's)"

    epochs: Annotated[int | None, Option(help="Default: the family's, 300 of ViTs, 90 of a ResNet.", min=1)] = None
    batch_size: Annotated[
        int,
        Option(
            help="Images per process and step. A run that goes on keeps its global batch on any number of processes.",
            min=1,
            on_resume="free",
        ),
    ] = 128
    grad_accum: Annotated[
        int,
        Option(
            help="Forward and backward passes that share a step's images, to need less memory.", min=1, on_resume="free"
        ),
    ] = 1
    lr: Annotated[float, Option(help="Learning rate for a global batch of 512; scaled linearly.", min=0)] = 5e-4
    min_lr: Annotated[float, Option(help="Where the cosine ends.", min=0)] = 1e-5
    warmup_lr: Annotated[float, Option(help="Where the warm-up begins.", min=0)] = 1e-6
    warmup_epochs: Annotated[float | None, Option(help="Default: 5, or a fifth of a short run.", min=0)] = None
    weight_decay: Annotated[float, Option(help="Not of biases and norms.", min=0)] = 0.05
    opt: Annotated[Literal["adamw", "sgd"], Option(help="Optimiser; sgd is with Nesterov momentum.")] = "adamw"
    momentum: Annotated[float, Option(help="Of sgd.", min=0, max=0.9999)] = 0.9
    clip_grad: Annotated[
        float | None, Option(help="Largest joint norm of the gradients. Default: not clipped.", above=0)
    ] = None
    smoothing: Annotated[float, Option(help="Label smoothing.", min=0, max=0.999)] = 0.1
    drop_path: Annotated[float, Option(help="Stochastic depth.", min=0, max=0.999)] = 0.1
    ema_decay: Annotated[float, Option(help="Weight average; 0 for none.", min=0, max=1)] = 0.99996


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions(Group):
    """Options of the view of an image that a student is shown, and its colours."""

    panel: ClassVar[str] = "Views (defaults: DeiT's)"

    view_mode: Annotated[
        ViewMode | None,
        Option(
            help="replay: the store's own views. warp: fresh crops, tickets follow by rank. static: the centre view. "
            "Default: what the store was selected for; fresh crops without a store."
        ),
    ] = None
    augment: Annotated[
        str | None,
        Option(help="Policy of static and warped views: deit, deit3, crop. Default: the store's, or deit."),
    ] = None
    min_crop: MinCrop = None
    decoder: DecoderChoice = None
    hflip: Annotated[float | None, Option(help="Share of images mirrored, instead of the policy's.", min=0, max=1)] = (
        None
    )
    auto_augment: Annotated[
        str | None,
        Option(
            help="timm's RandAugment notation (only operations that move no pixel are used), 3a, or none, instead of "
            "the policy's."
        ),
    ] = None
    color_jitter: Annotated[float | None, Option(help="Instead of the policy's; not with RandAugment.", min=0)] = None
    repeats: Annotated[
        int,
        Option(
            help="Views of a picture that an epoch shows: of 1 in so many pictures, each decoded once for all of them. "
            "Upstream's DeiT: 3.",
            min=1,
        ),
    ] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MixingOptions(Group):
    """CutMix and Mixup on the patch grid, by α of Beta(α, α), and erasing of whole patches."""

    panel: ClassVar[str] = "Mixing (defaults: DeiT's)"

    random_erasing: Annotated[float, Option(help="Probability per image; erases whole patches.", min=0, max=1)] = 0.25
    mixup: Annotated[float, Option(help="α; 0 for none.", min=0, max=1000)] = 0.8
    cutmix: Annotated[float, Option(help="α; 0 for none.", min=0, max=1000)] = 1.0
    mix_prob: Annotated[float, Option(help="Share of batches that are mixed.", min=0, max=1)] = 1.0
    mix_switch: Annotated[float, Option(help="Share of those by cutmix.", min=0, max=1)] = 0.5

    @property
    def is_on(self) -> bool:
        """Tells whether any batch is mixed."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions(Group):
    """Options of what is written down how often."""

    panel: ClassVar[str] = "Logging and checkpoints"

    log_steps: Annotated[int, Option(help="Steps between metrics.", min=1, on_resume="free")] = 50
    log: Annotated[
        Literal["wandb"] | None,
        Option(help="Also to Weights & Biases (extra: wandb), as its own variables say.", on_resume="free"),
    ] = None
    checkpoint_steps: Annotated[
        int | None, Option(help="Checkpoint inside epochs too, every so many.", min=1, on_resume="free")
    ] = None
    keep_checkpoints: Annotated[int, Option(help="The newest so many stay.", min=1, on_resume="free")] = 1
    val_interval: Annotated[
        int, Option(help="Epochs from one validation to the next; the last is validated.", min=1, on_resume="free")
    ] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Group):
    """The run's folder, and where it begins and ends."""

    panel: ClassVar[str] = "Run"

    out: Annotated[
        Path | None,
        Option(
            help="Folder of the run. Default: one in runs/, named after it.", is_common=True, on_resume="unrecorded"
        ),
    ] = None
    resume: Annotated[
        bool,
        Option(help="Go on with the run in `out`, with its own options where none are given.", on_resume="unrecorded"),
    ] = False
    auto_resume: Annotated[
        bool, Option(help="Go on with the run in `out` if there is one, else start it.", on_resume="unrecorded")
    ] = False
    max_steps: Annotated[int | None, Option(help="Stop after so many.", min=1, on_resume="free")] = None
    seed: Seed = 0
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRuntime(PlaceOptions):
    """Options of where, how fast, and how exactly a network is trained or tested."""

    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        Option(
            help="Arithmetic of the forward pass; bf16 is faster, and rounds. fp16 is for GPUs without bf16; losses "
            "are scaled."
        ),
    ] = "fp32"
    tf32: Annotated[
        bool, Option(help="TF32 in products of fp32, on GPUs that have it: faster, and rounds to 10 bits.")
    ] = True
