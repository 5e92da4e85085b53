"""The library's messages in the command line's words: options that they name become flags.

The library names an option as Python spells it, between backticks: `num_classes`, or with a value `ranks=True`.
"""

from __future__ import annotations

import ast
import re
import shlex
import warnings

# A name, and a value: a quoted text, which may hold backticks of its own, or anything else without them.
_OPTION = re.compile(r"""`(?P<name>[a-z][a-z0-9_]*)(?:=(?P<value>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^`]+))?`""")
_NUMBERS = re.compile(r"\((?P<numbers>[0-9., -]+)\)")


def as_flags(text: str) -> str:
    """The text with every option between backticks spelt as the command line spells it.

    `num_classes` becomes --num-classes, `on_bad_image='skip'` --on-bad-image skip, `ranks=True` --ranks, `ranks=False`
    --no-ranks, `drop_blocks=(3, 6, 9)` --drop-blocks 3,6,9. What a shell would take apart is quoted. Other text between
    backticks stays as it is.
    """
    return _OPTION.sub(_flag, text)


def _flag(option: re.Match[str]) -> str:
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
