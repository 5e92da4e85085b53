"""Token labels: for every patch of a view, the most probable classes of a labelling network. NumPy only.

Letters: P patches of the grid, k classes per patch. Leading dimensions (rows, views) are written `...`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .access.location import is_remote
from .errors import TicketMismatchError
from .tickets import Mask

TOP_K = 5
MAX_CLASSES = 65_536  # ids are uint16
# Five float16 numbers of a distribution may sum to a little more than 1.
_SUM_TOLERANCE = 1e-2

FOLDER = "token_labels"  # of the two arrays, in a store


class LabelMaps(NamedTuple):
    """Class indices, and the network's softmax probabilities of them, in descending order."""

    ids: npt.NDArray[np.uint16]  # [..., P, k]
    scores: npt.NDArray[np.float16]  # [..., P, k]

    def mirrored(self, grid: tuple[int, int]) -> LabelMaps:
        """The maps of the image mirrored left-right."""
        return LabelMaps(_mirror(self.ids, grid), _mirror(self.scores, grid))


def _mirror(maps: npt.NDArray[Any], grid: tuple[int, int]) -> npt.NDArray[Any]:
    *lead, num_patches, k = maps.shape
    return maps.reshape(*lead, *grid, k)[..., ::-1, :].reshape(*lead, num_patches, k)


def bad_label_maps(maps: LabelMaps, num_classes: int) -> Mask:
    """Marks maps that are invalid, bool [...]: an id that is no class, or scores that are not the upper end of a
    distribution in descending order."""
    ids, scores = maps
    # No comparison with NaN holds.
    sound = (ids < num_classes) & (scores >= 0) & (scores <= 1)
    descending = (scores[..., 1:] <= scores[..., :-1]).all(axis=-1)
    possible = scores.sum(axis=-1, dtype=np.float32) <= 1 + _SUM_TOLERANCE
    result: Mask = ~(sound.all(axis=-1) & descending & possible).all(axis=-1)
    return result


def no_token_labels(store: str, instead: str = "") -> TicketMismatchError:
    """Error to raise where token labels are asked of a store that has none; `instead` is what else can be done."""
    far = is_remote(store)
    fetch = f"fetch it (dataltt pull {store} STORE), and " if far else ""
    command = f"dataltt label --model MODEL --tickets {'STORE' if far else store}"
    return TicketMismatchError(f"{store} has no token labels; {fetch}write them with: {command}{instead}")
