"""Options from files: which file wins, what --print-config prints, and what is refused."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dataltt.pipeline.cli import COMMANDS
from dataltt.stages.options import Group, jsonable, options_of
from dataltt.stages.training.config import TrainConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..helpers import CliResult, run_cli, run_process

pytestmark = pytest.mark.usefixtures("own_folder")

_CONFIGS: dict[str, type[Group]] = {
    name: command.takes_config  # type: ignore[attr-defined]
    for commands in COMMANDS.values()
    for name, command in commands.items()
}
# What a command cannot do without.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "pack": ("photos", "shards"),
    "fit-selector": ("--model", "deit_s"),
    "select": ("--model", "deit_s"),
    "bake": ("--tickets", "a.zarr"),
    "label": ("--model", "deit_s", "--tickets", "a.zarr"),
    "eval": ("--checkpoint", "runs/a", "--test", "dense"),
    "inspect": ("a.zarr",),
    "view": ("a.zarr",),
    "push": ("a.zarr", "s3://bucket/a.zarr"),
    "pull": ("s3://bucket/a.zarr",),
    "card": ("a.zarr",),
    "verify": ("a.zarr",),
    "quality": ("--tickets", "a.zarr", "--judge", "deit_s"),
    "fidelity": ("--model", "deit_s"),
    "study": ("fashion",),
    "bench": ("join",),
    "store merge": ("a.zarr", "b.zarr", "--out", "c.zarr"),
    "store subset": ("a.zarr", "--out", "c.zarr"),
    "store thin": ("a.zarr", "--out", "c.zarr"),
    "store diff": ("a.zarr", "b.zarr"),
}


def _write(text: str, name: str = "dataltt.toml") -> None:
    Path(name).write_text(text + "\n", encoding="utf-8")


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= _flat(value) if isinstance(value, dict) else {key: value}
    return found


def _printed(command: str, *args: str) -> dict[str, Any]:
    result = run_cli(*command.split(), *args, "--print-config")
    assert (result.code, result.err) == (0, ""), result
    return _flat(tomllib.loads(result.out))


def _line(result: CliResult, name: str) -> str:
    (line,) = [line for line in result.out.splitlines() if line.startswith((f"{name} =", f"# {name} ="))]
    return line


def _refused(said: str, *args: str) -> None:
    result = run_cli(*args)
    assert (result.code, result.out) == (1, ""), result
    assert result.err == f"dataltt: {said}\n"


# --print-config


@pytest.mark.parametrize("command", _CONFIGS)
def test_what_is_printed_gives_the_same_again(command: str) -> None:
    required = _REQUIRED.get(command, ())
    first = run_cli(*command.split(), *required, "--print-config")
    assert (first.code, first.err) == (0, ""), first
    _write(first.out, "printed.toml")
    again = run_cli(*command.split(), "--config", "printed.toml", "--print-config")
    assert (again.code, again.err) == (0, ""), again
    assert tomllib.loads(again.out) == tomllib.loads(first.out)
    config = _CONFIGS[command]
    without_value = {line[2:-2] for line in first.out.splitlines() if line.startswith("# ")}
    assert {*_flat(tomllib.loads(first.out)), *without_value} == {d.name for d in options_of(config)}


@pytest.mark.parametrize("command", _CONFIGS)
def test_defaults_are_printed(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATALTT_CACHE")  # of all tests
    printed = _printed(command, *_REQUIRED.get(command, ()))
    defaults = {d.name: jsonable(d.default) for d in options_of(_CONFIGS[command]) if not d.is_required}
    given = {word[2:] for word in _REQUIRED.get(command, ())}
    assert {k: v for k, v in printed.items() if k in defaults and k not in given} == {
        k: v for k, v in defaults.items() if v is not None and k not in given
    }


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(tickets=_TEXT, lr=st.floats(0, 1e6), seed=st.integers(-(2**63), 2**63 - 1), compile_it=st.booleans())
def test_any_value_comes_through(tickets: str, lr: float, seed: int, compile_it: bool) -> None:
    flag = "--compile" if compile_it else "--no-compile"
    args = (f"--tickets={tickets}", f"--lr={lr!r}", f"--seed={seed}", flag)
    expected = {"tickets": tickets, "lr": lr, "seed": seed, "compile": compile_it}
    first = run_cli("train", *args, "--print-config")
    assert first.code == 0, first
    _write(first.out, "printed.toml")
    printed = _printed("train", "--config", "printed.toml")
    assert {name: printed[name] for name in expected} == expected


def test_where_a_value_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATALTT_SHARDS", "of-environment.tar")
    _write("[fit-selector.recipe]\nlr = 1e-3")
    _write("[recipe]\nepochs = 3", "mine.toml")
    result = run_cli("fit-selector", "--model", "deit_s", "--config", "mine.toml", "--print-config")
    assert _line(result, "model") == 'model = "deit_s"  # command line'
    assert _line(result, "shards") == 'shards = "of-environment.tar"  # $DATALTT_SHARDS'
    assert _line(result, "epochs") == "epochs = 3  # mine.toml"
    assert _line(result, "lr") == "lr = 0.001  # dataltt.toml"
    assert _line(result, "batch_size") == "batch_size = 128"
    assert _line(result, "ratio") == "# ratio ="


# Which one wins


def test_the_order_of_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    call = ("select", "--model", "deit_s", "--config", "mine.toml")
    _write("", "mine.toml")
    assert "shards" not in _printed(*call)
    _write('[data]\nshards = "of-data.tar"')
    assert _printed(*call)["shards"] == "of-data.tar"
    _write('[data]\nshards = "of-data.tar"\n[select]\nshards = "of-table.tar"')
    assert _printed(*call)["shards"] == "of-table.tar"
    _write('shards = "of-config.tar"', "mine.toml")
    assert _printed(*call)["shards"] == "of-config.tar"
    monkeypatch.setenv("DATALTT_SHARDS", "of-environment.tar")
    assert _printed(*call)["shards"] == "of-environment.tar"
    assert _printed(*call, "--shards", "typed.tar")["shards"] == "typed.tar"


def test_no_other_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {d.option.variable for config in _CONFIGS.values() for d in options_of(config)}
    assert variables == {None, "DATALTT_SHARDS", "DATALTT_CACHE", "DATALTT_CACHE_GB"}
    for name in ("DATALTT_LR", "DATALTT_TRAIN_LR", "LR"):
        monkeypatch.setenv(name, "3")
    assert _printed("train")["lr"] == 5e-4


def test_tables_of_other_commands_are_left_alone() -> None:
    _write(
        '[select]\nmodel = "deit_b"\n[select.cascade]\nratio = 0.5\n[train.recipe]\nlr = 0.1\n[train]\nmodel = "deit_t"'
    )
    assert {k: v for k, v in _printed("select").items() if k in ("model", "ratio")} == {"model": "deit_b", "ratio": 0.5}
    printed = _printed("train")
    assert (printed["model"], printed["lr"]) == ("deit_t", 0.1)


@pytest.mark.parametrize("table", ["fit-selector", "fit_selector"])
def test_names_with_either_dash(table: str) -> None:
    _write(f'[{table}]\nmodel = "deit_t"\nshrink-epochs = 2\n[{table}.recipe]\nbatch_size = 7')
    printed = _printed("fit-selector")
    assert (printed["model"], printed["shrink_epochs"], printed["batch_size"]) == ("deit_t", 2, 7)


def test_groups_are_optional_in_a_file() -> None:
    _write('lr = 0.1\nmodel = "deit_t"', "mine.toml")
    printed = _printed("train", "--config", "mine.toml")
    assert (printed["model"], printed["lr"]) == ("deit_t", 0.1)


def test_a_whole_dataltt_toml_of_another_name() -> None:
    _write('[data]\nshards = "a.tar"\n[select]\nmodel = "deit_b"\n[train.recipe]\nlr = 0.1', "all.toml")
    assert _printed("train", "--config", "all.toml")["lr"] == 0.1
    printed = _printed("select", "--config", "all.toml")
    assert (printed["model"], printed["shards"]) == ("deit_b", "a.tar")
    assert _printed("bench", "join", "--config", "all.toml")["what"] == "join"


def test_no_command_is_called_like_an_option() -> None:
    words = {word for config in _CONFIGS.values() for d in options_of(config) for word in (d.name, *d.groups)}
    assert not words & {name.replace("-", "_") for name in _CONFIGS}


def test_a_flag_turned_off_again() -> None:
    _write("[train.student]\ncompile = true\n[pack]\nshuffle = false")
    assert _printed("train")["compile"] is True
    assert _printed("train", "--no-compile")["compile"] is False
    assert _printed("pack", "photos", "shards")["shuffle"] is False
    assert _printed("pack", "photos", "shards", "--shuffle")["shuffle"] is True


def test_lists() -> None:
    _write("[weight-lottery]\nseeds = [3, 4]\n[select.cascade]\ndrop_blocks = '2,5'")
    assert _printed("weight-lottery")["seeds"] == [3, 4]
    assert _printed("weight-lottery", "--seeds", "7")["seeds"] == [7]
    assert _printed("select", "--model", "deit_s")["drop_blocks"] == [2, 5]
    assert _printed("select", "--model", "deit_s", "--drop-blocks", "1")["drop_blocks"] == [1]


def test_an_argument_by_position_may_stand_in_a_file() -> None:
    _write('[bench]\nwhat = "join"')
    assert _printed("bench")["what"] == "join"
    assert _printed("bench", "store")["what"] == "store"


def test_calls_from_python_read_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    _write("[train.recipe]\nlr = 3.0\n[data]\nshards = 'a.tar'")
    monkeypatch.setenv("DATALTT_SHARDS", "of-environment.tar")
    assert _printed("train")["lr"] == 3.0
    assert TrainConfig.of().recipe.lr == 5e-4
    assert TrainConfig.of().shards is None
    select = _CONFIGS["select"].of(model="deit_s")
    assert select.flat()["shards"] is None


_WITHOUT_TORCH = """
import sys
from dataltt.pipeline.cli import app
try:
    app(["train", "--config", "config.json", "--print-config"])
