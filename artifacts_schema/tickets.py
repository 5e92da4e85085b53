"""Tickets as sets and as ranks of patches, packed and unpacked. NumPy only.

Letters: P patches of the grid, K kept patches, W = ceil(P / 8) bytes. Patches are row-major, zero-based, prefix
tokens excluded. Leading dimensions (rows, views) are written `...`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_PATCHES = 65_536  # ranks are at most uint16

Packed = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Ranks = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
NumKeep = int | npt.NDArray[np.uint16]  # K of all tickets, or each one's own, [...]


def num_ticket_bytes(num_patches: int) -> int:
    """W, the bytes that hold one bit per patch."""
    return (num_patches + 7) // 8


def ranks_dtype(num_patches: int) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
    """The dtype that ranks are stored in: uint8 up to 256 patches, else uint16."""
    return np.dtype(np.uint8) if num_patches <= 256 else np.dtype(np.uint16)


def pack_mask(mask: Mask) -> Packed:
    """Packs kept patches, bool [..., P], into uint8 [..., W]: patch p is bit p % 8, least significant first."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack_mask(packed: Packed, num_patches: int) -> Mask:
    """The inverse of `pack_mask`: uint8 [..., W] to bool [..., P]."""
    return np.unpackbits(packed, axis=-1, count=num_patches, bitorder="little").view(np.bool_)


def pack_ranks(ranks: npt.NDArray[np.integer], num_keep: NumKeep) -> Packed:
    """The ticket that ranks [..., P] imply: the patches of rank < K, as uint8 [..., W]."""
    return pack_mask(ranks < (num_keep if isinstance(num_keep, int) else num_keep[..., None]))


def mask_to_indices(mask: Mask, num_keep: int) -> npt.NDArray[np.int64]:
    """Kept patches, bool [..., P] with K set each, as ascending indices int64 [..., K]."""
    return np.nonzero(mask)[-1].reshape(*mask.shape[:-1], num_keep)


def order_to_ranks(order: npt.NDArray[np.integer]) -> Ranks:
    """Inverts an order (patch indices from most to least informative, [..., P]) into ranks [..., P]."""
    num_patches = order.shape[-1]
    ranks = np.empty(order.shape, dtype=ranks_dtype(num_patches))
    np.put_along_axis(ranks, order, np.arange(num_patches, dtype=ranks.dtype), axis=-1)
    return ranks


def mirror(per_patch: npt.NDArray[Any], grid: tuple[int, int]) -> npt.NDArray[Any]:
    """A mask or rank map [..., P] of the image mirrored left-right."""
    height, width = grid
    lead = per_patch.shape[:-1]
    return per_patch.reshape(*lead, height, width)[..., ::-1].reshape(*lead, height * width)


def bad_tickets(packed: Packed, num_patches: int, num_keep: NumKeep) -> Mask:
    """Marks tickets, uint8 [..., W], that are invalid, bool [...]: not exactly K bits set, or a spare bit set."""
    spare_bits = packed.shape[-1] * 8 - num_patches
    wrong_count = np.bitwise_count(packed).sum(axis=-1, dtype=np.int64) != num_keep
    spare = packed[..., -1] >> np.uint8(8 - spare_bits) if spare_bits else np.zeros(packed.shape[:-1], np.uint8)
    result: Mask = wrong_count | (spare != 0)
    return result


def bad_ranks(ranks: Ranks) -> Mask:
    """Marks rank maps [..., P] that are not permutations of 0 … P-1, bool [...]."""
    expected = np.arange(ranks.shape[-1], dtype=np.int64)
    result: Mask = (np.sort(ranks, axis=-1) != expected).any(axis=-1)
    return result
