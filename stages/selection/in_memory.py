"""Tickets of a batch of images, in memory: what `dataltt select` writes of their centre views, by any selector.

Letters: B images, P patches of the grid, K kept patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ...artifacts_schema import OptionError, View
from ..data.decoders import decoded_by
from ..data.images import center_crop, converted, normalize, to_tensor
from ..models.checkpoints import find_weights
from ..models.registry import center_view_of, check_plain_vit, create_vit, geometry_of
from ..models.student import Geometry
from ..models.weights import load_vit
from ..options import DEFAULT_DECODER, CascadeOptions, Decoder
from ..runtime.distributed import resolve_device
from ..runtime.precision import autocast
from .choosing import UNNAMED, Chooser, checked_selector, chooser_of
from .selectors import CASCADE, Setting

_ONE_OF_A_KIND = "give a list of PIL images, or a uint8 tensor [B, channels, height, width]"


class BatchTickets(NamedTuple):
    """The tickets of a batch, and the views whose patches they keep.

    Attributes:
        keep_indices: int64 [B, K], the kept patches of each image, ascending; row-major on the grid, prefix tokens
            excluded. What a pruned ViT takes.
        ranks: int64 [B, P], 0 for the most informative patch; those below K are kept.
        images: uint8 [B, channels, H, W], the centre view of each image, which the patches are of.
    """

    keep_indices: Tensor
    ranks: Tensor
    images: Tensor


def tickets_for(
    model: str | nn.Module,
    images: Tensor | Sequence[Image.Image],
    *,
    ratio: float | None = None,
    keep_rate: float | None = None,
    drop_blocks: Sequence[int] | None = None,
    checkpoint: str | Path | None = None,
    image_px: int | None = None,
    selector: str = CASCADE,
    selector_options: Mapping[str, Setting] | None = None,
    batch_size: int = 128,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    decoder: Decoder = DEFAULT_DECODER,
) -> BatchTickets:
    """Finds the most informative patches of some images, as `dataltt select` finds them for shards.

    Images are shown as the ViT's centre view: the shorter side resized, the central square cut out, normalised as its
    authors did. So any size goes, and what is given is not normalised.

    Args:
        model: a timm ViT with its weights, on any device; or a name, whose weights are read anew by every call.
        images: PIL images, or a tensor uint8 [B, channels, H, W] on any device.
        ratio: the share of patches kept in the end; or instead
        keep_rate: the share kept at each drop block.
        drop_blocks: zero-based; None for those of a model's name, or of a ViT a quarter, half, and three quarters of
            its depth.
        checkpoint: of a name: a weights file or a run's folder; None for timm's pretrained weights.
        image_px: of a name: side of the views; None for the ViT's own.
        selector: by name, the cascade or what `dataltt select` has; `random` draws by an image's place among `images`.
        selector_options: its settings by name.
        batch_size: images that go through the ViT at a time.
        device: where a named model is put.
        precision: of its arithmetic.
        decoder: whose resizing makes the views, as `dataltt select` has it.

    Returns:
        Tensors on the device of `images`; on the CPU for PIL images.

    Raises:
        ModelError: a ViT that cannot select.
        OptionError: options or images that are not of this kind.
        CheckpointError: weights that cannot be had.
    """
    if batch_size < 1:
        raise OptionError(f"`batch_size` {batch_size} should be at least 1")
    blocks = None if drop_blocks is None else tuple(drop_blocks)
    cascade = CascadeOptions(ratio=ratio, keep_rate=keep_rate, drop_blocks=blocks)
    # Cheap checks come before the model is loaded.
    file = None if checkpoint is None else Path(checkpoint)
    settings = [f"{key}={value}" for key, value in (selector_options or {}).items()]
    named = checked_selector(selector, settings, cascade, file)
    pictures = _pictures(images)
    vit = _vit(model, file, image_px, device, has_weights=named is None or named.needs_weights)
    name = model if isinstance(model, str) else UNNAMED
    view = decoded_by(center_view_of(vit), decoder)
    where = next(vit.parameters()).device
    with _borrowed(vit):
        chooser = chooser_of(named, cascade, vit, name, where)
        if chooser.uses_labels:
            raise OptionError(
                f"the selector {selector!r} would choose by labels, and `images` have none; choose without"
            )
        views = _views(pictures, view, geometry_of(vit, name))
        order = torch.cat(list(_orders(chooser, views, view, batch_size, where, precision)))
    place = images.device if isinstance(images, Tensor) else torch.device("cpu")
    kept = order[:, : chooser.num_keep].sort(dim=1).values
    return BatchTickets(kept.to(place), order.argsort(dim=1).to(place), views.to(place))


def _pictures(images: Tensor | Sequence[Image.Image]) -> list[Image.Image]:
    """The images as PIL's, whatever they were given as."""
    if not isinstance(images, Tensor):
        if isinstance(images, Image.Image) or not all(isinstance(i, Image.Image) for i in images):
            raise OptionError(f"`images` are of type {_kind(images)}; {_ONE_OF_A_KIND}")
        pictures = list(images)
    elif images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        shape = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise OptionError(f"`images` are a tensor {shape}; {_ONE_OF_A_KIND}, not normalised (the ViT's own is applied)")
    else:
        arrays = images.permute(0, 2, 3, 1).cpu().numpy()
        pictures = [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]
    if not pictures:
        raise OptionError(f"`images` are none; {_ONE_OF_A_KIND}")
    return pictures


