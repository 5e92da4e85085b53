"""The record of a run: which options it was given, what came of them, and whether a run that goes on is the same.

OUT/config.json holds
  dataltt     the version that began the run
  command     whose run it is
  options     as they were given, in their groups: a configuration file that gives them again
  resolved    the options of training with every default filled in
  folder      the working directory, which relative paths count from
  world_size  processes; the global batch is that of each (`resolved`, recipe) times their number, and stays
  ticket_store  of the training store: its ticket digest, a phrase where its tickets are approximate, and the SHA-256
              of its token labels' objects where the run learns them
  samples     how many the training shards hold, and how many of them have tickets and so are trained on
  changes     what was changed when the run went on, and at which step
  checksum    XXH3-128 of all that as JSON with sorted keys
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import xxhash

from ...artifacts_schema.errors import CheckpointError, OptionError, OutputExistsError
from ...artifacts_schema.files import write_atomically, writing
from ..options import Declared, Group, jsonable, options_of
from ..runtime.version import tool_version
from .config import TrainConfig

RECORD_FILE = "config.json"
LOCK_FILE = "lock.json"  # who is at work there


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Options of a run as it writes them down."""

    dataltt: str
    command: str
    options: dict[str, Any]
    resolved: dict[str, Any]
    world_size: int
    folder: str = ""
    ticket_store: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)


def new_record(
    asked: Group,
    resolved: TrainConfig,
    *,
    command: str,
    world_size: int,
    ticket_store: dict[str, Any] | None = None,
    samples: dict[str, Any] | None = None,
) -> RunRecord:
    """The record of a run that begins."""
    return RunRecord(
        dataltt=tool_version(),
        command=command,
        options=_recorded(asked),
        resolved=_recorded(resolved),
        world_size=world_size,
        folder=os.getcwd(),
        ticket_store=ticket_store or {},
        samples=samples or {},
    )


def begin_run(run: Path, record: RunRecord) -> None:
    """Creates the run's folder with its record.

    Raises:
        OutputExistsError: something is there.
        DiskError: it cannot be written.
    """
    if run.exists() and (not run.is_dir() or any(path.name != LOCK_FILE for path in run.iterdir())):
        raise OutputExistsError(f"{run} exists; give `resume` to go on with it, or choose another `out`")
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
    _write(run, record)


def undo_run(run: Path) -> None:
    """Removes what a run wrote; its lock goes last, by the one who holds it."""
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def resume_run(run: Path, record: RunRecord, config: type[TrainConfig], *, step: int, any_skipped: bool) -> list[str]:
    """Goes on with a run, if it is the same one, and records what was changed.

    Args:
        config: the options of training that are compared.
        any_skipped: whether a sample was left out so far, so that what is done about them must stay.

    Returns:
        What was changed, a phrase each.

    Raises:
        OptionError: there is no run to go on with, or it is another.
    """
    saved = read_record(run / RECORD_FILE)
    if saved is None:
        raise OptionError(f"there is no run in {run}; leave `resume` out to start one there")
    if saved.command != record.command:
        raise OptionError(f"{run} is a run of dataltt {saved.command}; go on with it by that command")
    was, now = (r.samples.get("with_tickets") for r in (saved, record))
    if None not in (was, now) and was != now:
        raise OptionError(
            f"{run} was trained on {was} samples with tickets, and now {now} have one; give the same shards and tickets"
        )
    changed = [c for c in _differences(saved, record.resolved, config) if not _is_moved_store(c[0], saved, record)]
    refused = [c for c in changed if not _may_change(*c, any_skipped=any_skipped)]
    if refused:
        listed = ", ".join(f"{d.name} was {was!r} and is {now!r}" for d, was, now in refused)
        raise OptionError(f"{run} is another run ({listed}); give the same options, or another `out`")
    _refuse_other_tickets(run, saved, record)
    facts = [(d.name, was, now) for d, was, now in changed]
    if saved.world_size != record.world_size:
        facts.insert(0, ("world_size", saved.world_size, record.world_size))
    if facts:
        entry = {"step": step, **{name: {"was": was, "is": now} for name, was, now in facts}}
        _write(run, replace(record, dataltt=saved.dataltt, changes=[*saved.changes, entry]))
    return [f"{name} was {was!r} and is {now!r}" for name, was, now in facts]


