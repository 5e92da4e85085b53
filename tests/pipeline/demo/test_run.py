"""The demo end to end, on fewer images and epochs than a person would run it with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema import OutputExistsError, TicketStore
from dataltt.artifacts_schema.verify import verify_store
from dataltt.pipeline.demo.run import DemoResult, run_demo
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.config import EvalConfig
from dataltt.stages.training.evaluate import evaluate

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoResult]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(out, epochs=1, num_train=400, num_test=100, reporter=SilentReporter())


def test_the_table_has_the_papers_rows_first(made: tuple[Path, DemoResult]) -> None:
    _, result = made
    assert [(r.label, r.trained_on, r.tested_on) for r in result.rows[:4]] == [
        ("(c)", "dense", "dense"),
        ("(a)", "ticket", "ticket"),
        ("(b)", "random", "ticket"),
        ("", "resize", "resize"),
    ]
    assert all(0 <= r.top1 <= 100 and np.isfinite(r.loss) for r in result.rows)
    dense, ticket, random, resize = (r.tflops for r in result.rows[:4])
    assert dense is not None
    assert ticket is not None
    assert ticket == random == resize  # 25 of 49 patches, or all 5 · 5 of smaller pictures
    assert ticket < 0.55 * dense
    assert (result.num_keep, result.num_patches) == (25, 49)


def test_a_row_is_what_eval_says_of_the_same_weights(made: tuple[Path, DemoResult]) -> None:
    out, result = made
    metrics = evaluate(
        EvalConfig.of(
            checkpoint=next((out / "runs/ticket/checkpoints").glob("step-*/model.safetensors")),
            shards=str(out / "shards/test-*.tar"),
            tickets=str(out / "test.zarr"),
            test="ticket",
            workers=0,
        )
    )
    assert metrics.num_samples == 100
    assert metrics.top1 == result.rows[1].top1
    assert metrics.loss == pytest.approx(result.rows[1].loss, rel=1e-5)


def test_the_stores_it_leaves_are_sound_and_of_the_dense_model(made: tuple[Path, DemoResult]) -> None:
    out, _ = made
    for name, rows in (("train", 400), ("test", 100)):
        assert all(check.ok for check in verify_store(str(out / f"{name}.zarr")))
        assert TicketStore.open(str(out / f"{name}.zarr")).manifest.num_images == rows


def test_the_report_is_self_contained_and_says_the_same(made: tuple[Path, DemoResult]) -> None:
    out, result = made
    page = (out / "report.html").read_text(encoding="utf-8")
    for row in result.rows:
        assert f">{row.top1:.2f}</td>" in page
    assert page.count("<svg") == 4
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"'](?!data:)", page)
    summary = json.loads((out / "dataltt-demo.json").read_text())
    assert summary["rows"][0]["top1"] == result.rows[0].top1


def test_an_earlier_demo_and_anything_else_are_left_alone(made: tuple[Path, DemoResult], tmp_path: Path) -> None:
    out, _ = made
    before = (out / "report.html").read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run_demo(out, reporter=SilentReporter())
    assert (out / "report.html").read_bytes() == before
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputExistsError, match="another --out"):
        run_demo(tmp_path, overwrite=True, reporter=SilentReporter())
    assert (tmp_path / "mine.txt").read_text() == "keep"
