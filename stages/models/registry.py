"""Model names: dataltt's aliases and timm's own, what each needs of its images, and its weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import timm
import torch
from timm.data import resolve_model_data_config
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer

from ...artifacts_schema import CheckpointError, ModelError, View
from ...artifacts_schema.tickets import MAX_PATCHES
from .lvvit import LVViT
from .prune import PrunedViT
from .selector import is_supported_block
from .student import Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """Model that a name stands for: timm's, or (with `build`) a network of our own, of the family of `module`."""

    timm_name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    build: Callable[..., torch.nn.Module] | None = None
    module: str | None = None
    drop_blocks: tuple[int, ...] | None = None  # None: a quarter, half, and three quarters of the depth


ALIASES: Mapping[str, ModelEntry] = {
    "deit_t": ModelEntry(timm_name="deit_tiny_patch16_224"),
    "deit_s": ModelEntry(timm_name="deit_small_patch16_224"),
    "deit_b": ModelEntry(timm_name="deit_base_patch16_224"),
    # The paper's smaller DeiT-B: 9 heads of 64 dim.
    "deit_b_576": ModelEntry(timm_name="deit_base_patch16_224", kwargs={"embed_dim": 576, "num_heads": 9}),
    "lvvit_t": ModelEntry(
        timm_name="lvvit_t",
        kwargs={"embed_dim": 240, "depth": 12, "num_heads": 4, "skip_lam": 1.0},
        build=LVViT,
        module="lvvit",
    ),
    "lvvit_s": ModelEntry(
        timm_name="lvvit_s",
        kwargs={"embed_dim": 384, "depth": 16, "num_heads": 6, "skip_lam": 2.0},
        build=LVViT,
        module="lvvit",
    ),
    "swin_t": ModelEntry(timm_name="swin_tiny_patch4_window7_224"),
    "swin_s": ModelEntry(timm_name="swin_small_patch4_window7_224"),
    "swin_b": ModelEntry(timm_name="swin_base_patch4_window7_224"),
    "resnet50": ModelEntry(timm_name="resnet50"),
    # The model of `dataltt demo`, for 28-px grey images: 49 patches of 4 px. Mean and std are Fashion-MNIST's.
    "vit_fashion": ModelEntry(
        timm_name="vit_tiny_patch16_224",
        kwargs={
            "img_size": 28,
            "patch_size": 4,
            "in_chans": 1,
            "embed_dim": 64,
            "depth": 6,
            "num_heads": 4,
            "num_classes": 10,
            "pretrained_cfg_overlay": {
                "input_size": (1, 28, 28),
                "mean": (0.2860,),
                "std": (0.3530,),
                "crop_pct": 1.0,
                "interpolation": "bicubic",
            },
        },
        drop_blocks=(1, 3, 5),
    ),
    # The student of `dataltt study` on photographs: 224 px, 196 patches, small enough for a CPU.
    "vit_micro": ModelEntry(
        timm_name="vit_tiny_patch16_224", kwargs={"embed_dim": 64, "depth": 4, "num_heads": 2}, drop_blocks=(1, 2, 3)
    ),
}


def entry_of(name: str) -> ModelEntry:
    """The entry of an alias, or of a timm name.

    Raises:
        ModelError: neither dataltt nor timm knows the name.
    """
    if name in ALIASES:
        return ALIASES[name]
    if not timm.is_model(name):
        near = [*difflib.get_close_matches(name, ALIASES, n=1), *timm.list_models(f"*{name}*")][:3]
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ModelError(
            f"`model={name!r}` is neither an alias ({', '.join(ALIASES)}) nor a timm model{hint}; "
            "plain ViTs are listed by: python -c \"import timm; print(timm.list_models('*vit*'))\""
        )
    return ModelEntry(timm_name=name)


def canonical_name(name: str) -> str:
    """The name that manifests and checkpoints carry: timm's, unless only the alias says how the model is made."""
    entry = entry_of(name)
    return name if entry.kwargs else entry.timm_name


