"""Stage one end to end: the same store every time, restarts, refusals, views, and weights of other kinds of file."""

from __future__ import annotations

import io
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import (
    BadImageError,
    CheckpointError,
    DuplicateKeyError,
    IncompletePartsError,
    Manifest,
    ModelError,
    OptionError,
    OutputExistsError,
    ShardError,
    TicketStore,
)
from dataltt.artifacts_schema.local_notes import noted_shards
from dataltt.artifacts_schema.tickets import pack_ranks, unpack_mask
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing.parts import Part
from dataltt.stages.data.images import center_crop, decode_image, normalize, to_tensor
from dataltt.stages.data.regrouping import regroup_shards
from dataltt.stages.data.shards import iter_samples, resolve_shards
from dataltt.stages.models.registry import create_vit
from dataltt.stages.models.weights import load_vit, weights_sha256
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection import select as select_module
from dataltt.stages.selection.config import SelectConfig
from dataltt.stages.selection.part_checks import _HashSet, first_unlabelled
from dataltt.stages.selection.select import select
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from ...helpers import (
    MODEL,
    NUM_PATCHES,
    Listener,
    Sample,
    encode,
    encode_image,
    fashion,
    fashion_samples,
    file_digests,
    make_shards,
    run_on_two_ranks,
    save_selector_weights,
    select_config,
    write_shard,
)
from ...reference_cascade import reference_order

