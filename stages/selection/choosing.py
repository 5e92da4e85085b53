"""The selector of a run: how it orders the patches of a batch, and its fields of the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import OptionError, Selector
from ...artifacts_schema.adaptive import Adaptive, least_and_most
from ...artifacts_schema.thinning import ratio_of
from ..models.cascade import drop_blocks_of, keep_counts
from ..models.dropping_vit import check_drop_blocks
from ..models.registry import canonical_name, entry_of, geometry_of
from ..models.selector import Ordered, TicketSelector
from ..options import CascadeOptions
from .config import SelectConfig
from .selectors import NamedSelector, made, named_selector, ordered, without_labels

UNNAMED = "the ViT"  # a ViT of the caller's own
_TESTED_SPLITS = ("validation", "valid", "val", "dev", "eval", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chooser:
    """A selector with its ViT.

    Attributes:
        cascade: how many patches are kept; where tickets are adaptive, the most.
        keep_counts: patches that stay after each of the `drop_blocks` of the cascade; of another selector, K alone.
        uses_labels: whether it chooses by the images' labels.
        order: of normalised images [B, channels, H, W], their labels int64 [B] and names, the patches.
        adaptive: numbers of patches of adaptive tickets, whose threshold is yet to be found; else None.
    """

    cascade: CascadeOptions
    keep_counts: tuple[int, ...]
    drop_blocks: tuple[int, ...] = ()
    uses_labels: bool = False
    order: Callable[[Tensor, Tensor, Sequence[str]], Ordered]
    adaptive: Adaptive | None = None

    @property
    def num_keep(self) -> int:
        """Number of patches that stay, K; the most, where tickets are adaptive."""
        return self.keep_counts[-1]


def checked_selector(
    name: str,
    options: Sequence[str],
    cascade: CascadeOptions,
    checkpoint: Path | None,
    budget: float | None = None,
) -> NamedSelector | None:
    """The selector that is asked for, None for the cascade; checks that are cheap, before a model is loaded.

    Args:
        options: its settings, NAME=VALUE each.
        cascade: how many patches are kept.
        budget: of adaptive tickets, which stands in place of that.

    Raises:
        OptionError
    """
    named = named_selector(name, options)
    keep_counts(1, _kept(cascade, budget, 1))
    if budget is not None and named is not None and not named.gives_weights:
        raise OptionError(
            f"`budget={budget:g}`: scores of the selector {named.name!r} are no weights that could say how many "
            "patches an image needs; take cascade, attention, rollout or gradient, or give `ratio`"
        )
    if named is None:
        return None
    for option in ("keep_rate", "drop_blocks"):
        if getattr(cascade, option) is not None:
            raise OptionError(f"`{option}` is of the cascade, and {named.name!r} drops no patches; give `ratio` alone")
    if not named.needs_weights and checkpoint is not None:
        raise OptionError(
            f"`checkpoint`: the selector {named.name!r} uses no weights (`model` gives its grid and view); leave it out"
        )
    return named


def chooser_of(
    named: NamedSelector | None,
    cascade: CascadeOptions,
    model: VisionTransformer,
    name: str,
    device: torch.device,
    *,
    split: str = "unknown",
    budget: float | None = None,
    base: Adaptive | None = None,
) -> Chooser:
    """A selector ready to order patches on a device; its ViT is frozen.

    Args:
        named: it; None for the cascade.
        name: the ViT's, for its own drop blocks and for sentences.
        split: of the images.
        budget: of adaptive tickets, in place of a share in `cascade`.
        base: of the store that is extended.

    Raises:
        OptionError: it uses labels, of images that are tested on.
        ModelError: it does not take this ViT.
    """
    num_patches = geometry_of(model, name).num_patches
    cascade, adaptive = _kept(cascade, budget, num_patches), _adaptive(budget, num_patches, base)
    if named is None:
        usual = entry_of(name).drop_blocks if name != UNNAMED else None
        blocks = drop_blocks_of(cascade, len(model.blocks), usual)
        check_drop_blocks(blocks, len(model.blocks), name)
        counts = keep_counts(num_patches, cascade, len(blocks))
        selector = TicketSelector(model, blocks, counts).to(device)
        return Chooser(
            cascade=cascade,
            keep_counts=counts,
            drop_blocks=blocks,
            order=lambda images, labels, names: selector.ordered(images),
            adaptive=adaptive,
        )
    num_keep = keep_counts(num_patches, CascadeOptions(ratio=cascade.ratio))[-1]
    scorer = made(named, model.to(device))
    uses_labels = bool(getattr(scorer, "uses_labels", False))
    if uses_labels and split.casefold() in _TESTED_SPLITS:
        raise OptionError(
            f"the selector {named.name!r} would choose by the labels of {split} images, and a test on such tickets "
            f"tells nothing; {without_labels(named)}"
        )

    def order(images: Tensor, labels: Tensor, names: Sequence[str]) -> Ordered:
        shown = labels if uses_labels else None
        return ordered(scorer, named.name, images, shown, num_keep, num_patches, names)

    return Chooser(cascade=cascade, keep_counts=(num_keep,), uses_labels=uses_labels, order=order, adaptive=adaptive)


def _kept(cascade: CascadeOptions, budget: float | None, num_patches: int) -> CascadeOptions:
    """Dials of how much the selector keeps; of adaptive tickets the most.

    Raises:
        OptionError: `budget` beside another dial.
    """
    if budget is None:
        return cascade
    if cascade.ratio is not None or cascade.keep_rate is not None:
        raise OptionError(f"`budget={budget:g}` stands in place of `ratio` and `keep_rate`; leave these out")
    _, most = least_and_most(num_patches, budget)
    return replace(cascade, ratio=ratio_of(most, num_patches))


def _adaptive(budget: float | None, num_patches: int, base: Adaptive | None) -> Adaptive | None:
    """Numbers of patches of adaptive tickets; the threshold is that of a store that is extended with its budget."""
    if budget is None:
        return None
    least, most = least_and_most(num_patches, budget)
    if least == most or not 1 <= budget * num_patches < num_patches:
        raise OptionError(f"`budget={budget:g}` of {num_patches} patch(es) leaves no choice; give `ratio`")
    is_known = base is not None and base.budget == budget
    return Adaptive(budget=budget, least_keep=least, threshold=base.threshold if base and is_known else 0.0)


def described(config: SelectConfig, named: NamedSelector | None, chooser: Chooser, digest: str | None) -> Selector:
    """A selector's fields of the manifest.

    Args:
        digest: of its weights; None where they play no part.
    """
    c = chooser.cascade
    if named is None:
        return Selector(
            model=canonical_name(config.model),
            weights_sha256=digest,
            drop_blocks=list(chooser.drop_blocks),
            keep_counts=list(chooser.keep_counts),
            precision=config.runtime.precision,
            ratio=c.ratio,
            keep_rate=c.keep_rate,
        )
    return Selector(
        model=canonical_name(config.model) if named.needs_weights else None,
        weights_sha256=digest,
        drop_blocks=[],
        keep_counts=[],
        precision=config.runtime.precision,
        ratio=c.ratio,
        name=named.name,
        settings=dict(named.settings),
        package=named.package,
        uses_labels=chooser.uses_labels or None,
    )
