"""The docs say what is true of the tree: the map of the files, links, pages of the site, options of commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from dataltt.pipeline.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_ROOMS = ("artifacts_schema", "stages", "pipeline")
_AT_THE_TOP = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def _tree() -> set[str]:
    """Folders that are packages, and modules, by their paths from the top."""
    found = set()
    for path in (p for room in _ROOMS for p in (ROOT / room).rglob("*.py")):
        found.add(str((path.parent if path.name == "__init__.py" else path).relative_to(ROOT)))
    return found


def _map() -> list[str]:
    """Folders and modules on the map, in its order."""
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    found, folder = [], ""
    for line in text[text.index("\n## The map\n") :].splitlines():
        if heading := re.match(r"### (\S+)$", line):
            folder = heading[1]
            found.append(folder)
        elif item := re.match(r"- `(\S+\.py)`: \S", line):
            found.append(f"{folder}/{item[1]}")
    return found


def test_every_module_is_on_the_map_and_nothing_else() -> None:
    found = _map()
    assert len(found) == len(set(found))
    assert set(found) == _tree()


def test_the_map_is_in_order() -> None:
    modules = [name for name in _map() if name.endswith(".py")]
    for folder in {name.rsplit("/", 1)[0] for name in modules}:
        inside = [name for name in modules if name.rsplit("/", 1)[0] == folder]
        assert inside == sorted(inside)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    links = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    places = [ROOT / _AT_THE_TOP[link] if link in _AT_THE_TOP else page.parent / link for link in links]
    assert [str(place) for place in places if ":/" not in str(place) and not place.exists()] == []


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    nav = re.findall(r"(?m)^  - [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(nav) == sorted([*(p.name for p in (ROOT / "docs").glob("*.md")), *_AT_THE_TOP])


def _commands_in(text: str) -> list[tuple[str, list[str]]]:
    """(command, flags) of each `dataltt COMMAND … --flag …` in code, whether inline or a line of a block."""
    blocks = re.findall(r"(?ms)^ *```[^\n]*\n(.*?)^ *```", text)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^ *```.*?^ *```", "", text))
    found = []
    for code in [*lines, *inline]:
        after_comment = code.split("#")[0]
        if match := re.search(r"(?:^|dataltt )(" + "|".join(_COMMANDS) + r")\b(.*)", after_comment):
            found.append((match[1], re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", match[2])))
    return found


def _named(commands: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Commands by the words that call them; of groups, those in them, and the group itself."""
    for name, command in commands.items():
        yield from ((f"{name} {inner}", each) for inner, each in getattr(command, "commands", {}).items())
        yield name, command


_COMMANDS = dict(_named(typer.main.get_command(app).commands))  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_commands_on_the_page_take_the_options_they_are_given(page: Path) -> None:
    unknown = []
    for name, flags in _commands_in(page.read_text(encoding="utf-8")):
        known = {flag for parameter in _COMMANDS[name].params for flag in parameter.opts}
        unknown += [f"{name} {flag}" for flag in flags if flag not in {*known, "--help"}]
    assert unknown == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda p: p.name)
def test_files_named_on_the_page_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:artifacts_schema|stages|pipeline|tests|docs)/[\w./-]*)`", page.read_text(encoding="utf-8")
    )
    there = [ROOT / name for name in named if "NAME" not in name]
    assert [str(p) for p in there if not p.exists() and not p.with_name(f"{p.name}.py").exists()] == []
