"""The selector of a run: its fields of the manifest, and how it orders the patches of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import OptionError, Selector
from ..models.cascade import drop_blocks_of, keep_counts
from ..models.registry import canonical_name, entry_of, geometry_of, weights_sha256
from ..models.selector import TicketSelector
from ..options import CascadeOptions
from .config import SelectConfig
from .selectors import NamedSelector, made, named_selector, ordered

_TESTED_SPLITS = ("validation", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chooser:
    """A selector with its ViT.

    Attributes:
        selector: it, in the manifest.
        num_keep: patches that it keeps.
        order: of normalised images [B, channels, H, W], their labels int64 [B] and names, the patches from most to
            least informative, int64 [B, P].
    """

    selector: Selector
    num_keep: int
    order: Callable[[Tensor, Tensor, Sequence[str]], Tensor]


def checked_selector(config: SelectConfig) -> NamedSelector | None:
    """The selector that is asked for, None for the cascade; checks that are cheap, before a model is loaded.

    Raises:
        OptionError
    """
    named = named_selector(config.selector, config.selector_option)
    keep_counts(1, config.cascade)
    if named is None:
        return None
    for option in ("keep_rate", "drop_blocks"):
        if getattr(config.cascade, option) is not None:
            raise OptionError(f"`{option}` is of the cascade, and {named.name!r} drops no patches; give `ratio` alone")
    if not named.needs_weights and config.checkpoint is not None:
        raise OptionError(
            f"`checkpoint`: the selector {named.name!r} uses no weights (`model` gives its grid and view); leave it out"
        )
    return named


def chooser_of(
    config: SelectConfig, named: NamedSelector | None, model: VisionTransformer, device: torch.device, split: str
) -> Chooser:
    """The selector that is asked for, ready to order patches on a device.

    Args:
        split: of the images.

    Raises:
        OptionError: it uses labels, of images that are tested on.
        ModelError: it does not take this ViT.
    """
    return _cascade(config, model, device) if named is None else _scorer(config, named, model.to(device), split)


def _cascade(config: SelectConfig, model: VisionTransformer, device: torch.device) -> Chooser:
    c = config.cascade
    blocks = drop_blocks_of(c, len(model.blocks), entry_of(config.model).drop_blocks)
    counts = keep_counts(geometry_of(model, config.model).num_patches, c, len(blocks))
    selector = Selector(
        model=canonical_name(config.model),
        weights_sha256=weights_sha256(model),
        drop_blocks=list(blocks),
        keep_counts=list(counts),
        precision=config.runtime.precision,
        ratio=c.ratio,
        keep_rate=c.keep_rate,
    )
    cascade = TicketSelector(model, blocks, counts).to(device)
    return Chooser(selector=selector, num_keep=counts[-1], order=lambda images, labels, names: cascade(images))


def _scorer(config: SelectConfig, named: NamedSelector, model: VisionTransformer, split: str) -> Chooser:
    num_patches = geometry_of(model, config.model).num_patches
    num_keep = keep_counts(num_patches, CascadeOptions(ratio=config.cascade.ratio))[-1]
    scorer = made(named, model)
    uses_labels = bool(getattr(scorer, "uses_labels", False))
    if uses_labels and split in _TESTED_SPLITS:
        raise OptionError(
            f"the selector {named.name!r} would choose by the labels of {split} images, and a test on such tickets "
            "tells nothing; select these without labels"
        )
    selector = Selector(
        model=canonical_name(config.model) if named.needs_weights else None,
        weights_sha256=weights_sha256(model) if named.needs_weights else None,
        drop_blocks=[],
        keep_counts=[],
        precision=config.runtime.precision,
        ratio=config.cascade.ratio,
        name=named.name,
        settings=dict(named.settings),
        package=named.package,
        uses_labels=uses_labels or None,
    )

    def order(images: Tensor, labels: Tensor, names: Sequence[str]) -> Tensor:
        shown = labels if uses_labels else None
        return ordered(scorer, named.name, images, shown, num_keep, num_patches, names)

    return Chooser(selector=selector, num_keep=num_keep, order=order)
