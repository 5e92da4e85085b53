"""Plan of judging: the stores and selectors, at which numbers of patches, on which images of which view.

Letters: P patches of the grid, K kept patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import VisionTransformer

from ...artifacts_schema import Location, Manifest, OptionError, ShardError, TicketMismatchError, View, read_manifest
from ...artifacts_schema.thinning import mean_kept, num_kept, ratio_of
from ..data.counting import CountedSamples, count_labels
from ..data.decoders import shown_by
from ..data.join import JoinConfig
from ..data.policies import replayed_policy
from ..data.shards import Shard, given_shards, resolve_shards, stored_shards
from ..models.checkpoints import find_weights
from ..models.registry import center_view_of, geometry_of
from ..models.student import Geometry
from ..models.weights import vit_weights, vit_with, weights_sha256
from ..runtime.reporting import Reporter
from .config import DEFAULT_RATIOS, QualityConfig
from .judged_images import ImageSource
from .judging import Judge, check_same_pictures, load_judge, why_labels_are_unknown
from .quality_arms import CONTROLS, Arm, DrawnArm, Point, ResizedArm, StoredArm, selector_arm, settings_by_selector
from .quality_result import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPlan:
    """All that judging needs.

    Attributes:
        arms: what is judged side by side, controls last.
        unknown_labels: why labels of the images are none that the judge could get right; None where they are.
    """

    judge: Judge
    shards: list[Shard]
    arms: list[tuple[Kind, Arm]]
    source: ImageSource
    unknown_labels: str | None


def plan_quality(config: QualityConfig, device: torch.device, reporter: Reporter) -> QualityPlan:
    """Checks what is asked for, the cheap things first, and loads what it needs.

    Raises:
        DatalttError: anything that the user can mend.
    """
    if not config.tickets and not config.selector:
        raise OptionError("what is to be judged? give `tickets` of a store, or a `selector`")
    _check_networks(config)
    options = settings_by_selector(config)
    stores = _stores(config)
    shards = _shards(config, stores)
    judge = load_judge(config, device, config.image_px or (stores[0].manifest.image_px if stores else None))
    arms = _arms(config, options, stores, _points(config, stores, judge.geometry), judge)
    counted = _counted(shards, _skipped(stores), config.images, reporter)
    unknown = why_labels_are_unknown(judge, shards, counted)
    if unknown is not None:
        reporter.message(f"{unknown}, so agreement alone is measured")
    source = _source(config, stores, counted, judge)
    return QualityPlan(judge=judge, shards=shards, arms=arms, source=source, unknown_labels=unknown)


def _check_networks(config: QualityConfig) -> None:
    """Refuses a selectors' ViT that nothing would come of; without `judge` it judges too."""
    if config.judge is None:
        return
    if not config.selector and (config.model is not None or config.checkpoint is not None):
        raise OptionError("`model` and `checkpoint` are the selectors', and there is no `selector`; leave them out")
    if config.model is None and config.checkpoint is not None:
        raise OptionError("`checkpoint` is of the selectors' ViT; give its name as `model`")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Store:
    """A store that is judged."""

    name: str
    location: Location
    manifest: Manifest


def _stores(config: QualityConfig) -> list[_Store]:
    found: list[_Store] = []
    for name in config.tickets:
        location = config.remote.location(name)
        manifest = read_manifest(location)
        if name in (store.name for store in found):
            raise OptionError(f"`tickets={name!r}` is given twice; give it once")
        if manifest.selector.uses_labels:
            raise TicketMismatchError(
                f"{name} holds tickets that were chosen by the images' labels ({manifest.selector.title}), which they "
                "give away; judge tickets that were selected without labels"
            )
        if found and _seen(manifest) != _seen(found[0].manifest):
            raise TicketMismatchError(
                f"{name} holds tickets of other views than {found[0].name}; judge them one by one (dataltt store diff "
                "says how they differ)"
            )
        found.append(_Store(name=name, location=location, manifest=manifest))
    return found


def _seen(manifest: Manifest) -> tuple[object, ...]:
    """Facts that decide which pixels tickets are of."""
    view = replace(manifest.view, decoder_libraries=None)
    return manifest.grid, manifest.patch_px, manifest.image_px, view


def _shards(config: QualityConfig, stores: Sequence[_Store]) -> list[Shard]:
    if stores:
        return stored_shards(stores[0].location, stores[0].manifest, config.shards)
    return resolve_shards(given_shards(config.shards), config.remote.access)


def _points(config: QualityConfig, stores: Sequence[_Store], geometry: Geometry) -> list[Point]:
    """Numbers of patches that are judged, from many to few.

    Raises:
        OptionError: a share that is none, or that a store without ranks cannot give.
    """
    total = geometry.num_patches
    if config.ratios is None and stores:
        own = {mean_kept(s.manifest): s.manifest.selector.ratio for s in stores}
        given = [Point(k, r if r and num_kept(total, r) == k else ratio_of(k, total)) for k, r in own.items()]
    else:
        ratios = config.ratios or DEFAULT_RATIOS
        for ratio in ratios:
            if not 0 < ratio <= 1 or not num_kept(total, ratio):
                raise OptionError(f"`ratios`: {ratio} is no share of {total} patches; 0.5 keeps half")
        given = [Point(num_kept(total, ratio), ratio) for ratio in ratios]
        for store in stores:
            _check_ranks(store, given)
    return sorted({p.num_keep: p for p in given}.values(), reverse=True)


