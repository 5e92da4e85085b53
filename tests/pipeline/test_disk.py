"""Commands on a disk that is full or read-only: one sentence, before any work where that can be known, and going on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.stages.data.room import guessed_samples
from dataltt.stages.data.shards import resolve_shards

from ..disks import FULL, PAGE, READ_ONLY, Disk
from ..helpers import MODEL, CliResult, SmallStore, fashion_samples, file_digests, make_shards, run_cli, tar_bytes

pytestmark = pytest.mark.usefixtures("own_folder")


def _said(result: CliResult) -> str:
    """The one sentence on standard error that ended a command."""
    assert result.code == 1, result
    assert "Traceback" not in result.err
    (said,) = [line for line in result.err.splitlines() if line.startswith("dataltt: ")]
    return said


def _select(small: SmallStore, out: Path, *options: object) -> CliResult:
    return run_cli(
        *("select", "--model", MODEL, "--checkpoint", small.weights, "--shards", small.shards, "--ratio", 0.5),
        *("--out", out, "--device", "cpu", "--workers", 0, *options),
    )


def _train(small: SmallStore, out: Path, *options: object) -> CliResult:
    return run_cli(
        *("train", "--out", out, "--tickets", small.store, "--device", "cpu", "--workers", 0, "--batch-size", 12),
        *("--epochs", 2, "--log-steps", 1, *options),
    )


def _tree(folder: Path, count: int) -> Path:
    for i, sample in enumerate(fashion_samples(count)):
        path = folder / f"class-{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
    return folder


def _left(disk: Disk) -> dict[str, str]:
    return {path: digest for path, digest in file_digests(disk.folder).items() if path != ".ballast"}


@pytest.mark.long
def test_select_on_a_full_disk_goes_on(disk: Disk, small: SmallStore, tmp_path: Path) -> None:
    out = disk.folder / "store.zarr"
    seen = set()
    for pages in range(0, 60, 3):
        with disk.with_room_for(pages * PAGE):
            result = _select(small, out)
        if result.code == 0:
            break
        said = _said(result)
        assert re.search(rf"cannot be written: {FULL}|will take about .* make room", said), said
        seen.add("part" if "part-" in said else "store" if str(out) in said else said)
        assert not [path for path in _left(disk) if not path.startswith("store.zarr.parts/")]
    assert result.code == 0
    assert seen >= {"part", "store"} or not disk.is_mounted
    assert [p.name for p in disk.folder.iterdir()] == ["store.zarr"]
    assert _select(small, tmp_path / "elsewhere.zarr").code == 0
    stores = [TicketStore.open(path).manifest for path in (out, tmp_path / "elsewhere.zarr")]
    assert stores[0].digest == stores[1].digest


@pytest.mark.long
def test_training_on_a_full_disk_goes_on(disk: Disk, small: SmallStore, tmp_path: Path) -> None:
    run = disk.folder / "run"
    first = _train(small, run, "--max-steps", 1)
    assert first.code == 0, first.err
    one = sum(p.stat().st_size for p in (run / "checkpoints").rglob("*") if p.is_file())
    kept = file_digests(run / "checkpoints")
    for room in (one // 4, one // 2, one * 3 // 4):
        with disk.with_room_for(room):
            refused = _said(_train(small, run, "--resume", "--max-steps", 2))
        if disk.is_mounted:
            assert re.search(rf"{run} will take about .*, and its disk has .* free; make room", refused)
        else:
            assert re.search(FULL, refused)
        assert file_digests(run / "checkpoints") == kept
    result = _train(small, run, "--resume")
    assert result.code == 0, result.err
    _train(small, tmp_path / "elsewhere")
    losses = [(p / "metrics.jsonl").read_text().splitlines() for p in (run, tmp_path / "elsewhere")]
    found = [[json.loads(line)["loss"] for line in lines] for lines in losses]
    assert found[0] == found[1] != []


@pytest.mark.long
def test_a_checkpoint_that_no_longer_fits(disk: Disk, small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is left out, so that writing itself fails, at several points."""
    monkeypatch.setattr("dataltt.stages.training.train.check_room", lambda *_: None)
    run = disk.folder / "run"
    assert _train(small, run, "--max-steps", 1).code == 0
    kept = file_digests(run / "checkpoints")
    one = sum(p.stat().st_size for p in (run / "checkpoints").rglob("*") if p.is_file())
    named = set()
    for room in (4 * PAGE, one // 3, one * 11 // 20, one * 2 // 3, one - 2 * PAGE):
        with disk.with_room_for(room):
            said = _said(_train(small, run, "--resume", "--max-steps", 2))
        found = re.search(rf"{run}(/\S*) cannot be written: {FULL}", said)
        assert found is not None, said
        named.add(Path(found[1]).name)
        assert file_digests(run / "checkpoints") == kept
    assert named >= {"step-00000002", "model.safetensors", "ema.safetensors"}
    assert _train(small, run, "--resume").code == 0


def test_train_says_beforehand_that_there_is_no_room(disk: Disk, small: SmallStore) -> None:
    if not disk.is_mounted:
        pytest.skip("mounts are not allowed here")
    with disk.with_room_for(8 * PAGE):
        said = _said(_train(small, disk.folder / "run"))
    assert re.search(
        r"run will take about [\d.]+ MB, and its disk has \d+ kB free; make room, or write to another", said
    )
    assert not (disk.folder / "run").exists()
    with disk.with_room_for(9_000_000):
        warned = _train(small, disk.folder / "run", "--max-steps", 1)
    assert warned.code == 0, warned.err
    assert re.search(r"note: \S*run will take about .* free; make room", warned.err)


def test_pack_says_beforehand_that_there_is_no_room(disk: Disk, tmp_path: Path) -> None:
    source = _tree(tmp_path / "source", 20)
    if disk.is_mounted:
        with disk.with_room_for(4 * PAGE):
            said = _said(run_cli("pack", source, disk.folder / "shards"))
        assert re.search(r"shards will take \d+ kB, and its disk has 16 kB free; make room", said)
        assert _left(disk) == {}
    assert run_cli("pack", source, disk.folder / "shards").code == 0


def test_pack_on_a_full_disk_leaves_nothing(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataltt.stages.data.packing.check_space", lambda *_: None)
    source = _tree(tmp_path / "source", 20)
    for pages in (0, 1, 3, 6):
        with disk.with_room_for(pages * PAGE):
            said = _said(run_cli("pack", source, disk.folder / "shards", "--max-count", 7))
        assert re.search(rf"{disk.folder}/shards(\.lock)? cannot be written: {FULL}", said)
        assert _left(disk) == {}
        assert not (disk.folder / "shards").exists()


def test_a_read_only_disk_is_refused_before_any_work(
    disk: Disk, small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disk.folder / "run").mkdir()
    (disk.folder / "store.zarr.parts").mkdir()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    for work in ("selection.select.vit_weights", "training.train.plan_run", "data.packing.find_images"):
        monkeypatch.setattr(f"dataltt.stages.{work}", never)
    with disk.read_only():
        for result in (
            _select(small, disk.folder / "store.zarr"),
            _train(small, disk.folder / "run"),
            _train(small, disk.folder / "new" / "run"),
            run_cli("pack", _tree(tmp_path / "source", 2), disk.folder / "shards"),
            run_cli("store", "thin", small.store, "--no-ranks", "--out", disk.folder / "thin.zarr"),
            run_cli("push", small.store, disk.folder / "pushed.zarr"),
            run_cli("push", small.store, disk.folder / "pushed.zip"),
            run_cli("pull", small.store, disk.folder / "pulled.zarr"),
        ):
            assert re.search(rf"{disk.folder}\S* cannot be written: {READ_ONLY}; ", _said(result))


def test_metrics_that_cannot_be_written(small: SmallStore, tmp_path: Path) -> None:
    """A folder is in their place."""
    run = tmp_path / "run"
    assert _train(small, run, "--max-steps", 1).code == 0
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    said = _said(_train(small, run, "--resume"))
    assert f"{run / 'metrics.jsonl'} cannot be written: a folder is in its way; write to another place" in said


def test_samples_are_guessed_from_sizes(tmp_path: Path) -> None:
    shards = resolve_shards(make_shards(tmp_path, (40, 40, 40), fashion_samples(120)))
    guessed = guessed_samples(shards)
    assert guessed is not None
    assert 110 < guessed < 150
    (tmp_path / "empty.tar").write_bytes(tar_bytes([]))
    (tmp_path / "none.tar").write_bytes(b"no tar at all")
    for name in ("empty.tar", "none.tar"):
        assert guessed_samples(resolve_shards(str(tmp_path / name))) is None
    assert guessed_samples(resolve_shards("https://lab.invalid/a.tar")) is None
