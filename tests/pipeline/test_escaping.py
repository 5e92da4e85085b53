"""Names from strangers as they are shown: in a terminal, in tables, on pages, on cards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jinja2
import pytest
from dataltt.artifacts_schema import OptionError, read_manifest
from dataltt.pipeline.ends import say, warn
from dataltt.pipeline.escaping import cell, in_document, in_page, shown
from dataltt.pipeline.progress import LineReporter, TerminalReporter
from dataltt.pipeline.reports.card import card_page
from dataltt.pipeline.unexpected import end_by
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from rich.console import Console
from rich.text import Text

from ..helpers import SmallStore, run_cli
from ..schema_helpers import edit_manifest

HOSTILE = "[/nope][red]<script>\x1b[2J\x07\u202egpj.exe\u2066\r\nok tickets\u2028$x^{$"
OBEYED = "\x1b\x07\u202e\u2066\r\u2028\x9b\u200f"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain [text] of ours", "plain [text] of ours"),
        ("klasse_0/bild-é, 猫, 🐈\u200d⬛", "klasse_0/bild-é, 猫, 🐈\u200d⬛"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\x7f\x9b\u2028\ufeff", "\\x7f\\x9b\\u2028\\ufeff"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        (12, "12"),
    ],
)
def test_what_is_not_seen_is_written_out(text: object, seen: str) -> None:
    assert shown(text) == seen


@given(st.text())
def test_any_text_is_one_line_that_can_be_printed(text: str) -> None:
    seen = shown(text)
    assert "\n" not in seen
    assert not set(seen) & set(OBEYED)
    assert shown(seen) == seen
    assert shown(text, keep="\n").count("\n") == text.count("\n")
    seen.encode()


@given(st.text())
def test_no_text_is_markup_in_a_table(text: str) -> None:
    assert Text.from_markup(cell(text)).plain.rstrip("\\") == shown(text).rstrip("\\")


def test_pages_and_their_scripts_show_no_marks() -> None:
    environment = jinja2.Environment(autoescape=True, finalize=in_page)
    page = environment.from_string("{{ name }} {{ number }} {{ ours }}")
    assert page.render(name="<b>\u202e\x1b", number=3, ours=Markup("<i>")) == "&lt;b&gt;\\u202e\\x1b 3 <i>"
    assert in_document({"a\x1b": ["\u202e", (1, None, True)]}) == {"a\\x1b": ["\\u202e", [1, None, True]]}


def test_lines_and_sentences_reach_the_terminal_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    warn(HOSTILE)
    assert end_by(OptionError(HOSTILE)) == 1
    assert end_by(MemoryError(HOSTILE)) == 1
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert len(said.err.splitlines()) == 3
    assert not set(said.out + said.err) & set(OBEYED)


def test_progress_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    console = Console(file=sys.stderr, force_terminal=False, width=300)
    for reporter in (TerminalReporter(console), LineReporter(sys.stderr)):
        reporter.start(HOSTILE, 2, "images")
        reporter.advance(1, HOSTILE)
        reporter.message(HOSTILE)
        reporter.finish()
    said = capsys.readouterr().err
    assert not set(said) & set(OBEYED)
    assert said.count("[/nope][red]<script>\\x1b[2J") >= 5


@pytest.fixture
def hostile_store(small: SmallStore, tmp_path: Path) -> Path:
    store = Path(shutil.copytree(small.store, tmp_path / "store.zarr"))

    def rename(manifest: dict[str, dict[str, str]]) -> None:
        manifest["selector"]["model"] = HOSTILE
        manifest["dataset"]["name"] = manifest["dataset"]["split"] = HOSTILE
        manifest["tool_version"] = manifest["created"] = HOSTILE  # type: ignore[assignment]

    edit_manifest(store, rename)
    return store


def test_a_store_of_odd_names_is_shown(hostile_store: Path, small: SmallStore, own_folder: None) -> None:
    for command in (
        ["inspect", hostile_store, "--png", "a.png"],
        ["verify", hostile_store],
        ["store", "diff", hostile_store, small.store],
        ["card", hostile_store],
    ):
        ended = run_cli(*command)
        assert ended.code == 0, ended
        assert not set(ended.out + ended.err) & set(OBEYED)
    inspected = run_cli("inspect", hostile_store, "--json").out
    assert json.loads(inspected)["manifest"]["selector"]["model"] == HOSTILE
    assert inspected.isascii()


def test_a_card_of_odd_names_has_no_markup_of_theirs(hostile_store: Path) -> None:
    page = card_page(read_manifest(hostile_store), {})
    assert not set(page) & set(OBEYED)
    body = page.split("---", 2)[2]
    assert "<script>" not in "".join(body.split("```")[::2])
