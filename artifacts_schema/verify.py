"""Checks of the store format, one after the other, over all rows and objects, in bounded memory."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .access.location import Access, Location
from .errors import DatalttError, RemoteError, SchemaError
from .key_hashes import KeyHashes
from .layout import MAX_OBJECT_BYTES, is_beside_objects
from .lookup import iter_view_blocks
from .store import TicketStore
from .strings import hash_strings
from .thinning import kept_in_words
from .tickets import pack_ranks

_READ_BYTES = 1 << 20
_TOKEN_LABELS = 1 << 21  # patches whose token labels are read at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The outcome of one check; `detail` says what was counted, or what is wrong."""

    name: str
    ok: bool
    detail: str


def verify_store(
    place: str | Location, on_progress: Callable[[int, int], None] | None = None, access: Access | None = None
) -> Iterator[Check]:
    """Runs every check and yields its outcome; later checks run even where earlier ones failed, if they can.

    Args:
        place: the store: a folder, a zip file, or a URL.
        on_progress: called with (rows checked, rows in all).
        access: how a URL is reached.
    """
    try:
        store = TicketStore.open(place, access)
        num_shards = len(store.shard_names)
        store.shard_rows  # noqa: B018 (reads and checks)
    except DatalttError as error:
        yield Check(name="manifest, shapes, dtypes, codecs", ok=False, detail=str(error))
        return
    m = store.manifest
    yield Check(
        name="manifest, shapes, dtypes, codecs",
        ok=True,
        detail=f"{m.num_images} images, {m.num_views} view(s), {kept_in_words(m)}, {num_shards} shard(s)",
    )
    yield _check_objects(store)
    yield from _check_rows(store, on_progress)


def _check_objects(store: TicketStore) -> Check:
    wanted = store.manifest.objects
    strangers = [name for name in store.objects.strangers(wanted) if not is_beside_objects(name)]
    wrong = [f"{name} is not in the manifest" for name in strangers]
    for name in sorted(wanted):
        try:
            digest = _digest(store, name)
        except FileNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        except RemoteError as error:
            wrong.append(str(error))
            continue
        except OSError as error:
            wrong.append(f"{name} cannot be read ({error})")
            continue
        if digest != wanted[name]:
            wrong.append(f"{name} has another SHA-256 than the manifest says")
    return Check(name="object digests", ok=not wrong, detail="; ".join(wrong) or f"{len(wanted)} objects")


def _digest(store: TicketStore, name: str) -> str:
    """SHA-256 (hex) of an object; of no more of it than the manifest says."""
    digest = hashlib.sha256()
    left = store.manifest.sizes.get(name, MAX_OBJECT_BYTES)
    with store.objects.open(name) as file:
        while left >= 0 and (block := file.read(_READ_BYTES)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest() if left >= 0 else "larger than it should be"


def _check_rows(store: TicketStore, on_progress: Callable[[int, int], None] | None) -> Iterator[Check]:
    m = store.manifest
    problems: dict[str, list[str]] = {name: [] for name in ("tickets", "keys", "labels", "digests", "views")}
    if m.adaptive is not None:
        problems["counts"] = []
    if m.has_ranks:
        problems["ranks"] = []
    if m.token_labels is not None:
        problems["token_labels"] = []
    hashes = KeyHashes(Path(tempfile.gettempdir()))
    keys_readable = True
    for block in iter_view_blocks(m):
        try:
            hashes.add(hash_strings(store.read_keys(block)))
        except SchemaError as error:
            keys_readable = False
            problems["keys"] += [str(p) for p in error.problems]
        for name, found in _block_problems(store, block):
            problems[name].append(found)
        if on_progress is not None:
            on_progress(block.stop, m.num_images)
    if keys_readable:
        summary = hashes.summary()
        if len(summary.repeated):
            problems["keys"].append("a key occurs twice")
        if summary.sha256 != m.dataset.keys_sha256:
            problems["keys"].append("are not those of dataset.keys_sha256")
    for name, found_problems in problems.items():
        shown = "; ".join(found_problems[:5])
        more = f"; and {len(found_problems) - 5} more" if len(found_problems) > 5 else ""
        yield Check(name=name, ok=not found_problems, detail=shown + more or f"{m.num_images} rows")


def _block_problems(store: TicketStore, block: range) -> Iterator[tuple[str, str]]:
    """(array, problem) of a run of rows, each problem found on its own."""

    def attempt(name: str, read: Callable[[], str]) -> Iterator[tuple[str, str]]:
        try:
            found = read()
            if found:
                yield name, found
        except SchemaError as error:
            for problem in error.problems:
                yield name, str(problem)

    yield from attempt("tickets", lambda: _ticket_problem(store, block))
    yield from attempt("digests", lambda: _digest_problem(store, block))
    yield from attempt("labels", lambda: _label_problem(store, block))
    yield from attempt("views", lambda: _view_problem(store, block))
    if store.manifest.adaptive is not None:
        yield from attempt("counts", lambda: _count_problem(store, block))
    if store.manifest.has_ranks:
        yield from attempt("ranks", lambda: _rank_problem(store, block))
    if store.manifest.token_labels is not None:
        yield from attempt("token_labels", lambda: _token_label_problem(store, block))


def _ticket_problem(store: TicketStore, block: range) -> str:
    store.read_tickets(block)  # raises what is wrong
    return ""


def _count_problem(store: TicketStore, block: range) -> str:
    store.read_counts(block)  # raises what is wrong
    return ""


def _digest_problem(store: TicketStore, block: range) -> str:
    store.read_digests(block)  # raises what is wrong
    return ""


def _label_problem(store: TicketStore, block: range) -> str:
    labels = store.read_labels(block)
    return f"a label below -1 in rows {block.start}-{block.stop}" if (labels < -1).any() else ""


def _view_problem(store: TicketStore, block: range) -> str:
    store.read_views(block)  # raises what is wrong
    return ""


def _rank_problem(store: TicketStore, block: range) -> str:
    ranks = store.read_ranks(block)
    tickets = store.read_tickets(block)
    m = store.manifest
    num_keep = m.num_keep if m.adaptive is None else store.read_counts(block)
    agree = np.array_equal(pack_ranks(ranks, num_keep), tickets)
    return "" if agree else f"ranks < K is not the ticket in rows {block.start}-{block.stop}"


def _token_label_problem(store: TicketStore, block: range) -> str:
    m = store.manifest
    # Of a block of all views this would be far more memory than of anything else.
    rows = 1 << (max(1, _TOKEN_LABELS // (m.num_views * m.num_patches)).bit_length() - 1)
    for first in range(block.start, block.stop, rows):
        store.read_token_labels(range(first, min(first + rows, block.stop)))  # raises what is wrong
    return ""
