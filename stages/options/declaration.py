"""Declaration of options: what an option means, groups of options, and what follows from their declaration.

A group is a frozen dataclass; a command's config is composed of groups and single options. The fields carry
everything: type, default, help, bounds, choices. The command line, configuration files, checks, the record of a run
and the comparison on resume are made of them, so that a new option is one field. Imports nothing heavy.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

from ...artifacts_schema.errors import OptionError
from .values import Option, checked_value, jsonable, refuse_unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """An option where it is declared: its path of groups, its name, type, meaning and default."""

    groups: tuple[str, ...]
    panel: str
    name: str
    kind: Any
    option: Option
    default: Any

    @property
    def is_required(self) -> bool:
        """Tells whether the option has no default."""
        return self.default is MISSING


class Group:
    """Base of groups and configs: checked when made, made and changed by the plain names of their options."""

    __slots__ = ()
    panel: ClassVar[str] = ""  # title in the command line's help; that of the group around it if empty

    def __post_init__(self) -> None:
        kind_of_group: Any = type(self)
        for name, kind, option in _own_options(kind_of_group):
            value = getattr(self, name)
            checked = checked_value(name, value, kind, option)
            if checked is not value:
                object.__setattr__(self, name, checked)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Makes a config of options by their plain names, whatever group they stand in.

        Raises:
            OptionError: an unknown option, one that is missing, or a value that cannot be meant.
        """
        known = {d.name: d for d in options_of(cls)}
        refuse_unknown(options, known, cls.__name__)
        missing = [d.name for d in known.values() if d.is_required and d.name not in options]
        if missing:
            raise OptionError(f"{cls.__name__} needs {', '.join(f'`{name}`' for name in missing)}")
        return _build(cls, options)

    def but(self, **options: Any) -> Self:
        """The same with other values, by the options' plain names.

        Raises:
            OptionError: an unknown option, or a value that cannot be meant.
        """
        refuse_unknown(options, {d.name for d in options_of(type(self))}, type(self).__name__)
        return _changed(self, options)

    def flat(self) -> dict[str, Any]:
        """Values by the options' plain names."""
        return {d.name: functools.reduce(getattr, (*d.groups, d.name), self) for d in options_of(type(self))}

    def to_json(self) -> dict[str, Any]:
        """Values as JSON types, groups as objects in it."""
        document: dict[str, Any] = {}
        for d in options_of(type(self)):
            table = functools.reduce(lambda t, group: t.setdefault(group, {}), d.groups, document)
            table[d.name] = jsonable(functools.reduce(getattr, (*d.groups, d.name), self))
        return document


def options_of(config: type[Group]) -> tuple[Declared, ...]:
    """Lists all options of a config in the order of their declaration, those of its groups in place of the groups."""
    key: Any = config  # mypy takes no class for hashable here
    return _options_of(key)


@functools.cache
def _options_of(config: Any) -> tuple[Declared, ...]:
    found = tuple(_declared(config, MISSING, (), ""))
    twice = sorted(name for name, count in Counter(d.name for d in found).items() if count > 1)
    if twice:
        raise TypeError(f"{config.__name__} has options of the same name: {', '.join(twice)}")
    return found


def _declared(config: Any, defaults: Any, groups: tuple[str, ...], panel: str) -> Iterator[Declared]:
    hints = _hints(config)
    for field in fields(config):
        hint = hints[field.name]
        default = getattr(defaults, field.name) if defaults is not MISSING else field.default
        if is_dataclass(hint):
            inner = getattr(hint, "panel", "") or panel
            yield from _declared(hint, default, (*groups, field.name), inner)
        else:
            kind, option = _annotation(config, field.name, hint)
            yield Declared(groups=groups, panel=panel, name=field.name, kind=kind, option=option, default=default)


@functools.cache
def _hints(config: Any) -> dict[str, Any]:
    return get_type_hints(config, include_extras=True)


@functools.cache
def _own_options(config: Any) -> tuple[tuple[str, Any, Option], ...]:
    hints = _hints(config)
    names = [f.name for f in fields(config) if not is_dataclass(hints[f.name])]
    return tuple((name, *_annotation(config, name, hints[name])) for name in names)


def _annotation(config: type, name: str, hint: Any) -> tuple[Any, Option]:
    options = [each for each in get_args(hint)[1:] if isinstance(each, Option)] if get_origin(hint) is Annotated else []
    if len(options) != 1:
        raise TypeError(f"{config.__name__}.{name} should be Annotated[type, Option(...)]")
    return get_args(hint)[0], options[0]


def _build(config: Any, options: Mapping[str, Any], default: Any = MISSING) -> Any:
    hints, given = _hints(config), {}
    for field in fields(config):
        inner = hints[field.name]
        before = getattr(default, field.name) if default is not MISSING else field.default
        if is_dataclass(inner):
            given[field.name] = _build(inner, options, before)
        elif field.name in options:
            given[field.name] = options[field.name]
        elif before is not MISSING:
            given[field.name] = before
    return config(**given)


def _changed(config: Any, options: Mapping[str, Any]) -> Any:
    changes: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and isinstance(value, Group):
            changed = _changed(value, options)
            if changed is not value:
                changes[field.name] = changed
        elif field.name in options:
            changes[field.name] = options[field.name]
    return replace(config, **changes) if changes else config
