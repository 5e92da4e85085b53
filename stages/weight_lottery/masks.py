"""Masks of weight-level pruning, by torch.nn.utils.prune: which weights, the next round's, random ones; on disk.

A mask is {layer: bool [out, in]}, True where a weight stays; layers have the names that they have in the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils import prune

from ...artifacts_schema import CheckpointError, ModelError
from ...artifacts_schema.files import write_atomically
from ..runtime.randomness import isolated_rng
from .config import Scope

Mask = Mapping[str, Tensor]


def prunable_layers(net: nn.Module, name: str) -> dict[str, nn.Linear]:
    """The linear layers inside `net.blocks` (a ViT's qkv, proj, fc1, fc2); not the head, not the patch embedding.

    Raises:
        ModelError: the network has none.
    """
    blocks = getattr(net, "blocks", None)
    modules: Iterable[tuple[str, nn.Module]] = blocks.named_modules() if isinstance(blocks, nn.Module) else ()
    found = {f"blocks.{n}": m for n, m in modules if isinstance(m, nn.Linear)}
    if not found:
        raise ModelError(f"`model={name!r}` has no blocks with linear layers, whose weights are pruned; try deit_s")
    return found


def full_mask(layers: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """The mask that keeps every weight."""
    return {name: torch.ones(layer.weight.shape, dtype=torch.bool) for name, layer in layers.items()}


def next_mask(weights: Mapping[str, Tensor], mask: Mask, *, rate: float, scope: Scope) -> dict[str, Tensor]:
    """Prunes round(rate · remaining) of the remaining weights, those of the smallest magnitude.

    Args:
        weights: of the trained network, under its own names.
        scope: `global` compares the weights of all layers, and counts over all; `layer` each layer's among themselves.
    """
    # Modules that hold a weight each: prune needs modules, but not the network.
    holders = {name: _holder(weights[f"{name}.weight"], kept) for name, kept in mask.items()}
    if scope == "global":
        parameters = [(holder, "weight") for holder in holders.values()]
        prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=rate)
    else:
        for holder in holders.values():
            prune.l1_unstructured(holder, "weight", amount=rate)
    return {name: _kept(holder) for name, holder in holders.items()}


def random_mask(mask: Mask, *names: object) -> dict[str, Tensor]:
    """A random mask that keeps as many weights of each layer as `mask`, drawn from a generator seeded by names."""
    found = {}
    with isolated_rng(*names):  # prune draws from torch's global generator
        for name, kept in mask.items():
            everything = torch.ones_like(kept)
            holder = _holder(everything.float(), everything)
            prune.random_unstructured(holder, "weight", amount=int(kept.numel() - kept.sum()))
            found[name] = _kept(holder)
    return found


def num_remaining(mask: Mask) -> int:
    """Counts the weights that a mask keeps."""
    return sum(int(kept.sum()) for kept in mask.values())


def remaining_counts(sizes: Sequence[int], *, rate: float, rounds: int, scope: Scope) -> list[int]:
    """Counts the weights that `next_mask` leaves after rounds 0, 1, … of layers of these sizes."""
    left = [sum(sizes)] if scope == "global" else list(sizes)
    counts = [sum(left)]
    for _ in range(rounds):
        left = [n - round(rate * n) for n in left]
        counts.append(sum(left))
    return counts


def apply_mask(net: nn.Module, mask: Mask) -> None:
    """Reparametrises a network's layers as prune does: weight = weight_orig · weight_mask in every forward pass."""
    for name, kept in mask.items():
        prune.custom_from_mask(net.get_submodule(name), "weight", kept)


def merge_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without prune's reparametrisation: the masks are multiplied in, the names are the network's."""
    plain = {}
    for name, tensor in state.items():
        if name.endswith(".weight_orig"):
            weight = name.removesuffix("_orig")
            plain[weight] = tensor * state[f"{weight}_mask"]
        elif not name.endswith(".weight_mask"):
            plain[name] = tensor
    return plain


def save_mask(path: Path, mask: Mask) -> None:
    """Writes a mask as safetensors, one bool tensor per layer, whole or not at all."""
    write_atomically(path, safetensors.torch.save({name: kept.contiguous() for name, kept in mask.items()}))


def read_mask(path: Path, like: Mask) -> dict[str, Tensor]:
    """Reads a mask of the same layers as another.

    Raises:
        CheckpointError: it cannot be read, or is of another network.
    """
    try:
        found = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); delete it, and it is made again") from error
    if {n: (t.shape, t.dtype) for n, t in found.items()} != {n: (t.shape, t.dtype) for n, t in like.items()}:
        raise CheckpointError(f"{path} is no mask of this network's layers; choose another `out`")
    return {name: found[name] for name in like}


def _holder(weight: Tensor, kept: Tensor) -> nn.Module:
    """A module that has nothing but a masked weight."""
    holder = nn.Module()
    holder.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    prune.custom_from_mask(holder, "weight", kept)
    return holder


def _kept(holder: nn.Module) -> Tensor:
    return holder.get_buffer("weight_mask").bool()
