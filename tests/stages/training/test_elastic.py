"""A run goes on with other numbers of processes, loader processes and images per pass: same samples, same updates."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import OptionError
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.layouts import Layout, Stretch
from dataltt.stages.data.token_labels import TokenLabels
from dataltt.stages.runtime.distributed import Process
from dataltt.stages.training import train as train_module
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.elastic import dealt, layout_of, taken_before
from dataltt.stages.training.mixing import pieces_of
from dataltt.stages.training.record import RunRecord, new_record
from dataltt.stages.training.train import train
from hypothesis import given
from hypothesis import strategies as st

from ...helpers import SmallStore, run_on_two_ranks

_PLAIN: dict[str, Any] = {"batch_size": 12, "epochs": 2, "ema_decay": 0, "device": "cpu", "log_steps": 1, "lr": 0.05}


def _process(world_size: int) -> Process:
    return Process(rank=0, world_size=world_size, local_world_size=world_size, device=torch.device("cpu"))


def _saved(world_size: int, *, asked: dict[str, Any], resolved: dict[str, Any]) -> RunRecord:
    return new_record(TrainConfig.of(**asked), TrainConfig.of(**resolved), command="train", world_size=world_size)


def _dealt(saved: RunRecord | None, world_size: int, **options: Any) -> tuple[int, int, int | None]:
    config = dealt(TrainConfig.of(**{"workers": 1, **options}), saved, _process(world_size))
    return config.recipe.batch_size, config.recipe.grad_accum, config.runtime.workers


@pytest.mark.parametrize(
    ("world_size", "options", "batch_size", "passes"),
    [
        (8, {"batch_size": 128}, 128, 1),
        (4, {"batch_size": 128}, 256, 2),  # the same command on fewer
        (4, {"batch_size": 256}, 256, 2),
        (4, {"batch_size": 128, "grad_accum": 4}, 256, 4),
        (3 * 8, {"batch_size": 128}, None, 1),
        (16, {"batch_size": 128}, 64, 1),
        (1, {"batch_size": 128}, 1024, 8),
    ],
)
def test_the_global_batch_stays(world_size: int, options: dict[str, Any], batch_size: int | None, passes: int) -> None:
    saved = _saved(8, asked={"batch_size": 128}, resolved={"batch_size": 128, "workers": 3})
    if batch_size is None:
        with pytest.raises(OptionError, match="1024 images cannot be dealt to 24 processes; start 8, 16 or 32"):
            _dealt(saved, world_size, **options)
    else:
        assert _dealt(saved, world_size, **options) == (batch_size, passes, 1)


def test_it_comes_back_to_what_was_asked() -> None:
    saved = _saved(4, asked={"batch_size": 128}, resolved={"batch_size": 256, "grad_accum": 2})
    assert _dealt(saved, 8, batch_size=128)[:2] == (128, 1)
    assert _dealt(saved, 2, batch_size=128)[:2] == (512, 4)


def test_another_global_batch_is_refused() -> None:
    saved = _saved(2, asked={"batch_size": 6}, resolved={"batch_size": 6})
    with pytest.raises(OptionError, match=r"`batch_size=4` on 2 process.* batch of 8.* one of 12; leave"):
        _dealt(saved, 2, batch_size=4)


def test_passes_have_images_to_mix() -> None:
    assert _dealt(None, 1, batch_size=7, grad_accum=3) == (7, 3, 1)
    with pytest.raises(OptionError, match=r"`grad_accum=4` of 7 images: a pass takes at least two.*give at most 3"):
        _dealt(None, 1, batch_size=7, grad_accum=4)


def test_what_others_took() -> None:
    a, b = (Layout(batch_size=12 // n, world_size=n, num_workers=1) for n in (1, 2))
    first = Stretch(layout=a, num_steps=3)
    state: dict[str, Any] = {"step": 24, "layout": asdict(b), "taken": [asdict(first)]}
    assert taken_before(state, b, 10) == (first,)  # goes on where it stood
    assert taken_before(state, a, 10) == (first, Stretch(layout=b, num_steps=1))
    assert taken_before({**state, "step": 23}, a, 10) == (first,)  # the other one had not begun
    assert taken_before({**state, "step": 20, "taken": []}, a, 10) == ()
    assert taken_before({"step": 24}, b, 10) == ()  # of an earlier version


@given(num_images=st.integers(1, 17), num_pieces=st.integers(1, 8))
def test_pieces_mix_the_images_that_the_batch_mixes(num_images: int, num_pieces: int) -> None:
    ids = torch.arange(num_images)
    batch = Batch(
        images=ids[:, None],
        labels=ids,
        keep_indices=ids[:, None],
        num_skipped=0,
        scores=ids[:, None].float(),
        token_labels=TokenLabels(ids[:, None, None], ids[:, None, None].float()),
        keys=tuple(map(str, range(num_images))),
    )
    partners = ids.flip(0)
    pieces = [piece for piece in pieces_of(batch, num_pieces) if len(piece.labels)]
    assert sorted(torch.cat([piece.labels for piece in pieces]).tolist()) == ids.tolist()
    for piece in pieces:
        assert piece.labels.flip(0).tolist() == partners[piece.labels].tolist()
        assert piece.keys == tuple(map(str, piece.labels.tolist()))
        assert piece.keep_indices is not None
        assert piece.scores is not None
        assert piece.token_labels is not None
        for tensor in (piece.images, piece.keep_indices, piece.scores, *piece.token_labels):
            assert tensor.flatten().tolist() == piece.labels.tolist()


def _metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("passes", [2, 5])
def test_more_passes_make_the_same_updates(small: SmallStore, tmp_path: Path, passes: int) -> None:
    plain = TrainConfig.of(tickets=small.store, out=tmp_path / "1", workers=0, drop_path=0.0, **_PLAIN)
    for number in (1, passes):
        train(plain.but(out=tmp_path / str(number), grad_accum=number))
    whole, parts = (_metrics(tmp_path / str(number)) for number in (1, passes))
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-4)


@pytest.mark.long
def test_an_epoch_that_others_go_on_with(small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loader process deals another share, so another number of them is another layout."""
    seen: list[tuple[int, str]] = []

    class Watched(train_module._Trainer):  # type: ignore[misc]
        def _train_step(self, batch: Batch) -> None:
            seen.extend((self.step // self.steps_per_epoch, key) for key in batch.keys)
            super()._train_step(batch)

    monkeypatch.setattr(train_module, "_Trainer", Watched)
    config = TrainConfig.of(tickets=small.store, out=tmp_path / "run", **{**_PLAIN, "batch_size": 6})
    for workers, stop in ((0, 2), (2, 4), (1, 8), (2, None)):
        train(config.but(workers=workers, max_steps=stop, resume=bool(seen)))
    assert Counter(seen) == {(epoch, sample.key): 1 for epoch in range(2) for sample in small.samples}
    changes = json.loads((tmp_path / "run" / "config.json").read_text())["changes"]
    assert [(change["step"], change["workers"]["is"]) for change in changes] == [(2, 2), (4, 1), (8, 2)]


@pytest.mark.slow
@pytest.mark.two_ranks
def test_two_ranks_go_on_with_the_run_of_one(small: SmallStore, tmp_path: Path) -> None:
    config = TrainConfig.of(tickets=small.store, out=tmp_path / "run", workers=0, max_steps=2, **_PLAIN)
    train(config)
    result = run_on_two_ranks(tmp_path, "train", "--out", tmp_path / "run", "--resume", "--max-steps", 6, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["step"] == 6
    assert "changed from step 2 on: world_size was 1 and is 2" in result.err
    assert "the rest of epoch 1 is dealt to 2 process(es) with 1 loader process(es) each and batches of 6" in result.err
    alone = train(config.but(out=tmp_path / "alone", max_steps=None))
    assert alone.step == 6
    rates = [[line["lr"] for line in _metrics(tmp_path / name)] for name in ("run", "alone")]
    assert rates[0] == rates[1]
    assert layout_of(config, 2) == replace(layout_of(config, 1), world_size=2)
