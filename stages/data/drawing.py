"""The views of an image: how stage one draws them, and how stage two shows the same ones again.

View v of an image is drawn from (seed, key, v): its box and flip are stored, its colours are drawn again from the same
names when it is shown again.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...artifacts_schema import View
from ...artifacts_schema.geometry import Box, BoxPx, box_of_px, box_to_px, center_box
from .augment import PhotometricAugment, cut_view, draw_crop, draw_flip, mirror_image
from .images import Picture, center_crop, size_of
from .policies import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnView:
    """Pixels `image_px` squared, and which part of the source image they show."""

    image: Picture
    box: Box  # float32 [4]
    flip: bool


class CenterViews:
    """The centre view, and as a second one that view mirrored."""

    def __init__(self, view: View, image_px: int) -> None:
        self._view, self._image_px = view, image_px

    def draw(self, image: Picture, number: int) -> DrawnView:
        """View `number` of an image, 0 or 1."""
        box = center_box(*size_of(image), resize_px=self._view.resize_px, crop_px=self._image_px)
        cut = center_crop(image, self._view, self._image_px)
        return DrawnView(image=mirror_image(cut) if number else cut, box=box, flip=number == 1)


class PolicyViews:
    """Views drawn by a policy."""

    def __init__(self, policy: Policy, view: View, image_px: int) -> None:
        self.policy = policy
        self._view, self._image_px = view, image_px
        self._photometric = PhotometricAugment(policy.augment, view.mean, view.decoder_name)

    def draw(self, image: Picture, *names: object) -> DrawnView:
        """A fresh view: the one that belongs to these names, e.g. (seed, epoch, key)."""
        policy, (width, height) = self.policy, size_of(image)
        if policy.crop_scale is None:
            box_px = BoxPx(0, 0, height, width)
        else:
            box_px = draw_crop(image, policy.crop_scale, policy.crop_ratio, *names)
        return self.show(image, box_of_px(box_px, width, height), draw_flip(policy.augment.hflip, *names), *names)

    def draw_number(self, image: Picture, seed: int, key: str, number: int) -> DrawnView:
        """View `number` of an image, as a store counts them; of whole images, view 1 is the mirror image."""
        if self.policy.crop_scale is None:
            width, height = size_of(image)
            box = box_of_px(BoxPx(0, 0, height, width), width, height)
            return self.show(image, box, number == 1, seed, key, number)
        return self.draw(image, seed, key, number)

    def show(self, image: Picture, box: Box, flip: bool, *names: object) -> DrawnView:
        """A view whose box and flip are known, with the colours that belong to these names."""
        cut = cut_view(image, box_to_px(box, *size_of(image)), flip=flip, view=self._view, image_px=self._image_px)
        return DrawnView(image=self._photometric(cut, *names), box=box, flip=flip)


class ViewDrawer:
    """Drawer of all views of an image, as stage one selects for them: by a policy, or the centre view without one."""

    def __init__(self, policy: Policy | None, view: View, *, image_px: int, num_views: int, seed: int) -> None:
        self.num_views, self.decoder = num_views, view.decoder_name
        self._seed = seed
        self._center = CenterViews(view, image_px)
        self._drawn = None if policy is None else PolicyViews(policy, view, image_px)

    def draw_all(self, image: Picture, key: str) -> list[DrawnView]:
        """The V views of an image."""
        if self._drawn is None:
            return [self._center.draw(image, number) for number in range(self.num_views)]
        return [self._drawn.draw_number(image, self._seed, key, number) for number in range(self.num_views)]
