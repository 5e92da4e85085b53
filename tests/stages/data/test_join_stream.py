"""Batches from shards and tickets: the right ticket for every image, whatever the shards, workers, epochs and flips."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import (
    BadImageError,
    DatalttError,
    MissingTicketError,
    OptionError,
    SampleError,
    ShardError,
    TicketMismatchError,
    TicketStore,
)
from dataltt.stages.data import join as join_module
from dataltt.stages.data.augment import AugmentConfig
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.comparing import compare_or_count
from dataltt.stages.data.counting import count_shards
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.loader import iterate, num_workers_for
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream
from dataltt.stages.options import Subset
from dataltt.stages.runtime.reporting import SilentReporter
from PIL import Image

from ...helpers import (
    GRID,
    NUM_PATCHES,
    Sample,
    SmallStore,
    encode,
    fashion_samples,
    make_shards,
    make_store,
)

_FLIPS = AugmentConfig(hflip=0.5, auto_augment="none")
_ALL_FLIPPED = AugmentConfig(hflip=1.0, auto_augment="none")
_COLOURS = AugmentConfig(hflip=0.5)


class Seen(NamedTuple):
    """One sample as it came out of a stream, told by its pixels."""

    key: str
    flipped: bool
    label: int
    keep: tuple[int, ...] | None


def _pixels(image: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(image)))


def _identify(batches: Iterable[Batch], samples: Iterable[Sample]) -> list[Seen]:
    known: dict[bytes, tuple[str, bool]] = {}
    for sample in samples:
        pixels = _pixels(sample.image)
        for flipped in (False, True):
            content = (pixels[:, ::-1] if flipped else pixels).tobytes()
            assert content not in known
            known[content] = sample.key, flipped
    seen = []
    for batch in batches:
        keeps = [None] * len(batch.images) if batch.keep_indices is None else batch.keep_indices.tolist()
        for image, label, keep in zip(batch.images, batch.labels.tolist(), keeps, strict=True):
            key, flipped = known[image.numpy().tobytes()]
            seen.append(Seen(key, flipped, label, None if keep is None else tuple(keep)))
    return seen


def _indices(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())


def _mirrored(indices: Sequence[int]) -> tuple[int, ...]:
    """Cell by cell: column c of a row becomes column width - 1 - c."""
    height, width = GRID
    cells = [divmod(i, width) for i in indices]
    assert all(row < height for row, _ in cells)
    return tuple(sorted(row * width + (width - 1 - column) for row, column in cells))


def _stream(small: SmallStore, shards: str | None = None, *, counted: bool = True, **changes: Any) -> StreamConfig:
    """A training stream of a small store; `counted` looks into the shards, else the store says what they hold."""
    found, store = resolve_shards(shards or small.shards), TicketStore.open(small.store)
    is_joined = changes.get("subset", "ticket") in ("ticket", "inverse")
    join = changes.get("join", JoinConfig(store=small.store) if is_joined else None)
    defaults: dict[str, Any] = {
        "shards": compare_or_count(found, store, join, SilentReporter(), recount=counted).shards,
        "view": small.manifest.view,
        "image_px": 28,
        "mode": "L",
        "grid": GRID,
        "subset": "ticket",
        "num_keep": small.manifest.num_keep,
        "batch_size": 6,
        "num_classes": 10,
        "seed": 0,
        "join": join,
        "skipped_keys": small.manifest.skipped_keys,
    }
    return StreamConfig(**{**defaults, **changes})


def _run(config: StreamConfig, num_workers: int = 0, **position: int) -> list[Batch]:
    return list(iterate(SampleStream(config, StreamPosition(**position)), num_workers))


def _seen(small: SmallStore, config: StreamConfig, num_workers: int = 0, **position: int) -> list[Seen]:
    return _identify(_run(config, num_workers, **position), small.samples)


def _check_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        if theirs.keep_indices is None:
            assert ours.keep_indices is None
        else:
            assert ours.keep_indices is not None
            assert torch.equal(ours.keep_indices, theirs.keep_indices)


@pytest.fixture(scope="module")
def of_two_views(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("two-views"), num_views=2)


def _check_tickets(small: SmallStore, seen: Iterable[Seen]) -> None:
    masks = small.masks()
    for each in seen:
        assert each.keep == _indices(masks[each.key]), each.key
        assert each.label == small.label_of[each.key]


# Tickets and samples


@pytest.mark.parametrize("batch_size", [1, 6, 36])
@pytest.mark.parametrize("shuffle_buffer", [1, 5, 2000])
def test_every_sample_comes_once_with_its_ticket(small: SmallStore, batch_size: int, shuffle_buffer: int) -> None:
    config = _stream(small, batch_size=batch_size, shuffle_buffer=shuffle_buffer)
    batches = _run(config)
    assert [len(b.images) for b in batches] == [batch_size] * (36 // batch_size)
    seen = _identify(batches, small.samples)
    _check_tickets(small, seen)
    assert Counter(s.key for s in seen) == dict.fromkeys(small.label_of, 1)
    assert not any(s.flipped for s in seen)
    assert all(b.images.dtype == torch.uint8 and b.labels.dtype == torch.int64 for b in batches)
    assert sum(b.num_skipped for b in batches) == 0


def test_tickets_differ_between_images(small: SmallStore) -> None:
    """Else the tests here would prove nothing."""
    assert len({_indices(mask) for mask in small.masks().values()}) > 30


def test_the_order_is_shuffled_and_depends_on_epoch_and_seed(small: SmallStore) -> None:
    def order(epoch: int, **changes: Any) -> list[str]:
        return [s.key for s in _seen(small, _stream(small, **changes), epoch=epoch)]

    keys = [s.key for s in small.samples]
    assert order(0) == order(0)
    assert len({tuple(o) for o in (keys, order(0), order(1), order(2), order(0, seed=1))}) == 5


def test_what_does_not_fill_a_batch_differs_between_epochs(small: SmallStore) -> None:
    config = _stream(small, batch_size=10, shuffle_buffer=1)
    left_out = [set(small.label_of) - {s.key for s in _seen(small, config, epoch=e)} for e in range(6)]
    assert [len(x) for x in left_out] == [6] * 6
    assert len({frozenset(x) for x in left_out}) > 1


@pytest.mark.parametrize("window", [1, 7, 256])
@pytest.mark.parametrize("name", ["other", "train"], ids=["other names", "the same names"])
def test_tickets_follow_images_into_other_shards(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, window: int
) -> None:
    monkeypatch.setattr(join_module, "LOOKUP_WINDOW", window)
    order = np.random.default_rng(0).permutation(36)
    shards = make_shards(tmp_path, (20, 3, 13), [small.samples[i] for i in order], name=name)
    seen = _seen(small, _stream(small, shards))
    _check_tickets(small, seen)
    assert Counter(s.key for s in seen) == dict.fromkeys(small.label_of, 1)


def test_a_part_of_the_shards_will_do(small: SmallStore) -> None:
    shards = small.shards.replace("*", "00000[02]")
    seen = _seen(small, _stream(small, shards, counted=False, batch_size=4))
    _check_tickets(small, seen)
    assert {s.key for s in seen} == {s.key for s in (*small.samples[:12], *small.samples[24:])}


def test_ranks_take_different_samples_and_equal_steps(small: SmallStore) -> None:
    config = _stream(small, batch_size=5)
    of_rank = [_seen(small, config, rank=rank, world_size=3) for rank in range(3)]
    assert [len(seen) for seen in of_rank] == [10, 10, 10]
    assert len({s.key for seen in of_rank for s in seen}) == 30
    for seen in of_rank:
        _check_tickets(small, seen)


# Samples that do not fit the store


def _with_foreign(small: SmallStore, folder: Path, name: str = "train") -> tuple[str, list[Sample]]:
    """Two shards of known images with a foreign one in each."""
    foreign = fashion_samples(2, first=500)
    samples = [*small.samples[:4], foreign[0], *small.samples[4:9], foreign[1], *small.samples[9:11]]
    return make_shards(folder, (6, 7), samples, name=name), samples


@pytest.mark.parametrize("name", ["train", "other"])
@pytest.mark.parametrize("training", [True, False])
def test_a_foreign_image_is_named(small: SmallStore, tmp_path: Path, name: str, training: bool) -> None:
    shards, _ = _with_foreign(small, tmp_path, name)
    with pytest.raises(MissingTicketError) as caught:
        _run(_stream(small, shards, training=training))
    place = {"train/00500": f"{name}-000000.tar", "train/00501": f"{name}-000001.tar"}
    assert caught.value.shard == place[caught.value.key]
    assert caught.value.shard in str(caught.value)
    assert repr(caught.value.key) in str(caught.value)
    assert "pass `on_missing_ticket='skip'`" in str(caught.value)


@pytest.mark.parametrize("name", ["train", "other"])
def test_foreign_images_are_passed_over_and_counted(small: SmallStore, tmp_path: Path, name: str) -> None:
    shards, samples = _with_foreign(small, tmp_path, name)
    join = JoinConfig(store=small.store, on_missing_ticket="skip")
    config = _stream(small, shards, training=False, join=join)
    assert (config.num_samples, config.num_missing) == (11, 2)
    batches = _run(config)
    seen = _identify(batches, samples)
    _check_tickets(small, seen)
    assert Counter(s.key for s in seen) == dict.fromkeys([s.key for s in small.samples[:11]], 1)
    assert sum(b.num_skipped for b in batches) == 0  # no bad image


@pytest.mark.parametrize("name", ["train", "other"])
@pytest.mark.parametrize(
    ("world_size", "num_workers"), [(1, 0), (2, 0), pytest.param(1, 2, marks=pytest.mark.slow), (3, 2)]
)
def test_half_a_store_shows_each_of_its_images_once(
    small: SmallStore, tmp_path: Path, name: str, world_size: int, num_workers: int
) -> None:
    """Not one image of a run that is nearly without tickets many times over."""
    samples = [*fashion_samples(12, first=500), *small.samples[:12], *fashion_samples(10, first=600), small.samples[12]]
    shards = make_shards(tmp_path, (12, 12, 11), samples, name=name)
    config = _stream(small, shards, join=JoinConfig(store=small.store, on_missing_ticket="skip"), batch_size=2)
    assert (config.num_samples, config.num_missing) == (13, 22)
    for epoch in (0, 1):
        batches = [
            b for r in range(world_size) for b in _run(config, num_workers, epoch=epoch, rank=r, world_size=world_size)
        ]
        seen = Counter(s.key for s in _identify(batches, small.samples))
        assert set(seen.values()) == {1}
        assert len(seen) == 13 // (2 * world_size) * 2 * world_size
        assert set(seen) <= {s.key for s in small.samples[:13]}


def test_nothing_but_foreign_images(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (12,), fashion_samples(12, first=500))
    with pytest.raises(MissingTicketError, match=r"0 of 12 samples have tickets.*; give the shards that it was made"):
        _stream(small, shards, join=JoinConfig(store=small.store, on_missing_ticket="skip"))


def _reencoded(samples: Sequence[Sample]) -> list[Sample]:
    """The same pixels in other bytes."""
    return [replace(s, image=encode(_pixels(s.image), compress_level=0)) for s in samples]


@pytest.mark.parametrize("name", ["train", "other"])
def test_a_changed_image_is_named(small: SmallStore, tmp_path: Path, name: str) -> None:
    samples = [*small.samples[:7], *_reencoded(small.samples[7:8]), *small.samples[8:12]]
    shards = make_shards(tmp_path, (6, 6), samples, name=name)
    with pytest.raises(
        TicketMismatchError, match=rf"{name}-000001\.tar: the image of sample 'train/00007' is not"
    ) as e:
        _run(_stream(small, shards))
    assert small.store in str(e.value)


@pytest.mark.parametrize("name", ["train", "other"])
def test_changed_images_may_be_allowed(small: SmallStore, tmp_path: Path, name: str) -> None:
    samples = _reencoded(small.samples)
    assert all(a.image != b.image for a, b in zip(samples, small.samples, strict=True))
    shards = make_shards(tmp_path, (12, 12, 12), samples, name=name)
    seen = _seen(small, _stream(small, shards, join=JoinConfig(store=small.store, on_changed_image="allow")))
    _check_tickets(small, seen)
    assert len(seen) == 36


@pytest.mark.parametrize(
    ("label", "what"),
    [(None, "has no .cls; repack"), (10, "is of class 10, and the model has 10 classes"), (-1, "has no .cls; repack")],
)
@pytest.mark.parametrize("subset", ["ticket", "dense"])
def test_a_label_that_the_model_does_not_have(
    small: SmallStore, tmp_path: Path, label: int | None, what: str, subset: Subset
) -> None:
    samples = [replace(s, label=label) if i == 3 else s for i, s in enumerate(small.samples[:6])]
    shards = make_shards(tmp_path, (6,), samples)
    with pytest.raises(SampleError) as caught:
        _run(_stream(small, shards, subset=subset))
    assert str(caught.value).startswith(f"train-000000.tar: sample 'train/00003' {what}")


def test_tickets_need_a_store(small: SmallStore) -> None:
    with pytest.raises(OptionError, match="pass `tickets`"):
        SampleStream(_stream(small, join=None), StreamPosition())


# Flips and views


def test_the_ticket_is_mirrored_with_the_image(small: SmallStore) -> None:
    masks = small.masks()
    seen = [s for epoch in range(3) for s in _seen(small, _stream(small, augment=_FLIPS), epoch=epoch)]
    assert 30 < sum(s.flipped for s in seen) < 78
    for each in seen:
        own = _indices(masks[each.key])
        assert each.keep == (_mirrored(own) if each.flipped else own)


def test_the_mirrored_view_has_a_ticket_of_its_own(small: SmallStore, of_two_views: SmallStore) -> None:
    masks = [of_two_views.masks(view) for view in (0, 1)]
    seen = [s for e in range(2) for s in _seen(of_two_views, _stream(of_two_views, augment=_FLIPS), epoch=e)]
    assert 15 < sum(s.flipped for s in seen) < 57
    for each in seen:
        assert each.keep == _indices(masks[each.flipped][each.key])
    # The selector does not see a mirrored image as the mirror of the image.
    assert any(_indices(masks[1][key]) != _mirrored(_indices(masks[0][key])) for key in masks[0])


def test_flips_are_drawn_by_key_and_epoch(small: SmallStore) -> None:
    def flips(epoch: int, **changes: Any) -> dict[str, bool]:
        config = _stream(small, **{"augment": _FLIPS, **changes})
        return {s.key: s.flipped for s in _seen(small, config, epoch=epoch)}

    assert flips(0) == flips(0, batch_size=4) == flips(0, subset="dense") == flips(0, shuffle_buffer=1)
    assert flips(0) != flips(1)
    assert flips(0) != flips(0, seed=1)
    assert all(flips(0, augment=_ALL_FLIPPED).values())
    assert not any(flips(0, augment=AugmentConfig(hflip=0.0, auto_augment="none")).values())


def test_colours_leave_the_ticket_alone(small: SmallStore) -> None:
    plain = _run(_stream(small, augment=_FLIPS))
    coloured = _run(_stream(small, augment=_COLOURS))
    changed = 0
    for ours, theirs in zip(coloured, plain, strict=True):
        assert ours.keep_indices is not None
        assert theirs.keep_indices is not None
        assert torch.equal(ours.keep_indices, theirs.keep_indices)
        changed += int((ours.images != theirs.images).flatten(1).any(dim=1).sum())
    assert changed > 15


# Controls


def _kept(small: SmallStore, config: StreamConfig, num_workers: int = 0, **position: int) -> dict[str, tuple[int, ...]]:
    kept = {s.key: s.keep for s in _seen(small, config, num_workers, **position)}
    assert len(kept) == 36
    return {key: keep for key, keep in kept.items() if keep is not None}


def test_random_patches_are_drawn_anew_for_every_image_and_epoch(small: SmallStore) -> None:
    config = _stream(small, subset="random", augment=_FLIPS)
    epochs = [_kept(small, config, epoch=e) for e in range(3)]
    for kept in epochs:
        assert all(len(set(k)) == len(k) == small.manifest.num_keep for k in kept.values())
        assert all(0 <= i < NUM_PATCHES for k in kept.values() for i in k)
        assert len({frozenset(k) for k in kept.values()}) == 36
    assert all(len({frozenset(kept[key]) for kept in epochs}) == 3 for key in small.label_of)


@pytest.mark.parametrize("subset", ["random", "fixed-random"])
def test_random_patches_do_not_depend_on_circumstance(small: SmallStore, subset: Subset) -> None:
    config = _stream(small, subset=subset)
    expected = _kept(small, config, epoch=1)
    for batch_size in (1, 4, 9):
        assert _kept(small, replace(config, batch_size=batch_size, shuffle_buffer=3), epoch=1) == expected
    assert _kept(small, config, 2, epoch=1) == expected
    halves = [s for rank in range(2) for s in _seen(small, config, epoch=1, rank=rank, world_size=2)]
    assert {s.key: s.keep for s in halves} == expected
    assert _kept(small, replace(config, seed=1), epoch=1) != expected


def test_random_patches_are_uniform(small: SmallStore) -> None:
    config = _stream(small, subset="random", num_keep=10)
    counts = Counter(i for e in range(30) for keep in _kept(small, config, epoch=e).values() for i in keep)
    expected = 30 * 36 * 10 / NUM_PATCHES
    assert set(counts) == set(range(NUM_PATCHES))
    assert all(abs(n - expected) < 5.5 * expected**0.5 for n in counts.values())


def test_fixed_random_patches_stay_and_are_mirrored_with_the_image(small: SmallStore) -> None:
    plain = _kept(small, _stream(small, subset="fixed-random"))
    assert len(set(plain.values())) == 36
    num_flipped = 0
    for epoch in range(3):
        for each in _seen(small, _stream(small, subset="fixed-random", augment=_FLIPS), epoch=epoch):
            own = plain[each.key]
            assert len(set(own)) == small.manifest.num_keep
            assert each.keep == (_mirrored(own) if each.flipped else own)
            num_flipped += each.flipped
    assert 30 < num_flipped < 78


@pytest.mark.parametrize("num_keep", [5, 25])
def test_inverse_patches_are_those_of_the_lowest_ranks(small: SmallStore, num_keep: int) -> None:
    lowest = {key: set(np.argsort(ranks)[NUM_PATCHES - num_keep :].tolist()) for key, ranks in small.ranks().items()}
    join = JoinConfig(store=small.store, ranks=True)
    config = _stream(small, subset="inverse", join=join, num_keep=num_keep, augment=_FLIPS)
    seen = _seen(small, config)
    assert len({s.flipped for s in seen}) == 2
    masks = small.masks()
    for each in seen:
        assert each.keep is not None
        assert set(each.keep) == (set(_mirrored(sorted(lowest[each.key]))) if each.flipped else lowest[each.key])
        if num_keep == 5:
            assert not set(each.keep) & set(_indices(masks[each.key]) if not each.flipped else ())


def test_inverse_patches_of_the_mirrored_view(of_two_views: SmallStore) -> None:
    ranks = [of_two_views.ranks(view) for view in (0, 1)]
    join = JoinConfig(store=of_two_views.store, ranks=True)
    for each in _seen(of_two_views, _stream(of_two_views, subset="inverse", join=join, augment=_FLIPS)):
        own = ranks[each.flipped][each.key]
        assert each.keep == _indices(own >= NUM_PATCHES - of_two_views.manifest.num_keep)


def test_dense_has_no_patches(small: SmallStore) -> None:
    batches = _run(_stream(small, subset="dense"))
    assert all(b.keep_indices is None for b in batches)
    assert len(_identify(batches, small.samples)) == 36


# Resuming, workers, testing


@pytest.mark.parametrize("subset", ["ticket", "random"])
@pytest.mark.parametrize("first_step", range(7))
def test_resuming_gives_the_remaining_batches(small: SmallStore, subset: Subset, first_step: int) -> None:
    config = _stream(small, subset=subset, augment=_COLOURS)
    whole = _run(config, epoch=2)
    assert len(whole) == 6
    _check_same(_run(config, epoch=2, first_step=first_step), whole[first_step:])


def test_resuming_with_workers_gives_the_remaining_batches(small: SmallStore) -> None:
    config = _stream(small, batch_size=5, augment=_COLOURS)  # 7 steps: 4 of one worker, 3 of the other
    whole = _run(config, 2, epoch=1)
    assert len(whole) == 7
    for first_step in (1, 2, 5):
        _check_same(_run(config, 2, epoch=1, first_step=first_step), whole[first_step:])


def test_workers_divide_the_samples_between_them(small: SmallStore) -> None:
    seen = _seen(small, _stream(small), 2)
    _check_tickets(small, seen)
    assert Counter(s.key for s in seen) == dict.fromkeys(small.label_of, 1)


def _with_bad_images(folder: Path, name: str = "train") -> tuple[str, list[Sample]]:
    """36 samples, three of which cannot be decoded."""
    samples = [replace(s, image=s.image[:60]) if i in (2, 13, 30) else s for i, s in enumerate(fashion_samples(36))]
    return make_shards(folder, (12, 12, 12), samples, name=name), [s for s in samples if len(s.image) > 60]


@pytest.mark.parametrize("first_step", [1, 3, 5])
def test_resuming_past_images_that_were_skipped(small: SmallStore, tmp_path: Path, first_step: int) -> None:
    shards, _ = _with_bad_images(tmp_path)
    config = _stream(small, shards, subset="dense", on_bad_image="skip")
    whole = _run(config)
    assert len(whole) == 6
    _check_same(_run(config, first_step=first_step), whole[first_step:])


@pytest.mark.parametrize("first_step", [1, 2])
def test_resuming_past_images_without_a_ticket(small: SmallStore, tmp_path: Path, first_step: int) -> None:
    shards, _ = _with_foreign(small, tmp_path)
    join = JoinConfig(store=small.store, on_missing_ticket="skip")
    config = _stream(small, shards, join=join, batch_size=3, shuffle_buffer=4, augment=_COLOURS)
    whole = _run(config)
    assert len(whole) == 3
    _check_same(_run(config, first_step=first_step), whole[first_step:])


def test_bad_images_are_made_up_for_by_many_others(small: SmallStore, tmp_path: Path) -> None:
    """A share that has one good image is not that image over and over."""
    samples = [replace(s, image=s.image[:60]) if 1 <= i < 12 else s for i, s in enumerate(fashion_samples(36))]
    shards = make_shards(tmp_path, (12, 12, 12), samples)
    config = _stream(small, shards, subset="dense", on_bad_image="skip", shuffle_buffer=1)
    good = [s for s in samples if len(s.image) > 60]
    for epoch in range(3):
        of_ranks = [_run(config, epoch=epoch, rank=rank, world_size=3) for rank in range(3)]
        seen = Counter(s.key for batches in of_ranks for s in _identify(batches, good))
        assert seen.total() == 36
        assert max(seen.values()) == 2
        assert sum(b.num_skipped for batches in of_ranks for b in batches) == 11
        for first_step in (0, 1, 2):
            _check_same(
                _run(config, epoch=epoch, rank=1, world_size=3, first_step=first_step), of_ranks[1][first_step:]
            )


def test_nothing_but_bad_images(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (6, 6), [replace(s, image=s.image[:60]) for s in fashion_samples(12)])
    config = _stream(small, shards, subset="dense", on_bad_image="skip", batch_size=2)
    for world_size in (1, 2, 3):
        with pytest.raises(SampleError, match="every sample was skipped, since no image can be decoded"):
            _run(config, world_size=world_size)


@pytest.mark.parametrize("training", [True, False])
def test_a_bad_image_is_an_error_unless_skipped(small: SmallStore, tmp_path: Path, training: bool) -> None:
    shards, good = _with_bad_images(tmp_path)
    config = _stream(small, shards, subset="dense", training=training)
    with pytest.raises(BadImageError) as caught:
        _run(config)
    assert caught.value.key in {"train/00002", "train/00013", "train/00030"}
    batches = _run(replace(config, on_bad_image="skip"))
    assert {s.key for s in _identify(batches, good)} == {s.key for s in good}
    assert sum(b.num_skipped for b in batches) >= 2


@pytest.mark.parametrize("subset", ["ticket", "random", "dense"])
def test_testing_sees_every_sample_once(small: SmallStore, subset: Subset) -> None:
    config = _stream(small, subset=subset, training=False, batch_size=10)
    expected = sorted(_seen(small, config))
    assert Counter(s.key for s in expected) == dict.fromkeys(small.label_of, 1)
    assert [len(b.images) for b in _run(config)] == [10, 10, 10, 6]
    for world_size in (2, 5):
        parts = [_seen(small, config, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert sorted(s for part in parts for s in part) == expected
    if subset == "random":
        assert sorted(_seen(small, config, 2)) == expected


# Counts


@pytest.fixture(scope="module")
def with_skipped(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store whose selection left three images out."""
    folder = tmp_path_factory.mktemp("skipped")
    samples = [replace(s, image=s.image[:60]) if i in (2, 13, 30) else s for i, s in enumerate(fashion_samples(36))]
    made = make_store(folder, samples=samples, on_bad_image="skip")
    assert [s.key for s in made.manifest.skipped] == ["train/00002", "train/00013", "train/00030"]
    return replace(made, samples=tuple(s for s in samples if len(s.image) > 60))


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("subset", ["ticket", "inverse"])
def test_samples_skipped_at_selection_do_not_break_counts(
    with_skipped: SmallStore, subset: Subset, training: bool, on_bad_image: str
) -> None:
    join = JoinConfig(store=with_skipped.store, ranks=subset == "inverse")
    config = _stream(
        with_skipped,
        counted=False,
        subset=subset,
        join=join,
        training=training,
        batch_size=11,
        on_bad_image=on_bad_image,
    )
    assert config.num_samples == 33
    seen = _seen(with_skipped, config)
    assert Counter(s.key for s in seen) == dict.fromkeys(with_skipped.label_of, 1)
    if subset == "ticket":
        _check_tickets(with_skipped, seen)


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "as the store says"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("subset", ["random", "fixed-random", "dense"])
def test_samples_skipped_at_selection_do_not_break_the_counts_of_controls(
    with_skipped: SmallStore, subset: Subset, training: bool, counted: bool
) -> None:
    config = _stream(
        with_skipped, counted=counted, subset=subset, training=training, batch_size=11, on_bad_image="skip"
    )
    keys = {s.key for s in _seen(with_skipped, config)}
    assert keys <= set(with_skipped.label_of)
    assert len(keys) > 22


