"""Configurations of training, testing and fitting a selector, and checks of what does not go together.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...artifacts_schema.errors import OptionError
from ..options import (
    CascadeOptions,
    Checkpoint,
    Control,
    DecoderChoice,
    EvalProtocol,
    Group,
    ImagePx,
    JoinOptions,
    OnBadImage,
    OnOtherPixels,
    Option,
    RemoteOptions,
    Seed,
    Shards,
)
from .groups import (
    DataOptions,
    LogOptions,
    MixingOptions,
    Recipe,
    RunOptions,
    StudentOptions,
    TrainingRuntime,
    ViewOptions,
)

if TYPE_CHECKING:
    from ...artifacts_schema import Selector


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
