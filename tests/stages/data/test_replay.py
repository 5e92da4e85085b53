"""Replayed views: a student sees, byte for byte, what the selector saw, with the ticket that belongs to it."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import OptionError, TicketStore, View
from dataltt.artifacts_schema.geometry import BoxPx, box_of_px, box_to_px
from dataltt.artifacts_schema.manifest import Decoder
from dataltt.stages.data import images as images_module
from dataltt.stages.data.augment import PhotometricAugment, cut_view, draw_crop
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.counting import count_shards
from dataltt.stages.data.decoders import decoded_by
from dataltt.stages.data.drawing import PolicyViews
from dataltt.stages.data.images import Picture, decode_bytes, normalize, to_tensor
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.loader import iterate
from dataltt.stages.data.policies import POLICIES
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream
from dataltt.stages.models.checkpoints import latest_checkpoint
from dataltt.stages.models.selector import Ordered, TicketSelector
from dataltt.stages.models.weights import load_vit
from dataltt.stages.options import Control
from dataltt.stages.runtime.distributed import Process
from dataltt.stages.runtime.randomness import generator_of, seed_of
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.select import select
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.plan import plan_run
from dataltt.stages.training.train import _Trainer, train
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from ...helpers import (
    GRID,
    MODEL,
    NUM_PATCHES,
    Sample,
    SmallStore,
    encode,
    fashion_samples,
    file_digests,
    make_shards,
    make_store,
    recorded,
    run_on_two_ranks,
    save_selector_weights,
    select_config,
)
from ...reference_cascade import reference_order

pytestmark = pytest.mark.usefixtures("fixed_time")

_NUM_VIEWS = 3
_DEIT = POLICIES["deit"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Selected:
    """A store of three views, each of whose images has a class of its own, and what the selector was given."""

    made: SmallStore
    given: Tensor  # float32 [N, V, 1, 28, 28], normalised
    redrawn: dict[tuple[str, int], Tensor]  # uint8 [1, 28, 28] by key and view

    @property
    def keys(self) -> list[str]:
        return [s.key for s in self.made.samples]


def _named_by_class(samples: Iterable[Sample]) -> list[Sample]:
    """The samples with labels 0, 1, 2, …, so that a batch tells which images it holds."""
    return [replace(s, label=i) for i, s in enumerate(samples)]


def _decoded(sample: Sample, view: View) -> Picture:
    return decode_bytes(sample.image, view.mode, view.decoder_name)


def _redrawn(samples: Sequence[Sample], view: View) -> dict[tuple[str, int], Tensor]:
    """Every view of every image, drawn afresh from the store's seed (0), the key and the view's number."""
    views = PolicyViews(_DEIT, view, 28)
    return {
        (s.key, v): to_tensor(views.draw(_decoded(s, view), 0, s.key, v).image)
        for s in samples
        for v in range(_NUM_VIEWS)
    }


@pytest.fixture(scope="module", params=["torchvision", "pillow"])
def selected(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Selected:
    batches: list[Tensor] = []
    ordered = TicketSelector.ordered

    def recorded(self: TicketSelector, images: Tensor) -> Ordered:
        batches.append(images.clone())
        return ordered(self, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        patch.setattr(TicketSelector, "ordered", recorded)
        made = make_store(
            tmp_path_factory.mktemp("replay"),
            samples=_named_by_class(fashion_samples(36)),
            augment="deit",
            num_views=_NUM_VIEWS,
            decoder=request.param,
        )
    assert made.manifest.view.decoder_name == request.param
    return Selected(
        made=made,
        given=torch.cat(batches).reshape(36, _NUM_VIEWS, 1, 28, 28),
        redrawn=_redrawn(made.samples, made.manifest.view),
    )


def _stream(made: SmallStore, shards: str | None = None, **changes: Any) -> StreamConfig:
    found = resolve_shards(shards or made.shards)
    defaults: dict[str, Any] = {
        "shards": count_shards(found, TicketStore.open(made.store), SilentReporter(), recount=True),
        "view": made.manifest.view,
        "image_px": 28,
        "mode": "L",
        "grid": GRID,
        "subset": "ticket",
        "num_keep": made.manifest.num_keep,
        "batch_size": 6,
        "num_classes": 36,
        "seed": 5,
        "join": JoinConfig(store=made.store),
        "view_mode": "replay",
        "policy": _DEIT,
        "num_views": _NUM_VIEWS,
        "views_seed": 0,
    }
    return StreamConfig(**{**defaults, **changes})


def _train_config(made: SmallStore, out: Path, **changes: Any) -> TrainConfig:
    """Four epochs of six steps: all three views, and the first one again."""
    defaults: dict[str, Any] = {
        "tickets": made.store,
        "num_classes": 36,
        "epochs": 4,
        "batch_size": 6,
        "lr": 0.05,
        "ema_decay": 0.9,
        "workers": 0,
        "device": "cpu",
        "log_steps": 1,
    }
    return TrainConfig.of(out=out, **{**defaults, **changes})


def _planned(made: SmallStore, **changes: Any) -> StreamConfig:
    """The stream of a run, as its options and the store come to it."""
    process = Process(rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"))
    config = _train_config(made, Path("nowhere"), random_erasing=0.0, mixup=0.0, cutmix=0.0, **changes)
    return plan_run(config, process, SilentReporter()).stream


def _run(config: StreamConfig, num_workers: int = 0, **position: int) -> list[Batch]:
    return list(iterate(SampleStream(config, StreamPosition(**position)), num_workers))


class Shown(NamedTuple):
    """What a student is given of one image."""

    pixels: bytes
    keep: tuple[int, ...] | None


def _shown(made: SmallStore, batches: Iterable[Batch]) -> dict[str, Shown]:
    """By key; no image comes twice."""
    shown: dict[str, Shown] = {}
    for batch in batches:
        keeps = [None] * len(batch.images) if batch.keep_indices is None else batch.keep_indices.tolist()
        for image, label, keep in zip(batch.images, batch.labels.tolist(), keeps, strict=True):
            key = made.samples[label].key
            assert key not in shown
            shown[key] = Shown(image.numpy().tobytes(), None if keep is None else tuple(keep))
    return shown


def _ticket(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())


def _check_view(selected: Selected, shown: dict[str, Shown], view: int) -> None:
    """Pixels and tickets are those of this view of the store."""
    masks = selected.made.masks(view)
    for key, each in shown.items():
        assert each.pixels == selected.redrawn[key, view].numpy().tobytes(), (key, view)
        assert each.keep == _ticket(masks[key]), (key, view)


def _check_same(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.keep_indices is not None
        assert theirs.keep_indices is not None
        assert torch.equal(ours.keep_indices, theirs.keep_indices)


# What the selector saw


def test_the_selector_is_given_the_views_that_its_names_draw(selected: Selected) -> None:
    redrawn = torch.stack([selected.redrawn[key, v] for key in selected.keys for v in range(_NUM_VIEWS)])
    assert torch.equal(selected.given.flatten(0, 1), normalize(redrawn, selected.made.manifest.view))


def test_the_student_is_given_what_the_selector_was_given(selected: Selected) -> None:
    """Not by way of a second drawing: the very tensors that went into the selector."""
    row_of = {key: row for row, key in enumerate(TicketStore.open(selected.made.store).read_keys(range(36)))}
    for epoch in range(4):
        labels = []
        for batch in _run(_stream(selected.made), epoch=epoch):
            rows = [row_of[selected.made.samples[i].key] for i in batch.labels.tolist()]
            seen = normalize(batch.images, selected.made.manifest.view)
            assert torch.equal(seen, selected.given[rows, epoch % _NUM_VIEWS])
            labels += batch.labels.tolist()
        assert sorted(labels) == list(range(36))


def test_every_stored_ticket_is_of_the_view_at_its_place(selected: Selected) -> None:
    vit = load_vit(MODEL, selected.made.weights).eval()
    for view in range(_NUM_VIEWS):
        order = reference_order(vit, selected.given[:, view], (1, 3, 5), (39, 31, 25))
        expected = dict(zip(selected.keys, order[:, :25].sort(dim=1).values.tolist(), strict=True))
        assert {k: list(_ticket(m)) for k, m in selected.made.masks(view).items()} == expected


def test_views_differ(selected: Selected) -> None:
    """Else the tests here would prove nothing."""
    assert len({pixels.numpy().tobytes() for pixels in selected.redrawn.values()}) > 100
    store = TicketStore.open(selected.made.store)
    views = store.read_views(range(36))
    assert views is not None
    boxes, flips = views
    assert len({box.tobytes() for box in boxes.reshape(-1, 4)}) > 100
    assert 30 < int(flips.sum()) < 78
    assert len({ticket.tobytes() for ticket in store.read_tickets(range(36)).reshape(-1, 7)}) > 100


def test_boxes_and_flips_are_an_independent_draw(selected: Selected) -> None:
    """timm's own draw from Python's generator, seeded by the view's names."""
    views = TicketStore.open(selected.made.store).read_views(range(36))
    assert views is not None
    state = random.getstate()
    try:
        for row, sample in enumerate(selected.made.samples):
            for v in range(_NUM_VIEWS):
                random.seed(seed_of(0, sample.key, v, "crop"))
                top, left, height, width = RandomResizedCropAndInterpolation.get_params(
                    Image.open(io.BytesIO(sample.image)), (0.08, 1.0), (3 / 4, 4 / 3)
                )
                box = np.array([top / 28, left / 28, height / 28, width / 28], dtype=np.float32)
                assert np.array_equal(views[0][row, v], box)
                assert views[1][row, v] == (generator_of(0, sample.key, v, "flip").random() < 0.5)
    finally:
        random.setstate(state)


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 7}, {"workers": 2}], ids=str)
def test_the_store_does_not_depend_on_how_it_was_made(selected: Selected, tmp_path: Path, changes: Any) -> None:
    made = selected.made
    decoder = made.manifest.view.decoder_name
    options = {"augment": "deit", "num_views": _NUM_VIEWS, "ranks": True, "decoder": decoder, **changes}
    select(select_config(made.shards, made.weights, tmp_path / "store.zarr", **options))
    assert file_digests(tmp_path / "store.zarr") == file_digests(made.path)