@pytest.mark.parametrize("name", ["train", "other"])
@pytest.mark.parametrize("training", [True, False])
def test_samples_skipped_at_selection_in_other_shards(
    with_skipped: SmallStore, tmp_path: Path, training: bool, name: str
) -> None:
    samples = [replace(s, image=s.image[:60]) if i in (2, 13, 30) else s for i, s in enumerate(fashion_samples(36))]
    shards = make_shards(tmp_path, (16, 20), samples[::-1], name=name)
    config = _stream(with_skipped, shards, training=training, batch_size=3)
    seen = _seen(with_skipped, config)
    _check_tickets(with_skipped, seen)
    assert Counter(s.key for s in seen) == dict.fromkeys(with_skipped.label_of, 1)


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
@pytest.mark.parametrize("difference", [-2, -1, 1, 2])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("subset", ["ticket", "dense"])
def test_a_shard_of_another_count(
    small: SmallStore, subset: Subset, training: bool, difference: int, on_bad_image: str
) -> None:
    config = _stream(small, subset=subset, training=training, on_bad_image=on_bad_image)
    counted = [replace(c, num_samples=c.num_samples + difference * (i == 1)) for i, c in enumerate(config.shards)]
    with pytest.raises(ShardError, match=r"train-000001\.tar holds .* where .* were expected.*`recount=True`"):
        _run(replace(config, shards=tuple(counted), batch_size=1))


