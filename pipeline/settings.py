"""Options from files: `--config FILE` (TOML, or a run's record), ./dataltt.toml, and the record of a run that goes on.

Every value is checked where it stands, so that a sentence names the file and the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts_schema.errors import OptionError
from ..stages.options import Declared, Group, checked_value, nearest, options_of

PROJECT_FILE = "dataltt.toml"
_DATA_TABLE = "data"  # options that several commands share: shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The value of an option, and which file it stands in."""

    value: Any
    source: str


def project_settings(command: str, config: type[Group], commands: list[str]) -> dict[str, Setting]:
    """Reads what ./dataltt.toml says of a command's options: its own table, and [data].

    Raises:
        OptionError: the file cannot be read, or names something that there is not.
    """
    path = Path(PROJECT_FILE)
    if not path.exists():
        return {}
    document = {key.replace("_", "-"): table for key, table in _toml(path).items()}
    for name, table in document.items():
        if name not in (*commands, _DATA_TABLE):
            raise OptionError(f"{path}: there is no command {name!r}{nearest(name, commands)}")
        if not isinstance(table, Mapping):
            raise OptionError(f"{path} is not as it should be: {name} should be a table, [{name}]")
    shared = {d.name: d for d in options_of(config) if d.option.variable is not None}
    data = document.get(_DATA_TABLE, {})
    for name in data:
        if name != "shards":
            raise OptionError(f"{path}, [{_DATA_TABLE}]: there is no {name!r}; it holds shards alone")
    found = {name: _setting(data[name], shared[name], path) for name in data if name in shared}
    return found | _settings(document.get(command, {}), config, command, path)


def file_settings(path: Path, command: str, config: type[Group]) -> dict[str, Setting]:
    """Reads a file given by --config: TOML with a command's options, or a run's record (config.json).

    Raises:
        OptionError: it cannot be read, is of another command, or names something that there is not.
    """
    if not path.is_file():
        raise OptionError(f"--config {path}: there is no such file")
    if path.suffix == ".json":
        return record_settings(path, command, config)
    document = _toml(path)
    # A whole dataltt.toml, of another name, has a table for the command.
    own = document.get(command, document.get(command.replace("-", "_"), document))
    return _settings(own, config, command, path)


def record_settings(path: Path, command: str, config: type[Group]) -> dict[str, Setting]:
    """The options that a run was given, from its record.

    Raises:
        OptionError: it is of another command, or of another version.
    """
    from ..stages.training.record import read_record

    record = read_record(path)
    if record is None:
        raise OptionError(f"{path}: there is no such file")
    if record.command != command:
        raise OptionError(f"{path} is the record of dataltt {record.command}, not of {command}")
    return _settings(record.options, config, command, path)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} is not valid TOML ({error}); mend it") from None


def _settings(document: Any, config: type[Group], command: str, path: Path) -> dict[str, Setting]:
    """Options by their plain names, of a table that may have a table for each group."""
    declared = {d.name: d for d in options_of(config)}
    found: dict[str, Setting] = {}
    for table, key, value in _entries(document, config):
        name = key.replace("-", "_")
        where = f"{path}, [{'.'.join((command, *table))}]" if path.name == PROJECT_FILE else str(path)
        if name not in declared:
            raise OptionError(f"{where}: dataltt {command} has no option {key!r}{nearest(name, declared)}")
        if table and declared[name].groups[: len(table)] != table:
            raise OptionError(
                f"{where}: {key!r} does not stand in [{'.'.join(table)}]; put it into "
                f"[{'.'.join(declared[name].groups) or command}]"
            )
        if value is not None:
            found[name] = _setting(value, declared[name], path)
    return found


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
        parser = declared.option.parser
        parsed = value if parser is None else parser(value)
        return Setting(value=checked_value(declared.name, parsed, declared.kind, declared.option), source=str(path))
    except (OptionError, ValueError) as error:
        raise OptionError(f"{path}: {error}") from None
