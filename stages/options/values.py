"""Values of options: their types and bounds, checked alike on the command line, in files and in Python."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ...artifacts_schema.errors import OptionError

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
        instead_of_url: of a path, what to do where a URL was given.
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
    instead_of_url: str = "give a local one"
    on_resume: OnResume = "same"


def checked_value(name: str, value: Any, kind: Any, option: Option) -> Any:
    """A value as its option's type has it (a path of text, a tuple of a list).

    Raises:
        OptionError: it is of another type, no choice, or out of bounds.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None and type(None) in kinds:
        return None
    (plain,) = [k for k in kinds if k is not type(None)]
    checked = _typed(name, value, plain, option.instead_of_url)
    if isinstance(checked, int | float) and not isinstance(checked, bool):
        _check_bounds(name, checked, option)
    return checked


# As a path, s3://a is s3:/a.
_LIKE_A_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


def _typed(name: str, value: Any, kind: Any, instead: str = "give a local one") -> Any:
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
            if _LIKE_A_URL.match(str(value)) and not Path(value).exists():
                url = re.sub(":/+", "://", str(value), count=1)
                raise OptionError(f"`{name}={url!r}` is a URL, and `{name}` is a path on this machine; {instead}")
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


def seed_numbers(value: Any) -> tuple[int, ...]:
    """Whole numbers as of `whole_numbers`, no two of them the same.

    Raises:
        ValueError: it is no such text; says what it should be.
    """
    numbers = whole_numbers(value)
    if len(set(numbers)) != len(numbers):
        raise ValueError("different whole numbers such as 0,1,2")
    return numbers


def shares(value: Any) -> tuple[float, ...]:
    """Shares of a text such as 0.7,0.5; a list passes, and so does a single number.

    Raises:
        ValueError: it is no such text; says what it should be.
    """
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value
    try:
        found = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        found = ()
    if not found or any(isinstance(part, bool) for part in parts) or not all(0 < share <= 1 for share in found):
        raise ValueError("shares in (0, 1] such as 0.7,0.5")
    return found


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