pytestmark = pytest.mark.usefixtures("fixed_time")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_selector_weights(tmp_path_factory.mktemp("weights") / "selector.safetensors")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shards of 12, 5, none and 7 images."""
    return make_shards(tmp_path_factory.mktemp("shards"), (12, 5, 0, 7), fashion_samples(24))


def _select(shards: str, weights: Path, out: Path, **changes: Any) -> Manifest:
    manifest = select(select_config(shards, weights, out, **changes))
    assert manifest is not None
    return manifest


def _masks(store: Path, view: int = 0) -> dict[str, tuple[int, ...]]:
    opened = TicketStore.open(str(store))
    rows = range(opened.manifest.num_images)
    masks = unpack_mask(opened.read_tickets(rows)[:, view], NUM_PATCHES)
    return {k: tuple(np.flatnonzero(m).tolist()) for k, m in zip(opened.read_keys(rows), masks, strict=True)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, shards: str, weights: Path) -> Path:
    """The store that every way of selecting should give."""
    out = tmp_path_factory.mktemp("expected") / "store.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        _select(shards, weights, out, ranks=True)
    return out


# What comes out


def test_the_store_holds_what_the_reference_says(expected: Path, shards: str, weights: Path) -> None:
    store = TicketStore.open(str(expected))
    m = store.manifest
    rows = range(24)
    assert all(check.ok for check in verify_store(str(expected)))
    assert store.read_keys(rows) == [s.key for s in fashion_samples(24)]
    assert store.read_labels(rows).tolist() == [s.label for s in fashion_samples(24)]
    assert store.shard_names == [f"train-{i:06d}.tar" for i in range(4)]
    assert store.shard_rows.tolist() == [0, 12, 17, 17, 24]

    vit = load_vit(MODEL, weights)
    pixels = [torch.from_numpy(i.copy())[None] for i in fashion("train")[0][:24]]
    counts = (39, 31, 25)  # ceil(49 · 0.5^(i/3))
    order = reference_order(vit.eval(), normalize(torch.stack(pixels), m.view), (1, 3, 5), counts)
    ranks = store.read_ranks(rows)[:, 0]
    assert np.array_equal(ranks, order.argsort(dim=1).numpy())
    assert np.array_equal(store.read_tickets(rows)[:, 0], pack_ranks(ranks, 25))


def test_the_manifest_says_how_it_was_made(expected: Path, shards: str, weights: Path) -> None:
    m = TicketStore.open(str(expected)).manifest
    assert (m.grid, m.patch_px, m.image_px, m.num_patches, m.num_keep) == ((7, 7), 4, 28, 49, 25)
    assert (m.num_views, m.num_images, m.has_ranks) == (1, 24, True)
    assert (m.selector.model, m.selector.drop_blocks, m.selector.keep_counts) == (MODEL, [1, 3, 5], [39, 31, 25])
    assert (m.selector.ratio, m.selector.keep_rate, m.selector.precision) == (0.5, None, "fp32")
    assert m.selector.weights_sha256 == weights_sha256(load_vit(MODEL, weights))
    assert (m.dataset.name, m.dataset.split, m.dataset.source) == ("train", "train", "")
    assert noted_shards(str(expected), m) == shards
    assert (m.view.kind, m.view.resize_px, m.view.crop_share) == ("center", 28, 1.0)
    assert m.created == "2023-11-14T22:13:20+00:00"
    assert m.skipped == []


def test_selecting_again_gives_the_same_bytes(expected: Path, shards: str, weights: Path, tmp_path: Path) -> None:
    _select(shards, weights, tmp_path / "again.zarr", ranks=True)
    assert file_digests(tmp_path / "again.zarr") == file_digests(expected)
    assert [p.name for p in tmp_path.iterdir()] == ["again.zarr"]


def test_workers_give_the_same_bytes(expected: Path, shards: str, weights: Path, tmp_path: Path) -> None:
    _select(shards, weights, tmp_path / "workers.zarr", ranks=True, workers=2)
    assert file_digests(tmp_path / "workers.zarr") == file_digests(expected)


@pytest.mark.parametrize("batch_size", [1, 128])
def test_batches_of_other_sizes_give_the_same_tickets(
    expected: Path, shards: str, weights: Path, tmp_path: Path, batch_size: int
) -> None:
    _select(shards, weights, tmp_path / "batches.zarr", ranks=True, batch_size=batch_size)
    assert _masks(tmp_path / "batches.zarr") == _masks(expected)


@pytest.mark.two_ranks
def test_two_ranks_give_the_same_bytes(expected: Path, shards: str, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "ranks.zarr"
    options = ("--ratio", 0.5, "--ranks", "--batch-size", 5, "--workers", 0, "--device", "cpu", "--json")
    result = run_on_two_ranks(
        tmp_path, "select", "--model", MODEL, "--checkpoint", weights, "--shards", shards, "--out", out, *options
    )
    assert result.code == 0, result.err
    assert file_digests(out) == file_digests(expected)
    assert result.out.count('"schema_version"') == 1  # rank 0 alone speaks, of what all have done
    (said,) = [line for line in result.err.splitlines() if line.startswith("selecting tickets: 24 images in ")]
    assert said.endswith(", 4/4 shards")
    assert not out.with_name("ranks.zarr.parts").exists()


def test_keep_rate_and_drop_blocks(shards: str, weights: Path, tmp_path: Path) -> None:
    m = _select(shards, weights, tmp_path / "s.zarr", keep_rate=0.9, drop_blocks=(0, 2))
    assert (m.selector.drop_blocks, m.selector.keep_counts, m.num_keep) == ([0, 2], [45, 41], 41)
    assert (m.selector.ratio, m.selector.keep_rate, m.has_ranks) == (None, 0.9, False)


def test_bf16_is_said_and_near(expected: Path, shards: str, weights: Path, tmp_path: Path) -> None:
    m = _select(shards, weights, tmp_path / "s.zarr", precision="bf16")
    assert m.selector.precision == "bf16"
    ours, theirs = _masks(tmp_path / "s.zarr"), _masks(expected)
    shared = [len(set(ours[key]) & set(theirs[key])) / 25 for key in theirs]
    assert 0.8 < sum(shared) / len(shared) <= 1


def test_names_may_be_given(shards: str, weights: Path, tmp_path: Path) -> None:
    m = _select(shards, weights, tmp_path / "s.zarr", name="clothes", split="odd")
    assert (m.dataset.name, m.dataset.split) == ("clothes", "odd")


# Views


def _wide_samples() -> list[Sample]:
    """Images of 40 × 28, 28 × 56 and 28 × 28 px."""
    images = fashion("train")[0]
    wide = np.hstack([images[0], images[1][:, :12]])
    tall = np.vstack([images[2], images[3]])
    pixels = {"wide": wide, "tall": tall, "square": images[4]}
    return [Sample(key=key, image=encode(image), label=0) for key, image in pixels.items()]


def _mirrored(samples: Sequence[Sample]) -> list[Sample]:
    pixels = [np.asarray(Image.open(io.BytesIO(s.image))) for s in samples]
    return [replace(s, image=encode(p[:, ::-1].copy())) for s, p in zip(samples, pixels, strict=True)]


def test_two_views_are_the_image_and_its_mirror_image(weights: Path, tmp_path: Path) -> None:
    samples = _wide_samples()
    two = make_shards(tmp_path / "two", (3,), samples)
    mirrored = make_shards(tmp_path / "mirrored", (3,), _mirrored(samples))
    m = _select(two, weights, tmp_path / "two.zarr", num_views=2, ranks=True)
    _select(two, weights, tmp_path / "one.zarr")
    _select(mirrored, weights, tmp_path / "mirrored.zarr")
    assert (m.num_views, m.view.kind) == (2, "center")
    assert _masks(tmp_path / "two.zarr", 0) == _masks(tmp_path / "one.zarr")
    assert _masks(tmp_path / "two.zarr", 1) == _masks(tmp_path / "mirrored.zarr")

    store = TicketStore.open(str(tmp_path / "two.zarr"))
    views = store.read_views(range(3))
    assert views is not None
    boxes, flips = views
    assert flips.tolist() == [[0, 1]] * 3
    expected = np.array([[0, 6 / 40, 1, 28 / 40], [14 / 56, 0, 28 / 56, 1], [0, 0, 1, 1]], dtype=np.float32)
    for view in (0, 1):
        assert np.allclose(boxes[:, view], expected, atol=1e-6)
    assert all(check.ok for check in verify_store(str(tmp_path / "two.zarr")))


def test_a_box_is_what_the_selector_saw(weights: Path, tmp_path: Path) -> None:
    samples = _wide_samples()
    shards = make_shards(tmp_path / "shards", (3,), samples)
    m = _select(shards, weights, tmp_path / "s.zarr", num_views=2)
    views = TicketStore.open(str(tmp_path / "s.zarr")).read_views(range(3))
    assert views is not None
    for raw, (y0, x0, height, width) in zip(iter_samples(resolve_shards(shards)[0]), views[0][:, 0], strict=True):
        image = decode_image(raw, "L", "pillow", "")
        left, top = float(x0) * image.width, float(y0) * image.height
        cut = image.crop((left, top, left + float(width) * image.width, top + float(height) * image.height))
        assert torch.equal(to_tensor(cut), to_tensor(center_crop(image, m.view, 28)))


@pytest.mark.parametrize("views", [0, 3, -1])
def test_more_views_than_there_are(shards: str, weights: Path, tmp_path: Path, views: int) -> None:
    with pytest.raises(OptionError, match=f"`num_views={views}`"):
        _select(shards, weights, tmp_path / "s.zarr", num_views=views)


# Restart


class _PowerCutError(Exception):
    """Cuts a selection off at a chosen place."""


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, num_parts: int) -> None:
    """Lets a selection write so many parts, then cuts it off."""
    write = select_module.write_part
    written = 0

    def cut_off(directory: Path, index: int, part: Part) -> None:
        nonlocal written
        if written == num_parts:
            raise _PowerCutError
        written += 1
        write(directory, index, part)

    monkeypatch.setattr(select_module, "write_part", cut_off)


def _interrupted(
    shards: str, weights: Path, out: Path, monkeypatch: pytest.MonkeyPatch, num_parts: int = 1, **changes: Any
) -> Path:
    """A selection cut off after some parts; returns the directory of its parts."""
    with monkeypatch.context() as patch:
        _interrupt_after(patch, num_parts)
        with pytest.raises(_PowerCutError):
            _select(shards, weights, out, **{"ranks": True, **changes})
    parts = out.with_name(f"{out.name}.parts")
    assert sorted(p.name for p in parts.iterdir()) == [
        *(f"part-{i:06d}.parquet" for i in range(num_parts)),
        "plan.json",
    ]
    assert not out.exists()
    return parts


def test_a_restart_does_what_is_missing(
    expected: Path, shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.zarr"
    parts = _interrupted(shards, weights, out, monkeypatch)
    finished = parts / "part-000000.parquet"
    before = finished.stat().st_mtime_ns, finished.stat().st_ino, finished.read_bytes()

    written: list[int] = []
    write, commit = select_module.write_part, select_module.commit

    def noted(directory: Path, index: int, part: Part) -> None:
        written.append(index)
        write(directory, index, part)

    def after_all_parts(*args: Any, **options: Any) -> Manifest:
        assert (finished.stat().st_mtime_ns, finished.stat().st_ino, finished.read_bytes()) == before
        return commit(*args, **options)

    monkeypatch.setattr(select_module, "write_part", noted)
    monkeypatch.setattr(select_module, "commit", after_all_parts)
    _select(shards, weights, out, ranks=True)
    assert written == [1, 2, 3]
    assert file_digests(out) == file_digests(expected)
    assert not parts.exists()


def test_a_restart_after_the_last_part(
    expected: Path, shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.zarr"

    def cut_off(*args: Any, **options: Any) -> Manifest:
        raise _PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(select_module, "commit", cut_off)
        with pytest.raises(_PowerCutError):
            _select(shards, weights, out, ranks=True)
    _select(shards, weights, out, ranks=True)
    assert file_digests(out) == file_digests(expected)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"ratio": 0.6}, "num_keep, selector"),
        ({"ranks": False}, "has_ranks"),
        ({"num_views": 2}, "has_views, num_views"),
        ({"on_bad_image": "skip"}, "on_bad_image"),
        ({"precision": "bf16"}, "selector"),
        ({"seed": 1}, "seed"),
    ],
)
def test_parts_of_another_selection(
    shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], what: str
) -> None:
    out = tmp_path / "s.zarr"
    parts = _interrupted(shards, weights, out, monkeypatch)
    before = file_digests(parts)
    with pytest.raises(IncompletePartsError, match=rf"differs in {what}\); .*`overwrite=True`"):
        _select(shards, weights, out, **{"ranks": True, **changes})
    assert file_digests(parts) == before


def test_parts_of_other_weights(shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.zarr"
    _interrupted(shards, weights, out, monkeypatch)
    other = save_selector_weights(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(IncompletePartsError, match="differs in selector"):
        _select(shards, other, out, ranks=True)


def test_parts_of_a_shard_that_changed_since(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = make_shards(tmp_path / "shards", (3, 3), fashion_samples(6))
    out = tmp_path / "s.zarr"
    _interrupted(shards, weights, out, monkeypatch)
    write_shard(tmp_path / "shards" / "train-000000.tar", fashion_samples(4, first=100))
    os.utime(tmp_path / "shards" / "train-000000.tar", (1, 1))
    with pytest.raises(IncompletePartsError, match="differs in shards"):
        _select(shards, weights, out, ranks=True)


def test_overwrite_discards_parts_of_another_selection(
    expected: Path, shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.zarr"
    _interrupted(shards, weights, out, monkeypatch, ratio=0.6)
    _select(shards, weights, out, ranks=True, overwrite=True)
    assert file_digests(out) == file_digests(expected)


def test_a_damaged_part_is_named(shards: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.zarr"
    parts = _interrupted(shards, weights, out, monkeypatch, num_parts=2)
    part = parts / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(IncompletePartsError, match=r"part-000001\.parquet .*delete it"):
        _select(shards, weights, out, ranks=True)
    part.unlink()
    assert _select(shards, weights, out, ranks=True).num_images == 24


# What is there already


def test_an_existing_store_is_left_alone(expected: Path, shards: str, weights: Path) -> None:
    before = file_digests(expected.parent)
    with pytest.raises(OutputExistsError, match="`overwrite=True`"):
        _select(shards, weights, expected, ranks=False)
    assert file_digests(expected.parent) == before


def test_overwrite_replaces_a_store(expected: Path, shards: str, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    _select(shards, weights, out, ratio=0.9)
    _select(shards, weights, out, ranks=True, overwrite=True)
    assert file_digests(out) == file_digests(expected)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_an_overwrite_that_fails_leaves_the_old_store(
    expected: Path, shards: str, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.zarr"
    _select(shards, weights, out, ranks=True)
    bad = make_shards(tmp_path / "bad", (2,), [Sample(key=f"k{i}", image=b"no image", label=0) for i in range(2)])
    with pytest.raises(BadImageError):
        _select(bad, weights, out, overwrite=True)
    assert file_digests(out) == file_digests(expected)


# Samples


def _damaged(samples: Sequence[Sample], *numbers: int) -> list[Sample]:
    return [replace(s, image=s.image[:60]) if i in numbers else s for i, s in enumerate(samples)]


def test_a_bad_image_stops_the_selection(weights: Path, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (4, 4), _damaged(fashion_samples(8), 6))
    with pytest.raises(
        BadImageError, match=r"train-000001\.tar: image of sample 'train/00006' .*`on_bad_image='skip'`"
    ):
        _select(shards, weights, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_bad_images_are_skipped_and_listed(weights: Path, tmp_path: Path) -> None:
    samples = fashion_samples(9)
    shards = make_shards(tmp_path / "shards", (4, 4, 1), _damaged(samples, 0, 6, 8))
    m = _select(shards, weights, tmp_path / "s.zarr", on_bad_image="skip", batch_size=2)
    assert [(s.shard, s.key) for s in m.skipped] == [
        ("train-000000.tar", "train/00000"),
        ("train-000001.tar", "train/00006"),
        ("train-000002.tar", "train/00008"),
    ]
    assert all(s.reason for s in m.skipped)
    assert m.num_images == 6
    whole = make_shards(tmp_path / "whole", (9,), samples)
    _select(whole, weights, tmp_path / "whole.zarr")
    expected = _masks(tmp_path / "whole.zarr")
    assert _masks(tmp_path / "s.zarr") == {s.key: expected[s.key] for i, s in enumerate(samples) if i not in (0, 6, 8)}
    assert all(check.ok for check in verify_store(str(tmp_path / "s.zarr")))


def test_nothing_but_bad_images(weights: Path, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (2,), _damaged(fashion_samples(2), 0, 1))
    with pytest.raises(IncompletePartsError, match="no image in 1 shard"):
        _select(shards, weights, tmp_path / "s.zarr", on_bad_image="skip")
    assert not (tmp_path / "s.zarr").exists()


def test_a_key_in_two_shards(weights: Path, tmp_path: Path) -> None:
    samples = fashion_samples(6)
    shards = make_shards(tmp_path / "shards", (3, 4), [*samples, samples[1]])
    with pytest.raises(DuplicateKeyError, match=r"'train/00001' occurs in train-000000\.tar and train-000001\.tar"):
        _select(shards, weights, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def _parts(out: Path) -> list[str]:
    return sorted(p.name for p in out.with_name(f"{out.name}.parts").iterdir())


def test_keys_that_begin_anew_are_refused_at_the_second_shard(weights: Path, tmp_path: Path) -> None:
    samples = [replace(s, key=f"{i % 3:04d}") for i, s in enumerate(fashion_samples(12))]
    shards = make_shards(tmp_path / "old", (3, 3, 3, 3), samples)
    with pytest.raises(DuplicateKeyError) as caught:
        _select(shards, weights, tmp_path / "s.zarr")
    assert str(caught.value) == (
        "key '0000' occurs in train-000000.tar and train-000001.tar; keys begin anew in each shard, so put its name "
        f"before them: dataltt pack --from-shards --prefix-keys '{shards}' OUT"
    )
    assert _parts(tmp_path / "s.zarr") == ["part-000000.parquet", "plan.json"]
    # Going on from the part that is there comes to the same, and the way out is one.
    with pytest.raises(DuplicateKeyError, match="'0000' occurs in train-000000"):
        _select(shards, weights, tmp_path / "s.zarr")
    regroup_shards(shards, tmp_path / "new", prefix_keys=True, reporter=SilentReporter())
    new = str(tmp_path / "new" / "*.tar")
    assert _select(new, weights, tmp_path / "s.zarr", overwrite=True).num_images == 12
    key = TicketStore.open(str(tmp_path / "s.zarr")).read_keys(range(5, 6))[0]
    assert key == "train-000001/0002"


def test_a_key_that_comes_again_much_later(weights: Path, tmp_path: Path) -> None:
    samples = fashion_samples(20)
    shards = make_shards(tmp_path / "shards", (3, 2, 0, 4, 5, 6, 1), [*samples, samples[7]])
    with pytest.raises(
        DuplicateKeyError, match=r"'train/00007' occurs in train-000003\.tar and train-000006\.tar; ren"
    ):
        _select(shards, weights, tmp_path / "s.zarr")
    assert len(_parts(tmp_path / "s.zarr")) == 7


def test_a_key_of_the_store_that_is_extended(weights: Path, tmp_path: Path) -> None:
    samples = fashion_samples(8)
    _select(make_shards(tmp_path / "one", (3, 3), samples[:6]), weights, tmp_path / "base.zarr")
    more = make_shards(tmp_path / "two", (3,), [*samples[6:], samples[4]], name="more")
    with pytest.raises(DuplicateKeyError, match=r"'train/00004' occurs in train-000001\.tar and more-000000\.tar"):
        _select(more, weights, tmp_path / "s.zarr", extend=str(tmp_path / "base.zarr"))
    assert _parts(tmp_path / "s.zarr") == ["plan.json"]


@settings(max_examples=50, deadline=None)
@given(runs=st.lists(st.lists(st.integers(0, 30), unique=True), max_size=12))
def test_the_set_of_hashes_is_a_set(runs: list[list[int]]) -> None:
    seen: set[int] = set()
    ours = _HashSet()
    for run in runs:
        hashes = np.array(run, dtype=np.uint64)
        assert ours.has(hashes).tolist() == [i in seen for i in run]
        ours.add(hashes)
        seen |= set(run)


def test_a_picture_of_sixteen_bits_has_the_ticket_of_its_copy_of_eight(weights: Path, tmp_path: Path) -> None:
    pixels = fashion("train")[0][:3]
    found = []
    for scale, kind in ((1, np.uint8), (257, np.uint16)):
        images = [encode_image(Image.fromarray(p.astype(kind) * kind(scale))) for p in pixels]
        samples = [Sample(key=str(i), image=image, label=0) for i, image in enumerate(images)]
        shards = make_shards(tmp_path / f"{scale}", (3,), samples)
        _select(shards, weights, tmp_path / f"{scale}.zarr")
        found.append(_masks(tmp_path / f"{scale}.zarr"))
    assert found[0] == found[1]


def test_an_unlabelled_sample_is_said_when_it_is_met(weights: Path, tmp_path: Path) -> None:
    samples = [replace(s, label=None) if i in (4, 5, 7) else s for i, s in enumerate(fashion_samples(8))]
    shards = make_shards(tmp_path / "shards", (4, 2, 2), samples)
    listener = Listener()
    select(select_config(shards, weights, tmp_path / "s.zarr"), listener)
    assert listener.said == [
        "note: train-000001.tar: sample 'train/00004' has no .cls; it gets a ticket, and training refuses samples "
        "without a label"
    ]
    assert first_unlabelled(TicketStore.open(str(tmp_path / "s.zarr"))) == (3, "train/00004")


def test_empty_shards_alone(weights: Path, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (0, 0), [])
    with pytest.raises(IncompletePartsError, match="no image in 2 shard"):
        _select(shards, weights, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_a_cut_off_shard_makes_no_part(weights: Path, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (4, 4), fashion_samples(8))
    path = tmp_path / "shards" / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"train-000001\.tar"):
        _select(shards, weights, tmp_path / "s.zarr")
    parts = sorted(p.name for p in (tmp_path / "s.zarr.parts").iterdir())
    assert parts == ["part-000000.parquet", "plan.json"]


def test_labels_may_be_missing(weights: Path, tmp_path: Path) -> None:
    samples = [replace(s, label=None) for s in fashion_samples(3)]
    shards = make_shards(tmp_path / "shards", (3,), samples)
    _select(shards, weights, tmp_path / "s.zarr")
    assert TicketStore.open(str(tmp_path / "s.zarr")).read_labels(range(3)).tolist() == [-1, -1, -1]


def test_errors_come_out_of_workers(weights: Path, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (4, 4), _damaged(fashion_samples(8), 6))
    with pytest.raises(BadImageError, match="'train/00006'"):
        _select(shards, weights, tmp_path / "s.zarr", workers=2)


# Weights


@pytest.mark.parametrize("wrapped", ["model", "state_dict", None])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_pth_files_are_as_good(
    expected: Path, shards: str, weights: Path, tmp_path: Path, wrapped: str | None, suffix: str
) -> None:
    state = load_file(weights)
    path = tmp_path / f"weights{suffix}"
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, path)
    _select(shards, path, tmp_path / "s.zarr", ranks=True)
    assert file_digests(tmp_path / "s.zarr") == file_digests(expected)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_backbone_without_its_head_selects_as_well(
    expected: Path, shards: str, weights: Path, tmp_path: Path, suffix: str
) -> None:
    state = {name: tensor for name, tensor in load_file(weights).items() if not name.startswith("head.")}
    path = tmp_path / f"backbone{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    m = _select(shards, path, tmp_path / "s.zarr", ranks=True)
    assert _masks(tmp_path / "s.zarr") == _masks(expected)
    assert m.selector.weights_sha256 == weights_sha256(load_vit(MODEL, path, needs_head=False))
    with pytest.raises(CheckpointError, match=r"2 missing \(first: head\.bias\)"):
        load_vit(MODEL, path)


def test_a_backbone_of_lvvit(tmp_path: Path) -> None:
    tiny = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
    state = create_vit("lvvit_t", num_classes=5, **tiny).state_dict()
    save_file({n: t for n, t in state.items() if "head" not in n}, tmp_path / "backbone.safetensors")
    vit = load_vit("lvvit_t", tmp_path / "backbone.safetensors", needs_head=False, **tiny)
    assert all(torch.equal(tensor, state[name]) for name, tensor in vit.state_dict().items())
    assert len(vit.state_dict()) == len(state) - 4


def test_it_is_said_which_weights_of_a_file_are_taken(
    expected: Path, shards: str, weights: Path, tmp_path: Path
) -> None:
    state = load_file(weights)
    other = {name: tensor + 1 for name, tensor in state.items()}
    path = tmp_path / "weights.pth"
    torch.save({"model_ema": other, "model": state, "epoch": 3, "args": Namespace(lr=1)}, path)
    listener = Listener()
    select(select_config(shards, path, tmp_path / "s.zarr", ranks=True), listener)
    assert f"weights: 'model' of {path}, which also holds 'model_ema'" in listener.said
    assert file_digests(tmp_path / "s.zarr") == file_digests(expected)
    torch.save({"teacher": state, "student": other}, path)
    with pytest.raises(CheckpointError) as caught:
        _select(shards, path, tmp_path / "t.zarr")
    assert str(caught.value) == (
        f"{path} holds no weights as 'model' or 'state_dict', but as 'teacher', 'student'; save one of them in a file "
        "of its own"
    )


class _Evil:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", ["beside", "within"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(
    shards: str, weights: Path, tmp_path: Path, place: str
) -> None:
    state: dict[str, Any] = load_file(weights)
    evil = _Evil(tmp_path / "executed")
    path = tmp_path / "weights.pth"
    torch.save({"model": state, "args": evil} if place == "beside" else {**state, "extra": evil}, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth cannot be read as weights"):
        _select(shards, path, tmp_path / "s.zarr")
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()  # it would have run


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x08" + bytes(7) + b"{}      "])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_are_no_weights(shards: str, tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"weights\{suffix} (cannot be read as weights|holds no state dict)"):
        _select(shards, path, tmp_path / "s.zarr")


def test_no_file_at_all(shards: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint file .*gone\.pth"):
        _select(shards, tmp_path / "gone.pth", tmp_path / "s.zarr")


def test_weights_of_another_model(shards: str, tmp_path: Path, weights: Path) -> None:
    state = load_file(weights)
    state["extra"] = state.pop("blocks.0.norm1.weight")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(
        CheckpointError, match=r"1 missing \(first: blocks\.0\.norm1\.weight\); 1 unknown \(first: extra\)"
    ):
        _select(shards, tmp_path / "weights.pth", tmp_path / "s.zarr")


def test_weights_that_are_not_finite(shards: str, tmp_path: Path, weights: Path) -> None:
    state = load_file(weights)
    state["blocks.2.mlp.fc1.weight"][0, 0] = torch.nan
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="not finite"):
        _select(shards, tmp_path / "weights.pth", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_the_small_model_has_no_pretrained_weights(shards: str, tmp_path: Path) -> None:
    config = SelectConfig.of(model=MODEL, shards=shards, out=tmp_path / "s.zarr", ratio=0.5, device="cpu")
    with pytest.raises(CheckpointError, match="`checkpoint`"):
        select(config)


@pytest.mark.parametrize("blocks", [(3, 6), (5, 3), (1, 1, 2), (-1,)])
def test_drop_blocks_that_cannot_be_meant(shards: str, weights: Path, tmp_path: Path, blocks: tuple[int, ...]) -> None:
    with pytest.raises((ModelError, OptionError)):
        _select(shards, weights, tmp_path / "s.zarr", drop_blocks=blocks)
    # Nothing is left over that would stand in the way of a better call.
    _select(shards, weights, tmp_path / "s.zarr")


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_devices_that_are_not_there(shards: str, weights: Path, tmp_path: Path, device: str) -> None:
    with pytest.raises(OptionError, match="`device="):
        _select(shards, weights, tmp_path / "s.zarr", device=device)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_only_a_store_is_ever_overwritten(shards: str, weights: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "precious"
    if kind == "folder":
        out.mkdir()
    thesis = out / "thesis.txt" if kind == "folder" else out
    thesis.write_text("two years of work")
    with pytest.raises(OutputExistsError, match="is not a ticket store; choose another `out`"):
        _select(shards, weights, out, overwrite=True)
    assert thesis.read_text() == "two years of work"