def _refuse_other_tickets(run: Path, saved: RunRecord, record: RunRecord) -> None:
    kinds = {
        "digest": "tickets than those of {} (another ticket digest)",
        "token_labels": "token labels than {} has now",
    }
    for name, what in kinds.items():
        was = saved.ticket_store.get(name)
        if was is not None and was != record.ticket_store.get(name):
            store = record.resolved["tickets"]
            raise OptionError(f"{run} was trained on other {what.format(store)}; give the same store, or another `out`")


def _is_moved_store(declared: Declared, saved: RunRecord, record: RunRecord) -> bool:
    """Tells whether it is the same tickets that lie elsewhere now: in a copy, or behind a URL."""
    digest = saved.ticket_store.get("digest")
    return declared.name == "tickets" and digest is not None and digest == record.ticket_store.get("digest")


def read_record(path: Path) -> RunRecord | None:
    """The record of a run; None if there is none.

    Raises:
        OptionError: another version wrote it.
        CheckpointError: it cannot be read.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); start the run anew with another `out`") from None
    version = document.get("dataltt", document.get("tool_version")) if isinstance(document, dict) else None
    if not isinstance(version, str):
        raise CheckpointError(f"{path} is not the record of a run; start anew with another `out`")
    if "dataltt" not in document:
        raise OptionError(
            f"{path} was written by dataltt {version}, whose options this version ({tool_version()}) does not read; "
            "start the run anew with another `out`"
        )
    if _numbers(version) > _numbers(tool_version()):
        raise OptionError(f"{path} was written by dataltt {version}, and this is {tool_version()}; install that one")
    checksum = document.pop("checksum", None)
    try:
        record = RunRecord(**document)
        if not isinstance(record.options, dict) or not isinstance(record.resolved, dict):
            raise TypeError("its options are no object")
    except TypeError as error:
        raise CheckpointError(f"{path} is not the record of a run ({error}); start anew with another `out`") from None
    if checksum is not None and checksum != _checksum(record):
        raise CheckpointError(
            f"{path} is not what dataltt wrote (its checksum differs); put it back, or delete its line 'checksum' if "
            "you changed it on purpose"
        )
    return record


def _checksum(record: RunRecord) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(asdict(record), sort_keys=True).encode())


def recorded_option(record: RunRecord, name: str) -> Any:
    """The value of an option of training as a run resolved it."""
    (declared,) = [d for d in options_of(TrainConfig) if d.name == name]
    return _value(record.resolved, declared)


def _recorded(config: Group) -> dict[str, Any]:
    """The options of a run as JSON types, without those that are about one call."""
    document = config.to_json()
    for d in options_of(type(config)):
        if d.option.on_resume == "unrecorded":
            del functools.reduce(lambda table, group: table[group], d.groups, document)[d.name]
    return document


def _differences(
    saved: RunRecord, given: dict[str, Any], config: type[TrainConfig]
) -> Iterator[tuple[Declared, Any, Any]]:
    for d in options_of(config):
        was, now = _value(saved.resolved, d), _value(given, d)
        if d.option.on_resume != "unrecorded" and was != now and not _same_place(d, was, now, saved.folder):
            yield d, was, now


def _value(document: dict[str, Any], declared: Declared) -> Any:
    """An option's value in a record; one that an earlier version did not have is its default."""
    table = functools.reduce(lambda t, group: t.get(group, {}), declared.groups, document)
    return table.get(declared.name, jsonable(declared.default))


def _may_change(declared: Declared, was: Any, now: Any, *, any_skipped: bool) -> bool:
    rule = declared.option.on_resume
    return rule == "free" or (rule == "added" and was is None) or (rule == "unskipped" and not any_skipped)


def _is_place(declared: Declared) -> bool:
    """Tells whether an option is a path or URL."""
    is_choice = any(get_origin(kind) is Literal for kind in (declared.kind, *get_args(declared.kind)))
    return declared.option.on_resume in ("place", "added") and not is_choice


def _same_place(declared: Declared, was: Any, now: Any, folder: str) -> bool:
    """Tells whether two paths lead to the same, however they are spelt; `was` counts from the folder of that call."""
    if not _is_place(declared) or not isinstance(was, str) or not isinstance(now, str):
        return False
    return os.path.realpath(os.path.join(folder, was)) == os.path.realpath(now)


def _numbers(version: str) -> tuple[int, ...]:
    """1.2 of 1.2.3 and of 1.2.dev4."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _write(run: Path, record: RunRecord) -> None:
    document = {**asdict(record), "checksum": _checksum(record)}
    write_atomically(run / RECORD_FILE, (json.dumps(document, indent=1) + "\n").encode())
