"""A data set for a loop of one's own: the batches that training is given, dealt to ranks and workers, resumable."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import (
    DatalttError,
    MissingTicketError,
    OptionError,
    ShardError,
    StoreNotFoundError,
    TicketMismatchError,
    open_store,
)
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.select import select
from dataltt.stages.training.ticket_batches import TicketBatch, TicketBatches, ticket_batches
from torch.utils.data import DataLoader

from ...helpers import (
    SmallStore,
    fashion_samples,
    make_shards,
    make_store,
    run_on_two_ranks,
    save_selector_weights,
    select_config,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("center"))


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("replayed"), augment="deit", num_views=3)


def _data(small: SmallStore, **changes: Any) -> TicketBatches:
    return ticket_batches(small.shards, **{"tickets": small.path, "batch_size": 4, "shuffle_buffer": 8, **changes})


def _seen(batches: Iterator[TicketBatch]) -> list[tuple[str, int, Any, Any]]:
    """Every sample in order, as values that can be compared."""
    found = []
    for batch in batches:
        kept = [None] * len(batch.keys) if batch.keep_indices is None else batch.keep_indices.tolist()
        found += zip(batch.keys, batch.labels.tolist(), kept, batch.images.sum(dim=(1, 2, 3)).tolist(), strict=True)
    return found


def _same(one: list[TicketBatch], other: list[TicketBatch]) -> None:
    assert [b.keys for b in one] == [b.keys for b in other]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.keep_indices is not None
        assert b.keep_indices is not None
        assert torch.equal(a.keep_indices, b.keep_indices)


def test_a_store_that_is_replaced_between_epochs_is_refused(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(8, 4))
    data = _data(small)
    first = list(data)
    select(
        select_config(
            small.shards,
            save_selector_weights(tmp_path / "other.safetensors", seed=1),
            small.path,
            ranks=True,
            overwrite=True,
        )
    )
    data.set_epoch(1)
    with pytest.raises(TicketMismatchError, match="was replaced by other tickets while it was in use"):
        list(data)
    select(select_config(small.shards, small.weights, small.path, ranks=True, overwrite=True))
    data.set_epoch(0)
    _same(list(data), first)


def test_smaller_pictures_are_no_subset(small: SmallStore) -> None:
    with pytest.raises(OptionError, match="`subset` 'resize' is none: take 'dense'"):
        _data(small, subset="resize")
    batch = next(iter(_data(small, subset="center")))
    assert batch.keep_indices is not None
    assert len({tuple(kept.tolist()) for kept in batch.keep_indices}) == 1


def test_batches_have_names_and_the_stores_tickets(small: SmallStore) -> None:
    data = _data(small, training=False)
    store, seen = open_store(small.path), []
    for batch in data:
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (4, 1, 28, 28)
        assert batch.keep_indices is not None
        for key, label, kept in zip(batch.keys, batch.labels, batch.keep_indices, strict=True):
            assert store[key].kept[0].tolist() == kept.tolist()
            assert small.label_of[key] == int(label)
        assert batch.num_skipped == 0
        seen += batch.keys
    assert seen == [s.key for s in small.samples]
    floats = data.normalize(batch.images)
    view = data.manifest.view
    torch.testing.assert_close(floats, (batch.images / 255 - view.mean[0]) / view.std[0])


def test_the_shards_of_the_store_are_the_default(small: SmallStore) -> None:
    _same(list(_data(small)), list(ticket_batches(tickets=small.path, batch_size=4, shuffle_buffer=8)))


def test_an_epoch_is_every_sample_once_and_another_in_another_order(small: SmallStore) -> None:
    data = _data(small)
    assert len(data) == 9
    first, again = list(data), list(data)
    _same(first, again)
    data.set_epoch(1)
    assert data.epoch == 1
    second = list(data)
    for batches in (first, second):
        assert Counter(k for b in batches for k in b.keys) == Counter(s.key for s in small.samples)
    assert [b.keys for b in first] != [b.keys for b in second]


def test_replayed_views_are_shown_in_turn(replayed: SmallStore) -> None:
    data, store = _data(replayed), open_store(replayed.path)
    for epoch in (0, 1, 2, 5):
        data.set_epoch(epoch)
        for batch in data:
            assert batch.keep_indices is not None
            for key, kept in zip(batch.keys, batch.keep_indices, strict=True):
                assert store[key].kept[epoch % 3].tolist() == kept.tolist()


@pytest.mark.parametrize("persistent", [False, True])
def test_a_plain_loader_with_workers_gives_each_batch_once(small: SmallStore, persistent: bool) -> None:
    data = _data(small)
    open_store(small.path).read_labels(range(3))  # Zarr's thread runs in the parent when workers are forked
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=persistent)
    assert len(loader) == 9
    orders = []
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == 9
        assert Counter(k for b in batches for k in b.keys) == Counter(s.key for s in small.samples)
        assert isinstance(batches[0], TicketBatch)
        orders.append([b.keys for b in batches])
    assert orders[0] != orders[1]
    data.set_epoch(0)
    assert [b.keys for b in loader] == orders[0]


def test_workers_that_are_not_forked_give_the_same(small: SmallStore) -> None:
    data = _data(small)
    loaders = [
        DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=context)
        for context in ("fork", "forkserver")
    ]
    one, other = (list(loader) for loader in loaders)
    _same(one, other)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pass_goes_on_at_any_batch(small: SmallStore, num_workers: int) -> None:
    data = _data(small)
    loader = DataLoader(data, batch_size=None, num_workers=num_workers)
    data.set_epoch(2)
    whole = list(loader)
    for first in (1, 4, 8):
        data.set_epoch(2, first_batch=first)
        _same(list(loader), whole[first:])
    data.set_epoch(2)
    _same(list(loader), whole)


def test_a_state_goes_on_without_a_loader(small: SmallStore) -> None:
    for training in (True, False):
        data = _data(small, training=training)
        data.set_epoch(1)
        whole = list(data)
        running = iter(data)
        for _ in range(5):
            next(running)
        state = data.state_dict()
        fresh = _data(small, training=training)
        fresh.load_state_dict(state)
        _same(list(fresh), whole[5:])
        fresh.set_epoch(1)
        _same(list(fresh), whole)
    untouched = _data(small)
    untouched.set_epoch(3)
    fresh.load_state_dict(untouched.state_dict())
    assert fresh.epoch == 3


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("default")
def test_torchdatas_loader_goes_on_within_an_epoch(small: SmallStore, num_workers: int, training: bool) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    data = _data(small, training=training, batch_size=3)

    def loader(of: TicketBatches) -> Any:
        return torchdata.StatefulDataLoader(of, batch_size=None, num_workers=num_workers)

    data.set_epoch(1)
    whole = list(loader(data))
    for num_given in (1, 4, len(whole) - 1):
        first = loader(data)
        running = iter(first)
        for _ in range(num_given):
            next(running)
        state = pickle.loads(pickle.dumps(first.state_dict()))
        fresh = _data(small, training=training, batch_size=3)
        fresh.set_epoch(1)
        second = loader(fresh)
        second.load_state_dict(state)
        _same(list(second), whole[num_given:])
        fresh.set_epoch(1)
        _same(list(second), whole)  # the epoch after is a whole one


def test_a_state_of_another_shape_is_refused(small: SmallStore) -> None:
    data = _data(small)
    next(iter(data))
    other = _data(small, batch_size=6)
    other.load_state_dict(data.state_dict())
    with pytest.raises(OptionError, match="this state is of batch size 4, and now it is 6"):
        iter(other)


def test_ranks_have_shares_of_their_own_and_equally_many_batches(small: SmallStore) -> None:
    passes = []
    for rank in (0, 1):
        data = _data(small, batch_size=5, rank=rank, world_size=2)
        assert len(data) == 3
        passes.append(list(data))
        assert len(passes[-1]) == 3
    keys = [k for batches in passes for b in batches for k in b.keys]
    assert len(keys) == len(set(keys)) == 30
    tested = [_seen(iter(_data(small, training=False, rank=rank, world_size=2))) for rank in (0, 1)]
    assert [row[0] for rows in tested for row in rows] == [s.key for s in small.samples]


def test_ranks_are_torchruns_where_there_is_no_group(small: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _data(small)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(data) == 4
    _same(list(data), list(_data(small, rank=1, world_size=2)))


_TWO = """
import json, sys
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.ticket_batches import ticket_batches
import torch
from torch.utils.data import DataLoader