def test_another_seed_gives_other_views(selected: Selected, tmp_path: Path) -> None:
    made = selected.made
    options = {"augment": "deit", "num_views": 1, "ranks": True, "seed": 1}
    manifest = select(select_config(made.shards, made.weights, tmp_path / "store.zarr", **options))
    assert manifest is not None
    assert (manifest.view.augment or {})["seed"] == 1
    ours, theirs = (TicketStore.open(str(p)).read_views(range(36)) for p in (tmp_path / "store.zarr", made.path))
    assert ours is not None
    assert theirs is not None
    assert not (ours[0][:, 0] == theirs[0][:, 0]).all(axis=1).any()


@pytest.mark.parametrize("views", [1, 4])
def test_stage_one_decodes_every_image_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, views: int) -> None:
    decoded: list[bytes] = []
    decode = images_module.decode_bytes

    def counted(encoded: bytes, mode: str, decoder: Decoder) -> Picture:
        decoded.append(encoded)
        return decode(encoded, mode, decoder)

    monkeypatch.setattr(images_module, "decode_bytes", counted)
    made = make_store(tmp_path, counts=(4, 3), augment="deit", num_views=views)
    assert made.manifest.num_views == views
    assert decoded == [s.image for s in made.samples]


# What the student sees


@pytest.mark.parametrize(("batch_size", "shuffle_buffer"), [(1, 1), (6, 5), (6, 2000), (36, 7)])
def test_epochs_show_the_stored_views_in_turn(selected: Selected, batch_size: int, shuffle_buffer: int) -> None:
    config = _stream(selected.made, batch_size=batch_size, shuffle_buffer=shuffle_buffer)
    for epoch in range(4):
        shown = _shown(selected.made, _run(config, epoch=epoch))
        assert set(shown) == set(selected.keys)
        _check_view(selected, shown, epoch % _NUM_VIEWS)


