"""Token labels in a store, and in the batches made from it: the right map for every patch that is shown."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr
from dataltt.artifacts_schema import (
    SCHEMA_VERSION,
    IncompletePartsError,
    Labeller,
    LabelMaps,
    OptionError,
    OutputExistsError,
    SchemaError,
    TicketMismatchError,
    TicketStore,
    read_manifest,
)
from dataltt.artifacts_schema.token_labels import TOP_K, bad_label_maps
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing import label_commit as label_commit_module
from dataltt.artifacts_schema.writing import root as root_module
from dataltt.artifacts_schema.writing.label_commit import commit_labels
from dataltt.artifacts_schema.writing.label_parts import LabelPartWriter, label_parts_dir, open_label_part
from dataltt.artifacts_schema.writing.parts import part_path
from dataltt.stages.data.augment import AugmentConfig
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.counting import count_shards
from dataltt.stages.data.drawing import PolicyViews
from dataltt.stages.data.images import to_tensor
from dataltt.stages.data.join import JoinConfig, TicketJoin
from dataltt.stages.data.loader import iterate
from dataltt.stages.data.policies import POLICIES
from dataltt.stages.data.shards import iter_samples, resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream
from dataltt.stages.runtime.reporting import SilentReporter
from PIL import Image

from ... import schema_helpers
from ...helpers import GRID, NUM_PATCHES, SmallStore, make_shards, make_store
from ...schema_helpers import Made, edit_manifest, edit_metadata, put, read_everything
from .test_join_stream import _identify, _pixels

NUM_CLASSES = 40
LABELLER = Labeller(
    model="synthetic",
    weights_sha256="1" * 64,
    num_classes=NUM_CLASSES,
    precision="fp32",
    tool_version="0",
    created="2025-06-02T12:00:00+00:00",
)


def random_maps(rng: np.random.Generator, *lead: int) -> LabelMaps:
    """Valid maps [..., k]."""
    ids = rng.permuted(np.broadcast_to(np.arange(NUM_CLASSES), (*lead, NUM_CLASSES)), axis=-1)[..., :TOP_K]
    scores = -np.sort(-rng.dirichlet(np.full(TOP_K + 1, 0.5), size=lead)[..., :TOP_K], axis=-1)
    return LabelMaps(ids.astype(np.uint16), scores.astype(np.float16))


def write_label_parts(path: Path, maps: LabelMaps, *, rows_per_batch: int = 3) -> Path:
    """The parts of all shards of a store, from maps [R, V, P, k]; returns their folder."""
    store = TicketStore.open(str(path))
    m, directory = store.manifest, label_parts_dir(path)
    directory.mkdir()
    for index, shard in enumerate(store.shard_names):
        rows = store.rows_of_shard(shard)
        assert rows is not None
        writer = LabelPartWriter(directory, index, shard, num_views=m.num_views, num_patches=m.num_patches)
        for first in range(rows.start, rows.stop, rows_per_batch):
            some = slice(first, min(first + rows_per_batch, rows.stop))
            writer.append(LabelMaps(maps.ids[some], maps.scores[some]))
        writer.close()
    return directory


def add_labels(path: Path, *, seed: int = 0, **options: Any) -> LabelMaps:
    """Adds random token labels to a store; returns them, [R, V, P, k]."""
    m = read_manifest(str(path))
    maps = random_maps(np.random.default_rng(seed), m.num_images, m.num_views, m.num_patches)
    write_label_parts(path, maps)
    commit_labels(path, LABELLER, **options)
    return maps


def _same(found: LabelMaps, expected: LabelMaps) -> bool:
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def _of(maps: LabelMaps, *selection: Any) -> LabelMaps:
    return LabelMaps(maps.ids[selection], maps.scores[selection])


def _failed(path: Path) -> list[str]:
    return [check.name for check in verify_store(str(path)) if not check.ok]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return schema_helpers.make_store(tmp_path, num_views=2)


# --- in the store ---


def test_what_was_written_is_read_and_nothing_else_changed(made: Made) -> None:
    before = read_everything(made.path)
    maps = add_labels(made.path)
    store = TicketStore.open(str(made.path))
    assert store.manifest.token_labels == LABELLER
    assert store.manifest.schema_version == SCHEMA_VERSION
    assert _same(store.read_token_labels(range(11)), maps)
    assert _same(store.read_token_labels(range(3, 7), slice(1, 2)), _of(maps, slice(3, 7), slice(1, 2)))
    rows = np.array([9, 2, 2])
    assert _same(store.read_token_labels(rows), _of(maps, rows))
    after = read_everything(made.path)
    assert all(np.array_equal(after[name], before[name]) for name in before)
    labels = {name for name in store.manifest.objects if name.startswith("token_labels/")}
    of_labels = {name: getattr(made.manifest, name) for name in ("token_labels", "objects", "sizes", "checksum")}
    assert labels == {*store.manifest.sizes} - {*made.manifest.sizes}
    assert replace(store.manifest, **of_labels) == made.manifest
    assert not label_parts_dir(made.path).exists()
    checks = {c.name: c for c in verify_store(str(made.path))}
    assert all(c.ok for c in checks.values())
    assert checks["token_labels"].detail == "11 rows"
    stored = store.num_stored_bytes()
    assert stored["token_labels/ids"] > 0
    assert stored["token_labels/scores"] > 0


def test_arrays_are_of_the_format(made: Made) -> None:
    """As another reader finds them: the page's dtypes and shapes, all chunks there."""
    maps = add_labels(made.path)
    group: Any = zarr.open_group(made.path, mode="r")
    for name, dtype, expected in (("ids", np.uint16, maps.ids), ("scores", np.float16, maps.scores)):
        array = group[f"token_labels/{name}"]
        assert (array.dtype, array.shape) == (np.dtype(dtype), (11, 2, 15, 5))
        assert np.array_equal(array[...], expected)


