"""Pixels as patches and back: of a whole image, and of a mosaic of some patches in a JPEG.

Letters: M patches, P patches of the grid, p patch side in pixels, C channels. Patches are uint8 [M, p, p, C].
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ...artifacts_schema import View
from ...artifacts_schema.baked import mosaic_size
from ...artifacts_schema.errors import one_line
from .jpeg import decode_jpeg, plain_jpeg, torchvision_decodes

Pixels = npt.NDArray[np.uint8]

# JPEG transforms blocks of 8×8: patches of whole blocks do not bleed into each other.
JPEG_BLOCK_PX = 8
_EMPTY = 128


def patches_of(image: Pixels, patch_px: int) -> Pixels:
    """The patches of an image uint8 [H, W, C], row-major: [P, p, p, C]."""
    height, width, channels = image.shape
    tiles = image.reshape(height // patch_px, patch_px, width // patch_px, patch_px, channels)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, patch_px, patch_px, channels)


def image_of(patches: Pixels, grid: tuple[int, int]) -> Pixels:
    """The image uint8 [C, H, W] that all P patches make up."""
    _, patch_px, _, channels = patches.shape
    tiles = patches.reshape(*grid, patch_px, patch_px, channels).transpose(4, 0, 2, 1, 3)
    return np.ascontiguousarray(tiles).reshape(channels, grid[0] * patch_px, grid[1] * patch_px)


def normalize_patches(patches: Tensor, view: View) -> Tensor:
    """uint8 [B, M, p, p, C] to float32 [B, M, C, p, p], normalised as `images.normalize` does."""
    mean, std = (torch.tensor(values, device=patches.device) for values in (view.mean, view.std))
    return patches.float().div_(255).sub_(mean).div_(std).permute(0, 1, 4, 2, 3)


def encode_mosaic(patches: Pixels, quality: int) -> bytes:
    """Patches [M, p, p, C] side by side in a JPEG, without colour subsampling; C is 3, or 1 for grey."""
    num_patches, patch_px, _, channels = patches.shape
    rows, columns = mosaic_size(num_patches)
    filled = np.full((rows * columns, patch_px, patch_px, channels), _EMPTY, np.uint8)
    filled[:num_patches] = patches
    pixels = image_of(filled, (rows, columns))
    image = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return buffer.getvalue()


def decode_mosaic(encoded: bytes, num_patches: int, patch_px: int, channels: int) -> Pixels:
    """The patches [M, p, p, C] of a mosaic.

    Raises:
        ValueError: it is no JPEG, or one of another size.
    """
    rows, columns = mosaic_size(num_patches)
    found, wanted = plain_jpeg(encoded), (rows * patch_px, columns * patch_px, channels)
    if found is None:
        raise ValueError("is no JPEG that can be read")
    if found != wanted:  # before anything of that size is made
        shown, right = (f"{s[1]}×{s[0]} px of {s[2]} channel(s)" for s in (found, wanted))
        raise ValueError(f"has {shown}, and a mosaic of {num_patches} patches has {right}")
    decode = by_torchvision if torchvision_decodes() else by_pillow
    try:
        return patches_of(decode(encoded, channels), patch_px)[:num_patches]
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged input
        raise ValueError(f"cannot be decoded ({one_line(error).split(' <_io')[0]})") from None


def by_torchvision(encoded: bytes, channels: int) -> Pixels:
    """The pixels uint8 [H, W, C] of a JPEG, by torchvision."""
    return decode_jpeg(encoded, channels).permute(1, 2, 0).numpy()


def by_pillow(encoded: bytes, channels: int) -> Pixels:
    """The pixels uint8 [H, W, C] of a JPEG, by Pillow."""
    with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
        return np.atleast_3d(np.asarray(image))[..., :channels]
