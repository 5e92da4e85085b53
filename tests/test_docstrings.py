"""Docstrings open with a plain verb or noun, and what is public has one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
_ROOMS = ("artifacts_schema", "stages", "pipeline")
# A docstring that opens with one of these is a riddle ("What came of a run.").
_RIDDLES = frozenset(("what", "which", "how", "whether", "where", "why", "when", "who", "whatever", "whose"))
_MAX_LINES_WITHOUT = 5  # shorter functions may say all by their names and types

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Found(NamedTuple):
    """A module, class or function: its place, whether users of the library may see it, its length, its docstring."""

    place: str
    is_public: bool
    num_lines: int | None  # None of modules and classes, which always need a docstring
    docstring: str | None

    @property
    def first_word(self) -> str:
        """First word of the docstring in small letters, without what stands around it."""
        return (self.docstring or "").split(maxsplit=1)[0].strip("`*\"'([,.:;)]").lower() if self.docstring else ""


def _found(node: ast.AST, file: str, is_public: bool = True) -> Iterator[Found]:
    """Yields what has a docstring or might have one below `node`, itself first; what stands in functions is private."""
    if isinstance(node, _Documented):
        name = getattr(node, "name", "")
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_public = is_public and not name.startswith("_")
        num_lines = (node.end_lineno or 0) - node.lineno + 1 if is_function else None
        place = f"{file}:{getattr(node, 'lineno', 1)} {name}".strip()
        yield Found(place, is_public, num_lines, ast.get_docstring(node))
        is_public = is_public and not is_function
    for child in ast.iter_child_nodes(node):
        yield from _found(child, file, is_public)


def _found_in(text: str) -> list[Found]:
    """Lists what a module of this text documents, or might."""
    return list(_found(ast.parse(text), "x.py"))


@pytest.fixture(scope="module")
def found() -> list[Found]:
    """Lists the modules, classes and functions of the three packages and of the tests' helpers."""
    files = [file for room in _ROOMS for file in sorted((ROOT / room).rglob("*.py"))]
    files += sorted((ROOT / "tests").rglob("*helpers*.py"))
    return [
        each
        for file in files
        for each in _found(ast.parse(file.read_text(encoding="utf-8")), str(file.relative_to(ROOT)))
    ]


def _riddles(found: list[Found]) -> list[str]:
    return [f"{f.place}: {f.docstring}" for f in found if f.first_word in _RIDDLES]


def _undocumented(found: list[Found]) -> list[str]:
    public = [f for f in found if f.is_public and not f.docstring]
    return [f.place for f in public if f.num_lines is None or f.num_lines > _MAX_LINES_WITHOUT]


def test_docstrings_open_with_a_plain_verb_or_noun(found: list[Found]) -> None:
    assert len(found) > 900
    assert _riddles(found) == []


def test_what_is_public_has_a_docstring(found: list[Found]) -> None:
    assert _undocumented(found) == []


@pytest.mark.parametrize("word", ["What", "which", "`How`", "Whether", "Where,", "(When"])
def test_a_riddle_is_found_wherever_it_stands(word: str) -> None:
    text = f'"""Module."""\nclass _C:\n    def f(self):\n        def g():\n            """{word} it is."""\n'
    assert _riddles(_found_in(text)) == [f"x.py:4 g: {word} it is."]


def test_whatnot_is_a_plain_noun() -> None:
    assert _riddles(_found_in('"""Whatnot."""')) == []


def test_only_what_is_public_and_long_must_be_documented() -> None:
    body = "\n".join(f"        x = {i}" for i in range(5))
    text = (
        f"class C:\n    def long(self):\n{body}\n    def _private(self):\n{body}\n    def short(self): ...\n"
        f"class _P:\n    def long(self):\n{body}\n"
        f'def outer():\n    """Documented."""\n    def inner():\n{body}\n'
    )
    assert _undocumented(_found_in(text)) == ["x.py:1", "x.py:1 C", "x.py:2 long"]
