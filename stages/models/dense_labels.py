"""Class logits at every position of a classifier's feature map: its own head, run on each position alone.

Source: Yun et al. 2021, "Re-labeling ImageNet" (ReLabel), which LV-ViT's token labels follow. For a network that pools
by the mean and has a linear head, the mean of the logits over all positions is the network's own output.

Letters: B batch, [h, w] feature map, C its channels, N = h · w positions, k classes per position.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ...artifacts_schema import ModelError
from ...artifacts_schema.token_labels import MAX_CLASSES, TOP_K

# Logits of positions that are held at a time, beside what the network itself needs.
_LOGITS = 1 << 26


# How a network's own head wants its input.
_Layout = Literal["tokens", "NCHW", "NHWC"]


class InputFormat(NamedTuple):
    """Format of a network's images, as timm records it: height and width in pixels, and one mean and std per
    channel of values in [0, 1]."""

    size_px: tuple[int, int]
    mean: list[float]
    std: list[float]


class DenseLabeller(nn.Module):
    """A classifier as a maker of label maps.

    Args:
        net: a timm classifier, or one with an `aux_head` on patch tokens (LV-ViT).
        name: of the network, for errors.

    Raises:
        ModelError: its parts are not where they are looked for, or its classes do not fit a store.
    """

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.net, self.name = net.eval().requires_grad_(False), name
        self.num_classes = int(getattr(net, "num_classes", 0))
        if not TOP_K <= self.num_classes <= MAX_CLASSES:
            raise ModelError(
                f"{name} has {self.num_classes} classes; token labels are the {TOP_K} likeliest of at most "
                f"{MAX_CLASSES} classes, so label with another `model`"
            )
        if not hasattr(net, "forward_features") or not hasattr(net, "forward_head"):
            raise ModelError(f"{name} has no features apart from its head (timm's forward_features); try resnet50")

    @property
    def input_format(self) -> InputFormat:
        """Format of the network's images."""
        config = resolve_model_data_config(self.net)
        # timm's record keeps the size that a ViT was published for, whatever it was created with.
        own = getattr(getattr(self.net, "patch_embed", None), "img_size", None)
        height, width = own if isinstance(own, tuple) else config["input_size"][1:]
        return InputFormat((height, width), list(config["mean"]), list(config["std"]))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, of the network's own size, to logits float32 [B, classes, h, w]."""
        features, layout = self._features(images)
        return self._logits(features, layout)

    @torch.inference_mode()
    def label(self, images: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The likeliest classes of every patch of a grid.

        Args:
            images: normalised float [B, channels, H, W], of any size: resized bilinearly to the network's own.
            grid: of the patches; logits are interpolated to it.

        Returns:
            Class indices int64 [B, P, 5] and their softmax probabilities float32 [B, P, 5], in descending order.
        """
        features, layout = self._features(resized(images, self.input_format.size_px))
        num_positions = max(features.shape[1] * features.shape[2], grid[0] * grid[1])
        step = max(1, _LOGITS // (num_positions * self.num_classes))
        found = []
        for some in features.split(step):
            probabilities = resized(self._logits(some, layout), grid).softmax(dim=1)
            found.append(torch.topk(probabilities.flatten(2).transpose(1, 2), TOP_K, dim=2))
        return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])

    def _features(self, images: Tensor) -> tuple[Tensor, _Layout]:
        """The network's features by position, [B, h, w, C], and how its head wants them."""
        features = self.net.forward_features(images)  # type: ignore[operator]
        if isinstance(features, Tensor) and features.ndim == 3:
            tokens = features[:, self._num_prefix_tokens :]
            return tokens.unflatten(1, self._grid_of(tokens.shape[1])), "tokens"
        if isinstance(features, Tensor) and features.ndim == 4:
            if str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC"):
                return features, "NHWC"
            return features.permute(0, 2, 3, 1), "NCHW"
        raise ModelError(f"{self.name} has no feature map whose positions could be labelled; try resnet50")

    @property
    def _num_prefix_tokens(self) -> int:
        has_cls = getattr(self.net, "cls_token", None) is not None
        return int(getattr(self.net, "num_prefix_tokens", has_cls))

    def _grid_of(self, num_tokens: int) -> tuple[int, int]:
        grid = getattr(getattr(self.net, "patch_embed", None), "grid_size", None)
        if grid is not None and math.prod(grid) == num_tokens:
            return int(grid[0]), int(grid[1])
        side = math.isqrt(num_tokens)
        if side * side != num_tokens:
            raise ModelError(f"{self.name} has {num_tokens} tokens, which are no square map; try resnet50")
        return side, side

    def _logits(self, features: Tensor, layout: _Layout) -> Tensor:
        """[B, h, w, C] to float32 [B, classes, h, w]."""
        positions = features.flatten(0, 2)
        if hasattr(self.net, "aux_head"):
            logits = self.net.aux_head(positions)  # type: ignore[operator]
        else:
            logits = self.net.forward_head(self._alone(positions, layout))  # type: ignore[operator]
        result: Tensor = logits.float().unflatten(0, features.shape[:3]).permute(0, 3, 1, 2)
        return result

    def _alone(self, positions: Tensor, layout: _Layout) -> Tensor:
        """Positions [B · N, C] as inputs of the head that hold nothing else."""
        if layout == "tokens":
            # As every prefix token too: heads read the first ones, or the mean of the others.
            return positions[:, None].expand(-1, self._num_prefix_tokens + 1, -1)
        return positions[:, None, None, :] if layout == "NHWC" else positions[:, :, None, None]


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps or images float [B, C, h, w] resized bilinearly; those of that size stay as they are."""
    if tuple(maps.shape[2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", antialias=True)
