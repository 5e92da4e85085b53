"""Shards against a store before anything is made: who has a ticket, by key or by image, and what is said of it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import Access, MissingTicketError, ShardError, TicketMismatchError, TicketStore
from dataltt.stages.data import comparing
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.comparing import Comparison, compare_or_count, compare_shards
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.loader import iterate
from dataltt.stages.data.policies import POLICIES
from dataltt.stages.data.shards import Shard, resolve_shards
from dataltt.stages.data.spans import CountedShard, SampleRows
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream, StreamWorker
from dataltt.stages.runtime.reporting import SilentReporter
from hypothesis import given, settings
from hypothesis import strategies as st

from ...far.http_server import FileServer
from ...helpers import GRID, Sample, SmallStore, encode, fashion_samples, make_shards, make_store

_SKIP: dict[str, Any] = {"on_missing_ticket": "skip"}


class _Listener(SilentReporter):
    """Keeps what is said, and how many shards were indexed."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.indexed = 0
        self._indexes = False

    def start(self, name: str, total: int | None, unit: str) -> None:
        self._indexes = name == "indexing shards"

    def advance(self, amount: int, note: str = "") -> None:
        self.indexed += amount * self._indexes

    def message(self, text: str) -> None:
        self.said.append(text)


def _compare(
    store: SmallStore, shards: str, *, recount: bool = False, cache: Path | None = None, **join: Any
) -> tuple[Comparison, _Listener]:
    listener = _Listener()
    opened = TicketStore.open(store.store)
    config = JoinConfig(store=store.store, **join)
    found = compare_shards(resolve_shards(shards), opened, config, listener, recount=recount, cache=cache)
    return found, listener


def _rekeyed(samples: Sequence[Sample], name: str = "elsewhere") -> list[Sample]:
    return [replace(s, key=f"{name}/{i:06d}") for i, s in enumerate(samples)]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("replayed"), augment="deit", num_views=2)


# What costs nothing


def test_shards_that_the_store_knows_are_not_read(small: SmallStore, tmp_path: Path) -> None:
    found, listener = _compare(small, small.shards, cache=tmp_path)
    assert [(s.num_samples, s.num_missing, s.rows) for s in found.shards] == [(12, 0, None)] * 3
    assert (listener.indexed, listener.said, list(tmp_path.iterdir())) == (0, [], [])
    found, listener = _compare(small, small.shards.replace("*", "000001"), recount=True, cache=tmp_path)
    assert ([s.rows for s in found.shards], listener.indexed) == ([None], 0)


def test_a_store_knows_shards_behind_urls_by_name(small: SmallStore) -> None:
    store = TicketStore.open(small.store)
    shards = [Shard(url=f"https://nowhere.invalid/{n}", name=n) for n in store.shard_names]
    found = compare_shards(shards, store, JoinConfig(store=small.store), SilentReporter())
    assert found.num_joined == 36


def test_streams_without_tickets_are_counted_alone(small: SmallStore, tmp_path: Path) -> None:
    shards = resolve_shards(make_shards(tmp_path, (5, 4), fashion_samples(9, first=500)))
    listener = _Listener()
    found = compare_or_count(shards, TicketStore.open(small.store), None, listener, recount=True)
    assert [s.num_samples for s in found.shards] == [5, 4]
    assert (found.num_missing, listener.indexed) == (0, 0)


# Samples that have none


def test_missing_tickets_are_an_error_that_counts_them(small: SmallStore, tmp_path: Path) -> None:
    foreign = fashion_samples(9, first=500)
    samples = [
        *small.samples[:2],
        foreign[0],
        *small.samples[2:5],
        *foreign[1:4],
        foreign[4],
        *foreign[5:8],
        foreign[8],
    ]
    shards = make_shards(tmp_path, (6, 3, 1, 3, 1), samples, name="other")
    with pytest.raises(MissingTicketError) as caught:
        _compare(small, shards)
    assert str(caught.value) == (
        f"other-000000.tar: sample 'train/00500' has no ticket in {small.store} (5 of 14 samples have tickets, without "
        "are 1 of other-000000.tar, 3 of other-000001.tar, 1 of other-000002.tar and of 2 more shard(s)); select "
        "tickets for these shards, or pass `on_missing_ticket='skip'`"
    )
    found, listener = _compare(small, shards, **_SKIP)
    assert [(s.num_samples, s.num_missing) for s in found.shards] == [(5, 1), (0, 3), (0, 1), (0, 3), (0, 1)]
    assert listener.said[-1] == (
        "5 of 14 samples have tickets, without are 1 of other-000000.tar, 3 of other-000001.tar, 1 of other-000002.tar "
        "and of 2 more shard(s); those are left out, as asked"
    )
    assert found.to_json() == {
        "in_shards": 14,
        "with_tickets": 5,
        "joined_by_digest": 0,
        "shards_without_tickets": [f"other-{i:06d}.tar" for i in range(5)],
    }