def test_what_does_not_fill_a_batch_changes_no_other_image(selected: Selected) -> None:
    shown = _shown(selected.made, _run(_stream(selected.made, batch_size=10), epoch=1))
    assert len(shown) == 30
    _check_view(selected, shown, 1)


def test_workers_show_the_stored_views(selected: Selected) -> None:
    shown = _shown(selected.made, _run(_stream(selected.made), 2, epoch=2))
    assert set(shown) == set(selected.keys)
    _check_view(selected, shown, 2)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_show_the_stored_views(selected: Selected, world_size: int) -> None:
    config, keys = _stream(selected.made), []
    for rank in range(world_size):
        shown = _shown(selected.made, _run(config, epoch=4, rank=rank, world_size=world_size))
        assert len(shown) == 36 // world_size
        _check_view(selected, shown, 1)
        keys += list(shown)
    assert sorted(keys) == sorted(selected.keys)


@pytest.mark.parametrize("num_views", [1, 2])
def test_fewer_views_than_the_store_has(selected: Selected, num_views: int) -> None:
    config = _planned(selected.made, num_views=num_views)
    for epoch in range(4):
        shown = _shown(selected.made, _run(config, epoch=epoch))
        assert len(shown) == 36
        _check_view(selected, shown, epoch % num_views)


