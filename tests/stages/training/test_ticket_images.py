"""Tickets on map-style sets: an ImageFolder, a Hugging Face set, triples; by key or by image."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import (
    BadImageError,
    DatalttError,
    MissingTicketError,
    OptionError,
    SampleError,
    TicketMismatchError,
    open_store,
)
from dataltt.stages.training.ticket_batches import ticket_batches
from dataltt.stages.training.ticket_images import TicketImages, TicketSample, join_tickets
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from ...helpers import Sample, SmallStore, encode, fashion_samples, make_store


def _samples() -> list[Sample]:
    """Images whose keys are paths below class folders, as packing makes them."""
    found = []
    for i, sample in enumerate(fashion_samples(12)):
        found.append(Sample(key=f"class_{sample.label}/image_{i:02d}", image=sample.image, label=sample.label))
    return sorted(found, key=lambda s: s.key)


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("center"), counts=(7, 5), samples=_samples())


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    folder = tmp_path_factory.mktemp("replayed")
    return make_store(folder, counts=(7, 5), samples=_samples(), augment="deit", num_views=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    root = tmp_path_factory.mktemp("folder")
    for sample in _samples():
        path = root / f"{sample.key}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sample.image)
    return ImageFolder(str(root))


def _triples(samples: list[Sample]) -> list[tuple[str, bytes, int | None]]:
    return [(s.key, s.image, s.label) for s in samples]


def _check_center(data: TicketImages, small: SmallStore) -> None:
    """Every image's own centre view and its ticket."""
    streamed = ticket_batches(tickets=small.path, batch_size=1, training=False)
    expected = {b.keys[0]: b for b in streamed}
    assert sorted(s.key for s in data) == sorted(expected)
    for sample in data:
        batch = expected[sample.key]
        assert batch.keep_indices is not None
        assert torch.equal(sample.image, batch.images[0])
        assert torch.equal(sample.keep_indices, batch.keep_indices[0])


@pytest.mark.parametrize("by", ["key", "digest"])
def test_an_image_folder_has_the_tickets_of_its_shards(center: SmallStore, folder: ImageFolder, by: Any) -> None:
    data = join_tickets(folder, tickets=center.path, by=by, training=False)
    assert len(data) == 12
    assert data.num_skipped == 0
    _check_center(data, center)
    assert [s.label for s in data] == [label for _, label in folder.samples]
    assert data[-1].key == data[11].key
    with pytest.raises(IndexError):
        data[12]


def test_images_are_joined_by_what_they_are_whatever_they_are_called(center: SmallStore) -> None:
    renamed = [(f"other/{i}", s.image, s.label) for i, s in enumerate(reversed(center.samples))]
    data = join_tickets(renamed, tickets=center.path, by="digest", training=False)
    assert [s.key for s in data] == [s.key for s in reversed(center.samples)]
    _check_center(data, center)


@pytest.mark.parametrize("by", ["key", "digest"])
def test_replayed_views_are_those_that_a_stream_shows(replayed: SmallStore, folder: ImageFolder, by: Any) -> None:
    data = join_tickets(folder, tickets=replayed.path, by=by)
    streamed = ticket_batches(tickets=replayed.path, batch_size=1)
    store = open_store(replayed.path)
    for epoch in (0, 1, 2, 4):
        data.set_epoch(epoch)
        streamed.set_epoch(epoch)
        assert data.epoch == epoch
        expected = {b.keys[0]: b for b in streamed}
        for sample in data:
            assert sample.keep_indices.tolist() == store[sample.key].kept[epoch % 3].tolist()
            assert torch.equal(sample.image, expected[sample.key].images[0])


def test_static_views_are_mirrored_and_coloured_as_in_a_stream(center: SmallStore, folder: ImageFolder) -> None:
    data, streamed = join_tickets(folder, tickets=center.path), ticket_batches(tickets=center.path, batch_size=1)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        streamed.set_epoch(epoch)
        expected = {b.keys[0]: b for b in streamed}
        for sample in data:
            batch = expected[sample.key]
            assert batch.keep_indices is not None
            assert torch.equal(sample.image, batch.images[0])
            assert torch.equal(sample.keep_indices, batch.keep_indices[0])


@pytest.mark.parametrize("persistent", [False, True])
def test_a_loader_makes_batches_of_the_same_names(replayed: SmallStore, folder: ImageFolder, persistent: bool) -> None:
    data = join_tickets(folder, tickets=replayed.path)
    loader = DataLoader(data, batch_size=5, num_workers=2, persistent_workers=persistent)
    store = open_store(replayed.path)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = list(loader)
        assert [len(b.label) for b in batches] == [5, 5, 2]
        assert isinstance(batches[0], TicketSample)
        assert batches[0].image.shape == (5, 1, 28, 28)
        assert data.normalize(batches[0].image).dtype == torch.float32
        for batch in batches:
            for key, kept in zip(batch.key, batch.keep_indices, strict=True):
                assert store[key].kept[epoch].tolist() == kept.tolist()


def test_it_pickles(replayed: SmallStore, folder: ImageFolder) -> None:
    data = join_tickets(folder, tickets=replayed.path)
    first = data[3]
    back = pickle.loads(pickle.dumps(data))[3]
    assert torch.equal(back.image, first.image)
    assert torch.equal(back.keep_indices, first.keep_indices)


