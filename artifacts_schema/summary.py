"""What a store's tickets look like on the whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .lookup import iter_row_blocks
from .store import TicketStore
from .tickets import unpack_mask


def kept_share(store: TicketStore) -> npt.NDArray[np.float64]:
    """The share of views that keep the patch at each grid position, float64 [grid_h, grid_w]; its mean is K / P."""
    m = store.manifest
    kept = np.zeros(m.num_patches, dtype=np.int64)
    for block in iter_row_blocks(m.num_images, 16_384):
        kept += unpack_mask(store.read_tickets(block), m.num_patches).sum(axis=(0, 1), dtype=np.int64)
    return (kept / (m.num_images * m.num_views)).reshape(m.grid)