def test_pixels_depend_on_neither_seed_nor_epoch(selected: Selected) -> None:
    """Of the same view, that is; the order of the images depends on both."""

    def order(seed: int, epoch: int) -> list[str]:
        shown = _shown(selected.made, _run(_stream(selected.made, seed=seed), epoch=epoch))
        _check_view(selected, shown, 1)
        return list(shown)

    orders = {tuple(order(seed, epoch)) for seed in (5, 6) for epoch in (1, 4)}
    assert len(orders) == 4


def test_the_views_seed_is_the_stores(tmp_path: Path) -> None:
    """A store that was selected with another seed than 0 is replayed with it, whatever --seed says."""
    samples = _named_by_class(fashion_samples(12))
    made = make_store(tmp_path, counts=(12,), samples=samples, augment="deit", num_views=2, seed=0)
    options = {"augment": "deit", "num_views": 2, "ranks": True, "seed": 77}
    other = select(select_config(made.shards, made.weights, tmp_path / "other.zarr", **options))
    assert other is not None
    of_other = replace(made, path=tmp_path / "other.zarr", manifest=other)
    views = PolicyViews(_DEIT, other.view, 28)
    for epoch in range(2):
        shown = _shown(of_other, _run(_planned(of_other, seed=3), epoch=epoch))
        masks = of_other.masks(epoch)
        assert len(shown) == 12
        for sample in samples:
            drawn = to_tensor(views.draw(_decoded(sample, other.view), 77, sample.key, epoch).image)
            assert shown[sample.key] == Shown(drawn.numpy().tobytes(), _ticket(masks[sample.key]))


@pytest.mark.parametrize("control", ["random", "fixed-random", "inverse", "center", "resize", "dense"])
def test_controls_see_the_same_pixels(selected: Selected, control: Control) -> None:
    ticket, other = (_planned(selected.made, control=c) for c in ("ticket", control))
    for epoch in (0, 4):
        ours, theirs = _run(other, epoch=epoch), _run(ticket, epoch=epoch)
        assert [b.images.numpy().tobytes() for b in ours] == [b.images.numpy().tobytes() for b in theirs]
        assert [b.labels.tolist() for b in ours] == [b.labels.tolist() for b in theirs]
        shown = _shown(selected.made, ours)
        _check_view(selected, _shown(selected.made, theirs), epoch % _NUM_VIEWS)
        if control == "inverse":
            ranks = selected.made.ranks(epoch % _NUM_VIEWS)
            assert {k: s.keep for k, s in shown.items()} == {k: _ticket(r >= 49 - 25) for k, r in ranks.items()}
        elif control == "center":
            square = np.arange(49).reshape(7, 7)[1:6, 1:6]
            assert {s.keep for s in shown.values()} == {tuple(square.ravel().tolist())}
        elif control in ("dense", "resize"):
            assert other.student_px == (20 if control == "resize" else None)
            assert {s.keep for s in shown.values()} == {None}
        else:
            keeps = [s.keep for s in shown.values() if s.keep is not None]
            assert [len(set(k)) for k in keeps] == [25] * 36
            assert len(set(keeps)) == 36


def test_fixed_random_patches_stay_the_same_in_every_view(selected: Selected) -> None:
    config = _planned(selected.made, control="fixed-random")
    first, second = ({k: s.keep for k, s in _shown(selected.made, _run(config, epoch=e)).items()} for e in (0, 1))
    assert first == second


def test_erasing_and_mixing_leave_the_views_what_they_are(selected: Selected) -> None:
    """Erasing takes whole patches away and nothing else; mixing happens after the stream."""
    plain = _run(_stream(selected.made), epoch=1)
    erased = _run(_stream(selected.made, random_erasing=1.0, mixing=True), epoch=1)
    for ours, theirs in zip(erased, plain, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        changed = (ours.images != theirs.images).unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).any(dim=4)
        kept = ~changed.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        assert 0 < int(changed.sum()) < changed.numel() // 2
        assert torch.equal(ours.images[kept], theirs.images[kept])


