"""Sending a store or a baked folder: checked here, sent where it is missing, checked there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..access.location import Location
from ..errors import OptionError, OutputExistsError, RemoteError
from ..locking import LOCK_TIMEOUT_S, held, lock_of
from .artifacts import BAKED
from .outgoing import Outgoing, Progress, Shipment, no_progress, shipment_of
from .targets import Target, differing, open_target


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """Outcome of a push. All files were compared at the far end at its end, by their content.

    Attributes:
        root_sha256: SHA-256 (hex) of the root document there, which names everything else.
        num_sent, num_skipped: files that were sent, and that were there already.
        bytes_sent, bytes_skipped: their bytes.
    """

    store: str
    url: str
    ticket_digest: str
    root_sha256: str
    num_sent: int
    num_skipped: int
    bytes_sent: int
    bytes_skipped: int


def push(
    store: Path,
    location: Location,
    card: Mapping[str, bytes],
    *,
    overwrite: bool = False,
    private: bool = False,
    with_pixels: bool = False,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_progress: Progress = no_progress,
) -> PushResult:
    """Sends a store, or a baked folder, to a place, whole: until all of it is there, there is none there.

    Repeated, it sends only what is missing or differs.

    Args:
        card: files of the card, by name.
        overwrite: whether a store of other tickets, or another baked folder, at that place may be replaced.
        private: whether a repository of the hub that must be made is a private one.
        with_pixels: whether a baked folder may be sent, whose pixels stay under the licence of the data set.
        lock_timeout_s: how long another machine that writes to that folder or file may give no sign of life.
        on_progress: called with (what is done, bytes done, bytes in all).

    Raises:
        OptionError: nothing can be sent there, or pixels may not.
        SchemaError, StoreNotFoundError, BakedError: there is no store, or it is damaged.
        OutputExistsError: something else is there.
        LockedError: another process writes to that folder or file.
        RemoteError: the place cannot be reached, refuses, or did not keep what was sent.
    """
    if not location.is_remote and Path(location.place).resolve().is_relative_to(store.resolve()):
        raise OptionError(f"{location} is the store itself, or in it; give another place to send it to")
    if BAKED.is_in(store) and not with_pixels:
        raise OptionError(
            f"{store} is a baked folder, and its pixels stay under the licence of the data set; pass "
            "`with_pixels=True` if that lets you pass them on, or send the ticket store instead"
        )
    target = open_target(location, private=private)
    shipment = shipment_of(store, card, on_progress)
    path = Path(location.place)
    lock = held(lock_of(path), "dataltt push", place=path, timeout_s=lock_timeout_s)
    with nullcontext() if location.is_remote else lock:
        missing = _send(target, location, shipment, overwrite=overwrite, on_progress=on_progress)
    return _result(store, location, shipment, missing)


def _send(
    target: Target, location: Location, shipment: Shipment, *, overwrite: bool, on_progress: Progress
) -> list[Outgoing]:
    """Sends what is missing at a place; returns it."""
    stale = _stale(target, location, shipment, overwrite=overwrite)
    missing = differing(target, shipment.files, on_progress, "looking what is there")
    if any(file in shipment.objects for file in missing) and shipment.root not in missing:
        missing.append(shipment.root)  # it is taken away before an object is replaced
    if missing or stale:
        target.publish(shipment, missing, stale, on_progress)
        left = differing(target, shipment.files, on_progress, "checking what was sent")
        if left:
            raise RemoteError(
                f"{left[0].name} at {location} is not what was sent ({len(left)} of {len(shipment.files)} files); push "
                "again, which sends only these"
            )
    return missing


def _result(store: Path, location: Location, shipment: Shipment, sent: list[Outgoing]) -> PushResult:
    bytes_sent = sum(file.size for file in sent)
    return PushResult(
        store=str(store),
        url=str(location),
        ticket_digest=shipment.contents.ticket_digest,
        root_sha256=shipment.root.sha256,
        num_sent=len(sent),
        num_skipped=len(shipment.files) - len(sent),
        bytes_sent=bytes_sent,
        bytes_skipped=shipment.num_bytes - bytes_sent,
    )


def _stale(target: Target, location: Location, shipment: Shipment, *, overwrite: bool) -> list[str]:
    """Files that the store which is there names and this one does not.

    Raises:
        OutputExistsError: it is of other tickets, and `overwrite` is not given.
    """
    kind, root_file = shipment.kind, shipment.kind.root_file
    try:
        there = target.read(root_file) if root_file in target.look([root_file]) else None
    except FileNotFoundError:
        there = None
    target.refuse([file.name for file in shipment.files], has_store=there is not None)
    if there is None:
        return []
    found = kind.contents(there, str(location))
    if (found is None or found.digest != shipment.contents.digest) and not overwrite:
        other = "another baked folder" if kind is BAKED else "a store of other tickets"
        what = "something that cannot be read" if found is None else f"{other} ({found.digest[:12]}…)"
        raise OutputExistsError(
            f"{location} holds {what}; pass `overwrite=True` to replace it, or choose another place"
        )
    return [] if found is None else sorted(set(found.objects) - set(shipment.contents.objects))
