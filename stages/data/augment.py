"""Draws of a view: its crop, its colours, and patches that are erased from it. timm's and torchvision's parts.

Every draw takes names (seed, key, view, …) and depends on them alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import timm.data.auto_augment as aa
import torch
import torchvision.transforms.functional as tvf
from PIL import Image, ImageOps
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import Tensor
from torchvision.transforms import ColorJitter, InterpolationMode

from ...artifacts_schema import OptionError, View
from ...artifacts_schema.geometry import BoxPx
from ..runtime.randomness import generator_of, isolated_rng

# timm's RandAugment operations that move no pixel (the others shear, rotate and translate).
PHOTOMETRIC_OPS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Mirroring and colours, which leave the grid in place. Defaults: DeiT's, without operations that move pixels."""

    hflip: float = 0.5
    auto_augment: str = "rand-m9-mstd0.5-inc1"  # timm's notation; "3a" for DeiT III's; "none" for none
    color_jitter: float = 0.0  # timm applies it only beside "3a" and "none"; so do we


class PhotometricAugment:
    """RandAugment over the photometric operations, DeiT III's three, colour jitter, or nothing, drawn by name."""

    def __init__(self, config: AugmentConfig, mean: list[float]) -> None:
        self._steps: list[Callable[[Image.Image], Image.Image]] = []
        if config.auto_augment != "none":
            self._steps.append(_auto_augment(config.auto_augment, mean))
        if config.color_jitter > 0 and config.auto_augment in ("none", "3a"):
            self._steps.append(ColorJitter(*[config.color_jitter] * 3))  # brightness, contrast, saturation

    def __call__(self, image: Image.Image, *names: object) -> Image.Image:
        """Augments an image; the same names give the same result."""
        if not self._steps:
            return image
        with isolated_rng(*names, "photometric"):
            for step in self._steps:
                image = step(image)
        return image


def _auto_augment(spec: str, mean: list[float]) -> Callable[[Image.Image], Image.Image]:
    if spec == "3a":
        transform: Callable[[Image.Image], Image.Image] = aa.auto_augment_transform("3a", {})
        return transform
    fill = tuple(min(255, round(255 * m)) for m in mean)
    try:
        randaugment = aa.rand_augment_transform(spec, {"img_mean": fill}, transforms=list(PHOTOMETRIC_OPS))
    except (AssertionError, ValueError) as error:
        raise OptionError(
            f"`auto_augment={spec!r}` is not understood; write it as timm does, e.g. rand-m9-mstd0.5, or 3a, or none"
        ) from error
    for op in randaugment.ops:
        if op.name == "PosterizeIncreasing":
            op.aug_fn = _posterize
    return randaugment


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Posterizes as timm does, but for magnitude 10: it asks for 0 bits, which Pillow refuses (and once gave black)."""
    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))


def draw_flip(share: float, *names: object) -> bool:
    """Draws whether a view is mirrored."""
    return share > 0 and bool(generator_of(*names, "flip").random() < share)


def draw_crop(image: Image.Image, scale: tuple[float, float], ratio: tuple[float, float], *names: object) -> BoxPx:
    """A crop box, drawn as timm's RandomResizedCrop draws it.

    Args:
        scale: share of the image's area, from and to; ratio: width over height, from and to.
    """
    with isolated_rng(*names, "crop"):
        top, left, height, width = RandomResizedCropAndInterpolation.get_params(image, scale, ratio)
    height, width = max(1, height), max(1, width)  # of an image of few pixels, timm may ask for none
    return BoxPx(min(top, image.height - height), min(left, image.width - width), height, width)


def cut_view(image: Image.Image, box: BoxPx, *, flip: bool, view: View, image_px: int) -> Image.Image:
    """The part of an image that a view shows, resized to `image_px` squared, and mirrored if `flip`."""
    interpolation: InterpolationMode = str_to_interp_mode(view.interpolation)
    cut = tvf.resized_crop(image, *box, [image_px, image_px], interpolation)
    return mirror_image(cut) if flip else cut


def mirror_image(image: Image.Image) -> Image.Image:
    """The image mirrored left-right."""
    return ImageOps.mirror(image)


class Erasing(NamedTuple):
    """Rectangle of whole patches that becomes noise: its first row and column, in patches, and uint8 [C, h, w] px."""

    top: int
    left: int
    pixels: npt.NDArray[np.uint8]


def draw_erasing(
    grid: tuple[int, int], patch_px: int, channels: int, view: View, probability: float, *names: object
) -> Erasing | None:
    """Draws random erasing (Zhong et al. 2020, timm's numbers) on whole patches; None where nothing is erased.

    Args:
        view: whose mean and std the noise has, before it is clipped to what a pixel can hold.
    """
    with isolated_rng(*names, "erasing"):
        if random.random() >= probability:
            return None
        erased = RandomErasing(1.0, mode="const", device="cpu")(torch.ones(1, *grid)) == 0
        rows, columns = (torch.nonzero(erased[0].any(dim=axis)).flatten() for axis in (1, 0))
        if not len(rows):
            return None
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        shape = (channels, (bottom - top) * patch_px, (right - left) * patch_px)
        noise = np.random.default_rng(random.getrandbits(63)).standard_normal(shape, dtype=np.float32)
        mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (view.mean, view.std))
        return Erasing(top, left, np.clip(np.rint((noise * std + mean) * 255), 0, 255).astype(np.uint8))


def erase_patches(image: Tensor, grid: tuple[int, int], view: View, probability: float, *names: object) -> Tensor:
    """The image with the rectangle that `draw_erasing` draws for these names.

    Args:
        image: uint8 [channels, H, W]; not altered.

    Returns:
        uint8 [channels, H, W].
    """
    patch_px = image.shape[1] // grid[0]
    erased = draw_erasing(grid, patch_px, image.shape[0], view, probability, *names)
    if erased is None:
        return image
    top, left = erased.top * patch_px, erased.left * patch_px
    result = image.clone()
    height, width = erased.pixels.shape[1:]
    result[:, top : top + height, left : left + width] = torch.from_numpy(erased.pixels)
    return result
