"""Classes: how many a head has, what classes.json beside the shards lists, and which labels there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...artifacts_schema import OptionError, SampleError, TicketStore
from ...artifacts_schema.token_labels import MAX_CLASSES
from ..data.class_list import (
    ClassList,
    class_list_beside,
    class_list_of_run,
    difference,
    listed_classes,
    pack_anew,
)
from ..data.comparing import Comparison
from ..data.counting import count_labels
from ..data.shards import Shard
from ..runtime.reporting import Reporter


def classes_of_run(
    asked: int | None,
    store: TicketStore | None,
    shards: Sequence[Shard],
    reporter: Reporter,
    *,
    highest_label: int | None = None,
) -> int:
    """Number of classes to train: as asked, else by classes.json beside the shards, else the highest stored label
    plus one.

    Args:
        highest_label: that stands beside the shards, where there is no store.

    Raises:
        OptionError: none of these says it.
    """
    listed = _listed(asked, shards)
    if asked is not None:
        if listed not in (None, asked):
            reporter.message(f"the head has {asked} classes, as asked; classes.json beside the shards lists {listed}")
        return asked
    if listed is not None:
        return _believed(listed, "classes.json beside the shards lists")
    if store is None and highest_label is not None:
        return _believed(highest_label + 1, "by the labels of the baked samples there are")
    if store is not None:
        highest = int(store.read_labels(range(store.manifest.num_images)).max())
        if highest >= 0:
            return _believed(highest + 1, f"by the labels in {store.path} there are")
    raise OptionError("how many classes? give `num_classes`, or put a classes.json beside the shards")


def _believed(num_classes: int, who_says: str) -> int:
    """A number of classes that nobody asked for, if a head can have as many.

    Raises:
        OptionError: it cannot be meant.
    """
    if num_classes > MAX_CLASSES:
        raise OptionError(
            f"{who_says} {num_classes} classes, and a head of more than {MAX_CLASSES} is made only when asked for; "
            "give `num_classes`, or mend the labels"
        )
    return num_classes


def _listed(asked: int | None, shards: Sequence[Shard]) -> int | None:
    """Counts the classes that are listed; a list that cannot be read does not matter to who said the number."""
    try:
        return listed_classes(shards)
    except OptionError:
        if asked is None:
            raise
        return None


def check_labels(num_classes: int, compared: Comparison, store: TicketStore | None, *, doing: str = "training") -> None:
    """Refuses samples without a label, and a head that has fewer classes than the images, as far as these are known.

    Args:
        doing: what labels are needed for, in the error's words.

    Raises:
        SampleError: a sample has no label.
        OptionError: a label is too high.
    """
    highest, unlabelled = compared.highest_label, list(compared.unlabelled)
    named = (
        []
        if store is None
        else [(s.shard, store.rows_of_shard(s.shard.name)) for s in compared.shards if s.rows is None]
    )
    known = [(shard, rows) for shard, rows in named if rows]
    if store is not None and known:
        first = min(rows.start for _, rows in known)
        labels = store.read_labels(range(first, max(rows.stop for _, rows in known)))
        of_shard = [(shard, labels[rows.start - first : rows.stop - first]) for shard, rows in known]
        highest = max(highest, *(int(own.max()) for _, own in of_shard))
        for shard, own in of_shard:
            if not unlabelled and own.min() < 0:  # they may have got labels since
                unlabelled += count_labels(shard, store.manifest.skipped_keys).unlabelled
    if unlabelled:
        lack, num_samples = unlabelled[0], sum(lack.num_samples for lack in unlabelled)
        others = f", nor have {num_samples - 1} others" if num_samples > 1 else ""
        raise SampleError(
            f"{lack.shard}: sample {lack.key!r} has no .cls{others}, and {doing} needs its label; repack the shards "
            "with labels, or without these samples"
        )
    if highest < num_classes:
        return
    if doing != "training":
        raise OptionError(
            f"the head has {num_classes} classes, and labels of the images for {doing} go up to {highest}; give images "
            "of the head's classes"
        )
    raise OptionError(
        f"`num_classes={num_classes}`, and labels in these shards go up to {highest}; give at least "
        f"`num_classes={highest + 1}`, or shards of these classes"
    )


def check_validation_classes(
    num_classes: int, asked: int | None, shards: Sequence[Shard], trained: ClassList | None
) -> None:
    """Refuses to validate on images of other classes than are trained.

    Args:
        asked: the number of classes that was given, if any.
        trained: the list beside the training shards, if there is one.

    Raises:
        OptionError: classes.json beside the validation shards numbers a class otherwise. Or, where nobody knows the
            names: it lists more or fewer, and no number was asked for.
    """
    listed = _listed(asked, shards)
    if trained is not None and _agrees(trained, class_list_beside(shards), num_classes, "validation images"):
        return
    if asked is None and listed not in (None, num_classes):
        raise OptionError(
            f"{num_classes} classes are trained, and classes.json beside the validation shards ({shards[0].url}) lists "
            f"{listed}; give validation shards of the same classes, or pass `num_classes={num_classes}`"
        )


def _agrees(trained: ClassList, given: ClassList | None, num_classes: int, images: str) -> bool:
    """Compares two lists by name; tells whether that was possible.

    Raises:
        OptionError: a class has two numbers, or a number two classes, or a class is none of the head's.
    """
    if given is None or not set(trained.number_of).intersection(given.number_of):
        return False
    found = difference(trained, given)
    beyond = [name for name, number in given.number_of.items() if number >= num_classes]
    if found is None and beyond:
        found = f"class {beyond[0]!r} of {given.place} is none of the {num_classes} that are trained ({trained.place})"
    if found is not None:
        raise OptionError(f"{found}; pack the {images} anew by: {pack_anew(trained)}")
    return True


def check_resumed_classes(run: Path, now: ClassList | None) -> None:
    """Refuses to go on with a run on shards that number its classes otherwise.

    Raises:
        OptionError
    """
    began = class_list_of_run(run)
    found = None if began is None or now is None else difference(began, now)
    if found is not None:
        raise OptionError(f"{run} was trained on other classes ({found}); give the same shards, or another `out`")


def check_head(num_classes: int, weights: Path, shards: Sequence[Shard], *, asked: int | None) -> None:
    """Refuses to test a head on images of other classes.

    Args:
        weights: a file. If it lies in the folder of a run that wrote down its classes, these are compared by name.
        asked: the number of classes that the user says the head has, whatever classes.json lists.

    Raises:
        OptionError: classes.json beside the shards numbers them otherwise, or lists more or fewer.
    """
    if asked is not None and asked != num_classes:
        raise OptionError(f"`num_classes={asked}`: the head of {weights} has {num_classes} classes; leave it out")
    listed = _listed(asked, shards)
    trained = class_list_of_run(weights)
    if trained is not None and _agrees(trained, class_list_beside(shards), num_classes, "images"):
        return
    if asked is None and listed not in (None, num_classes):
        raise OptionError(
            f"the head of {weights} has {num_classes} classes, and classes.json beside {shards[0].url} lists {listed}; "
            f"give shards of the head's classes, or pass `num_classes={num_classes}` if these are some of them"
        )
