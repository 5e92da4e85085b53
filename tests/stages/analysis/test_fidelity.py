"""How well tickets fit what the student sees: exact where they must be, and errors that say what to give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import OptionError, TicketStore
from dataltt.artifacts_schema.tickets import mirror, unpack_mask
from dataltt.stages.analysis.config import FidelityConfig
from dataltt.stages.analysis.fidelity import FidelityResult, _iou, fidelity

from ...helpers import GRID, MODEL, NUM_PATCHES, SmallStore, make_store, run_cli, save_selector_weights

_COUNTS = (40, 24)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A replay store of 64 images, 2 views, without ranks."""
    return make_store(tmp_path_factory.mktemp("fidelity"), counts=_COUNTS, augment="deit", num_views=2, ranks=False)


def _measure(made: SmallStore, **changes: object) -> FidelityResult:
    defaults = {"ratio": 0.5, "num_views": 2, "images": 64, "workers": 0, "device": "cpu"}
    options = {"model": MODEL, "checkpoint": made.weights, **defaults, **changes}
    return fidelity(FidelityConfig.of(**options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def everything(made: SmallStore) -> FidelityResult:
    return _measure(made, shards=made.shards)


def test_iou_of_sets() -> None:
    a = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]])
    b = torch.tensor([[3, 2, 1, 0], [3, 4, 5, 6], [7, 4, 5, 6]])
    assert _iou(a, b).tolist() == [1.0, 1 / 7, 0.0]


@pytest.mark.long
def test_every_way_to_train_has_its_row(everything: FidelityResult) -> None:
    assert [row.name for row in everything.rows] == [
        "static",
        "centre ticket under crops",
        "warp, centre view",
        "warp, whole image",
        "warp, 1 view",
        "warp, 2 views",
        "random subset",
        "replay",
        "replay, erased",
        "replay, cutmix",
        "replay, mixup",
        "replay, mixup at λ = 0.5",
        "replay, cutmix, without ranks",
        "replay, mixup, without ranks",
        "replay, mixup at λ = 0.5, without ranks",
    ]
    assert (everything.num_keep, everything.num_patches, everything.augment) == (25, NUM_PATCHES, "deit")
    assert all(0 <= row.percentile_5 <= row.mean <= 1 and row.num_images == 64 for row in everything.rows)


@pytest.mark.long
def test_replayed_tickets_are_the_selectors_own(everything: FidelityResult) -> None:
    rows = {row.name: row.mean for row in everything.rows}
    assert rows["replay"] == 1
    others = {name: mean for name, mean in rows.items() if name != "replay"}
    assert max(others.values()) < 1
    assert rows["random subset"] == pytest.approx(0.34, abs=0.04)


@pytest.mark.long
def test_the_centre_ticket_under_crops_against_the_stores(
    made: SmallStore, everything: FidelityResult, tmp_path: Path
) -> None:
    """The same two stores, made by hand, with their tickets compared patch by patch."""
    center = make_store(tmp_path, counts=_COUNTS)
    views = TicketStore.open(made.store).read_views(range(64))
    assert views is not None
    moving = unpack_mask(TicketStore.open(made.store).read_tickets(range(64))[:, 0], NUM_PATCHES)
    fixed = unpack_mask(TicketStore.open(center.store).read_tickets(range(64))[:, 0], NUM_PATCHES)
    ious = []
    for ours, theirs, flip in zip(fixed, moving, views[1][:, 0], strict=True):
        kept = set(np.flatnonzero(mirror(ours, GRID) if flip else ours).tolist())
        wanted = set(np.flatnonzero(theirs).tolist())
        ious.append(len(kept & wanted) / len(kept | wanted))
    row = next(row for row in everything.rows if row.name == "centre ticket under crops")
    assert row.mean == pytest.approx(np.mean(ious))
    assert row.percentile_5 == pytest.approx(np.percentile(ious, 5))


def test_a_given_store_is_measured_as_it_is(made: SmallStore) -> None:
    result = _measure(made, tickets=made.store)
    rows = {row.name: row.mean for row in result.rows}
    assert list(rows)[:2] == ["random subset", "replay"]
    assert rows["replay"] == 1
    assert not any("warp" in name or "static" in name for name in rows)


def test_from_the_command_line(made: SmallStore, tmp_path: Path) -> None:
    options = ("--model", MODEL, "--checkpoint", made.weights, "--tickets", made.store, "--images", 40, "--workers", 0)
    result = run_cli("fidelity", *options, "--png", tmp_path / "fidelity.png", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert {row["num_images"] for row in document["rows"]} == {32}  # whole batches
    assert (tmp_path / "fidelity.png").read_bytes()[:4] == b"\x89PNG"
    table = run_cli("fidelity", *options)
    assert table.code == 0, table.err
    assert "replay, erased" in table.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--images", 5), "--images 5 should be at least 32"),
        ((), "which images? give --shards"),
        (("--shards", "nowhere-*.tar"), "nowhere"),
        (("--shards", "{shards}", "--augment", "nonsense"), "--augment nonsense is not a policy"),
        (("--shards", "{shards}", "--ratio", 2), "--ratio 2.0 lies outside"),
        (("--shards", "{shards}", "--png", "nowhere/a.png"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_measured(made: SmallStore, options: tuple[object, ...], sentence: str) -> None:
    given = [str(o).format(shards=made.shards) if isinstance(o, str) else o for o in options]
    result = run_cli("fidelity", "--model", MODEL, "--checkpoint", made.weights, *given)
    assert result.code == 1
    assert sentence in result.err


def test_images_of_another_size_than_the_stores(made: SmallStore) -> None:
    with pytest.raises(OptionError, match=r"`image_px=32`: .* is of images of 28 px; leave it out"):
        _measure(made, tickets=made.store, image_px=32)


def test_other_weights_than_the_stores(made: SmallStore, tmp_path: Path) -> None:
    other = save_selector_weights(tmp_path / "other.safetensors", seed=1)
    result = run_cli("fidelity", "--model", MODEL, "--checkpoint", other, "--tickets", made.store)
    assert result.code == 1
    assert "was selected with other weights" in result.err
    assert "--checkpoint" in result.err