def test_other_shards_of_the_same_names_are_told_by_their_first_samples(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (12, 12, 12), [*small.samples[24:], *small.samples[:24]])
    found, listener = _compare(small, shards, cache=tmp_path / "cache")
    assert listener.indexed == 3
    rows = [s.rows for s in found.shards]
    assert [r.rows.tolist() for r in rows if r] == [[*range(24, 36)], [*range(12)], [*range(12, 24)]]
    assert found.num_by_digest == 0


def test_recounting_finds_samples_that_moved_behind_the_first(small: SmallStore, tmp_path: Path) -> None:
    order = [0, *range(11, 0, -1)]
    shards = make_shards(tmp_path, (12, 12, 12), [*(small.samples[i] for i in order), *small.samples[12:]])
    assert _compare(small, shards)[1].indexed == 0  # trusted
    found, listener = _compare(small, shards, recount=True)
    assert (listener.indexed, [s.rows is None for s in found.shards]) == (1, [False, True, True])
    assert found.shards[0].rows is not None
    assert found.shards[0].rows.rows.tolist() == order


def test_samples_skipped_at_selection_are_neither_joined_nor_missing(tmp_path: Path) -> None:
    samples = [replace(s, image=s.image[:60]) if i in (0, 5) else s for i, s in enumerate(fashion_samples(8))]
    made = make_store(tmp_path, counts=(8,), samples=samples, on_bad_image="skip")
    shards = make_shards(tmp_path / "dealt", (4, 4), samples, name="dealt")
    for spec in (made.shards, shards):
        found, _ = _compare(made, spec)
        assert (found.num_joined, found.num_missing) == (6, 0)