def main():
    data = ticket_batches(sys.argv[1], tickets=sys.argv[2], batch_size=4)
    torch.distributed.init_process_group("gloo")
    keys = []
    for context in ("fork", "forkserver"):
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=context)
        keys.append([batch.keys for batch in loader])
    everyone = [None, None]
    torch.distributed.all_gather_object(everyone, keys)
    if torch.distributed.get_rank() == 0:
        json.dump(everyone, open(sys.argv[3], "w"))
    torch.distributed.barrier()  # neither leaves while the other still talks to it
    torch.distributed.destroy_process_group()

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.two_ranks
def test_two_processes_have_shares_of_their_own(small: SmallStore, tmp_path: Path) -> None:
    script, out = tmp_path / "two.py", tmp_path / "keys.json"
    script.write_text(_TWO)
    result = run_on_two_ranks(tmp_path, small.shards, small.path, out, script=script)
    assert result.code == 0, result.err
    everyone = json.loads(out.read_text())
    for forked, served in everyone:
        assert forked == served
        assert [len(keys) for keys in forked] == [4, 4, 4, 4]
    keys = [key for forked, _ in everyone for batch in forked for key in batch]
    assert len(keys) == len(set(keys)) == 32


def test_controls_and_dense_batches(small: SmallStore) -> None:
    dense = next(iter(_data(small, subset="dense")))
    assert dense.keep_indices is None
    random = _data(small, subset="random", training=False)
    first = _seen(iter(random))
    random.set_epoch(1)
    assert [row[2] for row in first] != [row[2] for row in _seen(iter(random))]
    inverse = next(iter(_data(small, subset="inverse", training=False)))
    ranks = open_store(small.path)[inverse.keys[0]].ranks
    assert ranks is not None
    assert inverse.keep_indices is not None
    assert sorted(ranks[0][inverse.keep_indices[0].numpy()].tolist()) == list(range(24, 49))