# Resuming


@pytest.mark.parametrize("first_step", range(7))
def test_resuming_gives_the_rest_of_the_epoch(selected: Selected, first_step: int) -> None:
    config = _stream(selected.made)
    whole = _run(config, epoch=1)
    assert len(whole) == 6
    _check_same(_run(config, epoch=1, first_step=first_step), whole[first_step:])


def test_resuming_with_workers_gives_the_rest_of_the_epoch(selected: Selected) -> None:
    config = _stream(selected.made, batch_size=5)  # 7 steps: 4 of one worker, 3 of the other
    whole = _run(config, 2, epoch=2)
    assert len(whole) == 7
    _check_view(selected, _shown(selected.made, whole), 2)
    _check_same(_run(config, 2, epoch=2, first_step=3), whole[3:])


# Whole runs


def _recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Batch]]:
    """The batches that are trained on from now on, with their steps."""
    steps: list[tuple[int, Batch]] = []
    train_step = _Trainer._train_step

    def recorded(self: _Trainer, batch: Batch) -> None:
        steps.append((self.step, batch))
        train_step(self, batch)

    monkeypatch.setattr(_Trainer, "_train_step", recorded)
    return steps


def _weights(run: Path, name: str) -> dict[str, Tensor]:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return load_file(checkpoint / f"{name}.safetensors")


