"""Other people's input paths for the same images: timm's own loader, and webdataset with torchvision's transforms.

They draw the centre view and the crops of a training recipe (random resized crops, mirrored, no colours), normalised.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from torch.utils.data import DataLoader

PeerViews = Literal["center", "crop"]
_SPAN = (0.08, 1.0)  # of the area, torchvision's and timm's default


# Tars, views, side of the images, batch size; images that came out.
Peer = Callable[[Sequence[str], PeerViews, int, int], int]


def read_by(peer: str, tars: Sequence[str], views: PeerViews, image_px: int, batch_size: int) -> int:
    """Reads all images of tars by one of `PEERS`, once; returns how many came out."""
    with warnings.catch_warnings():  # they leave files to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        num_read = PEERS[peer](tars, views, image_px, batch_size)
        gc.collect()
    return num_read


def _read_by_timm(tars: Sequence[str], views: PeerViews, image_px: int, batch_size: int) -> int:
    """Reads each tar by timm's `create_dataset` and `create_loader`; returns how many images came out."""
    from timm.data import create_dataset, create_loader

    is_training = views == "crop"
    num_read = 0
    for tar in tars:
        loader: Iterable[Any] = create_loader(
            create_dataset("", root=tar, is_training=is_training),
            input_size=(3, image_px, image_px),
            batch_size=batch_size,
            is_training=is_training,
            interpolation="bicubic",
            crop_pct=0.9,
            scale=_SPAN,
            color_jitter=0.0,
            num_workers=0,
            use_prefetcher=False,
            persistent_workers=False,
        )
        num_read += sum(len(images) for images, _ in loader)
    return num_read


def _read_by_webdataset(tars: Sequence[str], views: PeerViews, image_px: int, batch_size: int) -> int:
    """Reads all tars by webdataset and transforms by torchvision's v2 on PIL images; returns how many images came."""
    import torch
    import webdataset
    from torchvision.transforms import InterpolationMode, v2

    bicubic = InterpolationMode.BICUBIC
    cut: list[Any] = (
        [v2.RandomResizedCrop(image_px, scale=_SPAN, interpolation=bicubic), v2.RandomHorizontalFlip()]
        if views == "crop"
        else [v2.Resize(round(image_px / 0.9), interpolation=bicubic), v2.CenterCrop(image_px)]
    )
    scaled = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    data = (
        webdataset.WebDataset(list(tars), shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(v2.Compose([*cut, *scaled]))
    )
    return sum(len(images) for images, _ in DataLoader(data, batch_size=batch_size, num_workers=0))


PEERS: Mapping[str, Peer] = {"timm's loader": _read_by_timm, "webdataset and torchvision": _read_by_webdataset}
