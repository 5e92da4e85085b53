"""Views of an image that a student is shown: a replayed view, a fresh crop, or the centre view."""

from __future__ import annotations

from ...artifacts_schema import View
from ...artifacts_schema.geometry import center_box
from ..options import ViewMode
from .augment import AugmentConfig, PhotometricAugment, draw_flip, mirror_image
from .drawing import DrawnView, PolicyViews
from .images import Picture, center_crop, size_of
from .join import Ticket
from .policies import Policy


class ViewShower:
    """Shows images in one view mode.

    Args:
        augment: mirroring and colours of the static view; None for the plain centre view, as in testing.
        policy: of replayed and warped views.
        seed: what static and warped views are drawn from, with epoch and key.
        stored_seed: what replayed views were drawn from, with the key and their number.
        num_views: how many of them are shown in turn.
    """

    def __init__(
        self,
        mode: ViewMode,
        view: View,
        *,
        image_px: int,
        augment: AugmentConfig | None,
        policy: Policy | None,
        seed: int,
        stored_seed: int,
        num_views: int,
    ) -> None:
        self._mode, self._view, self._image_px, self._augment = mode, view, image_px, augment
        self._seed, self._stored_seed, self._num_views = seed, stored_seed, num_views
        self._photometric = None if augment is None else PhotometricAugment(augment, view.mean, view.decoder_name)
        self._drawn = None if policy is None else PolicyViews(policy, view, image_px)

    def show(self, image: Picture, key: str, epoch: int, ticket: Ticket | None) -> DrawnView:
        """The view of an image in an epoch; `ticket` holds the box and flip of a replayed one."""
        if self._mode == "static":
            return self._static(image, key, epoch)
        assert self._drawn is not None
        if self._mode == "warp":
            return self._drawn.draw(image, self._seed, epoch, key)
        assert ticket is not None
        assert ticket.boxes is not None
        assert ticket.flips is not None
        box, flip = ticket.boxes[0], bool(ticket.flips[0])
        return self._drawn.show(image, box, flip, self._stored_seed, key, epoch % self._num_views)

    def _static(self, image: Picture, key: str, epoch: int) -> DrawnView:
        box = center_box(*size_of(image), resize_px=self._view.resize_px, crop_px=self._image_px)
        image = center_crop(image, self._view, self._image_px)
        if self._augment is None or self._photometric is None:
            return DrawnView(image=image, box=box, flip=False)
        flip = draw_flip(self._augment.hflip, self._seed, epoch, key)
        image = self._photometric(mirror_image(image) if flip else image, self._seed, epoch, key)
        return DrawnView(image=image, box=box, flip=flip)
