"""Tickets of one image, as people read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .geometry import Box
from .tickets import Mask, Ranks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageTickets:
    """The tickets of one image, one for each of its views.

    Letters: V views, P patches of the grid, K kept patches. Patches are row-major on the grid of the view, zero-based,
    prefix tokens excluded.

    Attributes:
        key: the sample's name in its shard.
        row: where it stands in the store.
        label: its class index; None where that is unknown.
        digest: XXH3-64 of the encoded image.
        kept: int64 [V, K], the kept patches of each view, ascending; of adaptive tickets a list of V arrays, as long as
            each view's ticket.
        ranks: uint8 or uint16 [V, P], 0 for the most informative patch; None where the store has no ranks.
        boxes: float32 [V, 4], what each view shows: y0, x0, height, width as fractions of the image; None for the
            centre view alone, which follows from the image's size.
        flips: bool [V], whether a view is mirrored left-right after it is cut out; None with boxes.
    """

    key: str
    row: int
    label: int | None
    digest: int
    kept: npt.NDArray[np.int64] | list[npt.NDArray[np.int64]]
    ranks: Ranks | None = None
    boxes: Box | None = None
    flips: Mask | None = None
