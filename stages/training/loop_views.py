"""Views of a store's images that a training loop of one's own is shown."""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts_schema import Manifest, OptionError
from ..data.augment import AugmentConfig
from ..data.policies import Policy
from ..options import ErrorOrAllow, Subset, ViewMode
from .config import TrainConfig
from .eval_stream import check_center
from .view_plan import ViewPlan, plan_views


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopViews:
    """Views that are asked for. None: what `dataltt train` would show of this store.

    `training`: mirrored and coloured; else the centre view as it is.
    """

    tickets: str
    subset: Subset = "ticket"
    view_mode: ViewMode | None = None
    num_views: int | None = None
    augment: str | None = None
    on_other_pixels: ErrorOrAllow = "error"
    training: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownViews:
    """Views that are shown: `augment` is of static views, `policy` of replayed and warped ones."""

    mode: ViewMode = "static"
    augment: AugmentConfig | None = None
    policy: Policy | None = None
    num_views: int = 1
    seed: int = 0


def shown_views(asked: LoopViews, manifest: Manifest) -> ShownViews:
    """Resolves the views of a loop.

    Raises:
        OptionError: options that do not go together.
        TicketMismatchError: the store does not have what they need.
    """
    if asked.training:
        plan = _plan(asked, manifest)
        static = plan.mode == "static"
        return ShownViews(
            mode=plan.mode,
            augment=plan.policy.augment if static else None,
            policy=None if static else plan.policy,
            num_views=plan.num_views,
            seed=plan.seed,
        )
    for name in ("view_mode", "num_views", "augment"):
        value = getattr(asked, name)
        if value not in (None, "static"):
            raise OptionError(f"`{name}` {value!r} is for training; leave it out, or pass `training=True`")
    if asked.subset in ("ticket", "inverse"):
        check_center(manifest, asked.tickets, "testing on tickets needs")
    return ShownViews()


def _plan(asked: LoopViews, manifest: Manifest) -> ViewPlan:
    options = TrainConfig.of(
        tickets=asked.tickets,
        control=asked.subset,
        view_mode=asked.view_mode,
        num_views=asked.num_views,
        augment=asked.augment,
        on_other_pixels=asked.on_other_pixels,
    )
    return plan_views(options, manifest, manifest.view.mean)
