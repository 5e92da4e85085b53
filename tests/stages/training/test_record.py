"""The record of a run, and going on with it: by its own options, and what may change."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import CheckpointError, OptionError, OutputExistsError, read_manifest
from dataltt.stages.training.config import FitSelectorConfig, TrainConfig
from dataltt.stages.training.fit_selector import fit_selector
from dataltt.stages.training.record import RunRecord, begin_run, new_record, read_record, recorded_option, resume_run
from dataltt.stages.training.train import train

from ...helpers import (
    MODEL,
    Sample,
    SmallStore,
    fashion_samples,
    file_digests,
    make_shards,
    run_cli,
    run_on_two_ranks,
)

pytestmark = pytest.mark.usefixtures("own_folder")

_OPTIONS: dict[str, Any] = {"model": MODEL, "workers": 0, "batch_size": 6, "epochs": 1, "log_steps": 1, "device": "cpu"}


def _flags(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def _train(small: SmallStore, out: Path | str, **changes: Any) -> Any:
    return train(TrainConfig.of(**{**_OPTIONS, "tickets": small.store, "out": out, **changes}))


def _record_of(run: str) -> RunRecord:
    record = read_record(Path(run) / "config.json")
    assert record is not None
    return record


def _call(*args: object) -> str:
    """What a call of train that goes well says on standard error."""
    result = run_cli("train", *args)
    assert result.code == 0, result.err
    return result.err


def _losses(run: Path | str) -> list[float]:
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def _read(run: Path | str) -> Any:
    return json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))


# The record


def _record(config: TrainConfig, **changes: Any) -> RunRecord:
    return replace(new_record(config, config, command="train", world_size=1), **changes)


def test_a_record_is_what_was_given_and_what_came_of_it(small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataltt.stages.training.elastic.num_workers_for", lambda asked, _: 0)
    _train(small, "run", max_steps=1, workers=None)
    record = _read("run")
    assert list(record) == [
        "dataltt",
        "command",
        "options",
        "resolved",
        "world_size",
        "folder",
        "ticket_store",
        "samples",
        "changes",
        "checksum",
    ]
    assert (record["dataltt"], record["command"], record["world_size"]) == ("0.2.0", "train", 1)
    assert record["options"]["runtime"]["workers"] is None
    assert record["resolved"]["runtime"]["workers"] == 0
    assert (record["options"]["shards"], record["resolved"]["shards"]) == (None, small.shards)
    assert (record["options"]["views"]["view_mode"], record["resolved"]["views"]["view_mode"]) == (None, "static")
    for options in (record["options"], record["resolved"]):
        assert options["run"] == {"max_steps": 1, "seed": 0}  # its folder is where it is, wherever it is moved
    assert TrainConfig.of(**_plain(record["options"])) == TrainConfig.of(
        **{**_OPTIONS, "workers": None}, tickets=small.store, max_steps=1
    )


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= _plain(value) if isinstance(value, dict) else {name: value}
    return found


def test_a_record_that_was_changed_is_refused_unless_on_purpose(tmp_path: Path) -> None:
    begin_run(tmp_path / "run", _record(TrainConfig.of(lr=0.25)))
    path = tmp_path / "run" / "config.json"
    document = json.loads(path.read_text())
    document["resolved"]["recipe"]["lr"] = 0.125
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"config.json is not what dataltt wrote.*delete its line 'checksum'"):
        read_record(path)
    del document["checksum"]
    path.write_text(json.dumps(document))
    found = read_record(path)
    assert found is not None
    assert recorded_option(found, "lr") == 0.125


def test_a_record_comes_back(tmp_path: Path) -> None:
    record = _record(TrainConfig.of(lr=0.25, tickets="a.zarr"))
    begin_run(tmp_path / "run", record)
    assert read_record(tmp_path / "run" / "config.json") == record
    assert recorded_option(record, "lr") == 0.25
    assert record.options["tickets"] == record.resolved["tickets"] == "a.zarr"
    assert record.folder == str(Path.cwd())
    assert read_record(tmp_path / "none.json") is None


def test_a_run_begins_in_an_empty_folder_alone(tmp_path: Path) -> None:
    record = _record(TrainConfig.of())
    (tmp_path / "empty").mkdir()
    begin_run(tmp_path / "empty", record)
    with pytest.raises(OutputExistsError, match="empty exists; give `resume` to go on with it"):
        begin_run(tmp_path / "empty", record)


@pytest.mark.parametrize(
    ("was", "now", "differs"),
    [
        ({"lr": 0.1}, {"lr": 0.2}, "lr was 0.1 and is 0.2"),
        ({"tickets": "a"}, {"tickets": "b"}, "tickets was 'a' and is 'b'"),
        ({"tickets": "s3://a/b"}, {"tickets": "s3://a/c"}, "tickets was 's3://a/b' and is 's3://a/c'"),
        ({"val_shards": "a"}, {"val_shards": None}, "val_shards was 'a' and is None"),
        ({"test": "dense"}, {"test": "random"}, "test was 'dense' and is 'random'"),
        ({"precision": "fp32"}, {"precision": "bf16"}, "precision was 'fp32' and is 'bf16'"),
        ({"seed": 0}, {"seed": 1}, "seed was 0 and is 1"),
    ],
)
def test_what_must_agree(tmp_path: Path, was: dict[str, Any], now: dict[str, Any], differs: str) -> None:
    begin_run(tmp_path / "run", _record(TrainConfig.of(**was)))
    before = file_digests(tmp_path)
    with pytest.raises(OptionError) as error:
        resume_run(tmp_path / "run", _record(TrainConfig.of(**now)), TrainConfig, step=3, any_skipped=False)
    assert str(error.value) == f"{tmp_path / 'run'} is another run ({differs}); give the same options, or another `out`"
    assert file_digests(tmp_path) == before


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"log_steps": 1}, {"log_steps": 2}),
        ({"max_steps": 1}, {"max_steps": None}),
        ({"checkpoint_steps": None}, {"checkpoint_steps": 5}),
        ({"device": "cpu"}, {"device": "cuda"}),
        ({"val_shards": None}, {"val_shards": "s3://a"}),
        ({"test": None}, {"test": "dense"}),
        ({"on_bad_image": "error"}, {"on_bad_image": "skip"}),
        ({"on_missing_ticket": "skip"}, {"on_missing_ticket": "error"}),
        ({"on_changed_image": "error"}, {"on_changed_image": "allow"}),
    ],
)
def test_what_may_change_is_recorded(tmp_path: Path, was: dict[str, Any], now: dict[str, Any]) -> None:
    begin_run(tmp_path / "run", _record(TrainConfig.of(**was), dataltt="0.2.0"))
    again = _record(TrainConfig.of(**now), dataltt="0.2.1")
    ((name, value),) = now.items()
    said = resume_run(tmp_path / "run", again, TrainConfig, step=3, any_skipped=False)
    assert said == [f"{name} was {was[name]!r} and is {value!r}"]
    entry = {"step": 3, name: {"was": was[name], "is": value}}
    saved = read_record(tmp_path / "run" / "config.json")
    assert saved == replace(again, dataltt="0.2.0", changes=[entry])
    assert resume_run(tmp_path / "run", again, TrainConfig, step=4, any_skipped=False) == []
    assert read_record(tmp_path / "run" / "config.json") == saved


@pytest.mark.parametrize("name", ["on_bad_image", "on_missing_ticket"])
def test_what_is_done_about_samples_stays_once_one_was_left_out(tmp_path: Path, name: str) -> None:
    begin_run(tmp_path / "run", _record(TrainConfig.of(**{name: "skip"})))
    with pytest.raises(OptionError, match=f"another run \\({name} was 'skip' and is 'error'\\)"):
        resume_run(tmp_path / "run", _record(TrainConfig.of()), TrainConfig, step=3, any_skipped=True)


def test_another_command_or_no_run(tmp_path: Path) -> None:
    record = _record(TrainConfig.of())
    begin_run(tmp_path / "run", record)
    with pytest.raises(OptionError, match="run is a run of dataltt train; go on with it by that command"):
        resume_run(tmp_path / "run", replace(record, command="fit-selector"), TrainConfig, step=0, any_skipped=False)
    with pytest.raises(OptionError, match=r"there is no run in .*none; leave `resume` out to start one there"):
        resume_run(tmp_path / "none", record, TrainConfig, step=0, any_skipped=False)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"dataltt": null}', '{"dataltt": "0.2.0", "more": 1}'])
def test_what_is_no_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json .*anew with another `out`"):
        read_record(path)


# Runs of other versions


@pytest.mark.parametrize("option", ["resume", "auto_resume"])
@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"tool_version": "0.1.0", "lr": 1e-3},
            "was written by dataltt 0.1.0, whose options this version (0.2.0)",
        ),
        ({"dataltt": "0.3.0", "command": "train"}, "was written by dataltt 0.3.0, and this is 0.2.0; install that one"),
        ({"dataltt": "0.10.0", "anything": 1}, "was written by dataltt 0.10.0, and this is 0.2.0; install that one"),
    ],
)
def test_runs_of_other_versions(small: SmallStore, option: str, document: dict[str, Any], said: str) -> None:
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(OptionError) as error:
        _train(small, "run", **{option: True})
    assert str(error.value).startswith(f"run/config.json {said}")
    for arguments in (["--config", "run/config.json"], ["--out", "run", f"--{option.replace('_', '-')}"]):
        result = run_cli("train", *arguments)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith(f"dataltt: run/config.json {said}")
    assert [p.name for p in Path("run").iterdir()] == ["config.json"]


# Repeating, going on


def test_a_record_repeats_its_run(small: SmallStore) -> None:
    _call(*_flags({**_OPTIONS, "tickets": small.store, "out": "runs/a", "seed": 3}))
    Path("dataltt.toml").write_text("[train.recipe]\nlr = 1.0\nclip_grad = 0.1\n", encoding="utf-8")
    _call("--config", "runs/a/config.json", "--out", "runs/b")
    _call("--config", "runs/a/config.json", "--out", "runs/c", "--seed", 4)
    assert len(_losses("runs/a")) == 6
    assert _losses("runs/b") == _losses("runs/a")
    assert _losses("runs/c") != _losses("runs/a")
    assert _read("runs/b") == _read("runs/a")


@pytest.fixture
def whole(small: SmallStore) -> list[float]:
    """Losses of a run that was not interrupted."""
    _train(small, "whole")
    return _losses("whole")


def test_resume_alone(small: SmallStore, whole: list[float]) -> None:
    _train(small, "run", max_steps=2)
    Path("dataltt.toml").write_text("[train.recipe]\nlr = 1.0\nclip_grad = 0.1\n", encoding="utf-8")
    said = _call("--out", "run", "--resume")
    assert "changed from step 2 on: max_steps was 2 and is None\n" in said
    assert "resumed at step 2\n" in said
    assert _losses("run") == whole
    assert "nothing left to do at step 6: all 1 epoch(s) are done\n" in _call("--out", "run", "--resume")
    assert _losses("run") == whole


def test_resume_finds_the_folder_that_the_run_was_given(small: SmallStore, whole: list[float]) -> None:
    arguments = _flags({**_OPTIONS, "tickets": small.store})
    _call(*arguments, "--max-steps", 2)
    _call("--tickets", small.store, "--resume")
    assert _losses("runs/store-ticket") == whole


def test_auto_resume(small: SmallStore, whole: list[float]) -> None:
    arguments = [*_flags({**_OPTIONS, "tickets": small.store, "out": "run"}), "--auto-resume"]
    assert "stopped by --max-steps at step 2" in _call(*arguments, "--max-steps", 2)
    assert "resumed at step 2\n" in _call(*arguments)
    assert "nothing left to do at step 6: all 1 epoch(s) are done\n" in _call(*arguments)
    assert _losses("run") == whole


def test_auto_resume_starts_no_run_over_something_else(small: SmallStore) -> None:
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="run exists"):
        _train(small, "run", auto_resume=True)
    assert Path("run/notes.txt").read_text(encoding="utf-8") == "mine"


def test_workers_come_from_the_record(small: SmallStore) -> None:
    _train(small, "run", max_steps=2)
    for workers in (None, 0):
        assert _train(small, "run", max_steps=3, workers=workers, resume=True).step == 3
    assert recorded_option(_record_of("run"), "workers") == 0
    assert _train(small, "run", max_steps=4, workers=1, resume=True).step == 4
    assert _read("run")["changes"][-1] == {
        "step": 3,
        "max_steps": {"was": 3, "is": 4},
        "workers": {"was": 0, "is": 1},
    }


def test_a_path_may_be_spelt_otherwise(small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("data").symlink_to(small.folder, target_is_directory=True)
    Path("inside").mkdir()
    _train(small, "run", max_steps=1, tickets="data/store.zarr", shards="./data/shards/train-*.tar")
    shards = small.shards
    for tickets in (small.store, ".//data/./store.zarr", "data/store.zarr/"):
        assert _train(small, "run", max_steps=1, tickets=tickets, shards=shards, resume=True).step == 1
    assert _read("run")["changes"] == []
    monkeypatch.chdir("inside")
    again = {"tickets": "../data/store.zarr", "shards": "../data/shards/train-*.tar"}
    assert _train(small, "../run", resume=True, **again).step == 6


def test_the_same_tickets_may_lie_elsewhere(small: SmallStore) -> None:
    _train(small, "run", max_steps=1)
    shutil.copytree(small.store, "other.zarr")
    assert _train(small, "run", resume=True, tickets="other.zarr").step == 6
    assert [set(change) for change in _read("run")["changes"]] == [{"step", "max_steps"}]
    digest = _read("run")["ticket_store"]["digest"]
    assert digest == read_manifest(small.store).digest
    path = Path("run/config.json")
    document = {k: v for k, v in _read("run").items() if k != "checksum"}
    path.write_text(json.dumps(document).replace(digest, digest[::-1]))
    with pytest.raises(OptionError, match=r"was trained on other tickets than those of .* \(another ticket digest\)"):
        _train(small, "run", resume=True, tickets="other.zarr")


def test_a_run_may_move_with_its_data(small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("before").mkdir()
    shutil.copytree(small.folder, "before/data")
    monkeypatch.chdir("before")
    _train(small, "run", max_steps=1, tickets="data/store.zarr", shards="data/shards/train-*.tar")
    monkeypatch.chdir("..")
    shutil.move("before", "after")
    monkeypatch.chdir("after")
    assert "resumed at step 1\n" in _call("--out", "run", "--resume")
    assert _read("run")["changes"] == [{"step": 1, "max_steps": {"was": 1, "is": None}}]


def test_a_validation_set_may_be_added(small: SmallStore, tmp_path: Path, whole: list[float]) -> None:
    shards = make_shards(tmp_path / "val", (8,), fashion_samples(8, split="test"), name="val")
    _train(small, "run", max_steps=2)
    result = _train(small, "run", val_shards=shards, test="random", resume=True)
    assert (result.step, result.protocol) == (6, "random")
    assert result.best_top1 is not None
    assert _losses("run") == whole
    (entry,) = _read("run")["changes"]
    assert entry["step"] == 2
    assert entry["val_shards"] == {"was": None, "is": shards}
    with pytest.raises(OptionError, match="another run \\(test was 'random' and is 'dense'\\)"):
        _train(small, "run", val_shards=shards, test="dense", resume=True)


def test_bad_images_before_and_after_one_was_left_out(tmp_path: Path) -> None:
    bad = Sample(key="bad/one", image=b"no image", label=0)
    shards = make_shards(tmp_path / "shards", (9, 10), [*fashion_samples(18), bad])
    arguments = _flags({**_OPTIONS, "control": "dense", "shards": shards, "out": "run", "epochs": 2})
    for steps in range(3, 0, -1):  # until none of the first steps has met it
        if run_cli("train", *arguments, "--max-steps", steps, "--checkpoint-steps", 1).code == 0:
            break
    assert "bad/one" in run_cli("train", "--out", "run", "--resume").err
    said = _call("--out", "run", "--resume", "--on-bad-image", "skip")
    assert "on_bad_image was 'error' and is 'skip'\n" in said
    assert "1 sample(s) were left out" in said or "2 sample(s) were left out" in said
    assert any("on_bad_image" in entry for entry in _read("run")["changes"])
    result = run_cli("train", "--out", "run", "--resume", "--on-bad-image", "error")
    assert result.code == 1
    assert "run is another run (on_bad_image was 'skip' and is 'error')" in result.err


# Fitting a selector has the same rules


def test_fit_selector(small: SmallStore) -> None:
    options = {**_OPTIONS, "ratio": 0.5, "checkpoint": small.weights, "shards": small.shards}
    fit_selector(FitSelectorConfig.of(**options, out="whole"))
    arguments = ["fit-selector", *_flags(options), "--auto-resume"]
    folder = "runs/vit_fashion-selector-0.5"
    assert run_cli(*arguments, "--max-steps", 2).code == 0
    assert _read(folder)["command"] == "fit-selector"
    result = run_cli("fit-selector", "--model", MODEL, "--ratio", "0.50", "--resume", "--max-steps", 4)
    assert "resumed at step 2\n" in result.err, result
    result = run_cli("fit-selector", "--out", folder, "--resume")
    assert "resumed at step 4\n" in result.err, result
    assert _losses(folder) == _losses("whole")
    assert run_cli(*arguments).code == 0
    result = run_cli("fit-selector", "--out", folder, "--resume", "--ratio", 0.6)
    assert (result.code, result.out) == (1, "")
    assert "ratio was 0.5 and is 0.6" in result.err
    result = run_cli("fit-selector", "--config", f"{folder}/config.json", "--out", "again")
    assert result.code == 0, result.err
    assert _losses("again") == _losses("whole")
    assert "is a run of dataltt fit-selector" in _refusal(small, folder)


def _refusal(small: SmallStore, folder: str) -> str:
    with pytest.raises(OptionError) as error:
        _train(small, folder, resume=True)
    return str(error.value)


@pytest.mark.slow
@pytest.mark.two_ranks
def test_auto_resume_on_two_ranks(small: SmallStore, tmp_path: Path) -> None:
    arguments = [*_flags({**_OPTIONS, "tickets": small.store, "out": "run", "epochs": 2}), "--auto-resume"]
    for steps, said in ((1, "stopped by --max-steps at step 1"), (3, "resumed at step 1")):
        result = run_on_two_ranks(tmp_path, "train", *arguments, "--max-steps", steps)
        assert result.code == 0, result.err
        assert result.err.count(said) == 1
    assert len(_losses("run")) == 3
    assert _train(small, "run", resume=True, epochs=2).step == 6  # on one process, at the same global batch
    world_size, batch_size, passes = {"was": 2, "is": 1}, {"was": 6, "is": 12}, {"was": 1, "is": 2}
    assert _read("run")["changes"][-1] | {"max_steps": None} == {
        "step": 3,
        "world_size": world_size,
        "batch_size": batch_size,
        "grad_accum": passes,
        "max_steps": None,
    }