def _kind(images: object) -> str:
    listed = isinstance(images, list | tuple) and images
    return type(images).__name__ + (f" of {type(images[0]).__name__}" if listed else "")  # type: ignore[index]


def _vit(
    model: str | nn.Module, checkpoint: Path | None, image_px: int | None, device: str, *, has_weights: bool
) -> VisionTransformer:
    if isinstance(model, str):
        if not has_weights:
            return create_vit(model, image_px=image_px).to(resolve_device(device))
        file = None if checkpoint is None else find_weights(checkpoint)
        return load_vit(model, file, image_px=image_px, needs_head=False).to(resolve_device(device))
    if checkpoint is not None:
        raise OptionError("`checkpoint` is for a model that is given by name; load it into the ViT, or leave it out")
    if image_px is not None:
        raise OptionError("`image_px` is for a model that is given by name; create the ViT with `img_size`")
    check_plain_vit(model, UNNAMED)
    return cast(VisionTransformer, model)


def _views(pictures: Sequence[Image.Image], view: View, geometry: Geometry) -> Tensor:
    """Centre views, uint8 [B, channels, H, W]."""
    of_mode = (_converted(p, geometry.mode) for p in pictures)
    return torch.stack([to_tensor(center_crop(p, view, geometry.image_px)) for p in of_mode])


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    try:
        return converted(picture, mode)
    except ValueError as error:
        raise OptionError(f"`images` have one that cannot be shown to a ViT ({error})") from None


def _orders(
    chooser: Chooser, views: Tensor, view: View, batch_size: int, device: torch.device, precision: str
) -> Iterator[Tensor]:
    """Patches from most to least informative of some views at a time, int64 [b, P], on the CPU."""
    for step, part in enumerate(views.split(batch_size)):
        names = [str(step * batch_size + number) for number in range(len(part))]
        with autocast(device, precision):
            found = chooser.order(normalize(part.to(device), view), torch.zeros(len(part), dtype=torch.int64), names)
        yield found.order.cpu().clone()  # a clone: the cascade's own is an inference tensor


@contextmanager
def _borrowed(vit: VisionTransformer) -> Iterator[None]:
    """Puts a ViT that is not ours back as it was: the selector freezes what it wraps, and ends its training."""
    modes = [(module, module.training) for module in vit.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in vit.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
