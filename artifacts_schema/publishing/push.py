"""Sending a store: checked here, sent where it is missing, checked there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ..access.location import Location
from ..errors import OptionError, OutputExistsError, RemoteError, SchemaError
from ..layout import ROOT_FILE
from ..locking import LOCK_TIMEOUT_S, held, lock_of
from ..manifest import MANIFEST_ATTRIBUTE, Manifest, parse_manifest
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
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_progress: Progress = no_progress,
) -> PushResult:
    """Sends a store in a folder to a place, whole: until all of it is there, there is no store there.

    Repeated, it sends only what is missing or differs.

    Args:
        card: files of the card, by name.
        overwrite: whether a store of other tickets at that place may be replaced.
        private: whether a repository of the hub that must be made is a private one.
        lock_timeout_s: how long another machine that writes to that folder or file may give no sign of life.
        on_progress: called with (what is done, bytes done, bytes in all).

    Raises:
        OptionError: nothing can be sent there.
        SchemaError, StoreNotFoundError: there is no store, or it is damaged.
        OutputExistsError: something else is there.
        LockedError: another process writes to that folder or file.
        RemoteError: the place cannot be reached, refuses, or did not keep what was sent.
    """
    if not location.is_remote and Path(location.place).resolve().is_relative_to(store.resolve()):
        raise OptionError(f"{location} is the store itself, or in it; give another place to send it to")
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
        ticket_digest=shipment.manifest.digest,
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
    try:
        there = target.read(ROOT_FILE) if ROOT_FILE in target.look([ROOT_FILE]) else None
    except FileNotFoundError:
        there = None
    target.refuse([file.name for file in shipment.files], has_store=there is not None)
    if there is None:
        return []
    found = _manifest(there, str(location))
    if (found is None or found.digest != shipment.manifest.digest) and not overwrite:
        what = "something that cannot be read" if found is None else f"a store of other tickets ({found.digest[:12]}…)"
        raise OutputExistsError(
            f"{location} holds {what}; pass `overwrite=True` to replace it, or choose another place"
        )
    return [] if found is None else sorted(set(found.objects) - set(shipment.manifest.objects))


def _manifest(root: bytes, place: str) -> Manifest | None:
    """The manifest of a root document, or None if it is of no store that can be read."""
    try:
        return parse_manifest(json.loads(root)["attributes"][MANIFEST_ATTRIBUTE], place)
    except (ValueError, TypeError, KeyError, RecursionError, SchemaError):
        return None
