"""Views that a run shows, from what is asked for and what the store has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...artifacts_schema import Manifest, OptionError, TicketMismatchError
from ..data.augment import AugmentConfig, PhotometricAugment
from ..data.policies import POLICIES, Policy, policy_of, replayed_policy
from ..options import ViewMode
from .config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPlan:
    """`policy` draws replayed and warped views; of a static one, its colours and mirroring alone are used."""

    mode: ViewMode
    policy: Policy
    num_views: int
    seed: int


def plan_views(options: TrainConfig, manifest: Manifest | None, mean: list[float]) -> ViewPlan:
    """Resolves the views of a run.

    Raises:
        OptionError: options that do not go together.
        TicketMismatchError: the store does not have what they need.
    """
    mode = options.views.view_mode or default_mode(manifest)
    if mode == "replay":
        return _replay(options, manifest)
    policy = _drawn_policy(options, manifest)
    PhotometricAugment(policy.augment, mean)  # refuses what it does not understand, before anything is written
    num_views = manifest.num_views if manifest else 1
    if mode == "static":
        _refuse(options, ("num_views", "min_crop"), "static", "the centre view is the only one")
        if manifest is not None and options.control in ("ticket", "inverse") and manifest.view.kind != "center":
            raise TicketMismatchError(
                f"`view_mode='static'` needs the centre view's tickets, and {options.tickets} holds "
                f"{_holds(manifest)}; train with `view_mode='replay'`, or select centre views: "
                "dataltt select --augment none"
            )
        return ViewPlan(mode=mode, policy=policy, num_views=1, seed=0)
    if manifest is not None and options.control in ("ticket", "inverse"):
        if not manifest.has_ranks:
            raise TicketMismatchError(
                f"`view_mode='warp'` needs ranks, and {options.tickets} holds {_holds(manifest)} without them; select "
                f"again with: dataltt select --augment {_policy_name(manifest) or 'none'} --ranks"
            )
        num_views = _num_views(options, manifest)
    return ViewPlan(mode=mode, policy=policy, num_views=num_views, seed=0)


def default_mode(manifest: Manifest | None) -> ViewMode:
    """Replayed views where a store has them, else its centre view; fresh crops without a store (docs/views.md)."""
    if manifest is None:
        return "warp"
    if manifest.view.kind == "center":
        return "static"
    policy = POLICIES.get(manifest.view.policy_name or "")
    return "warp" if policy is not None and policy.crop_scale is None else "replay"


def _replay(options: TrainConfig, manifest: Manifest | None) -> ViewPlan:
    if manifest is None or options.tickets is None:
        raise OptionError(
            "`view_mode='replay'` shows the views of a ticket store; give `tickets`, or `view_mode='warp'`"
        )
    if manifest.view.kind == "center":
        raise TicketMismatchError(
            f"`view_mode='replay'` needs augmented views, and {options.tickets} holds {_holds(manifest)}; select them "
            "with: dataltt select --augment deit"
        )
    given = ("augment", "min_crop", "hflip", "auto_augment", "color_jitter")
    _refuse(options, given, "replay", f"the store's views were drawn by {_policy_name(manifest)!r}")
    allow = options.on_other_pixels == "allow" or options.baked is not None  # nothing is drawn then
    policy = replayed_policy(manifest.view, options.tickets, allow_other_pixels=allow)
    num_views = _num_views(options, manifest)
    if options.views.repeats > num_views:
        raise OptionError(
            f"`repeats={options.views.repeats}` of {num_views} view(s) would show one twice in an epoch; give at most "
            f"{num_views}"
        )
    seed = manifest.view.seed
    assert seed is not None  # the manifest's check of replayed views
    return ViewPlan(mode="replay", policy=policy, num_views=num_views, seed=seed)


def _num_views(options: TrainConfig, manifest: Manifest) -> int:
    wanted = manifest.num_views if options.num_views is None else options.num_views
    if not 1 <= wanted <= manifest.num_views:
        raise TicketMismatchError(
            f"`num_views={wanted}`: {options.tickets} holds {_holds(manifest)}; ask for at most so many, or select "
            f"more: dataltt select --augment {_policy_name(manifest) or 'deit'} --num-views {max(wanted, 1)}"
        )
    return wanted


def _drawn_policy(options: TrainConfig, manifest: Manifest | None) -> Policy:
    """The policy asked for, else the store's if it crops, else DeiT's; single numbers of it as asked."""
    name = options.views.augment
    if name is None:
        stored = POLICIES.get(_policy_name(manifest) or "")
        name = stored.name if stored is not None and stored.crop_scale is not None else "deit"
    policy = policy_of(name, min_crop=options.views.min_crop)
    numbers: dict[str, Any] = {n: getattr(options.views, n) for n in ("hflip", "auto_augment", "color_jitter")}
    augment: AugmentConfig = replace(policy.augment, **{n: v for n, v in numbers.items() if v is not None})
    return replace(policy, augment=augment)


def _policy_name(manifest: Manifest | None) -> str | None:
    return None if manifest is None else manifest.view.policy_name


def _holds(manifest: Manifest) -> str:
    """Names the views that a store holds, for error messages."""
    views = f"{manifest.num_views} view{'s' if manifest.num_views > 1 else ''}"
    if manifest.view.kind == "center":
        return f"{views} (centre)"
    return f"{views} of policy {_policy_name(manifest)!r}"


def _refuse(options: TrainConfig, names: Sequence[str], mode: str, why: str) -> None:
    given = options.flat()
    for name in names:
        if given[name] is not None:
            raise OptionError(f"`{name}` has no effect with `view_mode={mode!r}`: {why}")
