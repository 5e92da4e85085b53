"""Draws of a view: its crop, its colours, and patches that are erased from it. timm's and torchvision's parts.

Every draw takes names (seed, key, view, …) and depends on them alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import timm.data.auto_augment as aa
import torch
from PIL import Image, ImageOps
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation, str_to_interp_mode
from torch import Tensor
from torchvision.transforms import ColorJitter, InterpolationMode
from torchvision.transforms.v2 import functional as F

from ...artifacts_schema import OptionError, View
from ...artifacts_schema.geometry import BoxPx
from ...artifacts_schema.manifest import Decoder
from ..runtime.randomness import generator_of, isolated_rng, seed_of
from .images import Picture, cut_by, size_of
from .tensor_colours import TENSOR_OPS, TensorJitter

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
    """RandAugment over the photometric operations, DeiT III's three, colour jitter, or nothing, drawn by name.

    What is drawn for some names does not depend on the decoder; how the pixels then change does, by rounding.
    """

    def __init__(self, config: AugmentConfig, mean: list[float], decoder: Decoder = "pillow") -> None:
        self._randaugment: aa.RandAugment | None = None
        self._numpy = np.random.RandomState()
        self._steps: list[Callable[[Any], Picture]] = []
        if config.auto_augment == "3a":
            three = aa.auto_augment_transform("3a", {})
            _redirect([op for policy in three.policy for op in policy], decoder)
            self._steps.append(three)
        elif config.auto_augment != "none":
            self._randaugment = _rand_augment(config.auto_augment, mean, decoder)
            self._steps.append(self._apply_drawn)
        if config.color_jitter > 0 and config.auto_augment in ("none", "3a"):
            kind = TensorJitter if decoder == "torchvision" else ColorJitter
            self._steps.append(kind(*[config.color_jitter] * 3))  # brightness, contrast, saturation

    def __call__(self, picture: Picture, *names: object) -> Picture:
        """Augments a picture; the same names give the same result."""
        if not self._steps:
            return picture
        self._numpy.seed(seed_of(*names, "photometric") & 0xFFFFFFFF)
        with isolated_rng(*names, "photometric", with_numpy=False):
            for step in self._steps:
                picture = step(picture)
        return picture

    def _apply_drawn(self, picture: Picture) -> Picture:
        """RandAugment as timm does it, but for the generator: to save NumPy's global one takes longer than this."""
        drawn = self._randaugment
        assert drawn is not None
        replace = drawn.choice_weights is None
        for op in self._numpy.choice(drawn.ops, drawn.num_layers, replace=replace, p=drawn.choice_weights):
            picture = op(picture)
        return picture


def _rand_augment(spec: str, mean: list[float], decoder: Decoder) -> aa.RandAugment:
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
    _redirect(randaugment.ops, decoder)
    return randaugment


def _redirect(ops: list[aa.AugmentOp], decoder: Decoder) -> None:
    """Has timm's operations change tensors, where pictures are such."""
    if decoder == "torchvision":
        for op in ops:
            op.aug_fn = TENSOR_OPS[op.name]


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """Posterizes as timm does, but for magnitude 10: it asks for 0 bits, which Pillow refuses (and once gave black)."""
    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))


def draw_flip(share: float, *names: object) -> bool:
    """Draws whether a view is mirrored."""
    return share > 0 and bool(generator_of(*names, "flip").random() < share)


def draw_crop(picture: Picture, scale: tuple[float, float], ratio: tuple[float, float], *names: object) -> BoxPx:
    """A crop box, drawn as timm's RandomResizedCrop draws it.

    Args:
        scale: share of the image's area, from and to; ratio: width over height, from and to.
    """
    with isolated_rng(*names, "crop", with_numpy=False):
        top, left, height, width = RandomResizedCropAndInterpolation.get_params(picture, scale, ratio)
    height, width = max(1, height), max(1, width)  # of an image of few pixels, timm may ask for none
    full_width, full_height = size_of(picture)
    return BoxPx(min(top, full_height - height), min(left, full_width - width), height, width)


def cut_view(picture: Picture, box: BoxPx, *, flip: bool, view: View, image_px: int) -> Picture:
    """The part of a picture that a view shows, resized to `image_px` squared, and mirrored if `flip`."""
    interpolation: InterpolationMode = str_to_interp_mode(view.interpolation)
    picture = cut_by(picture, view.decoder_name)
    cut: Picture = F.resized_crop(picture, *box, [image_px, image_px], interpolation, antialias=True)
    return mirror_image(cut) if flip else cut


def mirror_image(picture: Picture) -> Picture:
    """The picture mirrored left-right."""
    mirrored: Picture = F.horizontal_flip(picture)
    return mirrored


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
    with isolated_rng(*names, "erasing", with_numpy=False):
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
