"""Figures of a store's tickets on the whole."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .lookup import iter_view_blocks
from .store import TicketStore
from .tickets import unpack_mask

_PRIOR_ROWS = 2048


def kept_share(store: TicketStore) -> npt.NDArray[np.float64]:
    """The share of views that keep the patch at each grid position, float64 [grid_h, grid_w]; its mean is K / P."""
    m = store.manifest
    kept = np.zeros(m.num_patches, dtype=np.int64)
    for block in iter_view_blocks(m):
        kept += unpack_mask(store.read_tickets(block), m.num_patches).sum(axis=(0, 1), dtype=np.int64)
    return (kept / (m.num_images * m.num_views)).reshape(m.grid)


def position_prior(store: TicketStore) -> npt.NDArray[np.float32]:
    """The score (P - 1 - rank) to expect of each position of a view's grid, float32 [P].

    Selectors prefer some positions of any crop. Where views are crops, this is the mean over the first rows of the
    store; where all show the same part of their images, it would be where photographers put things, which does not
    carry over to crops, and all positions count alike. The store must have ranks.
    """
    m = store.manifest
    rows = range(min(_PRIOR_ROWS, m.num_images))
    views = store.read_views(rows)
    if m.view.kind == "center" or views is None or not np.ptp(views[0].reshape(-1, 4), axis=0).any():
        return np.full(m.num_patches, (m.num_patches - 1) / 2, dtype=np.float32)
    mean = store.read_ranks(rows).mean(axis=(0, 1), dtype=np.float64)
    return (m.num_patches - 1 - mean).astype(np.float32)
