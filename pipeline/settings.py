"""Options from files: `--config FILE` (TOML, or a run's record), ./dataltt.toml, and the record of a run that goes on.

Every value is checked where it stands, so that a sentence names the file and the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..artifacts_schema.errors import OptionError
from ..stages.options import Declared, Group, checked_value, nearest, options_of, parsed_value

PROJECT_FILE = "dataltt.toml"
_DATA_TABLE = "data"  # options that several commands share: shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The value of an option, and which file it stands in; a record may say that an option was not given (None)."""

    value: Any
    source: str


def project_settings(command: str, config: type[Group], commands: Collection[str]) -> dict[str, Setting]:
    """Reads what ./dataltt.toml says of a command's options: its own table, and [data].

    Raises:
        OptionError: the file cannot be read, or names something that there is not.
    """
    path = Path(PROJECT_FILE)
    return _of_commands(_toml(path), command, config, commands, path) if path.exists() else {}


def file_settings(path: Path, command: str, config: type[Group], commands: Collection[str]) -> dict[str, Setting]:
    """Reads a file given by --config: TOML with a command's options, or a run's record (config.json).

    Raises:
        OptionError: it cannot be read, is of another command, or names something that there is not.
    """
    if path.is_dir():
        raise OptionError(f"--config {path} is a folder; give a file, such as {path / 'config.json'}")
    if not path.is_file():
        raise OptionError(f"--config {path}: there is no such file")
    if path.suffix == ".json":
        return record_settings(path, command, config)
    document = _toml(path)
    names = {key.replace("_", "-"): value for key, value in document.items()}
    # `store` alone is an option of some commands.
    of_groups = any(isinstance(names.get(group), Mapping) for group in _groups(commands))
    if of_groups or any(name in commands for name in names):  # a dataltt.toml of another name
        return _of_commands(document, command, config, commands, path)
    return _settings(document, config, command, path, ())


def record_settings(path: Path, command: str, config: type[Group]) -> dict[str, Setting]:
    """The options that a run was given, from its record.

    Raises:
        OptionError: it is of another command, or of another version.
    """
    from ..stages.training.record import read_record, recorded_option

    record = read_record(path)
    if record is None:
        raise OptionError(f"{path}: there is no such file")
    if record.command != command:
        raise OptionError(f"{path} is the record of dataltt {record.command}, not of {command}")
    found = _settings(record.options, config, command, path, ("options",))
    workers = found.get("workers")
    if workers is not None and workers.value is None:  # the default depends on the machine, the order of samples on it
        found["workers"] = replace(workers, value=recorded_option(record, "workers"))
    return found


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} is not valid TOML ({error}); mend it") from None


def _of_commands(
    document: Mapping[str, Any], command: str, config: type[Group], commands: Collection[str], path: Path
) -> dict[str, Setting]:
    """A command's options from a file that has a table for each command, and [data]."""
    tables: dict[str, Mapping[str, Any]] = {}
    for key, name, table in _tables(document, commands, path):
        if name not in (*commands, _DATA_TABLE):
            raise OptionError(f"{path}: there is no command {key!r}{nearest(name, commands)}")
        if not isinstance(table, Mapping):
            raise OptionError(f"{path} is not as it should be: {key} should be a table, [{key}]")
        if name in tables:
            raise OptionError(f"{path}: [{name}] stands there twice, with - and with _; keep one")
        tables[name] = table
    shared = {d.name: d for d in options_of(config) if d.option.variable is not None}
    data = tables.get(_DATA_TABLE, {})
    for name in data:
        if name != "shards":
            raise OptionError(f"{path}, [{_DATA_TABLE}]: there is no {name!r}; it holds shards alone")
    found = {name: _setting(data[name], shared[name], path) for name in data if name in shared}
    return found | _settings(tables.get(command, {}), config, command, path, tuple(command.split()))


def _tables(document: Mapping[str, Any], commands: Collection[str], path: Path) -> Iterator[tuple[str, str, Any]]:
    """Tables of a file: as their headings spell them, the commands that these mean, and what is in them.

    [store.merge] is of the command `store merge`.
    """
    groups = _groups(commands)
    for key, table in document.items():
        name = key.replace("_", "-")
        if name not in groups:
            yield key, name, table
            continue
        if not isinstance(table, Mapping):
            raise OptionError(f"{path} is not as it should be: {key} should hold tables, such as [{groups[name]}]")
        for inner, inner_table in table.items():
            yield f"{key}.{inner}", f"{name} {inner.replace('_', '-')}", inner_table


def _groups(commands: Collection[str]) -> dict[str, str]:
    """First words of commands of two, each with the table of one of them."""
    return {name.split()[0]: ".".join(name.split()) for name in commands if " " in name}


def _settings(
    document: Mapping[str, Any], config: type[Group], command: str, path: Path, prefix: tuple[str, ...]
) -> dict[str, Setting]:
    """Options by their plain names, of a table that may have a table for each group; `prefix` is where it stands."""
    declared = {d.name: d for d in options_of(config)}
    found: dict[str, Setting] = {}
    for table, key, value in _entries(document, config):
        name = key.replace("-", "_")
        where = f"{path}, [{'.'.join((*prefix, *table))}]" if prefix or table else str(path)
        if name not in declared:
            raise OptionError(f"{where}: {_unknown(config, command, table, key, value)}")
        if table and declared[name].groups[: len(table)] != table:
            place = ".".join((*prefix, *declared[name].groups))
            into = f"into [{place}]" if place else "before all tables"
            raise OptionError(f"{where}: {key!r} does not stand in this table; put it {into}")
        if name in found:
            raise OptionError(f"{path}: {key!r} stands there twice; keep one")
        found[name] = _setting(value, declared[name], path)
    return found


def _unknown(config: type[Group], command: str, table: tuple[str, ...], key: str, value: Any) -> str:
    """Sentence about a key that is no option."""
    groups = {d.groups[len(table)] for d in options_of(config) if d.groups[: len(table)] == table != d.groups}
    if key in groups:
        return f"{key!r} is a group of options; write it as a table"
    if isinstance(value, Mapping):
        return f"dataltt {command} has no group of options {key!r}{nearest(key, groups)}"
    return (
        f"dataltt {command} has no option {key!r}{nearest(key.replace('-', '_'), [d.name for d in options_of(config)])}"
    )


def _entries(
    document: Mapping[str, Any], config: type[Group], table: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Table, key and value of all that a document says; tables are those of the config's groups."""
    groups = {d.groups[: len(table) + 1] for d in options_of(config) if len(d.groups) > len(table)}
    for key, value in document.items():
        if isinstance(value, Mapping) and (*table, key) in groups:
            yield from _entries(value, config, (*table, key))
        else:
            yield table, key, value


def _setting(value: Any, declared: Declared, path: Path) -> Setting:
    try:
        parsed = parsed_value(declared.name, value, declared.option)
        return Setting(value=checked_value(declared.name, parsed, declared.kind, declared.option), source=str(path))
    except OptionError as error:
        raise OptionError(f"{path}: {str(error).replace('`', '')}") from None  # a key of the file, no flag
