"""The head's classes against classes.json and labels, before anything is trained or tested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import OptionError, SampleError, TicketStore
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.models.registry import create_vit
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.classes import classes_of_run
from dataltt.stages.training.config import EvalConfig, TrainConfig
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.train import train
from safetensors.torch import load_file, save_file

from ...helpers import MODEL, SmallStore, fashion_samples, make_shards, randomize
from ...schema_helpers import put


class _Listener(SilentReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def of_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights whose head has a thousand classes."""
    vit = create_vit(MODEL, num_classes=1000)
    randomize(vit)
    path = tmp_path_factory.mktemp("weights") / "thousand.safetensors"
    save_file(vit.state_dict(), path)
    return path


def _evaluate(small: SmallStore, weights: Path, **changes: Any) -> list[str]:
    defaults = {"shards": small.shards, "tickets": small.store, "test": "ticket", "model": MODEL, "workers": 0}
    listener = _Listener()
    evaluate(EvalConfig.of(checkpoint=weights, **{**defaults, "device": "cpu", **changes}), listener)
    return listener.said


def _train(small: SmallStore, out: Path, **changes: Any) -> list[str]:
    defaults = {"tickets": small.store, "epochs": 1, "max_steps": 1, "batch_size": 6, "workers": 0, "device": "cpu"}
    listener = _Listener()
    train(TrainConfig.of(out=out, **{**defaults, **changes}), listener)
    return listener.said


def _listing(small: SmallStore, folder: Path, num_classes: int | None) -> str:
    """The same shards beside a list of other classes, or of none."""
    shards = make_shards(folder, (12, 12, 12), small.samples)
    if num_classes is None:
        (folder / "classes.json").unlink()
    else:
        (folder / "classes.json").write_text(json.dumps({f"class {i}": i for i in range(num_classes)}))
    return shards


@pytest.mark.parametrize("test", ["ticket", "dense"])
def test_a_head_of_other_classes_is_not_tested(small: SmallStore, of_thousand: Path, test: str) -> None:
    with pytest.raises(OptionError) as caught:
        _evaluate(small, of_thousand, test=test)
    first = small.shards.replace("*", "000000")
    assert str(caught.value) == (
        f"the head of {of_thousand} has 1000 classes, and classes.json beside {first} lists 10; give shards of the "
        "head's classes, or pass `num_classes=1000` if these are some of them"
    )
    with pytest.raises(OptionError, match=r"`num_classes=10`: the head of .* has 1000 classes; leave it out"):
        _evaluate(small, of_thousand, test=test, num_classes=10)
    said = _evaluate(small, of_thousand, test=test, num_classes=1000)
    assert "the highest label is 9, and the head has 1000 classes; are they numbered as in training?" in said[-1]


def test_labels_speak_where_nothing_is_listed(small: SmallStore, of_thousand: Path, tmp_path: Path) -> None:
    shards = _listing(small, tmp_path, None)
    said = _evaluate(small, of_thousand, shards=shards)
    assert said[-1] == (
        "the images are of 10 classes, the highest label is 9, and the head has 1000 classes; are they numbered as in "
        "training?"
    )
    assert _evaluate(small, small.weights) == []  # ten of ten
    with pytest.raises(OptionError, match=r"has 10 classes, and classes\.json .* lists 12"):
        _evaluate(small, small.weights, shards=_listing(small, tmp_path, 12))


def test_training_takes_the_number_that_was_asked_for_and_says_so(small: SmallStore, tmp_path: Path) -> None:
    said = _train(small, tmp_path / "run", num_classes=12)
    assert "the head has 12 classes, as asked; classes.json beside the shards lists 10" in said
    weights = tmp_path / "run" / "checkpoints" / "step-00000001" / "model.safetensors"
    assert load_file(weights)["head.weight"].shape == (12, 64)
    assert not any("classes" in text for text in _train(small, tmp_path / "same", num_classes=10))


def test_a_head_too_small_for_the_labels_is_refused_before_it_is_made(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a weight was made")

    others = make_shards(tmp_path / "others", (36,), small.samples, name="other")
    monkeypatch.setattr("dataltt.stages.training.plan.create_student", never)
    for shards in (small.shards, others):
        with pytest.raises(OptionError, match=r"`num_classes=5`, and labels in these shards go up to 9; give at least"):
            _train(small, tmp_path / "run", num_classes=5, shards=shards)
    # Without a store, or where labels are not known, the first such sample ends it.
    monkeypatch.undo()
    with pytest.raises(SampleError, match="the model has 5 classes"):
        _train(small, tmp_path / "run", num_classes=5, tickets=None, control="dense", model=MODEL, shards=small.shards)


def test_validation_images_are_of_the_trained_classes(small: SmallStore, tmp_path: Path) -> None:
    folder = tmp_path / "val"
    val = make_shards(folder, (6,), fashion_samples(6, split="test"), name="val")
    (folder / "classes.json").write_text(json.dumps({f"class {i}": i for i in range(20)}))
    with pytest.raises(OptionError, match=r"10 classes are trained, and classes.json beside the validation shards"):
        _train(small, tmp_path / "run", val_shards=val, test="dense")
    said = _train(small, tmp_path / "run", val_shards=val, test="dense", num_classes=10)
    assert any("best kept by testing on dense" in text for text in said)


def test_nothing_is_made_of_shards_that_lack_tickets(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a weight was made")

    shards = make_shards(tmp_path, (12, 12), [*small.samples[:12], *fashion_samples(12, first=500)], name="other")
    monkeypatch.setattr("dataltt.stages.training.plan.create_student", never)
    monkeypatch.setattr("dataltt.stages.training.evaluate.load_student", never)
    for start in (
        lambda: _train(small, tmp_path / "run", shards=shards),
        lambda: _train(small, tmp_path / "run", val_shards=shards, val_tickets=small.store),
        lambda: _evaluate(small, small.weights, shards=shards),
    ):
        with pytest.raises(Exception, match=r"12 of 24 samples have tickets, without are 12 of other-000001\.tar"):
            start()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("highest", [65_535, 65_536, 1_000_000_000])
def test_labels_do_not_make_a_head_of_any_size(small: SmallStore, tmp_path: Path, highest: int) -> None:
    store = Path(shutil.copytree(small.store, tmp_path / "store.zarr"))
    put(store, "labels", 0, highest)
    opened, shards = TicketStore.open(store), resolve_shards(_listing(small, tmp_path / "shards", None))
    if highest < 65_536:
        assert classes_of_run(None, opened, shards, SilentReporter()) == highest + 1
        return
    with pytest.raises(OptionError, match=rf"there are {highest + 1} classes, .* more than 65536 .*give `num_classes`"):
        classes_of_run(None, opened, shards, SilentReporter())
    assert classes_of_run(highest + 1, opened, shards, SilentReporter()) == highest + 1


def test_a_list_does_not_make_a_head_of_any_size(small: SmallStore, tmp_path: Path) -> None:
    shards = resolve_shards(_listing(small, tmp_path, 65_537))
    with pytest.raises(OptionError, match=r"classes\.json beside the shards lists 65537 classes"):
        classes_of_run(None, None, shards, SilentReporter())
