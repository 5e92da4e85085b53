"""Options of training, testing and fitting a selector, in groups, and checks of what does not go together.

Defaults are DeiT's recipe (Touvron et al. 2021), as Shen et al. 2023 use it. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ...artifacts_schema.errors import OptionError
from ...artifacts_schema.locking import LOCK_TIMEOUT_S
from ..options import (
    CascadeOptions,
    Checkpoint,
    Control,
    DecoderChoice,
    EvalProtocol,
    Group,
    ImagePx,
    JoinOptions,
    LockTimeout,
    MinCrop,
    OnBadImage,
    OnOtherPixels,
    Option,
    PatchInput,
    PlaceOptions,
    RemoteOptions,
    Seed,
    Shards,
    TokenTargets,
    ViewMode,
)

if TYPE_CHECKING:
    from ...artifacts_schema import Selector


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Group):
    """Options of `dataltt train`. `TrainConfig.of(tickets=…, lr=…)` makes one of plain names."""

    tickets: Annotated[
        str | None, Option(help="Ticket store of the training shards.", is_common=True, on_resume="place")
    ] = None
    shards: Annotated[
        str | None,
        Option(help="Training shards, in quotes. Default: the store's.", is_common=True, on_resume="place"),
    ] = None
    baked: Annotated[
        Path | None,
        Option(
            help="Folder that dataltt bake wrote, instead of shards; it has its tickets too.",
            is_common=True,
            on_resume="place",
        ),
    ] = None
    control: Annotated[
        Control,
        Option(
            help="Which patches to train on: the ticket, or a control. `resize`: the whole view at the size that has "
            "about as many.",
            is_common=True,
        ),
    ] = "ticket"
    val_tickets: Annotated[
        str | None, Option(help="Ticket store of the validation shards.", is_common=True, on_resume="added")
    ] = None
    test: Annotated[
        EvalProtocol | None,
        Option(
            help="Patches to validate on, and so what best means. Default: ticket; as in training for "
            "`control='dense'`, `control='center'` and `control='resize'`; dense with `dense_epochs`.",
            on_resume="added",
        ),
    ] = None
    num_views: Annotated[int | None, Option(help="Use only the store's first so many views. Default: all.", min=1)] = (
        None
    )
    ratio: Annotated[
        float | None,
        Option(
            help="Keep this share of the patches, by the store's ranks, where the store keeps more: approximate, as "
            "dataltt store thin is.",
            above=0,
            max=1,
        ),
    ] = None
    match_tokens: Annotated[
        bool,
        Option(
            help="Train for so many more epochs that as many tokens are seen as on all patches (epochs / r³ of a keep "
            "rate r, epochs / R of a ratio R)."
        ),
    ] = False
    dense_epochs: Annotated[
        int,
        Option(help="Train the last so many of the epochs on all patches, tickets and controls alike.", min=0),
    ] = 0
    on_other_pixels: OnOtherPixels = "error"
    run: RunOptions = RunOptions()
    student: StudentOptions = StudentOptions()
    data: DataOptions = DataOptions()
    joins: JoinOptions = JoinOptions()
    recipe: Recipe = Recipe()
    views: ViewOptions = ViewOptions()
    mixing: MixingOptions = MixingOptions()
    logging: LogOptions = LogOptions()
    runtime: TrainingRuntime = TrainingRuntime()
    remote: RemoteOptions = RemoteOptions()

    @staticmethod
    def default_out(options: Mapping[str, Any]) -> Path:
        """The folder of a run that was not given one, by the options' plain names."""
        store = str(options["tickets"] or options["baked"] or "").rstrip("/").rsplit("/", 1)[-1].removesuffix(".zarr")
        share = "" if options["ratio"] is None else f"-r{options['ratio']:g}"
        return Path("runs") / f"{store or options['model'] or 'student'}{share}-{options['control']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSelectorConfig(Group):
    """Options of `dataltt fit-selector`. Recipe: Shen et al. 2023, section 3.2; what is left open there is DeiT's."""

    model: Annotated[
        str, Option(help="deit_t, deit_s, deit_b, lvvit_s, or any timm plain ViT with a CLS token.", is_common=True)
    ]
    checkpoint: Checkpoint = None
    image_px: ImagePx = None
    shards: Shards = None
    shrink_epochs: Annotated[
        float,
        Option(help="The share kept falls from 1 on a cosine over so many epochs. 0: as asked from the start.", min=0),
    ] = 0
    cascade: CascadeOptions = CascadeOptions()
    run: RunOptions = RunOptions()
    data: DataOptions = DataOptions()
    # Upstream fine-tunes in evaluation mode, without stochastic depth, and keeps no average.
    recipe: Recipe = Recipe(
        epochs=30, lr=2e-5, min_lr=2e-6, warmup_epochs=0, weight_decay=1e-6, drop_path=0.0, ema_decay=0.0
    )
    views: ViewOptions = ViewOptions()
    mixing: MixingOptions = MixingOptions()
    logging: LogOptions = LogOptions()
    runtime: TrainingRuntime = TrainingRuntime()
    remote: RemoteOptions = RemoteOptions()

    @staticmethod
    def default_out(options: Mapping[str, Any]) -> Path:
        """The folder of a run that was not given one, by the options' plain names."""
        cascade = CascadeOptions(ratio=options["ratio"], keep_rate=options["keep_rate"])
        return Path("runs") / f"{options['model']}-selector-{cascade.as_word}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(Group):
    """Options of `dataltt eval`."""

    checkpoint: Annotated[
        Path, Option(help="A run's folder (its best weights, else the newest), or a weights file.", is_common=True)
    ]
    test: Annotated[EvalProtocol, Option(help="Patches to test on.", is_common=True)]
    shards: Shards = None
    tickets: Annotated[
        str | None,
        Option(
            help="Ticket store of the shards (for `test='ticket'`, and for how many patches of another kind).",
            is_common=True,
        ),
    ] = None
    model: Annotated[str | None, Option(help="Needed for weights that dataltt did not write.")] = None
    image_px: ImagePx = None
    num_classes: Annotated[
        int | None, Option(help="Of the weights, where classes.json beside the shards lists another number.", min=1)
    ] = None
    ema: Annotated[bool, Option(help="Test a run's averaged weights.")] = False
    num_keep: Annotated[
        int | None, Option(help="How many random, own, central or resized patches. Default: as in training.", min=1)
    ] = None
    batch_size: Annotated[int, Option(help="Images per forward pass.", min=1)] = 256
    decoder: DecoderChoice = None
    seed: Seed = 0
    on_bad_image: OnBadImage = "error"
    joins: JoinOptions = JoinOptions()
    runtime: TrainingRuntime = TrainingRuntime()
    remote: RemoteOptions = RemoteOptions()


