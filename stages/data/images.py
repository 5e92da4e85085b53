"""Encoded bytes to pixels: decoding, the centre view, and augmentations that leave the patch grid in place."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import timm.data.auto_augment as aa
import torch
import torchvision.transforms.functional as tvf
from PIL import Image, ImageOps
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torchvision.transforms import InterpolationMode

from ...artifacts_schema import BadImageError, OptionError, View
from ..randomness import isolated_rng
from .shards import RawSample

# Larger images are decompression bombs, not photographs.
MAX_IMAGE_PIXELS = 1 << 27

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


def decode_image(sample: RawSample, mode: str, way_out: str) -> Image.Image:
    """Decodes a sample's image whole and converts it to `mode` ("RGB" or "L").

    Args:
        way_out: the end of the error's sentence: what the user can do.

    Raises:
        BadImageError: it cannot be decoded, or claims a size that no photograph has.
    """
    try:
        with Image.open(io.BytesIO(sample.image)) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"it claims {image.width}×{image.height} pixels, more than {MAX_IMAGE_PIXELS}")
            image.load()
            return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged input
        reason = str(error).split(" <_io")[0] or type(error).__name__
        raise BadImageError(sample.shard, sample.key, reason, way_out) from error


def center_crop(image: Image.Image, view: View, image_px: int) -> Image.Image:
    """The centre view, as timm's evaluation transform makes it: shorter side resized, central square cut out."""
    if image.size == (view.resize_px, view.resize_px) == (image_px, image_px):
        return image
    interpolation: InterpolationMode = str_to_interp_mode(view.interpolation)
    return tvf.center_crop(tvf.resize(image, view.resize_px, interpolation), [image_px, image_px])


def to_tensor(image: Image.Image) -> Tensor:
    """Pixels as uint8 [channels, height, width]."""
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def normalize(images: Tensor, view: View) -> Tensor:
    """uint8 [B, channels, H, W] to float32, scaled to [0, 1] and normalised by the view's mean and std."""
    mean = torch.tensor(view.mean, device=images.device)[:, None, None]
    std = torch.tensor(view.std, device=images.device)[:, None, None]
    return images.float().div_(255).sub_(mean).div_(std)


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Training augmentation that leaves the grid in place. DeiT's recipe, without its geometric operations."""

    hflip: float = 0.5
    auto_augment: str = "rand-m9-mstd0.5-inc1"  # timm's notation; "none" for none
    color_jitter: float = 0.0  # timm applies it only where there is no auto_augment; so do we


class PhotometricAugment:
    """RandAugment over the photometric operations, or colour jitter, or nothing, drawn from seeds by name."""

    def __init__(self, config: AugmentConfig, mean: list[float]) -> None:
        self._config = config
        self._randaugment: aa.RandAugment | None = None
        if config.auto_augment != "none":
            self._randaugment = _photometric_randaugment(config.auto_augment, mean)

    def __call__(self, image: Image.Image, *names: object) -> Image.Image:
        """Augments an image; the same names give the same result."""
        if self._randaugment is None and self._config.color_jitter == 0:
            return image
        with isolated_rng(*names, "photometric"):
            if self._randaugment is not None:
                return self._randaugment(image)
            strength = self._config.color_jitter
            if strength > 0:
                low, high = max(0.0, 1 - strength), 1 + strength
                for adjust in (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation):
                    image = adjust(image, float(torch.empty(()).uniform_(low, high)))
            return image


def _photometric_randaugment(spec: str, mean: list[float]) -> aa.RandAugment:
    fill = tuple(min(255, round(255 * m)) for m in mean)
    try:
        transform = aa.rand_augment_transform(spec, {"img_mean": fill}, transforms=list(PHOTOMETRIC_OPS))
    except (AssertionError, ValueError) as error:
        raise OptionError(
            f"--auto-augment {spec!r} is not understood; write it as timm does, e.g. rand-m9-mstd0.5, or none"
        ) from error
    for op in transform.ops:
        if op.name == "PosterizeIncreasing":
            op.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    """timm's operation, but for magnitude 10, where it asks for 0 bits: Pillow refuses that (and once gave black)."""
    return image if bits >= 8 else ImageOps.posterize(image, max(1, bits))


def mirror_image(image: Image.Image) -> Image.Image:
    """The image mirrored left-right."""
    return ImageOps.mirror(image)
