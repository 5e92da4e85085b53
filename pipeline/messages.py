"""The library's messages in the command line's words: options that they name become flags.

The library names an option as Python spells it, between backticks: `num_classes`, or with a value `ranks=True`.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import PurePath

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
# A name, and a value: a quoted text, which may hold backticks of its own, or anything else without them. It stands by
# itself, as backticks in the middle of a path do not.
_OPTION = rf"(?<![^\s(])`(?P<name>[a-z][a-z0-9_]*)(?:=(?P<value>{_QUOTED}|[^`]+))?`(?![^\s).,:;?!])"
# What is quoted by itself is a name or a path as Python shows it.
_NAME = rf"(?<![^\s(])(?:{_QUOTED})(?!\w)"
_NUMBERS = re.compile(r"\((?P<numbers>[0-9., -]+)\)")


def as_flags(text: str, given: Sequence[str] | None = None) -> str:
    """The text with every option between backticks spelt as the command line spells it.

    `num_classes` becomes --num-classes, `on_bad_image='skip'` --on-bad-image skip, `ranks=True` --ranks, `ranks=False`
    --no-ranks, `drop_blocks=(3, 6, 9)` --drop-blocks 3,6,9. What a shell would take apart is quoted. Other text between
    backticks stays as it is, and so does what the user gave: paths may have backticks of their own.

    Args:
        given: the words of the command line. Default: this process's.
    """
    own = _with_backticks(sys.argv[1:] if given is None else given)
    return re.sub("|".join([*map(re.escape, own), _NAME, _OPTION]), _flag, text)


def _with_backticks(words: Iterable[str]) -> list[str]:
    """Texts that a message may repeat of words with backticks, the longest first: paths, and parts of patterns."""
    found: set[str] = set()
    for word in words:
        if "`" in word:
            path = word.partition("=")[2] if word.startswith("-") and "=" in word else word
            found.update((path, str(PurePath(path)), *re.split(r"[/*?\[\]{},]", path)))
    return sorted((part for part in found if "`" in part and part.strip("`")), key=len, reverse=True)


def _flag(option: re.Match[str]) -> str:
    if option["name"] is None:
        return option[0]
    name, value = option["name"].replace("_", "-"), option["value"]
    if value is None or value == "True":
        return f"--{name}"
    if value == "False":
        return f"--no-{name}"
    if value[0] in "'\"":
        value = _unquoted(value)
    elif numbers := _NUMBERS.fullmatch(value):
        value = numbers["numbers"].replace(" ", "").rstrip(",")
    return f"--{name} {shlex.quote(value)}"


def _unquoted(literal: str) -> str:
    """The text that a Python literal stands for. With control characters it stays escaped: it may be somebody else's,
    and is on its way to a terminal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know stands for itself
            text = str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):
        return literal
    return text if text.isprintable() else literal
