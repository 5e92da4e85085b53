"""The views that a store's tickets are of, drawn again for people to look at, as near to them as this version can."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from ...artifacts_schema import Manifest, TicketMismatchError
from ..data.drawing import CenterViews, PolicyViews
from ..data.images import Picture, to_pillow
from ..data.join import Ticket
from ..data.policies import POLICIES, Policy, replayed_policy

# How colours of replayed views are shown: as they were drawn, as this installation draws them, or not at all.
Colours = Literal["exact", "other", "none"]


class ViewsOfStore:
    """Draws the views of a store's images: the centre view, or replayed ones by their boxes and flips.

    Attributes:
        colours: how those of replayed views are shown. Where the policy is not known here, views are cut without them.
    """

    def __init__(self, manifest: Manifest, store: str) -> None:
        self._view = manifest.view
        self._center = CenterViews(manifest.view, manifest.image_px)
        self._drawn: PolicyViews | None = None
        self.colours: Colours = "exact"
        if manifest.view.kind == "replay":
            policy, self.colours = _policy_of_views(manifest, store)
            self._drawn = PolicyViews(policy, manifest.view, manifest.image_px)

    def show(self, image: Picture, key: str, ticket: Ticket, number: int) -> Image.Image:
        """View `number` of a decoded image, `image_px` squared."""
        if self._drawn is None or ticket.boxes is None or ticket.flips is None:
            return to_pillow(self._center.draw(image, number).image)
        box, flip = ticket.boxes[number], bool(ticket.flips[number])
        return to_pillow(self._drawn.show(image, box, flip, self._view.seed, key, number).image)


def _policy_of_views(manifest: Manifest, store: str) -> tuple[Policy, Colours]:
    try:
        return replayed_policy(manifest.view, store), "exact"
    except TicketMismatchError:
        pass
    try:
        return replayed_policy(manifest.view, store, allow_other_pixels=True), "other"
    except TicketMismatchError:
        return POLICIES["crop"], "none"
