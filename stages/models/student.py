"""Students: a network, the grid its tickets lie on, and a forward pass that takes kept patches.

Letters: B batch, P patches of the grid, K kept patches, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ...artifacts_schema import ModelError
from ..options import PatchInput

# How patches reach networks that take whole images: the others set to zero, or the kept packed into a smaller image.


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A model's image and patch grid. `mode` is what images are converted to: RGB, or L (grey)."""

    grid: tuple[int, int]
    patch_px: int
    image_px: int
    mode: str

    @property
    def num_patches(self) -> int:
        """Number of patches of the grid, P."""
        return self.grid[0] * self.grid[1]


class TokenLogits(NamedTuple):
    """Output of a student with an auxiliary head in training."""

    image: Tensor  # float [B, C]
    tokens: Tensor  # float [B, K, C], in the order of keep_indices


class Student(nn.Module, ABC):
    """A network that tickets reach.

    Attributes:
        net: the network; its parameters have the names that its weights are published with.
        geometry: of the images it takes, and of the tickets that fit it.
        fixed_num_keep: K where the network is built for one number of patches, else None.
        saves_compute: whether fewer patches cost less.
        mixes_tokens: whether CutMix happens on tokens, inside (MixToken), rather than on pixels.
        chooses_patches: whether it has a CLS token, whose attention can choose patches (`order_patches`).
        channels_last: whether its images and weights lie with their channels last, as convolutions are faster.
        takes_smaller: whether it can be shown whole pictures of fewer patches than its grid has (`control='resize'`).
        no_smaller: the way out where it cannot.
        takes_counts: whether images of a batch may keep different numbers of patches (adaptive tickets): it is then
            called with a third argument, `counts`.
        takes_patches: whether kept patches alone, float [B, K, channels, p, p], may stand for images.
        summary: what a run's first line says of its patches, where that is not what the run is asked for.
    """

    saves_compute: ClassVar[bool] = True
    mixes_tokens: ClassVar[bool] = False
    chooses_patches: ClassVar[bool] = False
    channels_last: ClassVar[bool] = False
    takes_smaller: ClassVar[bool] = False
    no_smaller: ClassVar[str] = "train a plain ViT"
    takes_patches: ClassVar[bool] = False
    takes_counts: ClassVar[bool] = False
    summary: str | None = None

    def __init__(self, net: nn.Module, geometry: Geometry) -> None:
        super().__init__()
        self.net = net
        self.geometry = geometry
        self.fixed_num_keep: int | None = None

    @abstractmethod
    def forward(self, images: Tensor, keep_indices: Tensor | None = None) -> Tensor:
        """Class logits float [B, C].

        Args:
            images: float [B, channels, height, width], normalised.
            keep_indices: int64 [B, K], patches of the grid, row-major; None for all.
        """

    def begin_step(self, epochs: float) -> None:
        """Takes notice that training is about to make a step; `epochs` are done, in full and in part."""

    def order_patches(self, images: Tensor, num_keep: int) -> Tensor:
        """The network's own tickets: patches from most to least informative to it, int64 [B, P].

        Raises:
            ModelError: a network without CLS attention.
        """
        raise ModelError("this model has no CLS token whose attention could choose patches; test on another subset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Family of networks, and how tickets reach it. Another is a file with another of these, listed in families.py."""

    name: str
    modules: frozenset[str]  # timm's modules (or dataltt's own names) whose networks these are
    wrap: Callable[[nn.Module, str, PatchInput | None], Student]
    # What else the network is created with, for tickets of K patches (None: all).
    network_kwargs: Callable[[PatchInput | None, int | None], Mapping[str, Any]] = lambda patch_input, num_keep: {}
    # What it is created with for images of so many pixels a side; None: its images have one size.
    size_kwargs: Callable[[int], Mapping[str, Any]] | None = None
    inputs: tuple[PatchInput, ...] = ()  # the first is the default; () where kept tokens alone are computed on
    epochs: int = 300
    learns_token_labels: bool = False
