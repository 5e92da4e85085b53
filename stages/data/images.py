"""Encoded bytes to pixels: decoding, the centre view, normalising."""

from __future__ import annotations

import io

import numpy as np
import torch
import torchvision.transforms.functional as tvf
from PIL import Image
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torchvision.transforms import InterpolationMode

from ...artifacts_schema import BadImageError, View
from .shards import RawSample

# Larger images are decompression bombs, not photographs.
MAX_IMAGE_PIXELS = 1 << 27
# Modes of 8-bit pictures, which Pillow converts as timm's and torchvision's data sets have it do.
_EIGHT_BIT = frozenset({"1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# Formats whose mode I is 16 bits wide: of PNG in older versions of Pillow, of PGM in all.
_SIXTEEN_BIT_AS_I = frozenset({"PNG", "PPM"})


def decode_image(sample: RawSample, mode: str, way_out: str) -> Image.Image:
    """Decodes a sample's image whole and converts it to `mode` ("RGB" or "L").

    Args:
        way_out: the end of the error's sentence: what the user can do.

    Raises:
        BadImageError: it cannot be decoded, or claims a size that no photograph has.
    """
    try:
        return decode_bytes(sample.image, mode)
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged input
        reason = str(error).split(" <_io")[0] or type(error).__name__
        raise BadImageError(sample.shard, sample.key, reason, way_out) from error


def decode_bytes(encoded: bytes, mode: str) -> Image.Image:
    """Decodes an image whole and converts it by the rule of `converted`; raises whatever Pillow raises."""
    with Image.open(io.BytesIO(encoded)) as image:
        if image.width * image.height > MAX_IMAGE_PIXELS:
            raise ValueError(f"it claims {image.width}×{image.height} pixels, more than {MAX_IMAGE_PIXELS}")
        image.load()
        return converted(image, mode)


def converted(image: Image.Image, mode: str) -> Image.Image:
    """The image in `mode` ("RGB" or "L"), by the one rule that every command has (docs/method.md, "Pictures").

    8-bit modes go through Pillow's conversion, which drops alpha. 16-bit grey keeps its high byte, as Pillow's readers
    do for 16-bit colour.

    Raises:
        ValueError: a mode that has no rule.
    """
    if image.mode == mode:
        return image
    if image.mode in _SIXTEEN_BIT or (image.mode == "I" and image.format in _SIXTEEN_BIT_AS_I):
        grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return grey if mode == "L" else grey.convert(mode)
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}), of which nobody says what is white")
    if image.mode not in _EIGHT_BIT:
        raise ValueError(f"there is no rule for pictures of mode {image.mode}; save it as RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]  # no pixel depends on it, and Pillow would warn
    return image.convert(mode)


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
