"""Defaults of a run that follow from its tickets and model: folder, model, shards, epochs."""

from __future__ import annotations

from pathlib import Path

from ...artifacts_schema import Manifest, OptionError
from ...artifacts_schema.local_notes import noted_shards
from ...artifacts_schema.thinning import mean_kept
from ..models.families import family_of, resolve_input
from ..models.registry import canonical_name
from ..models.resizing import resized_side
from ..runtime.reporting import Reporter
from .config import TrainConfig, matched_epochs
from .record import RECORD_FILE, read_record
from .thinning import kept_share


def model_name(config: TrainConfig, manifest: Manifest | None) -> str:
    """The student's model: as asked, else the one that selected the tickets.

    Raises:
        OptionError: neither says it.
    """
    name = config.student.model or (manifest.selector.model if manifest else None)
    if name is None:
        why = "" if manifest is None else f" (the tickets are by {manifest.selector.title}, which has no architecture)"
        raise OptionError(f"which model?{why} give `model`, e.g. deit_s")
    return name


def with_defaults(config: TrainConfig, name: str, manifest: Manifest | None, reporter: Reporter) -> TrainConfig:
    """The configuration with what follows from the model and the store alone filled in."""
    epochs = _epochs(config, name, manifest, reporter)
    return config.but(
        shards=config.shards or _noted_shards(config, manifest),
        model=canonical_name(name),
        swin_input=resolve_input(name, config.student.swin_input),
        epochs=epochs,
        warmup_epochs=min(5.0, epochs / 5) if config.recipe.warmup_epochs is None else config.recipe.warmup_epochs,
    )


def _noted_shards(config: TrainConfig, manifest: Manifest | None) -> str | None:
    if config.tickets is None or manifest is None or config.baked is not None:
        return None
    return noted_shards(config.tickets, manifest)


def settled(config: TrainConfig) -> TrainConfig:
    """The configuration with its folder, and with `auto_resume` decided: whether it goes on with a run there."""
    out = out_of(config)
    resume = config.run.resume or (config.run.auto_resume and read_record(out / RECORD_FILE) is not None)
    return config.but(out=out, resume=resume, auto_resume=False)


def out_of(config: TrainConfig) -> Path:
    """The folder of a run, given or not."""
    return config.run.out or TrainConfig.default_out(config.flat())


def _epochs(config: TrainConfig, name: str, manifest: Manifest | None, reporter: Reporter) -> int:
    """Epochs as asked, else the family's; more of them where they are to make up for the patches left out."""
    epochs = family_of(name).epochs if config.recipe.epochs is None else config.recipe.epochs
    num_dense = config.dense_epochs
    if num_dense > epochs:
        raise OptionError(f"`dense_epochs={num_dense}` of {epochs} epoch(s); give at most so many")
    if not config.match_tokens:
        return epochs
    assert manifest is not None  # check_options: match_tokens needs a store
    share = _share_seen(config, manifest)
    matched = num_dense + matched_epochs(epochs - num_dense, manifest.selector, kept_share=share)
    reporter.message(f"{epochs} epochs become {matched}, to see as many tokens as on all patches (`match_tokens`)")
    return matched


def _share_seen(config: TrainConfig, manifest: Manifest) -> float | None:
    """Share of all patches that the run sees, where it is not what the selector kept."""
    if config.control != "resize":
        return kept_share(manifest)
    return resized_side(mean_kept(manifest), (manifest.grid[0], manifest.grid[1])) ** 2 / manifest.num_patches
