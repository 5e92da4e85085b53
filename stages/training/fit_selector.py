"""Fine-tunes a dense ViT with token dropping, which makes it a better ticket selector (EViT without token fusion).

Recipe: Shen et al. 2023, section 3.2: 30 epochs at the keep rate that tickets will be selected with, no warm-up, small
learning rates and weight decay; what is left open is DeiT's. The run is one of stage two (train.py) on all patches;
beside its files stands

  OUT/selector.json    the model, where it drops tokens, and how many it keeps
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import CheckpointError, OptionError
from ...artifacts_schema.files import write_atomically
from ..data.view_modes import ViewMode
from ..models.cascade import default_drop_blocks, keep_counts
from ..models.checkpoints import SELECTOR_FILE, latest_checkpoint
from ..models.dropping_vit import DroppingViT, check_drop_blocks
from ..models.families import family_of
from ..models.registry import canonical_name, create_vit, entry_of, geometry_of, load_initial_weights, load_vit
from ..models.student import Student
from ..runtime.distributed import is_main_process
from ..runtime.reporting import Reporter, SilentReporter
from .config import TrainConfig, check_options
from .train import TrainResult, train


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSelectorConfig:
    """What `dataltt fit-selector` is asked to do; the command line's options, by their names.

    Options of stage two are passed on under the same names (TrainConfig says what they mean).
    """

    model: str
    shards: str
    out: Path
    checkpoint: Path | None = None  # weights to start from, or a run's folder; None: timm's pretrained ones
    ratio: float | None = None
    keep_rate: float | None = None
    drop_blocks: tuple[int, ...] | None = None
    shrink_epochs: float = 0  # the share kept falls from 1 over so many; 0: the target from the start
    val_shards: str | None = None
    num_classes: int | None = None
    epochs: int = 30
    batch_size: int = 128
    lr: float = 2e-5
    min_lr: float = 2e-6
    warmup_epochs: float = 0
    weight_decay: float = 1e-6
    smoothing: float = 0.1
    drop_path: float = 0.0  # upstream fine-tunes in evaluation mode, without it
    views: ViewMode | None = None  # None: fresh crops
    augment: str | None = None
    min_crop: float | None = None
    hflip: float | None = None
    auto_augment: str | None = None
    color_jitter: float | None = None
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    precision: Literal["fp32", "bf16"] = "fp32"
    max_steps: int | None = None
    resume: bool = False
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    shuffle_buffer: int = 2000
    log_steps: int = 50
    checkpoint_steps: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    recount: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSelector:
    """What selector.json says: the selector that a run fits."""

    model: str
    drop_blocks: tuple[int, ...]
    ratio: float | None
    keep_rate: float | None
    keep_counts: tuple[int, ...]
    shrink_epochs: float


def fit_selector(config: FitSelectorConfig, reporter: Reporter | None = None) -> TrainResult:
    """Fits a selector; under torchrun, this process's share of it. Its weights are for `select --checkpoint OUT`.

    Raises:
        DatalttError: anything that the user can mend.
    """
    quiet = reporter if reporter is not None and is_main_process() else SilentReporter()
    keep_counts(1, ratio=config.ratio, keep_rate=config.keep_rate)  # cheap checks come before a model is made
    training = _train_config(config)
    check_options(training)
    if not 0 <= config.shrink_epochs <= config.epochs:
        raise OptionError(
            f"--shrink-epochs {config.shrink_epochs:g} should lie between 0 and the {config.epochs} epochs of the run"
        )
    fitted, num_patches = _fitted(config)
    if config.resume:
        _check_same(config.out, fitted)
    pretrained = _pretrained(config)
    gradually = f", shrinking to that over {config.shrink_epochs:g} epochs" if config.shrink_epochs else ""
    quiet.message(
        f"{config.model} keeps {_listed(fitted.keep_counts)} of {num_patches} patches at blocks "
        f"{_listed(fitted.drop_blocks)}{gradually}"
    )
    return train(training, reporter, prepare=_preparation(config, fitted, pretrained, quiet), purpose="fit-selector")


class _FittedViT(DroppingViT):
    """Writes selector.json once its run has begun, before the first step, so that no checkpoint is without it."""

    def __init__(self, vit: VisionTransformer, name: str, out: Path, fitted: FittedSelector) -> None:
        super().__init__(
            vit,
            name,
            drop_blocks=fitted.drop_blocks,
            ratio=fitted.ratio,
            keep_rate=fitted.keep_rate,
            shrink_epochs=fitted.shrink_epochs,
        )
        self._fitted = fitted
        self.summary = f"drops patches to {self.keep_counts[-1]} of {self.geometry.num_patches}"
        self._to_write: Path | None = out / SELECTOR_FILE if is_main_process() else None

    def begin_step(self, epochs: float) -> None:
        if self._to_write is not None:
            write_atomically(self._to_write, (json.dumps(asdict(self._fitted), indent=1) + "\n").encode())
            self._to_write = None
        super().begin_step(epochs)


def _train_config(config: FitSelectorConfig) -> TrainConfig:
    """Stage two's part of the options."""
    passed_on = {f.name for f in fields(FitSelectorConfig)} & {f.name for f in fields(TrainConfig)}
    given: dict[str, Any] = {name: getattr(config, name) for name in sorted(passed_on)}
    return TrainConfig(
        control="dense",
        init=config.checkpoint,
        # The head on patch tokens is trained through the logits it adds to, as it is tested.
        token_labels="image" if family_of(config.model).learns_token_labels else None,
        ema_decay=0.0,  # selection takes the best or the last weights, never an average
        **given,
    )


