"""Studies: every arm with every seed, nothing twice, and the same report after an interruption."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataltt.pipeline.studies import engine, views
from dataltt.pipeline.studies.engine import Arm, bytes_per_image, run_study
from dataltt.stages.reporting import SilentReporter
from dataltt.stages.train_config import TrainConfig

from .helpers import SmallStore, make_store, run_cli


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("study"), augment="crop", views=4)


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("study-center"))


def _arms(store: str) -> list[Arm]:
    base = TrainConfig(out=Path(), tickets=store, epochs=2, batch_size=12, workers=0, device="cpu", lr=0.01)
    return [
        Arm(name="ticket", train=base, test="ticket", stored=("tickets", "views/boxes", "views/flips")),
        Arm(name="dense", train=replace(base, control="dense"), test="dense"),
    ]


def _run(replayed: SmallStore, center: SmallStore, out: Path, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    run_study(
        _arms(replayed.store),
        seeds,
        out,
        test_shards=center.shards,
        test_tickets=center.store,
        reporter=SilentReporter(),
        note={"study": "test"},
    )
    document = json.loads((out / "study.json").read_text())
    assert document["study"] == "test"
    assert document["seeds"] == list(seeds)
    arms: list[dict[str, Any]] = document["arms"]
    return arms


def test_a_study_skips_what_is_done_and_goes_on_with_the_rest(
    replayed: SmallStore, center: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    train = engine.train

    def counted(config: TrainConfig, reporter: Any) -> Any:
        trained.append(f"{config.out.name}{' resumed' if config.resume else ''}")
        return train(config, reporter)

    monkeypatch.setattr(engine, "train", counted)
    whole = _run(replayed, center, tmp_path / "whole", (0, 1))
    assert trained == ["ticket-0", "dense-0", "ticket-1", "dense-1"]
    assert [arm["name"] for arm in whole] == ["ticket", "dense"]
    assert all(arm["num_steps"] == 6 and len(arm["top1"]) == 2 for arm in whole)
    assert whole[0]["mean"] == pytest.approx(sum(whole[0]["top1"].values()) / 2)

    trained.clear()
    assert _run(replayed, center, tmp_path / "whole", (0, 1)) == whole
    assert trained == []

    # Cut off after one run, and inside of another.
    part = tmp_path / "part"
    _run(replayed, center, part, (0,))
    (part / "runs" / "dense-0" / "result.json").unlink()
    shutil.rmtree(part / "runs" / "ticket-0")
    trained.clear()
    assert _run(replayed, center, part, (0, 1)) == whole
    assert trained == ["ticket-0", "dense-0 resumed", "ticket-1", "dense-1"]


def test_one_seed_has_no_deviation(replayed: SmallStore, center: SmallStore, tmp_path: Path) -> None:
    (ticket, dense) = _run(replayed, center, tmp_path, (3,))
    assert ticket["sd"] is None
    assert list(ticket["top1"]) == ["3"]
    assert dense["bytes_per_image"] == 0


def test_bytes_are_those_of_the_views_that_are_used(replayed: SmallStore) -> None:
    (arm, dense) = _arms(replayed.store)
    assert bytes_per_image(dense) == 0
    half = Arm(name="half", train=replace(arm.train, num_views=2), test="ticket", stored=arm.stored)
    assert bytes_per_image(half) == pytest.approx(bytes_per_image(arm) / 2)
    folder = replayed.path
    stored = [p for name in arm.stored for p in (folder / name).rglob("*") if p.is_file()]
    assert bytes_per_image(arm) == pytest.approx(sum(p.stat().st_size for p in stored) / 36)


def test_the_fashion_study_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a user runs it, but for its size."""
    monkeypatch.setattr(views, "EPOCHS", 1)
    monkeypatch.setattr(views, "NUM_FASHION", 100)
    monkeypatch.setattr(views, "NUM_VIEWS", (1, 2))
    options = ("study", "views-fashion", "--out", tmp_path / "study", "--workers", 0)
    result = run_cli(*options, "--seeds", "0", "--json")
    assert result.code == 0, result.err
    arms = json.loads(result.out)
    assert [arm["name"] for arm in arms] == ["dense", "replay-1", "replay-2", "warp", "static", "random"]
    assert {arm["num_steps"] for arm in arms} == {2}
    assert {arm["tested_on"] for arm in arms} == {"dense", "ticket"}
    bytes_of = {arm["name"]: arm["bytes_per_image"] for arm in arms}
    assert bytes_of["dense"] == bytes_of["random"] == 0
    assert bytes_of["replay-2"] == pytest.approx(2 * bytes_of["replay-1"])
    again = run_cli(*options, "--seeds", "0")
    assert again.code == 0, again.err
    assert "replay-2" in again.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("nonsense",), "there is no study 'nonsense'; there are views-fashion, views-photos"),
        (("views-photos",), "views-photos needs --shards, --test-shards and --checkpoint"),
        (("views-fashion", "--seeds", "a,b"), "--seeds 'a,b' should be whole numbers such as 0,1,2"),
    ],
)
def test_studies_that_cannot_be_run(options: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    result = run_cli("study", *options, "--out", tmp_path / "study")
    assert result.code == 1
    assert sentence in result.err
    assert not (tmp_path / "study").exists()