def test_a_store_of_schema_1_0_can_be_labelled(tmp_path: Path) -> None:
    path = Path(shutil.copytree(Path(__file__).parents[2] / "data" / "store-1.0.zarr", tmp_path / "old.zarr"))
    maps = add_labels(path)
    store = TicketStore.open(str(path))
    assert store.manifest.schema_version == SCHEMA_VERSION
    assert _same(store.read_token_labels(range(5)), maps)
    assert _failed(path) == []


def test_what_a_later_version_says_of_a_store_stays(made: Made) -> None:
    edit_manifest(made.path, lambda m: m.update(schema_version="1.9", licence="CC0"))
    add_labels(made.path)
    document = json.loads((made.path / "zarr.json").read_text())["attributes"]["dataltt"]
    assert (document["schema_version"], document["licence"]) == ("1.9", "CC0")


def test_without_labels_there_is_no_check_and_a_sentence(made: Made) -> None:
    assert "token_labels" not in [c.name for c in verify_store(str(made.path))]
    store = TicketStore.open(str(made.path))
    with pytest.raises(TicketMismatchError, match="has no token labels; write them with: dataltt label --model MODEL"):
        store.read_token_labels(range(1))


def test_labels_are_replaced_only_when_asked(made: Made) -> None:
    maps = add_labels(made.path)
    with pytest.raises(OutputExistsError, match="`overwrite=True`"):
        commit_labels(made.path, LABELLER)
    assert _same(TicketStore.open(str(made.path)).read_token_labels(range(11)), maps)
    others = add_labels(made.path, seed=1, overwrite=True)
    assert _same(TicketStore.open(str(made.path)).read_token_labels(range(11)), others)
    assert _failed(made.path) == []


class _CrashError(Exception):
    pass


