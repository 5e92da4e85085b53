"""JPEGs by their header, and decoded by torchvision: by libjpeg-turbo, as by Pillow, but sooner."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torchvision.io  # noqa: F401  (registers its operations)
from torch import Tensor

_START = b"\xff\xd8"
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
_SCAN = 0xDA
_APP0, _APP14 = 0xE0, 0xEE
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
_YCBCR_IDS = bytes((1, 2, 3))
_ADOBE_YCBCR = 1


class JpegSize(NamedTuple):
    """Size of a JPEG as its header gives it; 1 channel of grey, 3 of YCbCr."""

    height: int
    width: int
    channels: int


class _Frame(NamedTuple):
    marker: int
    precision: int
    height: int
    width: int
    ids: bytes


def plain_jpeg(encoded: bytes) -> JpegSize | None:
    """The size of a grey or YCbCr JPEG of 8 bits; None of anything else (CMYK, RGB, 12 bits, arithmetic coding, …).

    The header is read up to the first scan, as libjpeg reads it; what libjpeg would have to guess at is None. Nothing
    is allocated by it.
    """
    if encoded[:2] != _START:
        return None
    place, frame, is_jfif, adobe = 2, None, False, None
    while place + 4 <= len(encoded) and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        length = int.from_bytes(encoded[place + 2 : place + 4])
        segment = encoded[place + 4 : place + 2 + length]
        if marker in _NO_LENGTH or length < 2:
            return None
        if marker == _SCAN:
            return _plain_size(frame, is_jfif=is_jfif, adobe=adobe)
        if marker == _APP0:
            is_jfif |= segment[:5] == b"JFIF\0" and len(segment) >= 14
        elif marker == _APP14 and segment[:5] == b"Adobe" and len(segment) >= 12:
            adobe = segment[11]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None:
                return None
            frame = _frame(marker, segment)
        place += 2 + length
    return None


def _frame(marker: int, segment: bytes) -> _Frame | None:
    if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
        return None
    height, width = (int.from_bytes(segment[i : i + 2]) for i in (1, 3))
    return _Frame(marker, segment[0], height, width, segment[6 : 6 + 3 * segment[5] : 3])


def _plain_size(frame: _Frame | None, *, is_jfif: bool, adobe: int | None) -> JpegSize | None:
    if frame is None or frame.marker not in _HUFFMAN_FRAMES or frame.precision != 8 or not frame.height * frame.width:
        return None
    is_grey = len(frame.ids) == 1
    says_ycbcr = adobe == _ADOBE_YCBCR or (adobe is None and (is_jfif or frame.ids == _YCBCR_IDS))
    if not is_grey and not (len(frame.ids) == 3 and says_ycbcr):
        return None
    return JpegSize(frame.height, frame.width, len(frame.ids))


@functools.cache
def torchvision_decodes() -> bool:
    """Tells whether torchvision has its JPEG decoder.

    Its Python function warns, since another package shall take its place; the operation behind it does not.
    """
    return hasattr(torch.ops.image, "decode_jpeg")


def decode_jpeg(encoded: bytes, channels: int) -> Tensor:
    """The pixels uint8 [channels, H, W] of a JPEG, channels last in memory; orientation is not applied.

    Args:
        channels: 1 (of a grey one) or 3.

    Raises:
        RuntimeError: it is damaged.
    """
    # A copy, as torch has no tensors that may only be read.
    data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    pixels: Tensor = torch.ops.image.decode_jpeg(data, channels, False)
    return pixels
