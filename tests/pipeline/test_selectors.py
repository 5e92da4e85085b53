"""Stores of selectors other than the cascade, through the command line, from selecting to testing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.tickets import unpack_mask
from dataltt.stages.data.patches import center_scores

from ..helpers import GRID, MODEL, NUM_PATCHES, REPOSITORY, SmallStore, fashion_samples, make_shards, run_cli

_ON_CPU = ("--device", "cpu", "--workers", 0)
_NETWORKS = ("attention", "rollout", "gradient")
_NAMES = ("random", "center", "variance", *_NETWORKS)

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("own_folder", "fixed_time")]


def _run(*args: object) -> str:
    result = run_cli(*args)
    assert result.code == 0, result.err
    return result.out


def _refused(*args: object) -> str:
    result = run_cli(*args)
    assert (result.code, result.out) == (1, "")
    return result.err


def _select(
    small: SmallStore, name: str, out: Path, *options: object, shards: str | None = None, batch_size: int = 5
) -> Path:
    weights = ("--checkpoint", small.weights) if name in _NETWORKS else ()
    _run(
        *("select", "--selector", name, "--model", MODEL, *weights, "--shards", shards or small.shards),
        *("--ratio", 0.5, "--ranks", "--batch-size", batch_size, "--out", out, *_ON_CPU, *options),
    )
    return out


@pytest.fixture(scope="module")
def stores(small: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store of each selector, of half the patches."""
    folder = tmp_path_factory.mktemp("selectors")
    return {name: _select(small, name, folder / f"{name}.zarr") for name in _NAMES}


def _manifest(store: Path) -> dict[str, Any]:
    return TicketStore.open(str(store)).manifest.to_json()


def _kept(store: Path) -> list[list[int]]:
    tickets = TicketStore.open(str(store)).read_tickets(range(36))
    return [np.flatnonzero(mask).tolist() for mask in unpack_mask(tickets[:, 0], NUM_PATCHES)]


@pytest.mark.parametrize("name", _NAMES)
def test_a_store_is_looked_at_checked_and_described(
    stores: dict[str, Path], small: SmallStore, name: str, tmp_path: Path
) -> None:
    store = stores[name]
    selector = _manifest(store)["selector"]
    model, weights = selector.pop("model"), selector.pop("weights_sha256")
    assert (model, weights) == ((MODEL, small.manifest.selector.weights_sha256) if name in _NETWORKS else (None, None))
    settings = {"random": {"seed": 0}, "gradient": {"labels": False}}.get(name, {})
    expected = {"drop_blocks": [], "keep_counts": [], "precision": "fp32", "ratio": 0.5, "keep_rate": None}
    assert selector == {**expected, "name": name, "settings": settings}
    shown = f"{name} of {MODEL}" if name in _NETWORKS else name
    assert re.search(rf"selector +{shown}, ratio 0.5, fp32\b", _run("inspect", store))
    assert "2.0" in _run("inspect", store)
    _run("verify", store, "--shards", small.shards)
    _run("card", store)
    card = (store / "README.md").read_text(encoding="utf-8")
    assert f"dataltt select --selector {name} " in card
    assert f"selector: {name}\n" in card
    assert ("weights_sha256" in card) == (name in _NETWORKS)
    _run("view", store, "--out", tmp_path / "view", "--images", 2)


def test_tickets_are_the_highest_scores(stores: dict[str, Path], small: SmallStore) -> None:
    middle = np.sort(np.argsort(-center_scores(GRID))[:25]).tolist()
    assert _kept(stores["center"]) == [middle] * 36
    kept = [_kept(stores[name]) for name in _NAMES]
    assert all(len(set(ticket)) == 25 for tickets in kept for ticket in tickets)
    assert len({json.dumps(tickets) for tickets in kept}) == len(_NAMES)


def test_any_batch_gives_the_same_store_and_another_seed_another(
    stores: dict[str, Path], small: SmallStore, tmp_path: Path
) -> None:
    for name in ("random", "variance"):
        again = _select(small, name, tmp_path / f"{name}.zarr", batch_size=12)
        assert _manifest(again)["ticket_digest"] == _manifest(stores[name])["ticket_digest"]
    other = _select(small, "random", tmp_path / "other.zarr", "--selector-option", "seed=1")
    assert _manifest(other)["selector"]["settings"] == {"seed": 1}
    assert _kept(other) != _kept(stores["random"])
    said = _run("store", "diff", stores["random"], other)
    assert "selector.settings" in said


