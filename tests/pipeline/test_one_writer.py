"""One writer for each place: the second is refused by one sentence, before anything is touched; and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from dataltt.artifacts_schema.locking import Holder, held, lock_of

from ..helpers import MODEL, SmallStore, file_digests, run_cli, run_on_two_ranks

pytestmark = pytest.mark.usefixtures("own_folder")

_REFUSED = (
    r"dataltt: (?P<place>\S+) is being written by another process \(dataltt (?P<work>\w+) on .+, process "
    rf"{os.getpid()}, since 20.+\); wait for it, end it, or choose another place\n"
)


def _call(command: str, small: SmallStore, out: Path) -> tuple[object, ...]:
    selecting = ("--model", MODEL, "--checkpoint", small.weights, "--shards", small.shards, "--ratio", 0.5)
    training = ("--tickets", small.store, "--model", MODEL, "--batch-size", 6, "--max-steps", 1)
    return {
        "select": ("select", *selecting, "--out", out, "--device", "cpu", "--workers", 0, "--overwrite"),
        "label": ("label", "--tickets", out, "--model", MODEL, "--checkpoint", small.weights, "--shards", small.shards),
        "train": ("train", *training, "--out", out, "--device", "cpu", "--workers", 0),
        "pull": ("pull", small.store, out, "--overwrite"),
        "push": ("push", small.store, out, "--overwrite"),
        "merge": ("store", "merge", small.store, small.store, "--out", out, "--overwrite"),
        "subset": ("store", "subset", small.store, "--classes", "0,1", "--out", out, "--overwrite"),
        "thin": ("store", "thin", small.store, "--no-ranks", "--out", out, "--overwrite"),
    }[command]


@pytest.mark.parametrize("command", ["select", "label", "train", "pull", "push", "merge", "subset", "thin"])
def test_the_second_is_refused(small: SmallStore, command: str) -> None:
    out = Path("out")
    if command != "train":
        assert run_cli("pull", small.store, out).code == 0
    lock = out / "lock.json" if command == "train" else lock_of(out)
    with held(lock, "dataltt train", place=out):
        before = file_digests(Path())
        result = run_cli(*_call(command, small, out))
        assert file_digests(Path()) == before
    refused = re.fullmatch(_REFUSED, re.sub("note: .*\n", "", result.err))
    assert refused is not None, result.err
    assert (result.code, refused["place"], refused["work"]) == (1, "out", "train")


def test_what_a_dead_run_left_is_gone_on_with(small: SmallStore) -> None:
    Path("out").mkdir()
    dead = Holder(work="dataltt train", pid=2**22 + 1, born=1)
    fields = ("work", "host", "machine", "pid", "born", "since", "token")
    Path("out/lock.json").write_text(json.dumps({name: getattr(dead, name) for name in fields}))
    assert run_cli(*_call("train", small, Path("out"))).code == 0
    assert not Path("out/lock.json").exists()
    assert Path("out/config.json").exists()


@pytest.mark.slow
def test_all_ranks_are_refused_by_one_sentence(small: SmallStore, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with held(out / "lock.json", "dataltt train", place=out):
        result = run_on_two_ranks(tmp_path, *_call("train", small, out))
    assert result.code != 0
    (said,) = re.findall(r"^dataltt: .*", result.err, flags=re.MULTILINE)
    assert re.fullmatch(_REFUSED, f"{said}\n")


@pytest.mark.slow
def test_a_mistake_that_all_ranks_meet_is_said_once(small: SmallStore, tmp_path: Path) -> None:
    result = run_on_two_ranks(tmp_path, "train", "--tickets", "no.zarr", "--model", MODEL, "--out", tmp_path / "run")
    assert result.code != 0
    said = re.findall(r"^dataltt: .*", result.err, flags=re.MULTILINE)
    assert said == ["dataltt: there is no ticket store at no.zarr; make one with: dataltt select --out no.zarr"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_scheduler_can_tell_what_to_start_again(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr("dataltt.pipeline.cli.app", app)
    before = signal.getsignal(signal.SIGTERM)
    result = run_cli()
    assert result.code == code
    assert "dataltt: interrupted; the same command goes on where it stopped" in result.err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_of_two_that_write_one_store_one_does_and_the_other_is_refused(small: SmallStore, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dataltt", "store", "thin", small.store, "--no-ranks", "--out", "out"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(process.communicate()[1], process.returncode) for process in running]
    assert sorted(code for _, code in ended) == [0, 1]
    (said,) = [error for error, code in ended if code == 1]
    assert re.search("is being written by another process|out exists; pass --overwrite", said), said
    assert [path.name for path in Path().iterdir()] == ["out"]
