"""Bits are flipped, one at a time, in every file of a store and of a run: each is found, or changes nothing."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .outcome import Outcome
from .processes import start
from .victims import Fingerprint, Inputs, Victim, run_in

# Of a run: what is read again, or shown as its result. Logs are for people.
_LOGS = ("metrics.jsonl", "tensorboard")


def flip_stores(stores: Sequence[Path], number: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Flips bits of stores, each file by turns; `verify`, or reading all of it, tells the store from the whole one."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as child:  # it reads stores; this process does not
        found = Outcome(kind="flipped bits of stores")
        for store in stores:
            part = child.submit(_flip_store, store, number // len(stores), seed).result()
            found.number, found.wrong = found.number + part.number, found.wrong + part.wrong
            found.notes += part.notes
            say(f"{found.kind}: {found.number}")
        return found.end()


def _flip_store(store: Path, number: int, seed: int) -> Outcome:
    found, draw = Outcome(kind=""), random.Random(f"{seed} flips of {store.name}")
    whole = _all_of(store)
    files = sorted(path for path in store.rglob("*") if path.is_file() and path.name != "local.json")
    for i in range(number):
        path = files[i % len(files)]
        with _flipped(path, draw) as place:
            found.number += 1
            if not _is_found(store) and _all_of(store) != whole:
                found.wrong += 1
                found.notes.append(f"flipped and not found: {path.relative_to(store)}, {place}")
    assert _all_of(store) == whole
    return found


def _is_found(store: Path) -> bool:
    from dataltt.artifacts_schema import DatalttError
    from dataltt.artifacts_schema.verify import verify_store

    try:
        return not all(check.ok for check in verify_store(str(store)))
    except DatalttError:
        return True


def _all_of(store: Path) -> Any:
    """Whatever a store says, by digest."""
    from dataltt.artifacts_schema import DatalttError, TicketStore

    try:
        opened = TicketStore.open(str(store))
        rows = range(opened.manifest.num_images)
        arrays = [opened.read_tickets(rows), opened.read_digests(rows), opened.read_labels(rows)]
        arrays += [opened.read_ranks(rows)] if opened.manifest.has_ranks else []
        arrays += list(opened.read_views(rows) or ())
    except DatalttError as error:
        return str(error)
    digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    return repr(opened.manifest), opened.read_keys(rows), digests


def flip_run(
    victim: Victim, inputs: Inputs, folder: Path, number: int, seed: int, say: Callable[[str], None]
) -> Outcome:
    """Flips bits of a run that was cut off; it is refused, or goes on to the undisturbed weights.

    Each is tried by the same command, and by `--resume` alone, which takes all options from the run's record.
    """
    found, draw = Outcome(kind="flipped bits of a run's folder"), random.Random(f"{seed} flips of a run")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "cut").mkdir(parents=True)
    whole = [*victim.arguments(inputs, folder / "cut"), "--max-steps", 13]
    assert start(whole, folder / "log").wait(120) == [0]
    expected = _went_on(victim.arguments(inputs, folder / "now"), folder)
    assert expected is not None
    files = [
        path.relative_to(folder / "cut")
        for path in sorted((folder / "cut" / "run").rglob("*"))
        if path.is_file() and not set(path.parts) & set(_LOGS)
    ]
    for i in range(number):
        file = files[i % len(files)]
        by_record = ["train", "--out", folder / "now" / "run", "--resume", "--max-steps", 24]
        shutil.rmtree(folder / "now", ignore_errors=True)
        shutil.copytree(folder / "cut", folder / "now")
        place = _flip(folder / "now" / file, draw)
        came_to = _went_on(victim.arguments(inputs, folder / "now") if i % 2 else by_record, folder)
        found.number += 1
        if came_to is not None and came_to != expected:
            found.wrong += 1
            found.notes.append(f"flipped, not found, and trained on: {file}, {place}")
        if number > 50 and i % 50 == 0:
            say(f"{found.kind}: {found.number}")
    return found.end()


def _went_on(arguments: list[object], folder: Path) -> Fingerprint | None:
    """What the run in `folder/now` came to; None if it was refused."""
    if not (folder / "now").exists():
        shutil.copytree(folder / "cut", folder / "now")
    codes = start(arguments, folder / "log").wait(120)
    if codes is None or codes[0] in (70, -9):
        return {"ended": json.dumps(codes)}
    return run_in(folder / "now") if codes == [0] else None


@contextmanager
def _flipped(path: Path, draw: random.Random) -> Any:
    whole = path.read_bytes()
    try:
        yield _flip(path, draw)
    finally:
        path.write_bytes(whole)


def _flip(path: Path, draw: random.Random) -> str:
    """Flips one bit; returns which."""
    content = bytearray(path.read_bytes())
    if not content:
        path.write_bytes(b"\x01")
        return "a byte where there was none"
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(bytes(content))
    return f"byte {place}, bit {bit}"
