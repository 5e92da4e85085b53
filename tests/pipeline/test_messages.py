"""The library names options as Python spells them; the command line turns them into flags."""

from __future__ import annotations

import ast
import io
import re
import shlex
from pathlib import Path

import dataltt.artifacts_schema
import dataltt.stages
import pytest
from dataltt.pipeline.messages import as_flags
from dataltt.pipeline.progress import LineReporter, TerminalReporter
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ..helpers import run_cli

_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
_PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("pass `num_classes`", "pass --num-classes"),
        ("pass `on_bad_image='skip'`, or mend it", "pass --on-bad-image skip, or mend it"),
        ("select again with `ranks=True`", "select again with --ranks"),
        ("leave out `shuffle=False`", "leave out --no-shuffle"),
        ("`min_crop=0.3` lies outside", "--min-crop 0.3 lies outside"),
        ("`lr=-1e-05` is below 0", "--lr -1e-05 is below 0"),
        ("give `drop_blocks=(3, 6, 9)`", "give --drop-blocks 3,6,9"),
        ("give `seeds=(0,)`", "give --seeds 0"),
        ("pass `tickets=STORE`", "pass --tickets STORE"),
        ("`shards='t-{0..9}.tar'` names", "--shards 't-{0..9}.tar' names"),
        ("`out='my run'` exists", "--out 'my run' exists"),
        ("`name=''` should be a plain name", "--name '' should be a plain name"),
        ("`name='a`b'` and `seed=1`", "--name 'a`b' and --seed 1"),
        ('`name="it\'s"` is taken', "--name 'it'\"'\"'s' is taken"),
        ("`name='\\x1b[2J'` is taken", "--name ''\"'\"'\\x1b[2J'\"'\"'' is taken"),
        ("exactly one of `ratio` and `keep_rate`", "exactly one of --ratio and --keep-rate"),
        ("a`b: pass `shards`", "a`b: pass --shards"),
    ],
)
def test_options_become_flags(said: str, shown: str) -> None:
    assert as_flags(said) == shown


@pytest.mark.parametrize(
    "text",
    ["", "no option", "run `dataltt select --augment deit`", "`View`", "`_hidden`", "`9`", "``", "`", "`a b`", "`lr=`"],
)
def test_anything_else_stays_as_it_is(text: str) -> None:
    assert as_flags(text) == text


@given(st.text(st.characters(exclude_characters="`", exclude_categories=("Cs",))))
def test_text_without_backticks_stays_as_it_is(text: str) -> None:
    assert as_flags(text) == text


@given(st.text("`ab=_ '\"\\\nx1(,)-"))
def test_no_text_is_refused_and_a_line_stays_a_line(text: str) -> None:
    assert as_flags(text).count("\n") == text.count("\n")


_ODD = st.text("`=ab_ '1./", min_size=1, max_size=12)


@given(_ODD, _NAMES, st.sampled_from(["", "=c", "=1 ", "='x'"]), _ODD)
def test_a_path_that_was_given_stays_as_it_is(before: str, name: str, value: str, after: str) -> None:
    path = f"{before}`{name}{value}`{after}"
    for given_as in (path, f"--out={path}", f"{path}/t-*.tar"):
        shown = as_flags(f"{path} exists; pass `overwrite=True`", [given_as])
        assert shown == f"{path} exists; pass --overwrite"


@given(st.text("`=ab_1./", min_size=1, max_size=12), _NAMES)
def test_a_path_without_spaces_that_nobody_gave_stays_as_it_is(around: str, name: str) -> None:
    path = f"a{around}`{name}=c`.zarr"
    assert as_flags(f"{path} is damaged; pass `overwrite=True`", []) == f"{path} is damaged; pass --overwrite"


@given(_PRINTABLE, _NAMES)
def test_a_key_that_is_quoted_stays_as_it_is(around: str, name: str) -> None:
    key = f"{around} `{name}=1` {around}"
    assert as_flags(f"sample {key!r} has none; pass `seed=1`", []) == f"sample {key!r} has none; pass --seed 1"


