"""Colours of uint8 tensors [channels, H, W]: timm's operations that move no pixel, by torchvision's functions.

Differences to Pillow's are of rounding alone, but for the blur: Pillow's is an approximation by boxes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchvision.transforms import ColorJitter
from torchvision.transforms.v2 import functional as F

_BLUR_MIN, _BLUR_MAX = 0.1, 2.0  # standard deviation in pixels, as timm draws it


def _solarize(pixels: Tensor, threshold: int, **_: object) -> Tensor:
    """Inverts pixels from a threshold on; torchvision's takes ten times as long."""
    if threshold > 255:  # as a byte it would be 0
        return pixels
    return pixels ^ ((pixels >= threshold).view(torch.uint8) * 255)


def _solarize_add(pixels: Tensor, add: int, **_: object) -> Tensor:
    """Adds to pixels below 128; at most 128, so that nothing overflows."""
    return pixels + (pixels < 128).view(torch.uint8) * add


def _posterize(pixels: Tensor, bits: int, **_: object) -> Tensor:
    return pixels if bits >= 8 else F.posterize(pixels, max(1, bits))


def _sharpness(pixels: Tensor, factor: float, **_: object) -> Tensor:
    """Blends with the mean of 3×3 pixels, the middle one weighing 5; pixels at the edges stay.

    torchvision's, which is a convolution, takes three times as long.
    """
    if min(pixels.shape[1:]) < 3:
        return pixels
    whole = pixels.to(torch.int16)
    rows = whole[:, :-2] + whole[:, 1:-1] + whole[:, 2:]
    middle = whole[:, 1:-1, 1:-1]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * middle).float().div_(13).round_()
    result = pixels.clone()
    result[:, 1:-1, 1:-1] = smooth.mul_(1 - factor).add_(middle, alpha=factor).clamp_(0, 255).to(torch.uint8)
    return result


def _blur(pixels: Tensor, factor: float, **_: object) -> Tensor:
    """Blurs by a Gaussian of drawn width, along rows and then columns."""
    sigma = random.uniform(_BLUR_MIN, _BLUR_MAX * factor)
    radius = min(math.ceil(3 * sigma), *(side - 1 for side in pixels.shape[1:]))
    size = 2 * radius + 1
    blurred = F.gaussian_blur(F.gaussian_blur(pixels.float(), [size, 1], [sigma, sigma]), [1, size], [sigma, sigma])
    return blurred.round_().to(torch.uint8)


def _desaturate(pixels: Tensor, factor: float, **_: object) -> Tensor:
    return F.adjust_saturation(pixels, min(1.0, max(0.0, 1 - factor)))


class _Of:
    """A function of torchvision's as timm calls its own: with keywords of geometric operations, which are dropped."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function

    def __call__(self, pixels: Tensor, *drawn: float, **_: object) -> Tensor:
        return self._function(pixels, *drawn)


# By timm's names; arguments are those that timm draws.
TENSOR_OPS: Mapping[str, Callable[..., Tensor]] = {
    "AutoContrast": _Of(F.autocontrast),
    "Equalize": _Of(F.equalize),
    "Invert": _Of(F.invert),
    "PosterizeIncreasing": _posterize,
    "Solarize": _solarize,
    "SolarizeIncreasing": _solarize,
    "SolarizeAdd": _solarize_add,
    "ColorIncreasing": _Of(F.adjust_saturation),
    "ContrastIncreasing": _Of(F.adjust_contrast),
    "BrightnessIncreasing": _Of(F.adjust_brightness),
    "SharpnessIncreasing": _sharpness,
    "Desaturate": _desaturate,
    "GaussianBlurRand": _blur,
}


class TensorJitter(ColorJitter):
    """torchvision's colour jitter, with the same draws, by its newer functions, which are faster on tensors."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Jitters brightness, contrast and saturation, in a drawn order."""
        order, *factors = self.get_params(self.brightness, self.contrast, self.saturation, self.hue)
        steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for index in order.tolist():
            if factors[index] is not None:
                pixels = steps[index](pixels, factors[index])
        return pixels
