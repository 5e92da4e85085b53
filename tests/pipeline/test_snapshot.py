"""No option appears, disappears or changes unnoticed."""

from __future__ import annotations

from .snapshot import SNAPSHOT, text


def test_the_options_are_those_of_the_snapshot() -> None:
    hint = "if that is meant, write it anew: python -m tests.pipeline.snapshot"
    assert text() == SNAPSHOT.read_text(encoding="utf-8"), hint
