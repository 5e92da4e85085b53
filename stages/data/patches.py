"""Choice of the kept patches of a shown view: every patch gets a score, and the K highest stay.

Letters: V views, P patches of the grid, K kept patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...artifacts_schema.geometry import Scores, warp_scores
from ...artifacts_schema.tickets import mirror, unpack_mask
from ..options import Subset, ViewMode
from ..runtime.randomness import generator_of
from .drawing import DrawnView
from .join import Ticket

# Where a store has no ranks, kept patches score 1, dropped ones 0, and ties are broken by a draw smaller than this.
_TIE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchChooser:
    """Scores patches as one subset and view mode ask for.

    `prior` (float32 [P], warp only) is the score to expect of each grid position.
    """

    subset: Subset
    view_mode: ViewMode
    grid: tuple[int, int]
    seed: int
    prior: Scores | None = None
    breaks_ties: bool = True  # needed only where scores of two images meet

    def scores(self, key: str, epoch: int, ticket: Ticket | None, shown: DrawnView | None) -> Scores | None:
        """Scores float32 [P] of the patches of a view, on that view's own grid; None where all patches are taken.

        Args:
            shown: the view; of a replayed one it is not needed.
        """
        if self.subset == "dense":
            return None
        if self.subset == "center":
            return center_scores(self.grid)
        if self.subset == "random":
            return self._drawn("random", epoch, key)
        if self.subset == "fixed-random":
            scores = self._drawn("fixed-random", key)
            # A centre view's subset belongs to the image, and is mirrored with it.
            return mirror(scores, self.grid) if self.view_mode == "static" and shown and shown.flip else scores
        assert ticket is not None
        scores = self._of_ticket(key, epoch, ticket, shown)
        return -scores if self.subset == "inverse" else scores

    def _drawn(self, *names: object) -> Scores:
        order = generator_of(self.seed, *names).permutation(self._num_patches)
        scores = np.empty(self._num_patches, dtype=np.float32)
        scores[order] = np.arange(self._num_patches - 1, -1, -1)
        return scores

    @property
    def _num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def _of_ticket(self, key: str, epoch: int, ticket: Ticket, shown: DrawnView | None) -> Scores:
        if self.view_mode == "replay":
            return self._stored(key, epoch, ticket, 0)  # the join read this view alone
        assert shown is not None
        if self.view_mode == "static":
            number = self._number(ticket, shown)
            scores = self._stored(key, epoch, ticket, number)
            return mirror(scores, self.grid) if shown.flip and number == 0 else scores
        assert ticket.ranks is not None
        assert ticket.boxes is not None
        assert ticket.flips is not None
        assert self.prior is not None
        return warp_scores(
            rank_scores(ticket.ranks),
            ticket.boxes,
            ticket.flips,
            to_box=shown.box,
            to_flip=shown.flip,
            grid=self.grid,
            prior=self.prior,
        )

    def num_kept(self, ticket: Ticket, shown: DrawnView | None) -> int:
        """Number of patches in a view's ticket, which adaptive tickets say of each view."""
        return int(np.bitwise_count(ticket.packed[self._number(ticket, shown)]).sum())

    def _number(self, ticket: Ticket, shown: DrawnView | None) -> int:
        """Number of the view whose ticket it is, among those that were read."""
        # View 1, where a centre view has one, is the ticket that the selector gave the mirrored image itself.
        is_mirrored = self.view_mode == "static" and shown is not None and shown.flip
        return 1 if is_mirrored and len(ticket.packed) > 1 else 0

    def _stored(self, key: str, epoch: int, ticket: Ticket, number: int) -> Scores:
        if ticket.ranks is not None:
            return rank_scores(ticket.ranks[number])
        mask = unpack_mask(ticket.packed[number], self._num_patches).astype(np.float32)
        if not self.breaks_ties:
            return mask
        ties = generator_of(self.seed, "ties", epoch, key).random(self._num_patches, dtype=np.float32)
        return mask + _TIE * ties


def center_scores(grid: tuple[int, int]) -> Scores:
    """Scores float32 [P], P - 1 for the patch nearest to the grid's centre: the K highest are a square, or as near to
    one as K allows. Of a square's rim the sides come before the corners, of equals the first.
    """
    height, width = grid
    down = np.abs(np.arange(height) * 2 - (height - 1))[:, None]
    across = np.abs(np.arange(width) * 2 - (width - 1))[None]
    rim, distance = np.maximum(down, across).ravel(), (down**2 + across**2).ravel()
    order = np.lexsort((distance, rim))
    scores = np.empty(height * width, dtype=np.float32)
    scores[order] = np.arange(height * width - 1, -1, -1)
    return scores


def rank_scores(ranks: npt.NDArray[np.integer]) -> Scores:
    """Ranks [..., P] as scores, float32: P - 1 for the most informative patch, 0 for the least."""
    return (ranks.shape[-1] - 1 - ranks.astype(np.int32)).astype(np.float32)


def kept_of(scores: Scores, num_keep: int) -> npt.NDArray[np.int64]:
    """The K patches of highest score, of equals the first, as ascending indices int64 [K]."""
    return np.sort(np.argsort(-scores, kind="stable")[:num_keep])