@given(_NAMES, _PRINTABLE)
def test_a_shell_reads_the_value_that_was_named(name: str, value: str) -> None:
    words = shlex.split(as_flags(f"pass `{name}={value!r}` anew"))
    assert words == ["pass", "--" + name.replace("_", "-"), value, "anew"]


@given(_NAMES, st.text())
def test_what_is_shown_has_no_control_characters(name: str, value: str) -> None:
    assert as_flags(f"pass `{name}={value!r}`").isprintable()


@given(st.lists(_NAMES, min_size=1, max_size=4))
def test_every_option_of_a_message_is_translated(names: list[str]) -> None:
    flags = [f"--{name.replace('_', '-')}" for name in names]
    assert as_flags(", or ".join(f"`{name}`" for name in names)) == ", or ".join(flags)


@given(_NAMES, st.one_of(st.integers(), st.floats(allow_nan=False)))
def test_numbers_are_shown_as_they_were_written(name: str, value: float) -> None:
    assert as_flags(f"`{name}={value!r}`") == f"--{name.replace('_', '-')} {value!r}"


def test_reporters_show_flags_in_the_librarys_messages() -> None:
    lines, terminal = io.StringIO(), io.StringIO()
    LineReporter(lines).message("raise `max_steps`")
    TerminalReporter(Console(file=terminal, width=80)).message("raise `max_steps`")
    assert (lines.getvalue(), terminal.getvalue()) == ("raise --max-steps\n",) * 2


def test_headings_stand_below_an_empty_line() -> None:
    for make in (LineReporter, lambda stream: TerminalReporter(Console(file=stream, width=80))):
        said = io.StringIO()
        reporter = make(said)
        reporter.message("before")
        reporter.heading("testing")
        assert said.getvalue() == "before\n\ntesting\n"


_FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_COMMAND = re.compile(r"\b(?:dataltt [a-z-]+|docker run|tar)[^;,`\n]*")


def _texts(path: Path) -> list[str]:
    """The string literals of a module, docstrings among them; of f-strings, {} stands for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pieces: set[int] = set()
    texts = []
    for node in ast.walk(tree):  # an f-string comes before its pieces
        if isinstance(node, ast.JoinedStr):
            pieces.update(id(part) for part in node.values)
            texts.append("".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
            texts.append(node.value)
    return texts


def _flags_in(text: str) -> list[str]:
    return _FLAG.findall(_COMMAND.sub("", text))


def test_the_scan_finds_flags_outside_of_commands() -> None:
    assert _flags_in("pass --num-classes, or --ranks") == ["--num-classes", "--ranks"]
    assert _flags_in("write them with: dataltt label --model M --tickets {}; or --overwrite") == ["--overwrite"]
    assert _flags_in("a -- b, rounds --- 1, x--y") == []


def _modules() -> list[tuple[str, Path]]:
    roots = [Path(p) for package in (dataltt.stages, dataltt.artifacts_schema) for p in package.__path__]
    return [(path.relative_to(root.parent).as_posix(), path) for root in roots for path in sorted(root.rglob("*.py"))]


@pytest.mark.parametrize("name", ["a`b=c`.zarr", "`seed`", "x `seed=1` y"])
def test_the_command_line_shows_a_path_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert f"there is no ticket store at {path}; " in run_cli("inspect", path).err
    assert f"there is no ticket store at {path}; make one" in run_cli("verify", path).out


def test_options_stand_by_themselves_in_every_message_of_the_library() -> None:
    named = re.compile(r"`[a-z][a-z0-9_]*(?:=[^`]+)?`(?!'s)")  # not of docstrings
    left = []
    for module, path in _modules():
        for text in _texts(path):
            shown = as_flags(text, [])
            left += [(module, option) for option in named.findall(shown)]
    assert left == []


def test_the_library_names_no_flags() -> None:
    assert len(_modules()) > 60
    found = {name: [f for text in _texts(path) for f in _flags_in(text)] for name, path in _modules()}
    assert {name: flags for name, flags in found.items() if flags} == {}
