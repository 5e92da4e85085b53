"""Encoded bytes to pixels: decoding, the centre view, normalising."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import str_to_interp_mode
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ...artifacts_schema import BadImageError, View
from ...artifacts_schema.manifest import Decoder
from .jpeg import decode_jpeg, plain_jpeg, torchvision_decodes
from .shards import RawSample

# A decoded picture: Pillow's, or uint8 [channels, H, W] where torchvision is the decoder.
Picture = Image.Image | Tensor

# Larger images are decompression bombs, not photographs.
MAX_IMAGE_PIXELS = 1 << 27
# Modes of 8-bit pictures, which Pillow converts as timm's and torchvision's data sets have it do.
_EIGHT_BIT = frozenset({"1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
# Formats whose mode I is 16 bits wide: of PNG in older versions of Pillow, of PGM in all.
_SIXTEEN_BIT_AS_I = frozenset({"PNG", "PPM"})


def decode_image(sample: RawSample, mode: str, decoder: Decoder, way_out: str) -> Picture:
    """Decodes a sample's image whole, in `mode` ("RGB" or "L").

    Args:
        way_out: the end of the error's sentence: what the user can do.

    Returns:
        Of Pillow its image; of torchvision uint8 [channels, H, W].

    Raises:
        BadImageError: it cannot be decoded, or claims a size that no photograph has.
    """
    try:
        return decode_bytes(sample.image, mode, decoder)
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged input
        reason = str(error).split(" <_io")[0] or type(error).__name__
        raise BadImageError(sample.shard, sample.key, reason, way_out) from error


def decode_bytes(encoded: bytes, mode: str, decoder: Decoder) -> Picture:
    """Decodes an image whole, in `mode`; raises whatever Pillow raises.

    torchvision decodes grey and YCbCr JPEGs, unless colour is to become grey; Pillow all others, and JPEGs that
    torchvision finds damaged, so that one decoder says of all images whether they are sound.
    """
    if decoder == "torchvision":
        pixels = _decoded_by_torchvision(encoded, mode)
        return pixels if pixels is not None else to_tensor(_decoded_by_pillow(encoded, mode))
    return _decoded_by_pillow(encoded, mode)


def _decoded_by_torchvision(encoded: bytes, mode: str) -> Tensor | None:
    size = plain_jpeg(encoded)
    if size is None or (mode == "L" and size.channels != 1) or not torchvision_decodes():
        return None
    _check_size(size.width, size.height)
    try:
        return decode_jpeg(encoded, 1 if mode == "L" else 3)
    except RuntimeError:
        return None


def _decoded_by_pillow(encoded: bytes, mode: str) -> Image.Image:
    with Image.open(io.BytesIO(encoded)) as image:
        _check_size(image.width, image.height)
        image.load()
        return converted(image, mode)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(f"it claims {width}×{height} pixels, more than {MAX_IMAGE_PIXELS}")


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


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height of a picture, in pixels."""
    if isinstance(picture, Tensor):
        return picture.shape[2], picture.shape[1]
    return picture.size


def cut_by(picture: Picture, decoder: Decoder) -> Picture:
    """The picture in the form that a decoder cuts and resizes, whoever decoded it."""
    return to_tensor(picture) if decoder == "torchvision" else to_pillow(picture)


def center_crop(picture: Picture, view: View, image_px: int) -> Picture:
    """The centre view, as timm's evaluation transform makes it: shorter side resized, central square cut out."""
    picture = cut_by(picture, view.decoder_name)
    if size_of(picture) == (view.resize_px, view.resize_px) == (image_px, image_px):
        return picture
    interpolation: InterpolationMode = str_to_interp_mode(view.interpolation)
    resized = F.resize(_middle(picture, view), [view.resize_px], interpolation, antialias=True)
    cut: Picture = F.center_crop(resized, [image_px, image_px])
    return cut


def _middle(picture: Picture, view: View) -> Picture:
    """The middle of a picture of such unequal sides that, resized, it would be a decompression bomb; else all of it.

    More is left on either side than the centre view shows and its resizing reads.
    """
    short, long = sorted(size_of(picture))
    if view.resize_px**2 * long <= MAX_IMAGE_PIXELS * short:
        return picture
    left = 5 * short + 8
    left += (long - left) % 2  # as much is cut off on both sides
    width, height = (min(side, left) for side in size_of(picture))
    cut: Picture = F.center_crop(picture, [height, width])
    return cut


def to_tensor(picture: Picture) -> Tensor:
    """Pixels as uint8 [channels, height, width]."""
    if isinstance(picture, Tensor):
        return picture
    pixels = np.array(picture)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def to_pillow(picture: Picture) -> Image.Image:
    """The picture as Pillow's, for reports."""
    if not isinstance(picture, Tensor):
        return picture
    pixels = picture.permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def normalize(images: Tensor, view: View) -> Tensor:
    """uint8 [B, channels, H, W] to float32, scaled to [0, 1] and normalised by the view's mean and std."""
    mean = torch.tensor(view.mean, device=images.device)[:, None, None]
    std = torch.tensor(view.std, device=images.device)[:, None, None]
    return images.float().div_(255).sub_(mean).div_(std)
