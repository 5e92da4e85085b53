"""Errors that dataltt raises for a reason a user can act on, as one tree.

Each message is one sentence that names the file, key or option and the way out. Options stand between backticks as
Python spells them (`num_classes`, `ranks=True`); only the command line turns them into flags, and an error into an exit
code. Errors cross process boundaries (data-loader workers), so every class pickles with its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MAX_REASON = 300  # characters


class DatalttError(Exception):
    """Base of all errors that dataltt raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own __reduce__ calls the class with self.args, which is the finished message.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[DatalttError], message: str, fields: dict[str, object]) -> DatalttError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    error.__dict__.update(fields)
    return error


def one_line(error: BaseException) -> str:
    """Text of a library's error, on one line of a length that is read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"


class OptionError(DatalttError):
    """An option, or a combination of options, that cannot be meant."""


class OutputExistsError(DatalttError):
    """The place to write to is taken; nothing was touched."""


class DiskError(DatalttError):
    """A place that cannot be written: its disk is full, read-only or broken, or the user may not."""


class LockedError(DatalttError):
    """Another process writes there; nothing was touched."""


class LoaderError(DatalttError):
    """Loader processes that died, or gave nothing for too long."""


class RanksError(DatalttError):
    """Another process of a job that ended, or gave no answer for too long.

    `is_said`: that process says why, so that this one need not.
    """

    is_said = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Fault of a document or array: where it is, what kind it is, and a sentence about it."""

    where: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class SchemaError(DatalttError):
    """A store that is not what TICKET_STORE (docs/store-format.md) says; carries every problem found."""

    def __init__(self, store: str, problems: Sequence[Problem]) -> None:
        self.store = store
        self.problems = tuple(problems)
        listed = "; ".join(str(p) for p in self.problems)
        super().__init__(f"{store} is not a valid ticket store: {listed}")


class UnsupportedVersionError(SchemaError):
    """The store's major schema version is not one that this version of dataltt reads."""

    def __init__(self, store: str, found: str, majors: Sequence[str]) -> None:
        where = "schema_version"
        reads = " and ".join(f"{major}.x" for major in majors)
        message = f"is {found!r}, and this dataltt reads {reads}; install a dataltt that reads {found}"
        super().__init__(store, [Problem(where=where, kind="unsupported_version", message=message)])


class StoreNotFoundError(DatalttError):
    """A path at which there is no ticket store."""


class BakedError(DatalttError):
    """A baked folder that is not what its baked.json says, or that cannot give what is asked of it."""


class RemoteError(DatalttError):
    """A remote place that cannot be reached, refuses, or gives something else than it should.

    `is_unreachable`: nothing answered, so that a copy in the cache may do. `is_withheld`: these credentials may not
    read it, if it is there.
    """

    is_unreachable = False
    is_withheld = False


class IncompletePartsError(DatalttError):
    """The parts of a selection do not fit together or are not all there."""


class DuplicateKeyError(DatalttError):
    """Two samples of one data set have the same key, so a ticket could not be told to belong to either."""

    def __init__(self, key: str, first_shard: str, second_shard: str, way_out: str | None = None) -> None:
        self.key, self.first_shard, self.second_shard = key, first_shard, second_shard
        where = f"twice in {first_shard}" if first_shard == second_shard else f"in {first_shard} and {second_shard}"
        super().__init__(
            f"key {key!r} occurs {where}; {way_out or 'rename or remove one, since tickets are joined by key'}"
        )


class MissingTicketError(DatalttError):
    """A sample has no ticket in the store.

    `counts` says how many others have none; where no sample at all has one, skipping them is no way out.
    """

    def __init__(self, shard: str, key: str, store: str, *, counts: str = "", may_skip: bool = True) -> None:
        self.shard, self.key, self.store = shard, key, store
        way_out = "select tickets for these shards, or pass `on_missing_ticket='skip'`"
        if not may_skip:
            way_out = "give the shards that it was made from, or select tickets for these"
        among = f" ({counts})" if counts else ""
        super().__init__(f"{shard}: sample {key!r} has no ticket in {store}{among}; {way_out}")


class UnknownKeyError(MissingTicketError):
    """A store is asked for a key that it does not have."""

    def __init__(self, store: str, key: str, near: Sequence[str] = ()) -> None:
        self.shard, self.key, self.store = "", key, store
        way_out = f"did you mean {', '.join(map(repr, near))}?" if near else "`for key in store` gives those it has"
        DatalttError.__init__(self, f"{store} has no ticket of key {key!r}; {way_out}")


class TicketMismatchError(DatalttError):
    """Tickets that belong to another image, grid, or view than the one at hand."""


class ShardError(DatalttError):
    """A shard that cannot be found, opened, or read to its end."""


class BadImageError(DatalttError):
    """An image that cannot be decoded."""

    def __init__(self, shard: str, key: str, reason: str, way_out: str) -> None:
        self.shard, self.key, self.reason = shard, key, reason
        super().__init__(f"{shard}: image of sample {key!r} cannot be decoded ({reason}); {way_out}")


class SampleError(DatalttError):
    """A sample without an image, or without a label where one is needed."""


class ModelError(DatalttError):
    """A model that cannot do what is asked of it."""


class CheckpointError(DatalttError):
    """Weights or training state that cannot be read, or that belong to something else."""