@pytest.mark.long
def test_a_run_is_given_what_the_selector_saw_and_resumes_within_an_epoch(
    selected: Selected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With mixing on, which happens on the way from the batch to the model."""
    steps = _recorded(monkeypatch)
    options = {"view_mode": "replay", "random_erasing": 0.0}
    whole = train(_train_config(selected.made, tmp_path / "whole", **options))
    assert (whole.step, whole.epoch) == (24, 4)
    assert [step for step, _ in steps] == list(range(24))
    for epoch in range(4):
        batches = [batch for step, batch in steps if step // 6 == epoch]
        shown = _shown(selected.made, batches)
        assert set(shown) == set(selected.keys)
        for key, each in shown.items():
            assert each.pixels == selected.redrawn[key, epoch % _NUM_VIEWS].numpy().tobytes()
        ranks = selected.made.ranks(epoch % _NUM_VIEWS)
        for batch in batches:
            assert batch.scores is not None
            of_batch = np.stack([ranks[selected.made.samples[i].key] for i in batch.labels.tolist()])
            assert np.array_equal(batch.scores.numpy(), NUM_PATCHES - 1 - of_batch.astype(np.float32))

    before = list(steps)
    steps.clear()
    out = tmp_path / "resumed"
    for i, stop in enumerate((4, 15, None)):
        train(_train_config(selected.made, out, max_steps=stop, resume=i > 0, **options))
    assert [step for step, _ in steps] == list(range(24))
    for (_, again), (_, first) in zip(steps, before, strict=True):
        assert torch.equal(again.images, first.images)
    for name in ("model", "ema"):
        ours, theirs = _weights(out, name), _weights(tmp_path / "whole", name)
        assert ours.keys() == theirs.keys()
        assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == []


def test_a_resumed_run_keeps_its_number_of_views(selected: Selected, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(_train_config(selected.made, out, max_steps=1, num_views=2))
    assert recorded(out)["num_views"] == 2
    with pytest.raises(OptionError, match="num_views was 2 and is 3"):
        train(_train_config(selected.made, out, max_steps=2, resume=True))


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.two_ranks
def test_two_ranks_train_on_replayed_views_as_one(tmp_path: Path) -> None:
    """As many samples as a global batch, so that each step's loss is of all images, whoever has seen them."""
    made = make_store(tmp_path / "store", counts=(7, 1, 4), augment="deit", num_views=2)
    assert made.manifest.num_images == 12
    options = {"epochs": 4, "drop_path": 0.0, "random_erasing": 0.0, "lr": 0.5, "mixup": 0.0, "cutmix": 0.0}
    train(_train_config(made, tmp_path / "one", num_classes=10, batch_size=12, **options))
    out = tmp_path / "two"
    result = run_on_two_ranks(
        tmp_path,
        *(
            "train",
            "--tickets",
            made.store,
            "--view-mode",
            "replay",
            "--out",
            out,
            "--batch-size",
            6,
            "--ema-decay",
            0.9,
        ),
        *("--workers", 0, "--device", "cpu", "--log-steps", 1, "--json"),
        *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
    )
    assert result.code == 0, result.err
    assert json.loads(result.out)["step"] == 4
    ours, theirs = (_losses(tmp_path / run) for run in ("two", "one"))
    assert ours == [pytest.approx(loss, rel=1e-4) for loss in theirs]
    assert len(set(theirs)) == 4


# Boxes


def _upscaled(sample: Sample) -> Sample:
    """The image with every pixel doubled, encoded anew."""
    pixels = np.asarray(Image.open(io.BytesIO(sample.image)))
    return replace(sample, image=encode(pixels.repeat(2, axis=0).repeat(2, axis=1)))


def test_a_larger_copy_of_the_data_is_cut_at_the_same_places(selected: Selected, tmp_path: Path) -> None:
    made = selected.made
    larger = [_upscaled(s) for s in made.samples]
    shards = make_shards(tmp_path, (12, 12, 12), larger)
    views = TicketStore.open(made.store).read_views(range(36))
    assert views is not None
    config = _stream(made, shards, join=JoinConfig(store=made.store, on_changed_image="allow"))
    photometric = PhotometricAugment(_DEIT.augment, made.manifest.view.mean, made.manifest.view.decoder_name)
    for view in range(_NUM_VIEWS):
        shown, masks = _shown(made, _run(config, epoch=view)), made.masks(view)
        assert len(shown) == 36
        for row, sample in enumerate(larger):
            box, flip = views[0][row, view], bool(views[1][row, view])
            own_px = BoxPx(*(int(n) for n in np.rint(box * 28)))
            doubled = BoxPx(*(2 * n for n in own_px))
            assert box_to_px(box, 28, 28) == own_px
            assert box_to_px(box, 56, 56) == doubled
            cut = cut_view(
                _decoded(sample, made.manifest.view), doubled, flip=flip, view=made.manifest.view, image_px=28
            )
            pixels = to_tensor(photometric(cut, 0, sample.key, view)).numpy().tobytes()
            assert shown[sample.key] == Shown(pixels, _ticket(masks[sample.key]))


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[BoxPx, int, int]:
    """A box and the width and height of the image that it lies in."""
    width, height = draw(st.integers(1, 4096)), draw(st.integers(1, 4096))
    h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
    return BoxPx(draw(st.integers(0, height - h)), draw(st.integers(0, width - w)), h, w), width, height


@given(_boxes())
@settings(max_examples=500, deadline=None)
def test_a_box_comes_back_pixel_by_pixel(drawn: tuple[BoxPx, int, int]) -> None:
    px, width, height = drawn
    box = box_of_px(px, width, height)
    assert box.dtype == np.float32
    assert box_to_px(box, width, height) == px
    assert (box[:2] >= 0).all()
    assert (box[2:] > 0).all()
    assert (box[:2] + box[2:] <= 1 + 1e-6).all()  # what a store's reader asks for


@given(_boxes(), st.integers(1, 4096), st.integers(1, 4096))
@settings(max_examples=300, deadline=None)
def test_a_box_lies_within_an_image_of_any_size(drawn: tuple[BoxPx, int, int], width: int, height: int) -> None:
    px = box_to_px(box_of_px(*drawn), width, height)
    assert 0 <= px.top < px.top + px.height <= height
    assert 0 <= px.left < px.left + px.width <= width


@given(_boxes(), st.integers(2, 4))
@settings(max_examples=200, deadline=None)
def test_a_box_covers_the_same_part_of_an_enlarged_image(drawn: tuple[BoxPx, int, int], factor: int) -> None:
    px, width, height = drawn
    enlarged = box_to_px(box_of_px(px, width, height), factor * width, factor * height)
    assert enlarged == BoxPx(*(factor * n for n in px))


# timm


_SIZES = [(28, 28), (64, 48), (500, 375), (30, 301), (400, 60)]


@pytest.fixture
def _random_state() -> Iterator[None]:
    state = random.getstate()
    yield
    random.setstate(state)


def _noise(width_px: int, height_px: int, mode: str) -> Image.Image:
    shape = (height_px, width_px, 3) if mode == "RGB" else (height_px, width_px)
    return Image.fromarray(np.random.default_rng([width_px, height_px]).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.usefixtures("_random_state")
@pytest.mark.parametrize("size", _SIZES, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_crop_is_the_one_that_timm_makes(selected: Selected, size: tuple[int, int], mode: str) -> None:
    image = _noise(*size, mode)
    view = decoded_by(selected.made.manifest.view, "pillow")
    theirs = RandomResizedCropAndInterpolation(32, (0.08, 1.0), (3 / 4, 4 / 3), "bicubic")
    boxes = set()
    for v in range(20):
        ours = draw_crop(image, (0.08, 1.0), (3 / 4, 4 / 3), 0, "key", v)
        random.seed(seed_of(0, "key", v, "crop"))
        before = random.getstate()
        assert tuple(ours) == theirs.get_params(image, theirs.scale, theirs.ratio)
        random.setstate(before)
        expected = theirs(image)
        cut = cut_view(image, ours, flip=False, view=view, image_px=32)
        assert cut.tobytes() == expected.tobytes()
        mirrored = cut_view(image, ours, flip=True, view=view, image_px=32)
        assert np.array_equal(np.asarray(mirrored), np.asarray(expected)[:, ::-1])
        boxes.add(ours)
    if max(size) < 2 * min(size):  # crops of long images hardly ever fit, and timm takes the middle
        assert len(boxes) > 15


def test_drawing_leaves_the_global_generators_alone(selected: Selected) -> None:
    def states() -> tuple[object, ...]:
        numpy_state: Any = np.random.get_state()
        return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:], torch.get_rng_state().numpy().tobytes()

    before = states()
    view = selected.made.manifest.view
    PolicyViews(_DEIT, view, 28).draw(_decoded(selected.made.samples[0], view), 0, "key", 0)
    assert states() == before


def test_images_keys_views_and_seeds_get_crops_of_their_own() -> None:
    image, other = _noise(500, 375, "L"), _noise(375, 500, "L")
    names: list[tuple[object, ...]] = [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0), (1, "b", 1)]
    boxes = [draw_crop(i, (0.08, 1.0), (3 / 4, 4 / 3), *n) for i in (image, other) for n in names]
    assert len(set(boxes)) == 10


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)], ids=str)
def test_a_crop_of_the_smallest_image_is_a_pixel_at_least(size: tuple[int, int]) -> None:
    """A store refuses boxes without an area."""
    image = _noise(*size, "L")
    boxes = [draw_crop(image, (0.08, 1.0), (3 / 4, 4 / 3), 0, "key", v) for v in range(300)]
    assert [b for b in boxes if b.height < 1 or b.width < 1] == []
    assert [b for b in boxes if b.top < 0 or b.top + b.height > image.height] == []
    assert [b for b in boxes if b.left < 0 or b.left + b.width > image.width] == []


