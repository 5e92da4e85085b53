"""Options declared once: what an option means, groups of options, and what follows from their declaration.

A group is a frozen dataclass; a command's config is composed of groups and single options. The fields carry
everything: type, default, help, bounds, choices. The command line, configuration files, checks, the record of a run
and the comparison on resume are made of them, so that a new option is one field. Imports nothing heavy.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from ..artifacts_schema.errors import OptionError

# How an option of a run may change when the run goes on.
OnResume = Literal[
    "same",  # it changes the numbers, so it must agree
    "place",  # a path or URL: what it leads to must agree, not how it is spelt
    "added",  # may be given where it was not given before; what was given must agree
    "unskipped",  # may change as long as no sample was skipped
    "free",  # changes no number
    "unrecorded",  # is about this call, not about the run
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """Meaning of a field of a group.

    Attributes:
        help: a sentence for the command line's help.
        min, max: bounds, included; `above`, `below`: bounds, excluded.
        parser: makes the value of its text on the command line or in a file.
        metavar: what stands for the value in that help.
        is_common: shown first in the command's help.
        is_argument: given by position on the command line.
        variable: an environment variable that gives it where the command line does not.
        on_resume: how it may change when a run goes on.
    """

    help: str
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    parser: Callable[[Any], Any] | None = None
    metavar: str | None = None
    is_common: bool = False
    is_argument: bool = False
    variable: str | None = None
    on_resume: OnResume = "same"


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


def refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses names that are no option, with the nearest that is one.

    Raises:
        OptionError
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise OptionError(f"{where} has no option {name!r}{nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: what may have been meant, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def jsonable(value: Any) -> Any:
    """A value of an option as JSON has it."""
    if isinstance(value, tuple):
        return [jsonable(v) for v in value]
    return str(value) if isinstance(value, Path) else value


# ---- Values


def checked_value(name: str, value: Any, kind: Any, option: Option) -> Any:
    """A value as its option's type has it (a path of text, a tuple of a list).

    Raises:
        OptionError: it is of another type, no choice, or out of bounds.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return None
    (plain,) = [k for k in kinds if k is not type(None)]
    checked = _typed(name, value, plain)
    if isinstance(checked, int | float) and not isinstance(checked, bool):
        _check_bounds(name, checked, option)
    return checked


def _typed(name: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value not in choices:
            listed = ", ".join(str(c) for c in choices)
            raise OptionError(f"`{name}={value!r}` should be one of {listed}{nearest(str(value), map(str, choices))}")
        return value
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if isinstance(value, list | tuple):
            return tuple(_typed(name, each, inner) for each in value)
    elif kind is Path:
        if isinstance(value, str | Path):
            return value if isinstance(value, Path) else Path(value)
    elif kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, kind):
        return value
    raise OptionError(f"`{name}={value!r}` should be {_KIND_NAMES.get(kind, 'a list')}")


_KIND_NAMES = {Path: "a path", float: "a number", int: "a whole number", str: "text", bool: "true or false"}


def _check_bounds(name: str, value: float, o: Option) -> None:
    shown = f"`{name}={value:g}`"
    if not math.isfinite(value):
        raise OptionError(f"{shown} should be a finite number")
    low = o.min is None or value >= o.min
    high = o.max is None or value <= o.max
    if low and high and (o.above is None or value > o.above) and (o.below is None or value < o.below):
        return
    least = f"at least {o.min:g}" if o.min is not None else f"above {o.above:g}" if o.above is not None else ""
    most = f"at most {o.max:g}" if o.max is not None else f"below {o.below:g}" if o.below is not None else ""
    if o.min is not None and o.max is not None:
        raise OptionError(f"{shown} should lie between {o.min:g} and {o.max:g}")
    raise OptionError(f"{shown} should be {' and '.join(s for s in (least, most) if s)}")


def parsed_value(name: str, value: Any, option: Option) -> Any:
    """Parses an option's value as it stands on the command line or in a file.

    Raises:
        OptionError: it cannot be parsed.
    """
    if option.parser is None or value is None:
        return value
    try:
        return option.parser(value)
    except ValueError as error:
        raise OptionError(f"`{name}={value!r}` should be {error}") from None