def create_network(name: str, *, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
    """Creates a network of any kind, with random weights or timm's pretrained ones (from its hub or its cache).

    Args:
        name: an alias or a timm name.
        kwargs: passed to timm, over the alias's own; None values are left out.

    Raises:
        ModelError: an unknown name, or arguments that the network does not take.
        CheckpointError: the pretrained weights cannot be had.
    """
    entry = entry_of(name)
    given = {**entry.kwargs, **{k: v for k, v in kwargs.items() if v is not None}}
    if pretrained and entry.build is not None:
        raise CheckpointError(f"there are no pretrained weights of {name} to fetch; give a file as `checkpoint`")
    try:
        if entry.build is not None:
            return entry.build(**given)
        net: torch.nn.Module = timm.create_model(entry.timm_name, pretrained=pretrained, **given)
    except Exception as error:
        if not pretrained:
            raise ModelError(f"{name} cannot be created ({type(error).__name__}: {error})") from error
        raise CheckpointError(
            f"timm's pretrained weights of {name} cannot be had ({type(error).__name__}); "
            "connect to the hub once, or give a file as `checkpoint`"
        ) from error
    return net


def create_vit(name: str, *, pretrained: bool = False, image_px: int | None = None, **kwargs: Any) -> VisionTransformer:
    """Creates a ViT that can select: a plain one, or an LV-ViT. Other arguments and errors are `create_network`'s.

    Args:
        image_px: side of the images that it takes; None for its own.

    Raises:
        ModelError: not a ViT with a CLS token, or whose patches do not divide such images.
    """
    size = {} if image_px is None else {"img_size": image_px}
    model = create_network(name, pretrained=pretrained, **size, **kwargs)
    check_plain_vit(model, name)
    return cast(VisionTransformer, model)


def check_plain_vit(model: torch.nn.Module, name: str) -> None:
    """Refuses what the selector and the student cannot take apart.

    Raises:
        ModelError: not a plain ViT, or one without CLS token.
    """
    if (
        not isinstance(model, VisionTransformer)
        or type(model) not in (VisionTransformer, PrunedViT, LVViT)
        or not all(is_supported_block(b) for b in model.blocks)
    ):
        raise ModelError(f"{name} is not a plain ViT (timm's VisionTransformer with standard blocks); try deit_s")
    assert isinstance(model, VisionTransformer)
    if model.cls_token is None:
        raise ModelError(f"{name} has no CLS token, whose attention tickets are made of; try deit_s")
    if model.pos_embed is None:
        raise ModelError(f"{name} has no absolute position embeddings, which tell kept patches apart; try deit_s")
    if isinstance(model, LVViT):
        return
    embed = model.patch_embed
    if not isinstance(embed, PatchEmbed) or embed.proj.kernel_size != embed.proj.stride:
        raise ModelError(f"{name} does not embed separate patches; try deit_s")
    if embed.img_size[0] != embed.img_size[1] or model.dynamic_img_size:
        raise ModelError(f"{name} has no fixed square image size; try deit_s")
    image_px, patch_px = embed.img_size[0], embed.patch_size[0]
    if rest := image_px % patch_px:
        below = [str(image_px - rest)] if image_px > patch_px else []
        raise ModelError(
            f"`image_px={image_px}` is no multiple of the {patch_px}-px patches of {name}; give "
            f"{' or '.join([*below, str(image_px - rest + patch_px)])}"
        )


def geometry_of(model: VisionTransformer, name: str) -> Geometry:
    """The geometry of a plain ViT.

    Raises:
        ModelError: it takes neither 1 nor 3 channels, or sees more patches than a ticket may have.
    """
    embed = model.patch_embed
    channels = embed.in_chans if isinstance(model, LVViT) else embed.proj.in_channels
    if channels not in (1, 3):
        raise ModelError(f"{name} takes {channels} channels; images have 1 (grey) or 3 (RGB)")
    height, width = embed.grid_size
    if height * width > MAX_PATCHES:
        raise ModelError(
            f"{name} sees {height}×{width} patches; a ticket has at most {MAX_PATCHES}, so give a smaller `image_px`"
        )
    return Geometry(
        grid=tuple(embed.grid_size),
        patch_px=embed.patch_size[0],
        image_px=embed.img_size[0],
        mode="L" if channels == 1 else "RGB",
    )


def center_view_of(model: torch.nn.Module, image_px: int | None = None) -> View:
    """The evaluation view that the model's authors used, as timm records it, for images of `image_px` (a ViT's own)."""
    config = resolve_model_data_config(model)
    if image_px is None:
        image_px = cast(VisionTransformer, model).patch_embed.img_size[0]
    return View(
        kind="center",
        resize_px=int(image_px / config["crop_pct"]),  # rounded down, as timm does
        crop_share=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=list(config["mean"]),
        std=list(config["std"]),
    )