@pytest.mark.long
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_crash_anywhere_leaves_a_valid_store(made: Made, monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
    """Every call that changes the disk fails in turn; the same commit then finishes."""
    first = add_labels(made.path, seed=5) if overwrite else None
    maps = random_maps(np.random.default_rng(6), 11, 2, 15)
    write_label_parts(made.path, maps)
    kept = shutil.copytree(made.path.parent, made.path.parent.with_name(f"{made.path.parent.name}-kept"))
    states = set()
    for crash_at in range(12):
        shutil.rmtree(made.path.parent)
        shutil.copytree(kept, made.path.parent)
        num_calls = 0

        def crashing(function: Any, crash_at: int = crash_at) -> Any:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal num_calls
                num_calls += 1
                if num_calls == crash_at + 1:
                    raise _CrashError
                return function(*args, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(label_commit_module.os, "rename", crashing(os.rename))
            patch.setattr(root_module, "write_atomically", crashing(root_module.write_atomically))
            patch.setattr(label_commit_module, "hash_objects", crashing(label_commit_module.hash_objects))
            try:
                commit_labels(made.path, LABELLER, overwrite=True)
            except _CrashError:
                pass
            else:
                break
        store = TicketStore.open(str(made.path))
        labelled = store.manifest.token_labels is not None
        if labelled:
            assert first is not None
            assert _same(store.read_token_labels(range(11)), first)
        foreign = [c.detail for c in verify_store(str(made.path)) if not c.ok]
        assert all("is not in the manifest" in detail for detail in foreign)
        states.add((labelled, bool(foreign)))
        commit_labels(made.path, LABELLER, overwrite=True)
        assert _same(TicketStore.open(str(made.path)).read_token_labels(range(11)), maps)
        assert _failed(made.path) == []
        assert sorted(p.name for p in made.path.parent.iterdir()) == [made.path.name]
    else:
        raise AssertionError("the commit never finished")
    assert (False, True) in states  # labels that the manifest does not name yet
    assert crash_at == (4 if overwrite else 3)


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("ids", NUM_CLASSES),
        ("scores", np.nan),
        ("scores", -0.25),
        ("scores", 1.5),
        ("scores", np.inf),
    ],
)
def test_a_bad_value_is_found_where_it_is_read(made: Made, array: str, value: float) -> None:
    add_labels(made.path)
    put(made.path, f"token_labels/{array}", (7, 1, 14, 4), value)
    store = TicketStore.open(str(made.path))
    store.read_token_labels(range(7))
    store.read_token_labels(range(11), slice(0, 1))
    with pytest.raises(SchemaError, match=r"token_labels\[7\]: is not the likeliest of 40 classes"):
        store.read_token_labels(range(11))
    assert _failed(made.path) == ["object digests", "token_labels"]


@pytest.mark.parametrize(
    "scores",
    [[0.1, 0.2, 0.1, 0.1, 0.1], [0.5, 0.5, 0.02, 0, 0], [1.0, 1.0, 1.0, 1.0, 1.0]],
    ids=["rising", "more than all", "five times all"],
)
def test_scores_are_the_upper_end_of_a_distribution(scores: list[float]) -> None:
    maps = random_maps(np.random.default_rng(0), 3, 4, 6)
    assert not bad_label_maps(maps, NUM_CLASSES).any()
    maps.scores[1, 2, 3] = scores
    assert np.argwhere(bad_label_maps(maps, NUM_CLASSES)).tolist() == [[1, 2]]


def test_rounding_to_half_precision_is_no_damage() -> None:
    scores = np.array([0.99951171875, 0.00048828125, 6e-8, 6e-8, 0], dtype=np.float16)
    assert not bad_label_maps(LabelMaps(np.zeros((1, 5), np.uint16), scores[None]), 5).any()


def test_a_missing_chunk_is_an_error(made: Made) -> None:
    add_labels(made.path)
    (made.path / "token_labels/scores/c/0/0/0/0").unlink()
    with pytest.raises(SchemaError, match="is missing from the store"):
        TicketStore.open(str(made.path))
    edit_manifest(made.path, lambda m: m["objects"].pop("token_labels/scores/c/0/0/0/0"))
    with pytest.raises(SchemaError, match="token_labels/scores/c/0/0/0/0: is not among the manifest's objects"):
        TicketStore.open(str(made.path)).read_token_labels(range(1))