except SystemExit as stop:
    assert not stop.code
heavy = {"torch", "timm", "torchvision", "zarr", "pyarrow", "webdataset", "matplotlib", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_reading_files_imports_nothing_heavy() -> None:
    _write(json.dumps(_record()), "config.json")
    result = run_process([sys.executable, "-c", _WITHOUT_TORCH])
    assert (result.code, result.err) == (0, "")
    assert "lr = 0.1  # config.json\n" in result.out


def test_a_file_that_is_broken_does_not_spoil_the_help() -> None:
    _write("[data")
    assert run_cli("train", "--help").code == 0


# Refusals


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nlrr = 1", "[train]: dataltt train has no option 'lrr'; did you mean 'lr'?"),
        ("[train.recipe]\nlrr = 1", "[train.recipe]: dataltt train has no option 'lrr'; did you mean 'lr'?"),
        ("[train.recipes]\nlr = 1", "[train]: dataltt train has no group of options 'recipes'; did you mean 'recipe'?"),
        ("[train.mixing]\nlr = 1", "[train.mixing]: 'lr' does not stand in this table; put it into [train.recipe]"),
        (
            "[train.recipe]\ntest = 'own'",
            "[train.recipe]: 'test' does not stand in this table; put it into [train]",
        ),
        ("[train]\nrecipe = 1", "[train]: 'recipe' is a group of options; write it as a table"),
        ("[train]\nlr = 1\n[train.recipe]\nlr = 1", "'lr' stands there twice; keep one"),
        ("[train]\nbatch_size = 1\nbatch-size = 2", "'batch-size' stands there twice; keep one"),
        ("[trayn]\nlr = 1", "there is no command 'trayn'; did you mean 'train'?"),
        ("lr = 1", "there is no command 'lr'"),
        ("train = 1", "is not as it should be: train should be a table, [train]"),
        ("[fit_selector]\n[fit-selector]", "[fit-selector] stands there twice, with - and with _; keep one"),
        ("[data]\nshard = 'a'", "[data]: there is no 'shard'; it holds shards alone"),
        ("[train]\nlr = 'x'", "lr='x' should be a number"),
        ("[train]\nlr = -1", "lr=-1 should be at least 0"),
        ("[train]\nlr = inf", "lr=inf should be a finite number"),
        ("[train]\nbatch_size = 1.5", "batch_size=1.5 should be a whole number"),
        ("[train]\ncompile = 1", "compile=1 should be true or false"),
        ("[train]\nmin_crop = 0", "min_crop=0 should be above 0 and at most 1"),
        ("[train]\ntickets = 3", "tickets=3 should be text"),
        ("[train]\nopt = 'adam'", "opt='adam' should be one of adamw, sgd; did you mean 'adamw'?"),
        ("[train.recipe.lr]", "lr={} should be a number"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    comma = "," if said.startswith("[") and "twice" not in said else "" if said.startswith("is not") else ":"
    _write(text)
    _refused(f"dataltt.toml{comma} {said}", "train", "--print-config")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lrr = 1", "mine.toml: dataltt train has no option 'lrr'; did you mean 'lr'?"),
        ("[recipe]\nlrr = 1", "mine.toml, [recipe]: dataltt train has no option 'lrr'; did you mean 'lr'?"),
        ("[mixing]\nlr = 1", "mine.toml, [mixing]: 'lr' does not stand in this table; put it into [recipe]"),
        ("[data]\nshards = 'a'", "mine.toml, [data]: 'shards' does not stand in this table; put it before all tables"),
        ("lr = -1", "mine.toml: lr=-1 should be at least 0"),
        # A table of a command makes it a file like dataltt.toml.
        ("lr = 1\n[train]", "mine.toml: there is no command 'lr'"),
        ("[recipe]\nlr = 1\n[train]", "mine.toml: there is no command 'recipe'"),
    ],
)
def test_refusals_of_a_given_file(text: str, said: str) -> None:
    _write(text, "mine.toml")
    _refused(said, "train", "--config", "mine.toml", "--print-config")