def test_shards_of_no_sample(small: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no sample in 1 shard\(s\), the first of which is .*train-000000\.tar"):
        _compare(small, make_shards(tmp_path, (0,), []))


# Images of other keys


def test_images_of_other_keys_are_joined_and_said(small: SmallStore, tmp_path: Path) -> None:
    found, listener = _compare(small, make_shards(tmp_path, (20, 16), _rekeyed(small.samples), name="other"))
    assert (found.num_by_digest, found.num_joined) == (36, 36)
    assert listener.said[-1] == (
        "36 samples joined by their images' digests: the shards have other keys, and views are drawn by the store's"
    )
    rows = [s.rows for s in found.shards]
    assert [row for r in rows if r for row in r.rows.tolist()] == list(range(36))


def test_keys_of_other_images_are_no_match_where_the_image_is_known(small: SmallStore, tmp_path: Path) -> None:
    """Running numbers are the same in every lab."""
    keys = [s.key for s in small.samples]
    samples = [replace(s, key=key) for s, key in zip(small.samples, [*keys[5:], *keys[:5]], strict=True)]
    found, _ = _compare(small, make_shards(tmp_path, (36,), samples, name="other"))
    assert found.num_by_digest == 36
    assert found.shards[0].rows is not None
    assert found.shards[0].rows.rows.tolist() == list(range(36))
    # Not even where other bytes are allowed: the known image is the better match.
    allowed, _ = _compare(small, make_shards(tmp_path, (36,), samples, name="other"), on_changed_image="allow")
    assert allowed.num_by_digest == 36


def test_changed_images_are_counted_before_the_first_step(small: SmallStore, tmp_path: Path) -> None:
    changed = [replace(s, image=s.image + b"\0") if i in (3, 7) else s for i, s in enumerate(small.samples)]
    shards = make_shards(tmp_path, (18, 18), changed, name="other")
    for join in ({}, _SKIP):
        with pytest.raises(TicketMismatchError) as caught:
            _compare(small, shards, **join)
        assert str(caught.value) == (
            f"other-000000.tar: the image of sample 'train/00003' is not the one that its ticket in {small.store} was "
            "made from, nor are 1 others; select tickets for these shards, or pass `on_changed_image='allow'` if they "
            "are a re-encoded copy"
        )
    found, _ = _compare(small, shards, on_changed_image="allow")
    assert (found.num_joined, found.num_by_digest) == (36, 0)


def test_labels_that_differ_are_said(small: SmallStore, tmp_path: Path) -> None:
    samples = [replace(s, label=9 - (s.label or 0)) for s in _rekeyed(small.samples)]
    found, listener = _compare(small, make_shards(tmp_path, (36,), samples, name="other"))
    assert found.num_other_labels == 36
    assert listener.said[-1] == "36 of 36 samples have another label than in the store; the shards' count"


@pytest.fixture(scope="module", params=[1, 2], ids=["centre views", "replayed views"])
def with_twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Twelve images, two of which stand there twice under different keys."""
    samples = fashion_samples(12)
    twins = [replace(samples[i], key=f"twin/{i}") for i in (3, 8)]
    options = {"augment": "deit", "num_views": 2} if request.param == 2 else {}
    folder = tmp_path_factory.mktemp("twins")
    return make_store(folder, counts=(7, 7), samples=[*samples, *twins], **options)


def test_an_image_of_several_keys_is_joined_if_its_tickets_agree(with_twins: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (12,), _rekeyed(with_twins.samples[:12]), name="other")
    if with_twins.manifest.num_views == 1:  # the same view of the same image has the same ticket
        found, _ = _compare(with_twins, shards)
        assert found.shards[0].rows is not None
        assert found.shards[0].rows.rows.tolist() == list(range(12))
        return
    with pytest.raises(MissingTicketError, match=r"10 of 12 .*; 2 stand in the store more than once, with different"):
        _compare(with_twins, shards)
    found, _ = _compare(with_twins, shards, **_SKIP)
    assert (found.num_joined, found.num_missing, found.num_ambiguous) == (10, 2, 2)
    # By their own keys all are told apart.
    own, _ = _compare(with_twins, make_shards(tmp_path, (14,), with_twins.samples, name="own"))
    assert (own.num_joined, own.num_by_digest) == (14, 0)


# Replay by image is replay by key


def _stream(store: SmallStore, shards: str, **changes: Any) -> StreamConfig:
    replays = store.manifest.view.kind == "replay"
    compared, _ = _compare(store, shards, **changes.pop("joins", {}))
    defaults: dict[str, Any] = {
        "shards": compared.shards,
        "view": store.manifest.view,
        "image_px": 28,
        "mode": "L",
        "grid": GRID,
        "subset": "ticket",
        "num_keep": store.manifest.num_keep,
        "batch_size": 5,
        "num_classes": 10,
        "seed": 3,
        "join": JoinConfig(store=store.store, on_missing_ticket="skip"),
        "view_mode": "replay" if replays else "static",
        "policy": POLICIES["deit"] if replays else None,
        "augment": None if replays else POLICIES["deit"].augment,
        "num_views": store.manifest.num_views,
        "random_erasing": 0.5,
    }
    return StreamConfig(**{**defaults, **changes})


def _run(config: StreamConfig, epoch: int, num_workers: int = 0) -> list[Batch]:
    return list(iterate(SampleStream(config, StreamPosition(epoch=epoch)), num_workers))


def _check_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys == theirs.keys
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        for one, other in ((ours.keep_indices, theirs.keep_indices), (ours.scores, theirs.scores)):
            assert (one is None) == (other is None)
            assert one is None or other is None or torch.equal(one, other)


@pytest.mark.parametrize(
    "changes",
    [{}, {"training": False}, {"subset": "random"}, {"subset": "fixed-random", "mixing": True}, {"subset": "dense"}],
    ids=["tickets", "testing", "random", "mixed", "dense"],
)
@pytest.mark.parametrize("kind", ["small", "replayed"])
def test_by_image_is_by_key_bit_for_bit(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    store: SmallStore = request.getfixturevalue(kind)
    others = make_shards(tmp_path, (12, 12, 12), _rekeyed(store.samples), name="other")
    by_key, by_image = _stream(store, store.shards, **changes), _stream(store, others, **changes)
    assert all(s.rows is not None and s.rows.by_digest.all() for s in by_image.shards)
    for epoch in range(2):
        _check_same(_run(by_image, epoch), _run(by_key, epoch))


def test_warped_views_by_image_are_those_by_key_in_workers_too(replayed: SmallStore, tmp_path: Path) -> None:
    others = make_shards(tmp_path, (12, 12, 12), _rekeyed(replayed.samples), name="other")
    join = JoinConfig(store=replayed.store, ranks=True)
    changes = {"view_mode": "warp", "join": join}
    by_key, by_image = _stream(replayed, replayed.shards, **changes), _stream(replayed, others, **changes)
    _check_same(_run(by_image, 1, num_workers=2), _run(by_key, 1, num_workers=2))


def test_images_dealt_to_other_shards_keep_their_views(replayed: SmallStore, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(36)
    samples = _rekeyed([replayed.samples[i] for i in order])
    dealt = _stream(replayed, make_shards(tmp_path, (20, 1, 15), samples, name="dealt"), batch_size=1)
    expected = {b.keys[0]: b for b in _run(_stream(replayed, replayed.shards, batch_size=1), 1)}
    found = _run(dealt, 1)
    assert {b.keys[0] for b in found} == set(expected)
    _check_same(found, [expected[b.keys[0]] for b in found])


# Whatever has tickets, each is shown once


@pytest.fixture(scope="module")
def renamed(small: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> StreamConfig:
    """A stream of shards that the store knows by their images alone."""
    folder = tmp_path_factory.mktemp("renamed")
    return _stream(small, make_shards(folder, (12, 12, 12), _rekeyed(small.samples), name="other"), shuffle_buffer=4)


def _keeping(stream: StreamConfig, kept: Sequence[bool], **changes: Any) -> StreamConfig:
    """The stream as if some samples had no ticket."""
    shards = []
    for number, counted in enumerate(stream.shards):
        assert counted.rows is not None
        rows = np.where(kept[number * 12 : number * 12 + 12], counted.rows.rows, -1)
        given_rows = SampleRows(rows=rows, by_digest=counted.rows.by_digest)
        num_samples = int((rows >= 0).sum())
        shards.append(
            CountedShard(shard=counted.shard, num_samples=num_samples, num_missing=12 - num_samples, rows=given_rows)
        )
    return replace(stream, shards=tuple(shards), **changes)


@settings(max_examples=25, deadline=None)
@given(
    kept=st.lists(st.booleans(), min_size=36, max_size=36),
    batch_size=st.integers(1, 4),
    world_size=st.integers(1, 3),
    num_workers=st.integers(1, 3),
    training=st.booleans(),
    data=st.data(),
)
def test_each_sample_that_has_a_ticket_is_shown_once(
    small: SmallStore,
    renamed: StreamConfig,
    kept: list[bool],
    batch_size: int,
    world_size: int,
    num_workers: int,
    training: bool,
    data: st.DataObject,
) -> None:
    stream = _keeping(renamed, kept, batch_size=batch_size, training=training)
    num_kept = sum(kept)
    num_steps = num_kept // (batch_size * world_size)
    first_step = data.draw(st.integers(0, num_steps)) if training else 0
    seen: list[str] = []
    for rank in range(world_size):
        whole, resumed = StreamPosition(rank=rank, world_size=world_size), None
        resumed = replace(whole, first_step=first_step)
        of_whole = [list(StreamWorker(stream, whole, w, num_workers).batches()) for w in range(num_workers)]
        seen += [key for batches in of_whole for b in batches for key in b.keys]
        if training:
            assert sum(map(len, of_whole)) == num_steps
            in_turn = [of_whole[step % num_workers][step // num_workers] for step in range(num_steps)]
            of_rest = [list(StreamWorker(stream, resumed, w, num_workers).batches()) for w in range(num_workers)]
            rest = [of_rest[i % num_workers][i // num_workers] for i in range(num_steps - first_step)]
            if rest:
                _check_same(rest, in_turn[first_step:])
    expected = {s.key for s, k in zip(small.samples, kept, strict=True) if k}
    assert set(seen) <= expected
    assert len(seen) == len(set(seen)) == (num_steps * batch_size * world_size if training else num_kept)


def test_controls_are_shown_what_the_tickets_run_is_shown(small: SmallStore, tmp_path: Path) -> None:
    samples = [*fashion_samples(6, first=500), *small.samples[:12], *fashion_samples(6, first=600)]
    shards = make_shards(tmp_path, (12, 12), samples, name="other")
    seen = {}
    for subset in ("ticket", "random", "dense"):
        stream = _stream(small, shards, joins=_SKIP, subset=subset, batch_size=4)
        seen[subset] = [b.keys for b in _run(stream, 0)]
    assert seen["ticket"] == seen["random"] == seen["dense"]
    assert Counter(key for keys in seen["ticket"] for key in keys) == dict.fromkeys([s.key for s in samples[6:18]], 1)


# The index


def test_a_shard_is_indexed_once(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (20, 16), _rekeyed(small.samples), name="other")
    first, listener = _compare(small, shards, cache=tmp_path / "cache")
    num_bytes = sum(len(s.image) for s in small.samples)
    assert listener.said[0].startswith(
        f"indexed 2 shard(s) that {small.store} does not know by name and content: 36 samples, "
        f"{num_bytes / 1e6:.1f} MB of images in "
    )
    assert listener.said[0].endswith(f"; kept in {tmp_path / 'cache' / 'indices'}")
    assert len(list((tmp_path / "cache" / "indices").iterdir())) == 2
    hidden = [Path(s.shard.url) for s in first.shards]
    for path in hidden:  # the same size and time, and nothing in it
        found = os.stat(path)
        path.write_bytes(bytes(found.st_size))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    second, listener = _compare(small, shards, cache=tmp_path / "cache")
    assert [s for s in listener.said if s.startswith("indexed")] == []
    for one, other in zip(first.shards, second.shards, strict=True):
        assert one.rows is not None
        assert other.rows is not None
        assert one.rows.rows.tolist() == other.rows.rows.tolist()
    with pytest.raises(ShardError, match=r"cannot be read|no sample"):
        _compare(small, shards, cache=tmp_path / "cache", recount=True)


def test_a_shard_that_changed_is_indexed_anew(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (36,), _rekeyed(small.samples), name="other")
    _compare(small, shards, cache=tmp_path / "cache")
    make_shards(tmp_path / "shards", (12,), _rekeyed(small.samples[:12], "changed"), name="other")
    found, listener = _compare(small, shards, cache=tmp_path / "cache")
    assert found.num_joined == 12
    assert listener.said[0].startswith("indexed 1 shard(s)")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", None], ids=["empty", "cut off", "another's"])
def test_a_damaged_index_is_made_again(small: SmallStore, tmp_path: Path, content: bytes | None) -> None:
    shards = make_shards(tmp_path / "shards", (36,), _rekeyed(small.samples), name="other")
    _compare(small, shards, cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache" / "indices").iterdir()
    if content is None:
        with path.open("wb") as file:
            np.savez(file, key_data=np.zeros(3, np.uint8), digests=np.array([{"an": "object"}], dtype=object))
    else:
        path.write_bytes(content)
    found, listener = _compare(small, shards, cache=tmp_path / "cache")
    assert found.num_joined == 36
    assert listener.said[0].startswith("indexed 1 shard(s)")
    assert _compare(small, shards, cache=tmp_path / "cache")[1].said[0].startswith("36 samples joined")


def test_a_cache_that_cannot_be_written_is_done_without(small: SmallStore, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    shards = make_shards(tmp_path / "shards", (36,), _rekeyed(small.samples), name="other")
    found, _ = _compare(small, shards, cache=tmp_path / "cache")
    assert found.num_joined == 36


def test_every_rank_begins_at_shards_of_its_own(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = resolve_shards(make_shards(tmp_path, (9, 9, 9, 9), _rekeyed(small.samples), name="other"))
    monkeypatch.setattr(comparing, "_NUM_THREADS", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    store, join = TicketStore.open(small.store), JoinConfig(store=small.store)
    found = []
    for rank, cache in ((0, "own"), (1, "own"), (1, "common"), (0, "common")):
        monkeypatch.setenv("RANK", str(rank))
        found.append(compare_shards(shards, store, join, SilentReporter(), cache=tmp_path / cache))
    rows = [[s.rows.rows.tolist() for s in c.shards if s.rows] for c in found]
    assert rows == [[[*range(i, i + 9)] for i in (0, 9, 18, 27)]] * 4


def test_a_shard_that_changes_after_it_was_indexed_is_an_error(small: SmallStore, tmp_path: Path) -> None:
    samples = _rekeyed(small.samples)
    stream = _stream(small, make_shards(tmp_path, (36,), samples, name="other"), batch_size=4)
    swapped = [replace(s, image=samples[35 - i].image) for i, s in enumerate(samples)]
    make_shards(tmp_path, (36,), swapped, name="other")
    with pytest.raises(
        ShardError, match=r"sample 'elsewhere/.*' is not the one that stood here when .* `recount=True`"
    ):
        _run(stream, 0)
    for count, found in ((35, "35"), (37, "more")):
        more = [*samples, *fashion_samples(1, first=600)]
        make_shards(tmp_path, (count,), more[:count], name="other")
        with pytest.raises(
            ShardError, match=f"holds {found} samples where 36 were expected: it is not the shard that was"
        ):
            _run(stream, 0)


def test_reencoded_copies_joined_by_key_are_told_by_key(small: SmallStore, tmp_path: Path) -> None:
    copies = [replace(s, image=s.image + b"\0") for s in small.samples]
    joins = {"on_changed_image": "allow"}
    shards = make_shards(tmp_path, (36,), copies, name="other")
    stream = _stream(small, shards, joins=joins, join=JoinConfig(store=small.store, on_changed_image="allow"))
    assert len(_run(stream, 0)) == 7
    make_shards(tmp_path, (36,), copies[::-1], name="other")
    with pytest.raises(ShardError, match=r"is not the one that stood here when the shard was indexed"):
        _run(stream, 0)


def test_a_store_and_shards_behind_a_web_server(small: SmallStore, tmp_path: Path) -> None:
    """Indexed over the network once, and by the image; with the store's cache full, nothing is asked for again."""
    make_shards(tmp_path / "served", (20, 16), _rekeyed(small.samples), name="other")
    shutil.copytree(small.path, tmp_path / "served" / "store.zarr")
    with FileServer(tmp_path / "served") as server:
        store = TicketStore.open(f"{server.url}/store.zarr", Access(cache_dir=tmp_path / "cache"))
        shards = resolve_shards(f"{server.url}/other-{{000000..000001}}.tar")
        for num_shards_read in (2, 0):
            server.clear()
            listener = _Listener()
            found = compare_shards(shards, store, JoinConfig(store=store.location), listener)
            assert (found.num_joined, found.num_by_digest) == (36, 36)
            assert sum(text.startswith("indexed 2 shard(s)") for text in listener.said) == num_shards_read // 2
            assert len({r.path for r in server.requests if r.path.endswith(".tar")}) == num_shards_read
    assert len(list((tmp_path / "cache" / "indices").iterdir())) == 2


def test_an_index_is_no_place_for_pickles(small: SmallStore, tmp_path: Path) -> None:
    _compare(small, make_shards(tmp_path / "shards", (36,), _rekeyed(small.samples), name="other"), cache=tmp_path)
    (path,) = (tmp_path / "indices").iterdir()
    with np.load(path, allow_pickle=False) as arrays:
        assert {name: arrays[name].dtype.kind for name in arrays} == {
            "key_data": "u",
            "key_offsets": "i",
            "digests": "u",
            "labels": "i",
            "num_bytes": "i",
        }
    shutil.rmtree(tmp_path / "indices")


def test_encoded_anew_under_other_keys_is_another_image(small: SmallStore, tmp_path: Path) -> None:
    copy = replace(small.samples[0], key="other/1", image=encode(np.zeros((28, 28), np.uint8)))
    with pytest.raises(MissingTicketError, match="0 of 1 samples have tickets"):
        _compare(small, make_shards(tmp_path, (1,), [copy], name="other"), on_changed_image="allow")
