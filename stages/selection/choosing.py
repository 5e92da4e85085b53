"""The selector of a run: its fields of the manifest, and how it orders the patches of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import OptionError, Selector
from ...artifacts_schema.adaptive import Adaptive, least_and_most
from ...artifacts_schema.thinning import ratio_of
from ..models.cascade import drop_blocks_of, keep_counts
from ..models.registry import canonical_name, entry_of, geometry_of, weights_sha256
from ..models.selector import Ordered, TicketSelector
from ..options import CascadeOptions
from .config import SelectConfig
from .selectors import NamedSelector, made, named_selector, ordered

_TESTED_SPLITS = ("validation", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chooser:
    """A selector with its ViT.

    Attributes:
        selector: it, in the manifest.
        num_keep: patches that it keeps; the most, where tickets are adaptive.
        order: of normalised images [B, channels, H, W], their labels int64 [B] and names, the patches.
        adaptive: numbers of patches of adaptive tickets, whose threshold is yet to be found; else None.
    """

    selector: Selector
    num_keep: int
    order: Callable[[Tensor, Tensor, Sequence[str]], Ordered]
    adaptive: Adaptive | None = None


def checked_selector(config: SelectConfig) -> NamedSelector | None:
    """The selector that is asked for, None for the cascade; checks that are cheap, before a model is loaded.

    Raises:
        OptionError
    """
    named = named_selector(config.selector, config.selector_option)
    keep_counts(1, _kept(config, 1))
    if config.budget is not None and named is not None and not named.gives_weights:
        raise OptionError(
            f"`budget={config.budget:g}`: scores of the selector {named.name!r} are no weights that could say how many "
            "patches an image needs; take cascade, attention, rollout or gradient, or give `ratio`"
        )
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
    config: SelectConfig,
    named: NamedSelector | None,
    model: VisionTransformer,
    device: torch.device,
    split: str,
    base: Adaptive | None = None,
) -> Chooser:
    """The selector that is asked for, ready to order patches on a device.

    Args:
        split: of the images.
        base: of the store that is extended.

    Raises:
        OptionError: it uses labels, of images that are tested on.
        ModelError: it does not take this ViT.
    """
    made = _cascade(config, model, device) if named is None else _scorer(config, named, model.to(device), split)
    return replace(made, adaptive=_adaptive(config, geometry_of(model, config.model).num_patches, base))


def _kept(config: SelectConfig, num_patches: int) -> CascadeOptions:
    """Dials of how much the selector keeps; of adaptive tickets the most.

    Raises:
        OptionError: `budget` beside another dial.
    """
    c = config.cascade
    if config.budget is None:
        return c
    if c.ratio is not None or c.keep_rate is not None:
        raise OptionError(f"`budget={config.budget:g}` stands in place of `ratio` and `keep_rate`; leave these out")
    _, most = least_and_most(num_patches, config.budget)
    return replace(c, ratio=ratio_of(most, num_patches))


def _adaptive(config: SelectConfig, num_patches: int, base: Adaptive | None) -> Adaptive | None:
    """Numbers of patches of adaptive tickets; the threshold is that of a store that is extended with its budget."""
    if config.budget is None:
        return None
    least, most = least_and_most(num_patches, config.budget)
    if least == most:
        raise OptionError(f"`budget={config.budget:g}` of {num_patches} patch(es) leaves no choice; give `ratio`")
    is_known = base is not None and base.budget == config.budget
    return Adaptive(budget=config.budget, least_keep=least, threshold=base.threshold if base and is_known else 0.0)


def _cascade(config: SelectConfig, model: VisionTransformer, device: torch.device) -> Chooser:
    c = _kept(config, geometry_of(model, config.model).num_patches)
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
    return Chooser(selector=selector, num_keep=counts[-1], order=lambda images, labels, names: cascade.ordered(images))


def _scorer(config: SelectConfig, named: NamedSelector, model: VisionTransformer, split: str) -> Chooser:
    num_patches = geometry_of(model, config.model).num_patches
    ratio = _kept(config, num_patches).ratio
    num_keep = keep_counts(num_patches, CascadeOptions(ratio=ratio))[-1]
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
        ratio=ratio,
        name=named.name,
        settings=dict(named.settings),
        package=named.package,
        uses_labels=uses_labels or None,
    )

    def order(images: Tensor, labels: Tensor, names: Sequence[str]) -> Ordered:
        shown = labels if uses_labels else None
        return ordered(scorer, named.name, images, shown, num_keep, num_patches, names)

    return Chooser(selector=selector, num_keep=num_keep, order=order)