def test_images_without_tickets_are_an_error_or_left_out_and_said(center: SmallStore) -> None:
    images = _triples([*center.samples[:3], *fashion_samples(2, first=40), *center.samples[3:5]])
    for by in ("key", "digest"):
        with pytest.raises(MissingTicketError, match="train/00040"):
            join_tickets(images, tickets=center.path, by=by)
        with pytest.warns(UserWarning, match=r"2 of 7 images have no ticket in .* and are left out"):
            data = join_tickets(images, tickets=center.path, by=by, on_missing_ticket="skip", training=False)
        assert (len(data), data.num_skipped) == (5, 2)
        assert [s.key for s in data] == [s.key for s in center.samples[:5]]
    with pytest.raises(MissingTicketError, match=r"0 of 2 images have tickets\); give the shards"):
        join_tickets(_triples(fashion_samples(2, first=40)), tickets=center.path, on_missing_ticket="skip")


@pytest.mark.parametrize("kind", ["center", "replayed"])
def test_images_of_other_keys_are_joined_by_what_they_are_and_said(request: pytest.FixtureRequest, kind: str) -> None:
    store: SmallStore = request.getfixturevalue(kind)
    images = _triples(list(store.samples))
    others = [
        (f"other/{i}", image, label) if i % 3 else (key, image, label) for i, (key, image, label) in enumerate(images)
    ]
    by_key = join_tickets(images, tickets=store.path)
    with pytest.warns(UserWarning, match=r"8 of 12 images joined by their digests: they have other keys in .*"):
        mixed = join_tickets(others, tickets=store.path)
    by_image = join_tickets(others, tickets=store.path, by="digest")
    assert (by_key.num_by_digest, mixed.num_by_digest, by_image.num_by_digest) == (0, 8, 12)
    for epoch in (0, 1):
        for data in (by_key, mixed, by_image):
            data.set_epoch(epoch)
        for ours in (mixed, by_image):
            for one, other in zip(ours, by_key, strict=True):
                assert one.key == other.key
                assert torch.equal(one.image, other.image)
                assert torch.equal(one.keep_indices, other.keep_indices)


def test_identical_images_count_where_their_tickets_agree(tmp_path: Path) -> None:
    samples = [*_samples(), replace(_samples()[4], key="twin")]
    renamed = [(f"other/{i}", s.image, s.label) for i, s in enumerate(_samples())]
    center = make_store(tmp_path / "center", counts=(13,), samples=samples)
    assert [s.key for s in join_tickets(renamed, tickets=center.path, by="digest")] == [s.key for s in _samples()]
    replayed = make_store(tmp_path / "replayed", counts=(13,), samples=samples, augment="deit", num_views=2)
    with pytest.raises(MissingTicketError, match=r"'other/4' has no ticket in .* \(11 of 12 images have tickets\)"):
        join_tickets(renamed, tickets=replayed.path, by="digest")


def test_an_image_that_is_another_one_is_refused_unless_allowed(center: SmallStore) -> None:
    one, other = center.samples[:2]
    swapped = [(one.key, other.image, one.label)]
    data = join_tickets(swapped, tickets=center.path, training=False)
    with pytest.raises(TicketMismatchError, match=r"`on_changed_image='allow'`"):
        data[0]
    with pytest.raises(DatalttError, match=r"`on_changed_image='allow'`"):
        next(iter(DataLoader(data, num_workers=1)))
    allowed = join_tickets(swapped, tickets=center.path, training=False, on_changed_image="allow")
    assert allowed[0].key == one.key


def test_a_damaged_image_is_named(center: SmallStore) -> None:
    images = [(center.samples[0].key, b"no image", 0)]
    data = join_tickets(images, tickets=center.path, training=False, on_changed_image="allow")
    with pytest.raises(BadImageError, match=center.samples[0].key):
        data[0]
    with pytest.raises(DatalttError, match=center.samples[0].key):
        next(iter(DataLoader(data, num_workers=1)))


@pytest.mark.parametrize(
    ("images", "changes", "kind", "sentence"),
    [
        (iter([]), {}, OptionError, "`images` are of type list_iterator; give a torchvision ImageFolder"),
        ([], {}, SampleError, "there is no image in it"),
        ([("a", b"", 0)], {"by": "name"}, OptionError, "`by` 'name' should be 'key' or 'digest'"),
        ([("a", b"", 0)], {"view_mode": "warp"}, OptionError, "which needs shards"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    center: SmallStore, images: Any, changes: dict[str, Any], kind: type[DatalttError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        join_tickets(images, **{"tickets": center.path, **changes})


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_hugging_face_set(center: SmallStore, replayed: SmallStore, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    columns = {
        "image": [{"bytes": s.image, "path": None} for s in center.samples],
        "label": [s.label for s in center.samples],
        "name": [s.key for s in center.samples],
    }
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    by_key = join_tickets(rows, tickets=center.path, key="name", training=False)
    by_image = join_tickets(rows.remove_columns(["name"]), tickets=center.path, by="digest", training=False)
    for data in (by_key, by_image):
        _check_center(data, center)
        assert [s.label for s in data] == [s.label for s in center.samples]
    batches = list(DataLoader(join_tickets(rows, tickets=replayed.path, key="name"), batch_size=4, num_workers=2))
    assert [key for b in batches for key in b.key] == [s.key for s in center.samples]
    with pytest.raises(OptionError, match="which column holds the keys"):
        join_tickets(rows, tickets=center.path)
    with pytest.raises(OptionError, match="`key` 'id' is none of the columns image, label, name"):
        join_tickets(rows, tickets=center.path, key="id")
    changed = datasets.Dataset.from_dict(
        {"image": [{"bytes": encode(torch.zeros(28, 28, dtype=torch.uint8).numpy()), "path": None}]}
    )
    with pytest.raises(MissingTicketError, match="row 0"):
        join_tickets(changed.cast_column("image", datasets.Image()), tickets=center.path, by="digest")
