"""Training at a lower ratio than the store's: the same batches as on a store that was thinned to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import OptionError
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream
from dataltt.stages.runtime.distributed import process_group
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.config import EvalConfig, TrainConfig
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.plan import RunPlan, plan_run
from dataltt.stages.training.train import train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...helpers import MODEL, NUM_PATCHES, Listener, SmallStore, make_store, recorded, run_cli

pytestmark = pytest.mark.usefixtures("own_folder")

RATIO = 0.3
NUM_KEEP = 15  # ceil(49 · 0.3)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store of three replayed views with ranks."""
    return make_store(tmp_path_factory.mktemp("replayed"), counts=(8, 6), augment="deit", num_views=3)


@pytest.fixture(scope="module")
def stores(small: SmallStore, replayed: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both stores, and each thinned to the ratio."""
    folder = tmp_path_factory.mktemp("thin")
    found: dict[str, Any] = {}
    for name, made in (("static", small), ("replay", replayed)):
        thin_store(made.store, Target(path=folder / name), ratio=RATIO)
        found[name] = made, str(folder / name)
    return found


def _config(tickets: str, shards: str, **changes: Any) -> TrainConfig:
    defaults = {"model": MODEL, "out": Path("run"), "batch_size": 6, "epochs": 2, "workers": 0, "device": "cpu"}
    return TrainConfig.of(tickets=tickets, shards=shards, **{**defaults, **changes})


def _planned(*args: str, heard: Listener | None = None, **changes: Any) -> RunPlan:
    with process_group("cpu") as process:
        return plan_run(_config(*args, **changes), process, heard or SilentReporter())


def _batches(stream: StreamConfig, epoch: int) -> Iterator[Batch]:
    return iter(SampleStream(stream, StreamPosition(epoch=epoch)))


def _assert_same_batches(first: StreamConfig, second: StreamConfig, epochs: int = 3) -> None:
    assert first.num_keep == second.num_keep == NUM_KEEP
    count = 0
    for epoch in range(epochs):
        for one, other in zip(_batches(first, epoch), _batches(second, epoch), strict=True):
            assert (one.keys, one.num_skipped) == (other.keys, other.num_skipped)
            for name in ("images", "labels", "keep_indices", "scores"):
                a, b = getattr(one, name), getattr(other, name)
                assert (a is None) == (b is None)
                assert a is None or torch.equal(a, b)
            count += 1
    assert count


@settings(max_examples=14, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(["static", "replay", "warp"]),
    control=st.sampled_from(["ticket", "inverse", "random", "fixed-random"]),
    mixed=st.booleans(),
    seed=st.integers(0, 3),
)
@pytest.mark.long
def test_batches_are_those_of_the_thinned_store(
    stores: dict[str, Any], mode: str, control: str, mixed: bool, seed: int
) -> None:
    made, thin = stores["replay" if mode == "replay" else "static"]
    changes: dict[str, Any] = {"view_mode": mode, "control": control, "seed": seed}
    if not mixed:
        changes["mix_prob"] = 0.0
    in_passing = _planned(made.store, made.shards, ratio=RATIO, **changes)
    on_thinned = _planned(thin, made.shards, **changes)
    _assert_same_batches(in_passing.stream, on_thinned.stream, epochs=2)


def test_kept_patches_are_the_best_by_rank(small: SmallStore) -> None:
    stream = _planned(small.store, small.shards, ratio=RATIO, mix_prob=0.0, hflip=0.0).stream
    ranks, seen = small.ranks(), 0
    for batch in _batches(stream, 0):
        assert batch.keep_indices is not None
        for key, kept in zip(batch.keys, batch.keep_indices.numpy(), strict=True):
            np.testing.assert_array_equal(kept, np.sort(np.argsort(ranks[key])[:NUM_KEEP]))
            seen += 1
    assert seen == 36


def test_the_store_s_own_ratio_changes_nothing(small: SmallStore) -> None:
    plain, same = _planned(small.store, small.shards), _planned(small.store, small.shards, ratio=0.5)
    assert plain.stream == same.stream
    assert "approximate" not in same.ticket_store


def test_epochs_that_match_tokens_go_by_what_is_kept(stores: dict[str, Any]) -> None:
    made, thin = stores["static"]
    found = [
        _planned(*args, match_tokens=True, epochs=30).epochs
        for args in ((made.store, made.shards), (thin, made.shards))
    ]
    in_passing = _planned(made.store, made.shards, match_tokens=True, epochs=30, ratio=RATIO).epochs
    assert found == [60, round(30 * NUM_PATCHES / NUM_KEEP)]
    assert in_passing == found[1] == 98


def test_validation_tickets_are_cut_down_alike(stores: dict[str, Any]) -> None:
    made, thin = stores["static"]
    val = {"val_shards": made.shards, "num_classes": 10}
    in_passing = _planned(made.store, made.shards, ratio=RATIO, val_tickets=made.store, **val).val_stream
    on_thinned = _planned(thin, made.shards, val_tickets=thin, **val).val_stream
    as_it_is = _planned(made.store, made.shards, ratio=RATIO, val_tickets=thin, **val).val_stream
    assert in_passing is not None
    assert on_thinned is not None
    assert as_it_is is not None
    _assert_same_batches(in_passing, on_thinned, epochs=1)
    _assert_same_batches(as_it_is, on_thinned, epochs=1)


@pytest.mark.long
def test_a_run_says_and_records_that_it_is_approximate(stores: dict[str, Any]) -> None:
    made, thin = stores["static"]
    said = "approximate: 15 patches, by rank, of the 25 that the selector kept"
    val = {"val_shards": made.shards, "val_tickets": thin}
    weights = []
    for tickets, changes in ((made.store, {"ratio": RATIO}), (thin, {})):
        heard, out = Listener(), Path(f"run-{len(weights)}")
        train(_config(tickets, made.shards, out=out, max_steps=2, **val, **changes), heard)
        assert f"tickets are {said}" in heard.said
        record = recorded(out)
        assert record["ratio"] == changes.get("ratio")
        assert record["ticket_store"]["approximate"] == said
        heard = Listener()
        config = EvalConfig.of(checkpoint=out, test="ticket", shards=made.shards, tickets=thin, device="cpu", workers=0)
        weights.append(evaluate(config, heard).loss)
        assert f"tickets are {said}" in heard.said
        heard = Listener()
        evaluate(config.but(tickets=made.store), heard)
        note = f"note: {made.store} keeps 25 patches, and this student was trained on 15; cut tickets down with: "
        assert f"{note}dataltt store thin" in heard.said
    assert weights[0] == weights[1]


def test_a_run_does_not_go_on_with_other_tickets(stores: dict[str, Any], tmp_path: Path) -> None:
    made, _ = stores["static"]
    thin_store(made.store, Target(path=tmp_path / "s"), ratio=0.3)
    train(_config(str(tmp_path / "s"), made.shards, max_steps=1))
    thin_store(made.store, Target(path=tmp_path / "s", overwrite=True), ratio=0.2)
    with pytest.raises(OptionError, match=r"trained on other tickets than those of .* \(another ticket digest\)"):
        train(_config(str(tmp_path / "s"), made.shards, resume=True, max_steps=2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ratio": 0.6}, "`ratio=0.6` keeps 30 patches, and tickets of"),
        ({"ratio": 0.3, "control": "dense"}, "cuts tickets down, and this run has none"),
        ({"ratio": 0.3, "tickets": None, "control": "dense"}, "cuts tickets down, and this run has none"),
    ],
)
def test_what_cannot_be_meant(small: SmallStore, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught, process_group("cpu") as process:
        plan_run(_config(small.store, small.shards).but(**changes), process, SilentReporter())
    assert said in str(caught.value)


def test_a_store_without_ranks(small: SmallStore, tmp_path: Path) -> None:
    thin_store(small.store, Target(path=tmp_path / "s"), ranks=False)
    with pytest.raises(OptionError, match="has no ranks; select again with `ranks=True`"):
        _planned(str(tmp_path / "s"), small.shards, ratio=RATIO)


def test_on_the_command_line(small: SmallStore, tmp_path: Path) -> None:
    base = ("train", "--tickets", small.store, "--shards", small.shards, "--model", MODEL, "--device", "cpu")
    result = run_cli(*base, "--ratio", 0.6, "--workers", 0)
    assert (result.code, result.out) == (1, "")
    assert "dataltt: --ratio 0.6 keeps 30 patches, and tickets of" in result.err
    result = run_cli(*base, "--ratio", 0.3, "--workers", 0, "--batch-size", 6, "--max-steps", 1)
    assert result.code == 0, result.err
    assert "tickets are approximate: 15 patches, by rank, of the 25 that the selector kept" in result.err
    record = json.loads(Path("runs/store-r0.3-ticket/config.json").read_text(encoding="utf-8"))
    assert record["options"]["ratio"] == 0.3