def check_options(config: TrainConfig) -> None:
    """Refuses options that do not go together.

    Raises:
        OptionError
    """
    has_tickets = config.tickets is not None or config.baked is not None
    if config.control != "dense" and not has_tickets:
        raise OptionError(f"`control={config.control!r}` needs `tickets` (for which patches, or how many)")
    if config.recipe.opt == "sgd" and config.recipe.momentum == 0:
        raise OptionError("`momentum=0`: sgd is with Nesterov momentum here; give one above 0, such as 0.9")
    if config.match_tokens and not has_tickets:
        raise OptionError("`match_tokens` needs `tickets` (for how many patches are left out)")
    if config.ratio is not None and (not has_tickets or config.control == "dense"):
        raise OptionError(f"`ratio={config.ratio:g}` cuts tickets down, and this run has none; leave it out")
    if config.match_tokens and config.control == "dense":
        raise OptionError("`match_tokens`: dense training sees all tokens already; leave it out")
    if config.dense_epochs and config.control == "dense":
        raise OptionError(
            f"`dense_epochs={config.dense_epochs}`: dense training sees all patches already; leave it out"
        )
    if config.student.token_labels == "store" and not has_tickets:
        raise OptionError("`token_labels='store'` needs `tickets`, which they are in; or give `token_labels='image'`")
    if config.val_tickets is not None and config.data.val_shards is None:
        raise OptionError("`val_tickets` without `val_shards`; give the shards that they are of")
    if config.test == "ticket" and config.val_tickets is None:
        raise OptionError("`test='ticket'` needs `val_tickets` (select tickets for the validation shards)")


def protocol_of(config: TrainConfig) -> EvalProtocol | None:
    """Protocol of validation: as asked, else what (a), (b) and (c) of the paper are tested on, what central patches and
    smaller pictures can only be fairly tested on (themselves), and what a run ends on. None without shards.
    """
    if config.data.val_shards is None or config.test is not None:
        return config.test if config.data.val_shards is not None else None
    if config.dense_epochs:
        return "dense"
    if config.control in ("dense", "center", "resize"):
        return config.control
    if config.val_tickets is None:
        raise OptionError(
            "which patches to validate on? give `val_tickets` (winning tickets), or `test='random'` or `test='dense'`"
        )
    return "ticket"


def matched_epochs(epochs: int, selector: Selector, *, kept_share: float | None = None) -> int:
    """Epochs on kept patches that see as many tokens as `epochs` on all: epochs / r³ for a keep rate r at three drop
    blocks (350, 412, 488, 586, 711 of 300 for r = .95 … .75; upstream has 489), epochs / R for a final ratio R.

    Args:
        kept_share: of tickets that were cut down since the selector chose them.
    """
    if kept_share is not None:
        return round(epochs / kept_share)
    share = selector.ratio if selector.keep_rate is None else selector.keep_rate ** len(selector.drop_blocks)
    assert share is not None  # the manifest's check: one of the two is set
    return round(epochs / share)