def _fitted(config: FitSelectorConfig) -> tuple[FittedSelector, int]:
    """The selector to fit, and P.

    Raises:
        ModelError, OptionError
    """
    vit = create_vit(config.model)
    depth, num_patches = len(vit.blocks), geometry_of(vit, config.model).num_patches
    blocks = config.drop_blocks
    if blocks is None:
        blocks = entry_of(config.model).drop_blocks or default_drop_blocks(depth)
    check_drop_blocks(blocks, depth, config.model)
    counts = keep_counts(num_patches, ratio=config.ratio, keep_rate=config.keep_rate, num_stages=len(blocks))
    fitted = FittedSelector(
        model=canonical_name(config.model),
        drop_blocks=blocks,
        ratio=config.ratio,
        keep_rate=config.keep_rate,
        keep_counts=counts,
        shrink_epochs=config.shrink_epochs,
    )
    return fitted, num_patches


def _check_same(out: Path, fitted: FittedSelector) -> None:
    """Refuses to go on with another selector's run; a run cut off before its first step says nothing yet.

    Raises:
        OptionError, CheckpointError
    """
    path = out / SELECTOR_FILE
    if not path.exists():
        if latest_checkpoint(out) is not None:
            raise OptionError(f"--resume: {out} is a run that fits no selector; choose another --out")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); start the run anew with another --out") from None
    given = json.loads(json.dumps(asdict(fitted)))
    different = [k for k in sorted({*found, *given}) if found.get(k) != given.get(k)]
    if different:
        listed = ", ".join(f"{k} was {found.get(k)!r} and is {given.get(k)!r}" for k in different)
        raise OptionError(f"--resume: {out} fits another selector ({listed}); give the same options, or another --out")


def _pretrained(config: FitSelectorConfig) -> Mapping[str, Tensor] | None:
    """timm's weights to start from; None with a checkpoint of the user's, or of the run to be resumed."""
    if config.checkpoint is not None or (config.resume and latest_checkpoint(config.out) is not None):
        return None
    return load_vit(config.model, None).state_dict()


def _preparation(
    config: FitSelectorConfig, fitted: FittedSelector, pretrained: Mapping[str, Tensor] | None, reporter: Reporter
) -> Callable[[Student], Student]:
    """How the student of the run comes to drop tokens."""

    def prepare(student: Student) -> Student:
        vit = cast(VisionTransformer, student.net)
        if pretrained is not None:
            source = f"timm's pretrained weights of {config.model}"
            fresh = load_initial_weights(vit, pretrained, source, config.model)
            head = f"; its head starts afresh for {vit.num_classes} classes" if fresh else ""
            reporter.message(f"initial weights: {source}{head}")
        return _FittedViT(vit, config.model, config.out, fitted)

    return prepare


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in numbers)
