"""The benchmarks measure what they say; how fast it is, is not tested here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dataltt.pipeline.bench import loop
from dataltt.pipeline.bench.baked import bench_baked, photographs
from dataltt.pipeline.bench.compute import bench_select, bench_train
from dataltt.pipeline.bench.data import bench_join
from dataltt.pipeline.bench.inputs import bench_input
from dataltt.pipeline.bench.load import bench_memory, load_rows, measure, measure_in_process
from dataltt.pipeline.bench.peers import PEERS, read_by
from dataltt.pipeline.bench.remote import bench_remote
from dataltt.pipeline.bench.store import SyntheticRows, bytes_per_view, write_store
from dataltt.pipeline.bench.timing import interleaved, ratio_row
from dataltt.stages.data.packing import write_shards
from dataltt.stages.runtime.reporting import SilentReporter

from ..helpers import run_cli


def test_calls_alternate_after_one_warm_up_of_each() -> None:
    calls: list[str] = []
    first, second = interleaved(
        lambda: calls.append("a"), lambda: calls.append("b"), repeats=3, reporter=SilentReporter(), name="x"
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert (len(first), len(second)) == (3, 3)


def test_the_ratio_is_of_medians_over_the_divisor() -> None:
    row = ratio_row("x", [4.0, 100.0, 6.0], [2.0, 1.0, 50.0], goal=1.5, divisor=2.0)
    assert row.value == 6.0 / 2.0 / 2.0
    assert row.ok
    assert row.detail["paired_min_median_max"] == [6 / 50 / 2, 4 / 2 / 2, 100 / 2]
    assert not ratio_row("x", [1.0], [1.0], goal=1.5).ok


@pytest.mark.long
def test_select_and_train_say_what_they_measured() -> None:
    (select,) = bench_select(device="cpu", precision="fp32", batch_size=2, repeats=1, reporter=SilentReporter())
    assert select.detail["batch_size"] == 2
    assert select.ok == (select.value >= 1.45)
    (train,) = bench_train(device="cpu", precision="fp32", batch_size=2, repeats=1, reporter=SilentReporter())
    # A DeiT-Small on 98 of 196 patches has a little over half the FLOPs of one on all.
    assert train.detail["flops_ratio"] == pytest.approx(2.05, abs=0.1)


@pytest.mark.slow
def test_input_measures_each_path_of_decoding() -> None:
    rows = bench_input(repeats=1, num_images=50, reporter=SilentReporter())
    assert [row.goal for row in rows] == ["≥ 2.0", "≥ 1.8", "≥ 1.5", *[""] * 4]
    for row in rows:
        slow, fast = row.detail["images_per_s"]
        assert row.value == pytest.approx(fast / slow)


def test_shards_are_of_input_alone() -> None:
    result = run_cli("bench", "join", "--shards", "x.tar")
    assert result.code != 0
    assert "--shards are of input, and this is join; leave them out" in " ".join(result.err.split())


@pytest.mark.long
def test_baked_measures_reading_and_bytes() -> None:
    raw, jpeg, size = bench_baked(repeats=1, num_images=50, reporter=SilentReporter())
    assert (raw.goal, jpeg.goal, size.goal) == ("≥ 20.0", "≥ 7.0", "≤ 0.2")
    assert raw.detail["repeats"] == 1
    # 98 patches of 16×16 px in 3 colours, their positions, a label, and what a tar adds.
    assert size.detail["raw_bytes"] == 512 + 75_264 + 2 * 1024 + 1024 / 50
    assert size.value == size.detail["jpeg_bytes"] / size.detail["source_bytes"]
    assert 0.15 < size.value < 0.25


def test_a_device_waits_for_what_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)

    def batches() -> Iterator[str]:
        while True:
            pass_time(0.03)
            yield "batch"

    assert loop.waiting_share(batches(), lambda: pass_time(0.07), skip=3) == pytest.approx(0.3)
    assert loop.waiting_share(batches(), lambda: pass_time(0.0), skip=0) == pytest.approx(1)
    assert loop.waiting_share(itertools.repeat("batch"), lambda: pass_time(0.07), skip=3) == 0


@pytest.mark.long
@pytest.mark.parametrize("views", ["center", "crop"])
@pytest.mark.parametrize("peer", list(PEERS))
def test_the_peers_read_every_image(peer: str, views: Any, tmp_path: Path) -> None:
    classes = [str(c) for c in range(10)]
    write_shards(photographs(6), tmp_path, name="p", max_count=4, classes=classes, total=6, reporter=SilentReporter())
    tars = sorted(str(path) for path in tmp_path.glob("p-*.tar"))
    assert len(tars) == 2
    assert read_by(peer, tars, views, 32, 2) == 6


@pytest.mark.slow
def test_the_loop_is_measured_by_path_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RATES", (10_000,))
    monkeypatch.setattr(loop, "_MEASURE_S", 0.0)
    monkeypatch.setattr(loop, "_EPOCH_IMAGES", 1000)
    monkeypatch.setattr(loop, "num_workers_for", lambda _: 1)
    rows = loop.bench_loop(model="deit_t", device="cpu", precision="fp32", num_images=50, reporter=SilentReporter())
    assert [row.name.split("10%, ")[1] for row in rows] == [
        f"{path}, 1 loader process(es)" for path in ("deit", "baked jpeg", "baked raw")
    ]
    for row in rows:
        assert 0 <= row.detail["waits at 10000/s"] <= 1
        assert row.value == (10_000 if row.detail["waits at 10000/s"] <= 0.1 else 0)


@pytest.mark.long
def test_join_streams_every_sample_with_and_without_tickets() -> None:
    rows = bench_join(repeats=1, num_images=100, reporter=SilentReporter())
    assert len(rows) == 2
    assert all(min(row.detail["samples_per_s"]) > 0 for row in rows)


@pytest.mark.long
def test_a_replayed_view_takes_at_most_42_bytes() -> None:
    assert 30 < bytes_per_view(20_000, 10) <= 42


@pytest.mark.long
def test_sizes_and_memory_are_of_a_store_that_was_written(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    assert measure_in_process("parts", store, 2500) == {}
    written = measure_in_process("commit", store, 2500)
    assert 25 <= written["tickets_bytes_per_image"] < written["all_bytes_per_image"]
    on_disk = sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
    assert written["all_bytes_per_image"] == on_disk / 2500
    assert measure_in_process("join", store, 2500)["peak_bytes"] > 10 << 20


STEPS = ["parts", "halves", "commit", "join", "open", "join_time", "verify", "merge", "diff"]


@pytest.mark.long
def test_all_that_is_done_with_a_store_is_measured(tmp_path: Path) -> None:
    found = {what: measure(what, tmp_path / "s.zarr", 2500) for what in STEPS}
    assert all(found[step]["peak_bytes"] > 10 << 20 for step in STEPS[2:])
    assert all(found[step]["seconds"] > 0 for step in ("open", "verify", "merge", "diff"))
    assert all(found["join_time"][figure] > 0 for figure in ("by_name_s", "by_key_s", "scattered_s", "lookup_s"))
    found["commit"]["seconds"] = 1.5
    twice = {**found, "commit": {**found["commit"], "peak_bytes": 2 * found["commit"]["peak_bytes"]}}
    rows = {row.name: row for row in load_rows({2500: found, 5000: twice})}
    opening = rows["store: seconds to open, 5000 rows"]
    assert (opening.value, opening.goal, opening.ok) == (found["open"]["seconds"], "≤ 2", True)
    assert opening.detail.keys() == {"2500 rows", "5000 rows"}
    growth = rows["store: peak memory of commit, 5000 rows over 2500"]
    assert (growth.value, growth.goal, growth.ok) == (2, "≤ 1.3", False)
    assert rows["store: seconds of commit, 5000 rows"].goal == ""


@pytest.mark.slow
def test_every_step_is_measured_in_a_process_of_its_own() -> None:
    said: list[str] = []
    found = bench_memory((2500,), said.append)
    assert said == [f"2500 rows: {step}" for step in STEPS]
    assert list(found[2500]) == STEPS
    assert all(found[2500][step]["seconds"] > 0 for step in STEPS)


def test_synthetic_stores_of_the_same_rows_have_the_same_tickets(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_store(tmp_path / f"{name}.zarr", [SyntheticRows.of_shard(0)])
    chunks = [(tmp_path / f"{name}.zarr/tickets/c/0/0/0").read_bytes() for name in ("a", "b")]
    assert chunks[0] == chunks[1]


@pytest.mark.long
def test_a_far_store_is_timed_with_an_empty_cache_and_with_a_full_one() -> None:
    empty, full = bench_remote(1500, 1, lambda message: None)
    assert (empty.detail["rows"], full.detail["rows"]) == (1500, 1500)
    # The root, metadata of eight arrays (some of the same bytes), and what a shard needs of seven of them.
    assert full.detail["objects"] == 1
    assert 10 < empty.detail["objects"] <= 20
    assert full.detail["bytes"] < empty.detail["bytes"] <= empty.detail["store_bytes"]
    assert empty.value == empty.detail["seconds_s"][0] > 0


def test_only_the_store_is_read_from_far() -> None:
    refused = run_cli("bench", "join", "--remote")
    assert refused.code == 1
    assert "--remote is of store, and this is join; leave it out" in " ".join(refused.err.split())
