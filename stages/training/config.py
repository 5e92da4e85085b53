"""What a training run is asked to do; options that cannot be meant are refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...artifacts_schema import OptionError, Selector
from ..data.patches import Subset
from ..data.view_modes import ViewMode
from ..models.student import PatchInput
from .evaluate import EvalProtocol
from .mixing import MixConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `dataltt train` is asked to do; the command line's options, by their names. Defaults: DeiT's recipe."""

    out: Path
    tickets: str | None = None
    shards: str | None = None
    val_shards: str | None = None
    val_tickets: str | None = None
    test: EvalProtocol | None = None
    model: str | None = None
    num_classes: int | None = None
    control: Subset = "ticket"
    swin_input: PatchInput | None = None  # None: the family's usual way
    token_labels: Literal["store", "image"] | None = None  # None: the store's, for models that learn them
    init: Path | None = None  # weights to start from
    epochs: int | None = None  # None: the family's, 300 of ViTs
    match_tokens: bool = False  # as many epochs as make up for the patches left out
    batch_size: int = 128  # per process
    lr: float = 5e-4  # for a global batch of 512, scaled linearly
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: float | None = None  # None: 5, or a fifth of a short run
    weight_decay: float = 0.05
    opt: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9  # of sgd
    clip_grad: float | None = None  # largest joint norm of the gradients; None: as they are
    smoothing: float = 0.1
    drop_path: float = 0.1
    views: ViewMode | None = None  # None: what the store was selected for
    num_views: int | None = None
    augment: str | None = None  # None: the store's policy, or deit
    min_crop: float | None = None
    hflip: float | None = None  # None, here and below: the policy's
    auto_augment: str | None = None
    color_jitter: float | None = None
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    ema_decay: float = 0.99996
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    max_steps: int | None = None
    resume: bool = False
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    shuffle_buffer: int = 2000
    log_steps: int = 50
    checkpoint_steps: int | None = None  # None: at the end of every epoch
    on_missing_ticket: Literal["error", "skip"] = "error"
    on_changed_image: Literal["error", "allow"] = "error"
    on_bad_image: Literal["error", "skip"] = "error"
    on_other_pixels: Literal["error", "allow"] = "error"
    recount: bool = False

    @property
    def mix(self) -> MixConfig:
        return MixConfig(mixup=self.mixup, cutmix=self.cutmix, probability=self.mix_prob, switch=self.mix_switch)


_RANGES = {
    "lr": (0, float("inf")),
    "min_lr": (0, float("inf")),
    "warmup_epochs": (0, float("inf")),
    "weight_decay": (0, float("inf")),
    "momentum": (0, 0.9999),
    "smoothing": (0, 0.999),
    "drop_path": (0, 0.999),
    "hflip": (0, 1),
    "color_jitter": (0, float("inf")),
    "random_erasing": (0, 1),
    "mixup": (0, 1000),
    "cutmix": (0, 1000),
    "mix_prob": (0, 1),
    "mix_switch": (0, 1),
    "ema_decay": (0, 1),
}


def check_options(config: TrainConfig) -> None:
    if config.control != "dense" and config.tickets is None:
        raise OptionError(f"--control {config.control} needs --tickets STORE (for which patches, or how many)")
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise OptionError(f"--{name.replace('_', '-')} {value} should lie between {low:g} and {high:g}")
    if config.opt == "sgd" and config.momentum == 0:
        raise OptionError("--momentum 0: sgd is with Nesterov momentum here; give one above 0, such as 0.9")
    if config.clip_grad is not None and config.clip_grad <= 0:
        raise OptionError(f"--clip-grad {config.clip_grad:g} should be above 0; leave it out for none")
    for name in ("epochs", "batch_size", "log_steps"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise OptionError(f"--{name.replace('_', '-')} {value} should be at least 1")
    if config.match_tokens and config.tickets is None:
        raise OptionError("--match-tokens needs --tickets STORE (for how many patches are left out)")
    if config.match_tokens and config.control == "dense":
        raise OptionError("--match-tokens: dense training sees all tokens already; leave it out")
    if config.token_labels == "store" and config.tickets is None:
        raise OptionError("--token-labels store needs --tickets STORE, which they are in; or pass --token-labels image")
    if config.val_tickets is not None and config.val_shards is None:
        raise OptionError("--val-tickets without --val-shards; give the shards that they are of")
    if config.test == "ticket" and config.val_tickets is None:
        raise OptionError("--test ticket needs --val-tickets (select tickets for the validation shards)")


def protocol_of(config: TrainConfig) -> EvalProtocol | None:
    """How to validate: as asked, else on what (a), (b) and (c) of the paper are tested on; None without shards."""
    if config.val_shards is None or config.test is not None:
        return config.test if config.val_shards is not None else None
    if config.control == "dense":
        return "dense"
    if config.val_tickets is None:
        raise OptionError(
            "which patches to validate on? pass --val-tickets (winning tickets), or --test random or --test dense"
        )
    return "ticket"


def matched_epochs(epochs: int, selector: Selector) -> int:
    """Epochs on kept patches that see as many tokens as `epochs` on all: epochs / r³ for a keep rate r at three drop
    blocks (350, 412, 488, 586, 711 of 300 for r = .95 … .75; upstream has 489), epochs / R for a final ratio R."""
    share = selector.ratio if selector.keep_rate is None else selector.keep_rate ** len(selector.drop_blocks)
    assert share is not None  # the manifest's check: one of the two is set
    return round(epochs / share)