@pytest.mark.parametrize(
    ("field", "value", "where"), [("shape", [11, 2, 14, 5], "shape"), ("data_type", "float32", "dtype")]
)
def test_arrays_of_another_shape_or_type_are_refused(made: Made, field: str, value: Any, where: str) -> None:
    add_labels(made.path)
    edit_metadata(made.path, "token_labels/scores", lambda document: document.update({field: value}))
    with pytest.raises(SchemaError) as caught:
        TicketStore.open(str(made.path))
    assert ("token_labels/scores", where) in [(p.where, p.kind) for p in caught.value.problems]


# --- parts ---


def test_parts_that_do_not_fit_are_refused_and_the_store_stays(made: Made) -> None:
    maps = random_maps(np.random.default_rng(0), 11, 2, 15)
    directory = write_label_parts(made.path, maps)
    before = schema_helpers.digests_of(made.path)
    path = part_path(directory, 1)
    whole = path.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(IncompletePartsError, match=match):
            commit_labels(made.path, LABELLER)
        assert schema_helpers.digests_of(made.path) == before
        assert directory.exists()
        path.write_bytes(whole)

    path.unlink()
    refused("has no part for shard shard-001.tar")
    path.write_bytes(part_path(directory, 0).read_bytes())
    refused("is not of shard shard-001.tar")
    path.write_bytes(whole[: len(whole) // 2])
    refused("is not a readable part")
    other = LabelPartWriter(directory, 1, "shard-001.tar", num_views=1, num_patches=15)
    other.append(_of(maps, slice(0, 1), slice(0, 1)))
    other.close()
    refused("is damaged")
    writer = LabelPartWriter(directory, 1, "shard-001.tar", num_views=2, num_patches=15)
    writer.append(LabelMaps(maps.ids[:1] * 0 + NUM_CLASSES, maps.scores[:1]))
    writer.close()
    refused("holds no label maps")
    commit_labels(made.path, LABELLER)
    assert _same(TicketStore.open(str(made.path)).read_token_labels(range(11)), maps)


def test_a_part_is_there_whole_or_not_at_all(made: Made) -> None:
    directory = label_parts_dir(made.path)
    directory.mkdir()
    maps = random_maps(np.random.default_rng(0), 4, 2, 15)
    writer = LabelPartWriter(directory, 0, "a.tar", num_views=2, num_patches=15)
    writer.append(maps)
    assert not part_path(directory, 0).exists()
    writer.append(_of(maps, slice(0, 1)))
    writer.close()
    part = open_label_part(part_path(directory, 0))
    assert (part.shard, part.num_rows) == ("a.tar", 5)
    batches = list(part.batches(num_views=2, num_patches=15))
    assert [len(b.ids) for b in batches] == [4, 1]
    assert _same(batches[0], maps)
    whole = part.path.read_bytes()
    num_refused = 0
    for position in range(0, len(whole), 9):
        part.path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            damaged = open_label_part(part.path)
            found = list(damaged.batches(num_views=2, num_patches=15))
        except IncompletePartsError:
            num_refused += 1
        else:
            assert all(_same(f, b) for f, b in zip(found, batches, strict=True))
    assert num_refused > 100
    empty = LabelPartWriter(directory, 1, "b.tar", num_views=2, num_patches=15)
    empty.close()
    assert open_label_part(part_path(directory, 1)).num_rows == 0


def test_the_digest_of_a_store_is_that_without_labels(made: Made, tmp_path: Path) -> None:
    before = made.manifest.digest
    add_labels(made.path)
    assert read_manifest(str(made.path)).digest == before
    other = schema_helpers.make_store(tmp_path, num_views=2, seed=1, name="other.zarr")
    assert other.manifest.digest != before


# --- in batches ---


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallStore, LabelMaps]:
    small = make_store(tmp_path_factory.mktemp("replayed"), counts=(9, 5), augment="crop", num_views=3)
    return small, add_labels(small.path)


@pytest.fixture(scope="module", params=[1, 2])
def centred(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallStore, LabelMaps]:
    small = make_store(tmp_path_factory.mktemp("centred"), counts=(9, 5), num_views=request.param)
    return small, add_labels(small.path)


def _stream(small: SmallStore, **changes: Any) -> StreamConfig:
    store, view = TicketStore.open(small.store), small.manifest.view
    replays = view.kind == "replay"
    defaults: dict[str, Any] = {
        "shards": count_shards(resolve_shards(small.shards), store, SilentReporter()),
        "view": view,
        "image_px": 28,
        "mode": "L",
        "grid": GRID,
        "subset": "ticket",
        "num_keep": small.manifest.num_keep,
        "batch_size": 4,
        "num_classes": 10,
        "seed": 0,
        "join": JoinConfig(store=small.store, token_labels=True),
        "view_mode": "replay" if replays else "static",
        "policy": POLICIES["crop"] if replays else None,
        "augment": None if replays else AugmentConfig(hflip=0.5, auto_augment="none"),
        "num_views": small.manifest.num_views if replays else 1,
        "token_labels": True,
    }
    return StreamConfig(**{**defaults, **changes})


def _run(config: StreamConfig, num_workers: int = 0, **position: int) -> list[Batch]:
    return list(iterate(SampleStream(config, StreamPosition(**position)), num_workers))


def _labelled_images(batches: Iterable[Batch]) -> dict[bytes, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Token labels [P, k] by the bytes of the image that was shown."""
    found = {}
    for batch in batches:
        assert batch.token_labels is not None
        ids, scores = batch.token_labels
        assert (ids.dtype, scores.dtype) == (torch.int64, torch.float32)
        assert ids.shape == scores.shape == (len(batch.images), NUM_PATCHES, TOP_K)
        for image, own_ids, own_scores in zip(batch.images, ids, scores, strict=True):
            found[image.numpy().tobytes()] = own_ids.numpy(), own_scores.numpy()
    return found


@pytest.mark.parametrize("subset", ["ticket", "random", "inverse", "dense"])
def test_replayed_views_come_with_their_own_labels(replayed: tuple[SmallStore, LabelMaps], subset: str) -> None:
    """Against the store: view `epoch mod V` of each image, told by the pixels that stage one draws for it."""
    small, maps = replayed
    drawn = PolicyViews(POLICIES["crop"], small.manifest.view, 28)
    store = TicketStore.open(small.store)
    row_of = {key: row for row, key in enumerate(store.read_keys(range(14)))}
    for epoch in (0, 2, 4):
        view = epoch % 3
        found = _labelled_images(_run(_stream(small, subset=subset), epoch=epoch))
        assert len(found) == 12
        num_checked = 0
        for sample in small.samples:
            image = Image.fromarray(_pixels(sample.image))
            shown = to_tensor(drawn.draw_number(image, 0, sample.key, view).image).numpy().tobytes()
            if shown in found:
                ids, scores = found[shown]
                assert np.array_equal(ids, maps.ids[row_of[sample.key], view])
                assert np.array_equal(scores, maps.scores[row_of[sample.key], view].astype(np.float32))
                num_checked += 1
        assert num_checked == 12


def _mirrored(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cell by cell: what stands in column c of a row comes to column width - 1 - c."""
    result = np.empty_like(labels)
    for patch in range(NUM_PATCHES):
        row, column = divmod(patch, GRID[1])
        result[row * GRID[1] + GRID[1] - 1 - column] = labels[patch]
    return result


@pytest.mark.parametrize("subset", ["ticket", "random", "fixed-random", "dense"])
def test_mirrored_centre_views_come_with_mirrored_labels(centred: tuple[SmallStore, LabelMaps], subset: str) -> None:
    small, maps = centred
    batches = _run(_stream(small, subset=subset))
    seen = _identify(batches, small.samples)
    assert {s.flipped for s in seen} == {False, True}
    row_of = {key: row for row, key in enumerate(TicketStore.open(small.store).read_keys(range(14)))}
    labels = [pair for b in batches if b.token_labels for pair in zip(*b.token_labels, strict=True)]
    for sample, (ids, scores) in zip(seen, labels, strict=True):
        own = _of(maps, row_of[sample.key])
        if sample.flipped and small.manifest.num_views == 2:
            expected = own.ids[1], own.scores[1]
        elif sample.flipped:
            expected = _mirrored(own.ids[0]), _mirrored(own.scores[0])
        else:
            expected = own.ids[0], own.scores[0]
        assert np.array_equal(ids.numpy(), expected[0])
        assert np.array_equal(scores.numpy(), expected[1].astype(np.float32))


def test_testing_streams_and_resharded_images_have_them_too(replayed: tuple[SmallStore, LabelMaps]) -> None:
    """Every sample of an uneven share, and samples that are found by key instead of by shard."""
    small, _ = replayed
    config = _stream(small, training=False)
    expected = _labelled_images(_run(config))
    assert len(expected) == 14
    others = make_shards(small.folder / "others", [14], small.samples[::-1], name="dealt-anew")
    counted = count_shards(resolve_shards(others), TicketStore.open(small.store), SilentReporter(), recount=True)
    found = _labelled_images(_run(replace(config, shards=counted)))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[i][n], expected[i][n]) for i in found for n in (0, 1))