@pytest.mark.parametrize("value", ["'3,x'", "'3,'", "[]", "[1.5]", "3"])
def test_lists_that_are_none(value: str) -> None:
    _write(f"[select.cascade]\ndrop_blocks = {value}")
    result = run_cli("select", "--model", "deit_s", "--print-config")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("dataltt: dataltt.toml: drop_blocks=")
    assert result.err.endswith(" should be whole numbers such as 3,6,9\n")


def test_files_that_cannot_be_read() -> None:
    _refused("--config none.toml: there is no such file", "train", "--config", "none.toml")
    Path("runs").mkdir()
    _refused("--config runs is a folder; give a file, such as runs/config.json", "train", "--config", "runs")
    Path("latin.toml").write_bytes(b"model = '\xe9'")
    result = run_cli("train", "--config", "latin.toml")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("dataltt: latin.toml is not valid TOML (")


def _record(**changes: Any) -> dict[str, Any]:
    document = {"dataltt": "0.2.0", "command": "train", "world_size": 1, "changes": []}
    return {**document, "options": {"recipe": {"lr": 0.1}}, "resolved": {}, **changes}


def test_a_record_as_a_file() -> None:
    resolved = {"runtime": {"workers": 3}}
    options = {"model": None, "recipe": {"lr": 0.1, "clip_grad": None}, "runtime": {"workers": None}}
    _write(json.dumps(_record(options=options, resolved=resolved)), "config.json")
    _write("[train.recipe]\nclip_grad = 1.0\nsmoothing = 0.2")
    printed = _printed("train", "--config", "config.json")
    # What a record says was not given is not taken from elsewhere. Workers are those that the run had.
    assert (printed["lr"], printed["smoothing"], printed["workers"]) == (0.1, 0.2, 3)
    assert "clip_grad" not in printed
    assert _printed("train", "--config", "config.json", "--clip-grad", "2")["clip_grad"] == 2