def test_samples_without_tickets(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (6,), [*fashion_samples(4), *fashion_samples(2, first=50)], name="other")
    with pytest.raises(MissingTicketError, match=r"'train/00050' .* \(4 of 6 samples have tickets, without are 2 of"):
        ticket_batches(shards, tickets=small.path, batch_size=2, training=False)
    skipping = {"tickets": small.path, "batch_size": 2, "training": False, "on_missing_ticket": "skip"}
    with pytest.warns(UserWarning, match=r"4 of 6 samples have tickets, .*; those are left out, as asked"):
        data = ticket_batches(shards, **skipping)
    batches = list(data)
    assert [b.keys for b in batches] == [["train/00000", "train/00001"], ["train/00002", "train/00003"]]
    assert (data.num_missing, data.num_by_digest, sum(b.num_skipped for b in batches)) == (2, 0, 0)
    ticket_batches(shards, **skipping, reporter=SilentReporter())  # who listens needs no warning


def test_shards_that_change_under_a_loader(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (6,), fashion_samples(6), name="other")
    data = ticket_batches(shards, tickets=small.path, batch_size=2, training=False)
    make_shards(tmp_path, (6,), fashion_samples(6, first=50), name="other")
    for num_workers, expected in ((0, TicketMismatchError), (1, DatalttError)):
        with pytest.raises(expected, match="the image of sample 'train/00050' is not the one"):
            list(DataLoader(data, batch_size=None, num_workers=num_workers))


@pytest.mark.parametrize("training", [True, False])
def test_images_of_other_keys_have_the_store_s(replayed: SmallStore, tmp_path: Path, training: bool) -> None:
    samples = [replace(s, key=f"elsewhere/{i}") for i, s in enumerate(replayed.samples)]
    shards = make_shards(tmp_path, (12, 12, 12), samples, name="other")
    options: dict[str, Any] = {"tickets": replayed.path, "batch_size": 4, "seed": 1}
    if not training:
        options |= {"training": False, "subset": "dense", "on_missing_ticket": "skip"}
    with pytest.warns(UserWarning, match="36 samples joined by their images' digests: the shards have other keys"):
        by_image = ticket_batches(shards, **options)
    assert (by_image.num_missing, by_image.num_by_digest) == (0, 36)
    by_key = ticket_batches(replayed.shards, **options)
    for epoch in (0, 4):
        by_image.set_epoch(epoch)
        by_key.set_epoch(epoch)
        ours, theirs = list(by_image), list(by_key)
        assert [b.keys for b in ours] == [b.keys for b in theirs]
        assert all(torch.equal(a.images, b.images) for a, b in zip(ours, theirs, strict=True))
        assert all(str(a.keep_indices) == str(b.keep_indices) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"batch_size": 0}, OptionError, "`batch_size` 0 should be at least 1"),
        ({"batch_size": 37}, OptionError, "36 samples are fewer than one batch of 37 on each process"),
        ({"rank": 0}, OptionError, "`rank` and `world_size` go together"),
        ({"training": False, "view_mode": "warp"}, OptionError, "`view_mode` 'warp' is for training"),
        ({"view_mode": "replay"}, TicketMismatchError, "needs augmented views"),
        ({"tickets": "nowhere.zarr"}, StoreNotFoundError, "there is no ticket store at nowhere.zarr"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    small: SmallStore, changes: dict[str, Any], kind: type[DatalttError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        _data(small, **changes)


def test_shards_and_epochs_that_are_not_there_are_refused(small: SmallStore, replayed: SmallStore) -> None:
    with pytest.raises(ShardError, match="no shard matches"):
        ticket_batches(f"{small.folder}/none-*.tar", tickets=small.path, batch_size=4)
    with pytest.raises(TicketMismatchError, match="the centre view's ticket"):
        _data(replayed, training=False)
    data = _data(small)
    with pytest.raises(OptionError, match="`epoch` -1"):
        data.set_epoch(-1)
    with pytest.raises(OptionError, match="`first_batch` 10 should lie between 0 and 9"):
        data.set_epoch(0, first_batch=10)
    with pytest.raises(TypeError):
        len(_data(small, training=False))
    assert os.environ.get("RANK") is None