def whole_numbers(value: Any) -> tuple[int, ...]:
    """Whole numbers of a text such as 3,6,9; a list passes.

    Raises:
        ValueError: it is no such text; says what it should be.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)*", value):
        return tuple(int(part) for part in value.split(","))
    if not isinstance(value, list | tuple) or not value or any(type(each) is not int for each in value):
        raise ValueError("whole numbers such as 3,6,9")
    return tuple(value)


# ---- Choices. One name each, here and in every signature.

Subset = Literal["ticket", "random", "fixed-random", "inverse", "dense"]
EvalProtocol = Literal["ticket", "random", "dense", "own"]  # `own`: patches that the student's own attention chooses
ViewMode = Literal["static", "replay", "warp"]
PatchInput = Literal["zero", "small-dense"]
TokenTargets = Literal["store", "image"]
Precision = Literal["fp32", "bf16"]
ErrorOrSkip = Literal["error", "skip"]
ErrorOrAllow = Literal["error", "allow"]

# ---- Single options that several commands take

OnBadImage = Annotated[
    ErrorOrSkip,
    Option(help="An image that cannot be decoded: stop, or count and leave it out.", on_resume="unskipped"),
]
OnChangedImage = Annotated[
    ErrorOrAllow,
    Option(
        help="An image with other bytes than its ticket was made from: stop, or allow re-encoded copies.",
        on_resume="free",
    ),
]
OnOtherPixels = Annotated[
    ErrorOrAllow,
    Option(
        help="Stored views that this installation's libraries draw otherwise: stop, or allow other colours.",
        on_resume="free",
    ),
]
Shards = Annotated[
    str | None,
    Option(
        help="WebDataset shards: braces or a glob (in quotes), or a URL. Default: $DATALTT_SHARDS, else [data] shards "
        "in dataltt.toml.",
        is_common=True,
        variable="DATALTT_SHARDS",
        on_resume="place",
    ),
]
Seed = Annotated[int, Option(help="Seed of all random draws.")]
Checkpoint = Annotated[
    Path | None,
    Option(
        help="Weights (.safetensors or .pth), or a run's folder (of fit-selector, train). Default: timm's pretrained "
        "ones.",
        is_common=True,
        on_resume="place",
    ),
]
Overwrite = Annotated[bool, Option(help="Replace what an earlier call made.")]
MinCrop = Annotated[
    float | None,
    Option(help="Smallest crop, as a share of the image's area. Default: the policy's.", above=0, max=1),
]

# ---- Groups that several commands take


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions(Group):
    """Options of where and how fast a command runs."""

    panel: ClassVar[str] = "Runtime"

    workers: Annotated[
        int | None, Option(help="Loader processes. Default: this process's share of the cores, at most 8.", min=0)
    ] = None
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:N or mps.", on_resume="free")] = "auto"
    precision: Annotated[Precision, Option(help="Arithmetic of the forward pass; bf16 is faster, and rounds.")] = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions(Group):
    """Options of what to do with samples that do not fit the ticket store."""

    panel: ClassVar[str] = "Joining tickets"

    on_missing_ticket: Annotated[
        ErrorOrSkip,
        Option(help="A sample without a ticket: stop, or count and leave it out.", on_resume="unskipped"),
    ] = "error"
    on_changed_image: OnChangedImage = "error"
    recount: Annotated[
        bool,
        Option(help="Count the samples of each shard instead of trusting the store.", on_resume="free"),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeOptions(Group):
    """Options of how many patches a selector keeps, and where it drops the others: one of `ratio`, `keep_rate`."""

    panel: ClassVar[str] = "Patches kept"

    ratio: Annotated[float | None, Option(help="Final share of patches kept, in (0, 1].", is_common=True)] = None
    keep_rate: Annotated[
        float | None, Option(help="Or: share kept at each drop block, as upstream.", is_common=True)
    ] = None
    drop_blocks: Annotated[
        tuple[int, ...] | None,
        Option(
            help="Zero-based blocks that drop patches, e.g. 3,6,9 (the default of 12 blocks).",
            parser=whole_numbers,
            metavar="N,N,…",
        ),
    ] = None

    @property
    def spelled(self) -> str:
        """Spells those that are given as messages spell options."""
        given = [*self._dials(), ("drop_blocks", self.drop_blocks)]
        return " ".join(f"`{name}={value!r}`" for name, value in given if value is not None)

    @property
    def as_word(self) -> str:
        """The dial's number, for the names of files."""
        return "".join(f"{value:g}" for _, value in self._dials() if value is not None)

    def _dials(self) -> tuple[tuple[str, float | None], ...]:
        return ("ratio", self.ratio), ("keep_rate", self.keep_rate)