def test_workers_and_resuming_change_nothing(replayed: tuple[SmallStore, LabelMaps]) -> None:
    config = _stream(replayed[0], batch_size=2)
    one = _run(config)
    for batches in (_run(config, 1), one[:3] + _run(config, first_step=3)):
        for found, expected in zip(batches, one, strict=True):
            assert found.token_labels is not None
            assert expected.token_labels is not None
            assert torch.equal(found.token_labels.ids, expected.token_labels.ids)
            assert torch.equal(found.token_labels.scores, expected.token_labels.scores)


def test_only_the_views_that_are_shown_are_held(replayed: tuple[SmallStore, LabelMaps]) -> None:
    small, maps = replayed
    join = TicketJoin(JoinConfig(store=small.store, views=range(1, 2), token_labels=True))
    (first, *_) = resolve_shards(small.shards)
    for row, (_, ticket) in enumerate(join.join(first, iter_samples(first))):
        assert ticket.token_labels is not None
        assert ticket.token_labels.ids.shape == (1, NUM_PATCHES, TOP_K)
        assert ticket.token_labels.ids.base is None  # not a part of the whole shard's
        assert np.array_equal(ticket.token_labels.ids[0], maps.ids[row, 1])


def test_batches_have_none_where_none_are_asked_for(replayed: tuple[SmallStore, LabelMaps]) -> None:
    small, _ = replayed
    config = _stream(small, token_labels=False, join=JoinConfig(store=small.store))
    assert all(batch.token_labels is None for batch in _run(config))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"view_mode": "warp"}, "train with `view_mode='replay'`, not warp"),
        ({"view_mode": "static", "subset": "random"}, "train with `view_mode='replay'`, not static"),
        ({"join": None, "subset": "random", "view_mode": "static"}, "pass `tickets`"),
    ],
)
def test_views_without_labels_are_refused(
    replayed: tuple[SmallStore, LabelMaps], changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(OptionError, match=match):
        SampleStream(_stream(replayed[0], **changes), StreamPosition())


def test_a_store_without_labels_is_refused_in_one_sentence(tmp_path: Path) -> None:
    small = make_store(tmp_path, counts=(4,))
    with pytest.raises(TicketMismatchError) as caught:
        _run(_stream(small))
    assert str(caught.value) == (
        f"{small.store} has no token labels; write them with: dataltt label --model MODEL --tickets {small.store}"
    )