def _check_ranks(store: _Store, points: Sequence[Point]) -> None:
    m = store.manifest
    other = next((p for p in points if p.num_keep != mean_kept(m)), None)
    if other is not None and not m.has_ranks:
        raise OptionError(
            f"`ratios`: {other.ratio:g} keeps {other.num_keep} patches, {store.name} keeps {mean_kept(m)} and has no "
            "ranks to go by; leave `ratios` out, or select again with `ranks=True`"
        )


def _arms(
    config: QualityConfig,
    options: Mapping[str, tuple[str, ...]],
    stores: Sequence[_Store],
    points: Sequence[Point],
    judge: Judge,
) -> list[tuple[Kind, Arm]]:
    """All that is judged side by side, controls last."""
    geometry, arms = judge.geometry, list[tuple[Kind, Arm]]()
    for number, store in enumerate(stores):
        m = store.manifest
        theirs = Geometry(grid=m.grid, patch_px=m.patch_px, image_px=m.image_px, mode=m.view.mode)
        check_same_pictures(judge, theirs, m.view, store.name)
        own = [p for p in points if config.ratios is not None or p.num_keep == mean_kept(m)]
        arms.append(("tickets", StoredArm(number, store.name, m, own)))
    if options:
        model = config.model or judge.name
        vit, view, sha256 = _selectors_vit(config, judge)
        check_same_pictures(judge, geometry_of(vit, model), view, model)
        for selector, given in options.items():
            arm = selector_arm(
                selector,
                given,
                points,
                model=model,
                vit=vit,
                sha256=sha256,
                view=view,
                device=judge.device,
                precision=judge.precision,
            )
            arms.append(("selector", arm))
    names = [arm.name for _, arm in arms]
    if name := next((n for n in names if n in CONTROLS or names.count(n) > 1), None):
        raise OptionError(f"`tickets={name!r}` would go by the name of another; write './{name}'")
    counts = [p.num_keep for p in points]
    arms += [("control", DrawnArm(subset, counts, geometry.grid, config.seed)) for subset in ("random", "center")]
    return [*arms, ("control", ResizedArm(counts, geometry))]


def _selectors_vit(config: QualityConfig, judge: Judge) -> tuple[VisionTransformer, View, str]:
    """The selectors' ViT, its centre view, and its weights' digest: the judge's own, unless others are asked for."""
    if config.model is None or (config.judge is None and config.judge_checkpoint is None):
        return judge.student.net, judge.view, judge.sha256
    file = None if config.checkpoint is None else find_weights(config.checkpoint)
    weights = vit_weights(config.model, file)
    vit = vit_with(weights, f"{file}", config.model, image_px=judge.geometry.image_px, needs_head=False)
    return vit.to(judge.device), center_view_of(vit), weights_sha256(vit, weights)


def _skipped(stores: Sequence[_Store]) -> frozenset[str]:
    """Keys of images that some store was made without."""
    return frozenset[str]().union(*(store.manifest.skipped_keys for store in stores))


def _counted(
    shards: Sequence[Shard], skipped: frozenset[str], wanted: int | None, reporter: Reporter
) -> CountedSamples:
    """The first shards, as many as hold the images that are wanted, with what is known of their labels.

    Raises:
        ShardError: there is no image.
    """
    found: list[CountedSamples] = []
    total = 0
    reporter.start("counting samples", len(shards), "shards")
    for shard in shards:
        found.append(count_labels(shard, skipped))
        total += found[-1].shards[0].num_samples
        reporter.advance(1)
        if wanted is not None and total >= wanted:
            break
    reporter.finish()
    if total < 2:
        raise ShardError(
            f"{total} image(s) in {len(shards)} shard(s), the first of which is {shards[0].url}; a spread over images "
            "takes two at least"
        )
    return CountedSamples(
        shards=tuple(each.shards[0] for each in found),
        highest_label=max(each.highest_label for each in found),
        unlabelled=tuple(lack for each in found for lack in each.unlabelled),
    )


def _source(config: QualityConfig, stores: Sequence[_Store], counted: CountedSamples, judge: Judge) -> ImageSource:
    """The images that are judged, in the view that tickets are of: the stores', else the judge's centre view."""
    known = stores[0].manifest if stores else None
    whose = stores[0].name if stores else ""
    view = shown_by(judge.view, config.decoder, known=known.view if known else None, whose=whose)
    policy = None
    if known is not None and known.view.kind == "replay":
        view = known.view
        policy = replayed_policy(view, whose, allow_other_pixels=config.on_other_pixels == "allow")
    total = sum(each.num_samples for each in counted.shards)
    joins = [
        JoinConfig(
            store=store.location,
            ranks=store.manifest.has_ranks,
            geometry=True,
            views=range(1),
            on_changed_image=config.on_changed_image,
        )
        for store in stores
    ]
    return ImageSource(
        shards=counted.shards,
        num_images=min(total, config.images or total),
        skipped_keys=_skipped(stores),
        joins=tuple(joins),
        view=view,
        image_px=judge.geometry.image_px,
        mode=judge.geometry.mode,
        policy=policy,
        num_views=known.num_views if known else 1,
        batch_size=config.batch_size,
    )
