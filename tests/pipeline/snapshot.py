"""All options of all commands, a line each: `python -m tests.pipeline.snapshot` writes options.txt anew, on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from dataltt.pipeline.cli import COMMANDS
from dataltt.stages.options import Declared, jsonable, options_of

SNAPSHOT = Path(__file__).with_name("options.txt")


def lines() -> Iterator[str]:
    """Command, group, name, type, default, bounds, and what a run that goes on does about it."""
    for commands in COMMANDS.values():
        for name, command in commands.items():
            config: Any = command.takes_config  # type: ignore[attr-defined]
            yield f"[{name}]"
            declared = options_of(config)
            has_runs = any(d.name == "resume" for d in declared)
            for each in declared:
                yield _line(each) + (f", on resume {each.option.on_resume}" if has_runs else "")
            yield ""


def _line(d: Declared) -> str:
    o = d.option
    default = "required" if d.is_required else f"= {jsonable(d.default)!r}"
    bounds = [
        f"{sign} {value:g}"
        for sign, value in (("≥", o.min), (">", o.above), ("≤", o.max), ("<", o.below))
        if value is not None
    ]
    traits = ["argument"] * o.is_argument + ["common"] * o.is_common + [f"${o.variable}"] * bool(o.variable)
    words = [".".join((*d.groups, d.name)) + ":", _kind(d.kind), default, *bounds, *traits]
    return " ".join(words)


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_kind(get_args(kind)[0])}, …"
    if get_args(kind):
        return " or ".join(_kind(k) for k in get_args(kind))
    return "none" if kind is type(None) else str(kind.__name__)


def text() -> str:
    """The whole snapshot."""
    return "\n".join(lines()).rstrip() + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(text(), encoding="utf-8")