def test_stores_are_merged_extended_and_thinned(stores: dict[str, Path], small: SmallStore, tmp_path: Path) -> None:
    more = make_shards(tmp_path / "more", (6,), fashion_samples(6, split="test"), name="more")
    added = _select(small, "random", tmp_path / "added.zarr", "--name", "train", "--split", "train", shards=more)
    _run("store", "merge", stores["random"], added, "--out", tmp_path / "merged.zarr")
    one = _select(small, "random", tmp_path / "one.zarr", "--extend", stores["random"], shards=more)
    assert [_manifest(tmp_path / "merged.zarr")["num_images"], _manifest(one)["num_images"]] == [42, 42]
    said = _refused("store", "merge", stores["center"], added, "--out", tmp_path / "mixed.zarr")
    assert "selector.name is center in the first and random in the second" in said
    _run("store", "thin", stores["random"], "--ratio", 0.2, "--out", tmp_path / "thin.zarr")
    assert _manifest(tmp_path / "thin.zarr")["num_keep"] == 10
    _run("verify", tmp_path / "thin.zarr")


def _train(store: Path, small: SmallStore, out: Path, *options: object) -> tuple[object, ...]:
    recipe = ("--epochs", 1, "--batch-size", 12, "--max-steps", 1, *_ON_CPU)
    return ("train", "--tickets", store, "--shards", small.shards, "--out", out, *recipe, *options)


def test_a_student_is_trained_and_tested(stores: dict[str, Path], small: SmallStore, tmp_path: Path) -> None:
    said = _refused(*_train(stores["random"], small, tmp_path / "no"))
    assert "which model? (the tickets are by random, which has no architecture) give --model, e.g. deit_s" in said
    assert not (tmp_path / "no").exists()
    _run(*_train(stores["rollout"], small, tmp_path / "rollout"))
    _run(*_train(stores["random"], small, tmp_path / "random", "--model", MODEL, "--match-tokens"))
    on = ("--tickets", stores["random"], "--shards", small.shards, *_ON_CPU)
    _run("eval", "--checkpoint", tmp_path / "random", "--test", "ticket", *on)


def test_drawn_views_are_replayed(small: SmallStore, tmp_path: Path) -> None:
    store = _select(small, "variance", tmp_path / "drawn.zarr", "--augment", "deit", "--num-views", 2)
    _run("verify", store, "--shards", small.shards)
    _run(*_train(store, small, tmp_path / "run", "--model", MODEL))
    drawn = _select(small, "random", tmp_path / "random.zarr", "--augment", "deit", "--num-views", 2)
    tickets = TicketStore.open(str(drawn)).read_tickets(range(36))
    assert (tickets[:, 0] != tickets[:, 1]).any(axis=-1).all()


def test_tickets_by_labels_are_for_training_alone(small: SmallStore, tmp_path: Path) -> None:
    store = _select(small, "gradient", tmp_path / "labels.zarr", "--selector-option", "labels=true")
    assert _manifest(store)["selector"]["uses_labels"] is True
    assert "uses the images' labels" in _run("inspect", store)
    _run(*_train(store, small, tmp_path / "run"))
    tested = ("--shards", small.shards, "--checkpoint", tmp_path / "run", *_ON_CPU)
    said = _refused("eval", "--test", "ticket", "--tickets", store, *tested)
    assert "holds tickets that were chosen by the images' labels (gradient of vit_fashion), and a test on" in said
    val = ("--val-shards", small.shards, "--val-tickets", store)
    assert "holds tickets that were chosen by the images' labels" in _refused(
        *_train(store, small, tmp_path / "2", *val)
    )
    for split in ("val", "valid", "Validation", "dev"):
        said = _refused(*_select_by_labels(small.shards, small.weights), "--split", split, "--out", tmp_path / "v.zarr")
        assert f"would choose by the labels of {split} images, and a test on such tickets tells nothing; leave" in said
        assert "leave --selector-option labels=true out" in said


def test_labels_of_other_classes_choose_nothing(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (6,), fashion_samples(6))
    (tmp_path / "shards" / "classes.json").write_text(json.dumps({"shirt": 0, "shoe": 1, "bag": 2}))
    said = _refused(*_select_by_labels(shards, small.weights), "--out", tmp_path / "no.zarr")
    assert "the selector's head has 10 classes, and classes.json beside the shards lists 3" in said
    assert not (tmp_path / "no.zarr").exists()


