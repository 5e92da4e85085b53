"""LV-ViT: a ViT with a convolutional stem, scaled residuals, and a second head on every patch token.

Source: Jiang et al. 2021, "All Tokens Matter" (LV-ViT, token labelling), section 3. timm does not have it; it is a timm
ViT whose patch embedding, LayerScale and head are replaced, so that parameters have the names of the published weights
(TokenLabeling) and all that takes ViTs apart takes this one apart too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

STEM_DIM = 64
# What the published head adds of the best token's logits at test time.
TOKEN_WEIGHT = 0.5


class ConvStem(nn.Module):
    """Four convolutions that embed 16-px patches: strides 2, 1, 1 and 8, the last one without overlap."""

    def __init__(self, img_size: int = 224, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 384, **_: Any):
        super().__init__()
        if patch_size % 2 or img_size % patch_size:
            raise ValueError(f"img_size {img_size} should be a multiple of patch_size {patch_size}, an even number")
        self.img_size, self.patch_size = (img_size, img_size), (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.in_chans = in_chans
        self.conv1 = nn.Conv2d(in_chans, STEM_DIM, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_DIM)
        self.conv2 = nn.Conv2d(STEM_DIM, STEM_DIM, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM_DIM)
        self.conv3 = nn.Conv2d(STEM_DIM, STEM_DIM, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(STEM_DIM)
        self.proj = nn.Conv2d(STEM_DIM, embed_dim, kernel_size=patch_size // 2, stride=patch_size // 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Images float [B, channels, H, W] to tokens float [B, P, dim], row-major."""
        x = self.features(images)
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens

    def features(self, images: Tensor) -> Tensor:
        """Input of the last convolution, float [B, 64, H / 2, W / 2]."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(self.bn3(self.conv3(x)))
        return out


class ResidualScale(nn.Module):
    """Divides a residual branch by `skip_lam`, in LayerScale's place; it has no parameter."""

    def __init__(self, skip_lam: float) -> None:
        super().__init__()
        self.skip_lam = skip_lam

    def forward(self, x: Tensor) -> Tensor:
        """Divides x, float of any shape, by `skip_lam`."""
        return x / self.skip_lam


class LVViT(VisionTransformer):
    """LV-ViT. Its forward is that of testing: the CLS head plus half of the best token's logits per class.

    Args:
        skip_lam: what residual branches are divided by.
        kwargs: timm's, of VisionTransformer.
    """

    def __init__(self, *, skip_lam: float = 1.0, **kwargs: Any) -> None:
        super().__init__(
            mlp_ratio=3.0,
            qkv_bias=False,
            embed_layer=ConvStem,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),
            **kwargs,
        )
        if skip_lam != 1:
            for block in self.blocks:
                block.ls1, block.ls2 = ResidualScale(skip_lam), ResidualScale(skip_lam)
        if self.num_classes:
            self.aux_head = nn.Linear(self.embed_dim, self.num_classes)
            nn.init.trunc_normal_(self.aux_head.weight, std=0.02)
            nn.init.zeros_(self.aux_head.bias)
        self.pretrained_cfg = {
            "input_size": (self.patch_embed.in_chans, *self.patch_embed.img_size),
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "crop_pct": 0.9,
            "interpolation": "bicubic",
        }

    def both_heads(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the image [B, classes] and of every patch token [B, N, classes], from normed tokens."""
        return self.head(self.head_drop(normed[:, 0])), self.aux_head(normed[:, 1:])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Test-time logits float [B, classes] from normed tokens."""
        if pre_logits:
            return x[:, 0]
        image, tokens = self.both_heads(x)
        return image + TOKEN_WEIGHT * tokens.amax(dim=1)
