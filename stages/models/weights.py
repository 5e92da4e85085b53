"""Weights of models: read without pickle's powers, checked by name and shape, loaded whole or not at all, and named."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from ...artifacts_schema import CheckpointError
from .lvvit import LVViT
from .registry import ALIASES, create_vit
from .resampling import resampled, resampled_in_words
from .weight_bounds import check_held, check_stored, sketched
from .weight_digest import check_digest
from .weight_entries import no_state_dict


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """A state dict from .safetensors, or from .pth/.pt read without pickle's powers; a wrapping `model` or
    `state_dict` entry (upstream's layout) is looked into.

    Raises:
        CheckpointError: the file is not there, or not such a file, or it would take far more memory than it has bytes.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint file {path}; give a .safetensors or .pth file")
    check_stored(path)
    try:
        # timm logs that it loaded the file; the caller says so in its own words.
        logging.getLogger("timm.models._helpers").setLevel(logging.WARNING)
        weights = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if len(str(error)) > 3 else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason}); give a .safetensors file, or a .pth that holds tensors only"
        ) from error
    if not weights or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise no_state_dict(path, weights)
    check_held(path, weights)
    check_digest(path, weights)
    return weights


def load_vit(
    name: str, checkpoint: str | Path | None, *, image_px: int | None = None, needs_head: bool = True, **kwargs: Any
) -> VisionTransformer:
    """A ViT with weights: those of `checkpoint`, or timm's pretrained ones. Arguments are those of `vit_with`.

    Raises:
        ModelError, CheckpointError
    """
    weights = vit_weights(name, checkpoint)
    return vit_with(weights, f"{checkpoint}", name, image_px=image_px, needs_head=needs_head, **kwargs)


def vit_weights(name: str, checkpoint: str | Path | None) -> dict[str, torch.Tensor]:
    """Weights of a ViT as they were published: those of `checkpoint`, or timm's pretrained ones.

    Raises:
        ModelError, CheckpointError
    """
    if checkpoint is not None:
        return read_weights(checkpoint)
    if name in ALIASES and ALIASES[name].kwargs:
        raise CheckpointError(f"there are no pretrained weights of {name}; give `checkpoint`")
    create_vit(name)  # refuses what cannot be used before anything is fetched
    return create_vit(name, pretrained=True).state_dict()


def vit_with(
    weights: Mapping[str, torch.Tensor],
    source: str,
    name: str,
    *,
    image_px: int | None = None,
    needs_head: bool = True,
    **kwargs: Any,
) -> VisionTransformer:
    """A ViT with weights, of as many classes as these have; position embeddings of another grid are resampled.

    Args:
        source: of the weights, for the sentence.
        image_px: side of the images that it takes; None for its own.
        needs_head: with this off, weights without a head make a ViT without one. A selector needs none.

    Raises:
        ModelError, CheckpointError
    """
    num_classes = num_classes_in(weights)
    if num_classes is None and not needs_head:
        num_classes = 0

    def make() -> VisionTransformer:
        return create_vit(name, image_px=image_px, num_classes=num_classes, **kwargs)

    fitting = resampled(sketched(make), weights)
    check_weights(sketched(make), fitting, source, name)
    model = make()
    load_weights(model, fitting, source, name)
    return model


def num_classes_in(weights: Mapping[str, torch.Tensor]) -> int | None:
    """Counts the classes of a state dict's head; None if it has none under a name that timm uses."""
    heads = (weights.get(name) for name in ("head.weight", "head.fc.weight", "fc.weight"))
    return next((len(head) for head in heads if head is not None), None)


def check_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str, name: str) -> None:
    """Compares a state dict with a model's names and shapes. The model may be `sketched`.

    Raises:
        CheckpointError: names or shapes are not the model's.
    """
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [k for k in own if k in weights and own[k].shape != weights[k].shape]
    if missing or unexpected or shapes:
        found = [("missing", missing), ("unknown", unexpected), ("of another shape", shapes)]
        text = "; ".join(f"{len(keys)} {what} (first: {keys[0]})" for what, keys in found if keys)
        raise CheckpointError(f"{source} does not hold weights of {name}: {text}; check `model`")


def load_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str, name: str) -> None:
    """Loads a state dict, all of it or nothing.

    Raises:
        CheckpointError: names or shapes are not the model's.
    """
    check_weights(model, weights, source, name)
    model.load_state_dict(dict(weights))


def check_initial_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str, name: str
) -> list[str]:
    """Compares weights to start from with a model, as `load_initial_weights` does. The model may be `sketched`.

    Returns:
        The names of what they leave as it is.

    Raises:
        CheckpointError: anything but the head is missing or of another shape.
    """
    own, weights = model.state_dict(), resampled(model, weights)
    classifier = {id(p) for head in _heads_of(model) for p in head.parameters()}
    heads = {n for n, p in model.named_parameters() if id(p) in classifier}
    fresh = sorted(n for n in heads if n not in weights or weights[n].shape != own[n].shape)
    check_weights(model, {**weights, **{n: own[n] for n in fresh}}, source, name)
    return fresh


def load_initial_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: str, name: str
) -> list[str]:
    """Loads weights to start from; a head for another number of classes keeps its fresh values, and position
    embeddings of another grid are resampled.

    Returns:
        The names of what was left as it was.

    Raises:
        CheckpointError: anything but the head is missing or of another shape.
    """
    fresh, own = check_initial_weights(model, weights, source, name), model.state_dict()
    load_weights(model, {**resampled(model, weights), **{n: own[n] for n in fresh}}, source, name)
    return fresh


def initial_in_words(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], source: object, fresh: Sequence[str]
) -> str:
    """A line that says what a model starts from, whose `fresh` weights `load_initial_weights` left as they were."""
    said = resampled_in_words(model, weights)
    head = f"; its head starts afresh for {model.num_classes} classes" if fresh else ""
    return f"initial weights: {source}{f'; {said}' if said else ''}{head}"


def _heads_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    found = [model.get_classifier()] if hasattr(model, "get_classifier") else []  # type: ignore[operator]
    return [*found, model.aux_head] if isinstance(model, LVViT) else found


def weights_sha256(model: torch.nn.Module, published: Mapping[str, torch.Tensor] | None = None) -> str:
    """SHA-256 over the sorted state dict: of each tensor its name, dtype, shape and little-endian bytes.

    The same weights give the same digest, whichever kind of file they came from, and whichever size of images they are
    used for.

    Args:
        published: what the model was loaded with; it has the position embeddings before they were resampled.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if published is not None and published[name].shape != tensor.shape:
            tensor = published[name].to(tensor.dtype)
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{str(array.dtype).removeprefix('torch.')}\0{tuple(array.shape)}\0".encode())
        digest.update(array.view(torch.uint8).numpy().data if array.ndim else array.numpy().tobytes())
    return digest.hexdigest()