# Errors of workers


def _error_of(config: StreamConfig, num_workers: int) -> DatalttError:
    with pytest.raises(DatalttError) as caught:
        _run(config, num_workers)
    return caught.value


def test_errors_come_out_of_workers_as_they_are(small: SmallStore, tmp_path: Path) -> None:
    shards, _ = _with_foreign(small, tmp_path / "foreign")
    counted = count_shards(resolve_shards(shards), None, SilentReporter())  # by somebody who compared nothing
    config = replace(_stream(small, batch_size=1, shuffle_buffer=1), shards=counted)
    missing = _error_of(config, 2)
    assert isinstance(missing, MissingTicketError)
    assert missing.key in {"train/00500", "train/00501"}
    assert str(missing) == str(MissingTicketError(missing.shard, missing.key, small.store))

    bad_shards, _ = _with_bad_images(tmp_path / "bad")
    bad = _error_of(_stream(small, bad_shards, subset="dense", batch_size=1), 2)
    assert isinstance(bad, BadImageError)
    assert (bad.shard, bad.key) in {(f"train-{i // 12:06d}.tar", f"train/{i:05d}") for i in (2, 13, 30)}


def test_workers_asked_for_and_by_default() -> None:
    assert num_workers_for(3, 2) == 3
    assert num_workers_for(0) == 0
    assert 0 <= num_workers_for(None) <= 8
    assert num_workers_for(None, 10_000) == 0
