"""Number of classes: what a head has, what classes.json beside the shards lists, and what labels go up to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...artifacts_schema import OptionError, TicketStore
from ..data.class_list import listed_classes
from ..data.comparing import Comparison
from ..data.shards import Shard
from ..runtime.reporting import Reporter


def classes_of_run(asked: int | None, store: TicketStore | None, shards: Sequence[Shard], reporter: Reporter) -> int:
    """Number of classes to train: as asked, else by classes.json beside the shards, else the highest stored label
    plus one.

    Raises:
        OptionError: none of these says it.
    """
    listed = _listed(asked, shards)
    if asked is not None:
        if listed not in (None, asked):
            reporter.message(f"the head has {asked} classes, as asked; classes.json beside the shards lists {listed}")
        return asked
    if listed is not None:
        return listed
    if store is not None:
        highest = int(store.read_labels(range(store.manifest.num_images)).max())
        if highest >= 0:
            return highest + 1
    raise OptionError("how many classes? give `num_classes`, or put a classes.json beside the shards")


def _listed(asked: int | None, shards: Sequence[Shard]) -> int | None:
    """Counts the classes that are listed; a list that cannot be read does not matter to who said the number."""
    try:
        return listed_classes(shards)
    except OptionError:
        if asked is None:
            raise
        return None


def check_labels(num_classes: int, compared: Comparison, store: TicketStore | None) -> None:
    """Refuses a head that has fewer classes than the images to train on, as far as these are known.

    Raises:
        OptionError: a label is too high.
    """
    highest = compared.highest_label
    named = [] if store is None else [store.rows_of_shard(s.shard.name) for s in compared.shards if s.rows is None]
    known = [rows for rows in named if rows]
    if store is not None and known:
        first = min(rows.start for rows in known)
        labels = store.read_labels(range(first, max(rows.stop for rows in known)))
        highest = max(highest, *(int(labels[rows.start - first : rows.stop - first].max()) for rows in known))
    if highest >= num_classes:
        raise OptionError(
            f"`num_classes={num_classes}`, and labels in these shards go up to {highest}; give at least "
            f"`num_classes={highest + 1}`, or shards of these classes"
        )


def check_validation_classes(num_classes: int, asked: int | None, shards: Sequence[Shard]) -> None:
    """Refuses to validate on images of other classes than are trained.

    Raises:
        OptionError: classes.json beside the validation shards lists more or fewer, and no number was asked for.
    """
    listed = _listed(asked, shards)
    if asked is None and listed not in (None, num_classes):
        raise OptionError(
            f"{num_classes} classes are trained, and classes.json beside the validation shards ({shards[0].url}) lists "
            f"{listed}; give validation shards of the same classes, or pass `num_classes={num_classes}`"
        )


def check_head(num_classes: int, weights: Path, shards: Sequence[Shard], *, asked: int | None) -> None:
    """Refuses to test a head on images of other classes.

    Args:
        asked: the number of classes that the user says the head has, whatever classes.json lists.

    Raises:
        OptionError: classes.json beside the shards lists more or fewer.
    """
    if asked is not None and asked != num_classes:
        raise OptionError(f"`num_classes={asked}`: the head of {weights} has {num_classes} classes; leave it out")
    listed = _listed(asked, shards)
    if asked is None and listed not in (None, num_classes):
        raise OptionError(
            f"the head of {weights} has {num_classes} classes, and classes.json beside {shards[0].url} lists {listed}; "
            f"give shards of the head's classes, or pass `num_classes={num_classes}` if these are some of them"
        )