def test_a_record_may_say_that_there_is_no_value_where_the_default_has_one() -> None:
    options = {"model": "deit_s", "recipe": {"epochs": None}}
    _write(json.dumps(_record(command="fit-selector", options=options)), "config.json")
    assert "epochs" not in _printed("fit-selector", "--config", "config.json")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (_record(command="fit-selector"), "config.json is the record of dataltt fit-selector, not of train"),
        (_record(dataltt="9.1.0"), "config.json was written by dataltt 9.1.0, and this is "),
        (
            {"tool_version": "0.1.0", "lr": 1e-3},
            "config.json was written by dataltt 0.1.0, whose options this version ",
        ),
        ({}, "config.json is not the record of a run; "),
        ([], "config.json is not the record of a run; "),
        (_record(dataltt=3), "config.json is not the record of a run; "),
        (_record(options=[]), "config.json is not the record of a run ("),
        (_record(more=1), "config.json is not the record of a run ("),
        (_record(options={"recipe": {"lrr": 1}}), "config.json, [options.recipe]: dataltt train has no option 'lrr'; "),
        (_record(options={"recipe": {"lr": -1}}), "config.json: lr=-1 should be at least 0"),
        (_record(options={"recipe": {"lr": None}}), "config.json: lr=None should be a number"),
    ],
)
def test_records_that_are_refused(document: Any, said: str) -> None:
    _write(json.dumps(document), "config.json")
    result = run_cli("train", "--config", "config.json", "--print-config")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"dataltt: {said}")