def _select_by_labels(shards: str, weights: Path) -> tuple[object, ...]:
    given = ("--selector", "gradient", "--selector-option", "labels=true", "--model", MODEL, "--ratio", 0.5)
    return ("select", *given, "--checkpoint", weights, "--shards", shards, *_ON_CPU)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--selector", "centre"), "--selector centre is not known; there are cascade, random, center, "),
        (("--selector", "random", "--keep-rate", 0.7), "--keep-rate is of the cascade, and 'random' drops no patches"),
        (("--selector", "center", "--ratio", 0.5, "--drop-blocks", "1,3"), "--drop-blocks is of the cascade"),
        (("--selector", "random", "--ratio", 0.5, "--checkpoint", "x"), "--checkpoint: the selector 'random' uses no"),
        (("--selector", "random"), "give exactly one of --ratio (final kept share) and"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    small: SmallStore, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    out = tmp_path / "no.zarr"
    assert said in _refused("select", "--model", MODEL, "--shards", small.shards, "--out", out, *options, *_ON_CPU)
    assert list(tmp_path.iterdir()) == []


def _fidelity(small: SmallStore, store: Path, *options: object, weights: Path | None = None) -> tuple[object, ...]:
    given = () if weights is None else ("--checkpoint", weights)
    return ("fidelity", "--tickets", store, "--model", MODEL, *given, "--shards", small.shards, *_ON_CPU, *options)


@pytest.mark.parametrize("name", ["center", "attention", "random"])
def test_fidelity_runs_the_stores_own_selector(name: str, stores: dict[str, Path], small: SmallStore) -> None:
    weights = small.weights if name == "attention" else None
    # Of the centre view: its ticket against that of the same view in other colours.
    static = json.loads(_run(*_fidelity(small, stores[name], "--json", weights=weights)))["rows"][0]
    assert static["name"] == "static"
    if name == "center":
        assert static["mean"] == 1
    else:
        assert (0.2 < static["mean"] < 0.5) == (name == "random")  # chance is 1/3


def test_fidelity_refuses_another_selector_than_the_stores(stores: dict[str, Path], small: SmallStore) -> None:
    for options in (("--selector", "rollout"), ("--selector", "cascade")):
        said = _refused(*_fidelity(small, stores["center"], *options))
        assert "has tickets by center; leave --selector and --selector-option out to measure it" in said
    said = _refused(*_fidelity(small, stores["random"], "--selector-option", "seed=1", "--selector", "random"))
    assert "has tickets by random; leave" in said
    said = _refused(*_fidelity(small, stores["center"], weights=small.weights))
    assert "--checkpoint: the selector 'center' uses no weights" in said


def test_the_page_writes_one_that_another_package_adds(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPOSITORY / "docs" / "selectors.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"(?ms)^```(python|toml)\n(.*?)^```", page))
    assert blocks["python"].count("\n") <= 30
    entry = re.search(r"^edges = \"(.*)\"$", blocks["toml"], re.M)
    assert entry is not None
    site = tmp_path / "site-packages"
    (site / "lab_selectors-1.4.dist-info").mkdir(parents=True)
    (site / "lab_selectors.py").write_text(blocks["python"], encoding="utf-8")
    info = {
        "METADATA": "Metadata-Version: 2.1\nName: lab-selectors\nVersion: 1.4\n",
        "entry_points.txt": f"[dataltt.selectors]\nedges = {entry[1]}\n",
    }
    for name, text in info.items():
        (site / "lab_selectors-1.4.dist-info" / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    store = _select(small, "edges", tmp_path / "edges.zarr", "--selector-option", "power=2")
    monkeypatch.delitem(sys.modules, "lab_selectors")
    selector = _manifest(store)["selector"]
    assert (selector["name"], selector["package"]) == ("edges", "lab-selectors 1.4")
    assert selector["settings"] == {"power": 2.0}
    assert isinstance(selector["settings"]["power"], float)
    assert "edges, ratio 0.5, fp32; power=2.0; by lab-selectors 1.4" in _run("inspect", store)
    _run("verify", store, "--shards", small.shards)
    assert "there are cascade, random, center, variance, attention, rollout, gradient, edges" in _refused(
        "select", "--selector", "edge", "--model", MODEL, "--ratio", 0.5, "--shards", small.shards
    )
