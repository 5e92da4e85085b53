"""Fine-tunes a dense ViT with token dropping, which makes it a better ticket selector (EViT without token fusion).

Recipe: Shen et al. 2023, section 3.2: 30 epochs at the keep rate that tickets will be selected with, no warm-up, small
learning rates and weight decay; what is left open is DeiT's. The run is one of stage two (train.py) on all patches;
beside its files stands

  OUT/selector.json    the model, where it drops tokens, and how many it keeps
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import CheckpointError, OptionError
from ...artifacts_schema.files import write_atomically
from ..data.shards import given_shards
from ..models.cascade import drop_blocks_of, keep_counts
from ..models.checkpoints import SELECTOR_FILE, latest_checkpoint
from ..models.dropping_vit import DroppingViT, check_drop_blocks
from ..models.families import family_of
from ..models.registry import canonical_name, create_vit, entry_of, geometry_of
from ..models.student import Student
from ..models.weights import initial_in_words, load_initial_weights, vit_weights
from ..options import CascadeOptions
from ..runtime.distributed import is_main_process
from ..runtime.reporting import Reporter, SilentReporter
from .config import FitSelectorConfig, TrainConfig, check_options
from .defaults import out_of, settled
from .train import TrainResult, train


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedSelector:
    """The selector that a run fits, as selector.json records it."""

    model: str
    cascade: CascadeOptions
    keep_counts: tuple[int, ...]
    shrink_epochs: float

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON types, those of the cascade in its place."""
        own = {"model": self.model, "keep_counts": list(self.keep_counts), "shrink_epochs": self.shrink_epochs}
        return {**own, **self.cascade.to_json()}


def fit_selector(config: FitSelectorConfig, reporter: Reporter | None = None) -> TrainResult:
    """Fits a selector; under torchrun, this process's share of it. Its weights are for `select`, as `checkpoint`.

    Raises:
        DatalttError: anything that the user can mend.
    """
    quiet = reporter if reporter is not None and is_main_process() else SilentReporter()
    keep_counts(1, config.cascade)  # cheap checks come before a model is made
    if config.run.out is None:
        config = config.but(out=FitSelectorConfig.default_out(config.flat()))
    training = settled(_train_config(config))
    check_options(training)
    epochs = config.recipe.epochs or 0
    if config.shrink_epochs > epochs:
        raise OptionError(
            f"`shrink_epochs={config.shrink_epochs:g}` should lie between 0 and the {epochs} epochs of the run"
        )
    fitted, num_patches = _fitted(config)
    out = out_of(training)
    if training.run.resume:
        _check_same(out, fitted)
    is_going_on = training.run.resume and latest_checkpoint(out) is not None
    pretrained = None if is_going_on else _pretrained(config)
    gradually = f", shrinking to that over {config.shrink_epochs:g} epochs" if config.shrink_epochs else ""
    quiet.message(
        f"{config.model} keeps {_listed(fitted.keep_counts)} of {num_patches} patches at blocks "
        f"{_listed(fitted.cascade.drop_blocks or ())}{gradually}"
    )
    return train(
        training,
        reporter,
        prepare=_preparation(config, out, fitted, pretrained, quiet),
        asked=config,
        command="fit-selector",
    )


class _FittedViT(DroppingViT):
    """Writes selector.json once its run has begun, before the first step, so that no checkpoint is without it."""

    def __init__(self, vit: VisionTransformer, name: str, out: Path, fitted: FittedSelector) -> None:
        super().__init__(
            vit,
            name,
            cascade=fitted.cascade,
            shrink_epochs=fitted.shrink_epochs,
        )
        self._fitted = fitted
        self.summary = f"drops patches to {self.keep_counts[-1]} of {self.geometry.num_patches}"
        self._to_write: Path | None = out / SELECTOR_FILE if is_main_process() else None

    def begin_step(self, epochs: float) -> None:
        if self._to_write is not None:
            write_atomically(self._to_write, (json.dumps(self._fitted.to_json(), indent=1) + "\n").encode())
            self._to_write = None
        super().begin_step(epochs)


def _train_config(config: FitSelectorConfig) -> TrainConfig:
    """Stage two's part of the options: all of it but what belongs to tickets."""
    given_shards(config.shards)
    training = TrainConfig(
        control="dense",
        shards=config.shards,
        run=config.run,
        data=config.data,
        recipe=config.recipe,
        views=config.views,
        mixing=config.mixing,
        logging=config.logging,
        runtime=config.runtime,
    )
    # The head on patch tokens is trained through the logits it adds to, as it is tested.
    token_labels = "image" if family_of(config.model).learns_token_labels else None
    return training.but(model=config.model, image_px=config.image_px, init=config.checkpoint, token_labels=token_labels)


def _fitted(config: FitSelectorConfig) -> tuple[FittedSelector, int]:
    """The selector to fit, and P.

    Raises:
        ModelError, OptionError
    """
    vit = create_vit(config.model, image_px=config.image_px)
    depth, num_patches = len(vit.blocks), geometry_of(vit, config.model).num_patches
    blocks = drop_blocks_of(config.cascade, depth, entry_of(config.model).drop_blocks)
    check_drop_blocks(blocks, depth, config.model)
    fitted = FittedSelector(
        model=canonical_name(config.model),
        cascade=config.cascade.but(drop_blocks=blocks),
        keep_counts=keep_counts(num_patches, config.cascade, len(blocks)),
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
            raise OptionError(f"{out} is a run that fits no selector; choose another `out`")
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); start the run anew with another `out`") from None
    given = fitted.to_json()
    different = [k for k in sorted({*found, *given}) if found.get(k) != given.get(k)]
    if different:
        listed = ", ".join(f"{k} was {found.get(k)!r} and is {given.get(k)!r}" for k in different)
        raise OptionError(f"{out} fits another selector ({listed}); give the same options, or another `out`")


def _pretrained(config: FitSelectorConfig) -> Mapping[str, Tensor] | None:
    """timm's weights to start from; None with a checkpoint of the user's."""
    if config.checkpoint is not None:
        return None
    return vit_weights(config.model, None)


def _preparation(
    config: FitSelectorConfig,
    out: Path,
    fitted: FittedSelector,
    pretrained: Mapping[str, Tensor] | None,
    reporter: Reporter,
) -> Callable[[Student], Student]:
    """Makes the function that lets the run's student drop tokens."""

    def prepare(student: Student) -> Student:
        vit = cast(VisionTransformer, student.net)
        if pretrained is not None:
            source = f"timm's pretrained weights of {config.model}"
            fresh = load_initial_weights(vit, pretrained, source, config.model)
            reporter.message(initial_in_words(vit, pretrained, source, fresh))
        return _FittedViT(vit, config.model, out, fitted)

    return prepare


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in numbers)