def test_a_store_of_tiny_images_can_be_read(tmp_path: Path) -> None:
    pixels = [np.full((1, 1), 9 * i, dtype=np.uint8) for i in range(8)]
    samples = [Sample(key=f"k{i}", image=encode(p), label=0) for i, p in enumerate(pixels)]
    made = make_store(tmp_path, counts=(8,), samples=samples, augment="deit", num_views=4)
    views = TicketStore.open(made.store).read_views(range(8))
    assert views is not None
    assert (views[0][..., 2:] > 0).all()


def test_weights_of_the_selector_do_not_change_the_views(selected: Selected, tmp_path: Path) -> None:
    made = selected.made
    weights = save_selector_weights(tmp_path / "other.safetensors", seed=1)
    select(select_config(made.shards, weights, tmp_path / "store.zarr", augment="deit", num_views=2))
    ours = TicketStore.open(str(tmp_path / "store.zarr"))
    theirs = TicketStore.open(made.store)
    views, expected = ours.read_views(range(36)), theirs.read_views(range(36), slice(0, 2))
    assert views is not None
    assert expected is not None
    assert np.array_equal(views[0], expected[0])
    assert np.array_equal(views[1], expected[1])
    assert not np.array_equal(ours.read_tickets(range(36)), theirs.read_tickets(range(36), slice(0, 2)))
