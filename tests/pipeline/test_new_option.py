"""Adding a train option is one edit: one annotated field of a config, and everything else follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from dataltt.pipeline.commands.select import select
from dataltt.pipeline.commands.train import train
from dataltt.pipeline.options import ConfiguredCommand, takes
from dataltt.stages.options import Option
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.groups import Recipe

from ..helpers import MODEL, CliResult, SmallStore, run_cli

pytestmark = pytest.mark.usefixtures("own_folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecipe(Recipe):
    """The recipe with one option more."""

    sharpness: Annotated[float | None, Option(help="How sharp it is.", min=0, max=9)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConfig(TrainConfig):
    """Options of train with that recipe."""

    recipe: NewRecipe = NewRecipe()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, small: SmallStore) -> Callable[..., CliResult]:
    """The command line whose train takes that config; a call of train is for one step in `run`."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command("train", cls=ConfiguredCommand)(takes(NewConfig)(train.runs))  # type: ignore[attr-defined]
    app.command("select", cls=ConfiguredCommand)(select)
    monkeypatch.setattr("dataltt.pipeline.cli.app", app)
    base = ("--tickets", small.store, "--model", MODEL, "--out", "run", "--device", "cpu")

    def run(*options: object) -> CliResult:
        return run_cli("train", *base, "--workers", 0, "--batch-size", 6, "--max-steps", 1, *options)

    return run


def _record() -> Any:
    return json.loads(Path("run/config.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("call")
def test_it_is_in_the_help() -> None:
    said = run_cli("train", "--help").out
    panel = said[said.index("Recipe (defaults: DeiT's)") :]
    assert "--sharpness" in panel
    assert "How sharp it is." in panel
    assert "[0<=x<=9]" in panel or "x>=0, x<=9" in panel


def test_it_is_taken_recorded_and_compared(call: Callable[..., CliResult]) -> None:
    Path("mine.toml").write_text("[recipe]\nsharpness = 2\n", encoding="utf-8")
    assert call("--config", "mine.toml").code == 0
    assert _record()["options"]["recipe"]["sharpness"] == 2
    assert _record()["resolved"]["recipe"]["sharpness"] == 2

    other = call("--resume", "--sharpness", 3)
    assert (other.code, other.out) == (1, "")
    assert "run is another run (sharpness was 2.0 and is 3.0); give the same options" in other.err
    assert call("--resume", "--sharpness", 2).code == 0
    assert call("--resume").code == 0
    assert _record()["changes"] == []


def test_it_is_checked_in_a_file(call: Callable[..., CliResult]) -> None:
    Path("dataltt.toml").write_text("[train.recipe]\nsharpness = 10\n", encoding="utf-8")
    result = call()
    assert result.code == 1
    assert result.err == "dataltt: dataltt.toml: sharpness=10 should lie between 0 and 9\n"
    assert call("--config", "run/config.json").code == 1
    assert not Path("run").exists()


def test_a_run_from_before_it_was_there_has_its_default(call: Callable[..., CliResult]) -> None:
    assert call().code == 0
    record = _record()
    del record["options"]["recipe"]["sharpness"], record["resolved"]["recipe"]["sharpness"], record["checksum"]
    Path("run/config.json").write_text(json.dumps(record), encoding="utf-8")
    assert call("--resume").code == 0
    assert "sharpness was None and is 1.0" in call("--resume", "--sharpness", 1).err
