"""The head's classes against classes.json and labels, before anything is trained or tested."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import OptionError, SampleError, TicketStore
from dataltt.pipeline.demo.embedded import CLASSES
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.models.registry import create_vit
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.classes import classes_of_run
from dataltt.stages.training.config import EvalConfig, TrainConfig
from dataltt.stages.training.evaluate import evaluate
from dataltt.stages.training.train import train
from safetensors.torch import load_file, save_file

from ...far.http_server import FileServer
from ...helpers import MODEL, Listener, Sample, SmallStore, fashion_samples, make_shards, make_store, randomize
from ...schema_helpers import put


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
    listener = Listener()
    evaluate(EvalConfig.of(checkpoint=weights, **{**defaults, "device": "cpu", **changes}), listener)
    return listener.said


def _train(small: SmallStore, out: Path, **changes: Any) -> list[str]:
    defaults = {"tickets": small.store, "epochs": 1, "max_steps": 1, "batch_size": 6, "workers": 0, "device": "cpu"}
    listener = Listener()
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
    monkeypatch.setattr("dataltt.stages.training.student_plan.create_student", never)
    without_store = {"tickets": None, "control": "dense", "model": MODEL}
    for shards, changes in ((small.shards, {}), (others, {}), (others, without_store)):
        with pytest.raises(OptionError, match=r"`num_classes=5`, and labels in these shards go up to 9; give at least"):
            _train(small, tmp_path / "run", num_classes=5, shards=shards, **changes)
    assert not (tmp_path / "run").exists()


# Names


def _list(folder: Path, names: dict[str, int]) -> Path:
    path = folder / "classes.json"
    path.write_text(json.dumps(names))
    return path


def _val(folder: Path, names: dict[str, int]) -> str:
    """Six validation images beside a list of classes."""
    shards = make_shards(folder, (6,), fashion_samples(6, split="test"), name="val")
    _list(folder, names)
    return shards


_TRAINED = {name: i for i, name in enumerate(CLASSES)}
_FIRST, _SECOND, _LAST = CLASSES[0], CLASSES[1], CLASSES[-1]


@pytest.mark.parametrize("asked", [None, 10])
def test_a_validation_list_that_lacks_a_class_so_that_others_move(
    small: SmallStore, tmp_path: Path, asked: int | None
) -> None:
    moved = {name: i for i, name in enumerate(CLASSES[1:])}
    val = _val(tmp_path / "val", moved)
    trained, given = small.folder / "shards/classes.json", tmp_path / "val/classes.json"
    with pytest.raises(OptionError) as caught:
        _train(small, tmp_path / "run", val_shards=val, test="dense", num_classes=asked)
    assert str(caught.value) == (
        f"class {_SECOND!r} is number 1 in {trained} and 0 in {given}; pack the validation images anew by: dataltt "
        f"pack --classes {trained} SRC OUT"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({**_TRAINED, _FIRST: 1, _SECOND: 0}, rf"class '{_FIRST}' is number 0 in .* and 1 in"),
        ({**{n: i for n, i in _TRAINED.items() if i}, "another": 0}, rf"class number 0 is '{_FIRST}' in .*'another'"),
        ({**_TRAINED, "eleventh": 10}, r"class 'eleventh' of .* is none of the 10 that are trained"),
        ({n: i for n, i in _TRAINED.items() if i}, None),  # lacks one, and none moves
        ({n: i for n, i in _TRAINED.items() if n != _LAST}, None),
        ({f"n{i:08d}": i for i in range(10)}, None),  # other names of as many
    ],
)
def test_validation_lists_are_compared_by_name(
    small: SmallStore, tmp_path: Path, names: dict[str, int], reason: str | None
) -> None:
    val = _val(tmp_path / "val", names)
    if reason is None:
        assert any("best kept" in text for text in _train(small, tmp_path / "run", val_shards=val, test="dense"))
        return
    with pytest.raises(OptionError, match=reason):
        _train(small, tmp_path / "run", val_shards=val, test="dense")


def test_a_run_writes_down_its_classes_and_testing_compares_them(small: SmallStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    _train(small, run)
    assert json.loads((run / "classes.json").read_text()) == _TRAINED
    weights = run / "checkpoints/step-00000001/model.safetensors"
    moved = {name: i for i, name in enumerate([*CLASSES[1:], _FIRST])}
    shards = _listing(small, tmp_path / "moved", None)
    for names, refuses in ((moved, True), ({n: i for n, i in _TRAINED.items() if i != 4}, False)):
        _list(tmp_path / "moved", names)
        for checkpoint in (run, weights):
            for asked in (None, 10):
                if not refuses:
                    _evaluate(small, checkpoint, shards=shards, num_classes=asked)
                    continue
                with pytest.raises(OptionError) as caught:
                    _evaluate(small, checkpoint, shards=shards, num_classes=asked)
                assert str(caught.value) == (
                    f"class {_SECOND!r} is number 1 in {run / 'classes.json'} and 0 in {tmp_path}/moved/classes.json; "
                    f"pack the images anew by: dataltt pack --classes {run / 'classes.json'} SRC OUT"
                )
    (run / "classes.json").unlink()  # as of an older run: numbers alone are compared
    _list(tmp_path / "moved", moved)
    _evaluate(small, run, shards=shards)


def test_classes_of_validation_shards_behind_a_url_are_compared(small: SmallStore, tmp_path: Path) -> None:
    _val(tmp_path, {name: i for i, name in enumerate(CLASSES[1:])})
    with FileServer(tmp_path) as web, pytest.raises(OptionError) as caught:
        _train(small, tmp_path / "run", val_shards=f"{web.url}/val-000000.tar", test="dense")
    trained = small.folder / "shards/classes.json"
    assert str(caught.value) == (
        f"class {_SECOND!r} is number 1 in {trained} and 0 in {web.url}/classes.json; pack the validation images anew "
        f"by: dataltt pack --classes {trained} SRC OUT"
    )


def test_a_run_does_not_go_on_with_classes_that_moved(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (12, 12, 12), small.samples)
    _train(small, tmp_path / "run", shards=shards)
    _list(tmp_path / "shards", {name: i for i, name in enumerate(reversed(CLASSES))})
    with pytest.raises(
        OptionError, match=rf"was trained on other classes \(class '{_LAST}' is number 9 in .* and 0 in"
    ):
        _train(small, tmp_path / "run", shards=shards, resume=True, max_steps=2)


def test_a_run_without_a_list_writes_none(small: SmallStore, tmp_path: Path) -> None:
    _train(small, tmp_path / "run", shards=_listing(small, tmp_path, None))
    assert (tmp_path / "run/config.json").exists()
    assert not (tmp_path / "run/classes.json").exists()


# Labels


def _unlabelled(small: SmallStore) -> list[Sample]:
    return [replace(s, label=None) if i in (13, 30) else s for i, s in enumerate(small.samples)]


def test_samples_without_a_label_are_named_before_a_weight_is_made(
    small: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a weight was made")

    made = make_store(tmp_path, samples=_unlabelled(small))
    others = make_shards(tmp_path / "others", (20, 16), made.samples, name="other")
    monkeypatch.setattr("dataltt.stages.training.student_plan.create_student", never)
    without_store = {"tickets": None, "control": "dense", "model": MODEL}
    for shards, where, num_others, changes in (
        (made.shards, "train-000001.tar", 0, {}),  # that the store knows by name
        (others, "other-000000.tar", 1, {}),
        (made.shards, "train-000001.tar", 1, without_store),
        (made.shards, "train-000001.tar", 1, {"recount": True, "control": "dense"}),
    ):
        with pytest.raises(SampleError) as caught:
            _train(made, tmp_path / "run", shards=shards, **changes)
        assert str(caught.value) == (
            f"{where}: sample 'train/00013' has no .cls{', nor have 1 others' * num_others}, and training needs its "
            "label; repack the shards with labels, or without these samples"
        )
    with pytest.raises(SampleError, match=r"'train/00013' has no \.cls, nor have 1 others, and validation needs"):
        _train(small, tmp_path / "run", val_shards=others, test="dense")
    with pytest.raises(SampleError, match=r"'train/00013' has no \.cls.* and testing needs"):
        _evaluate(made, made.weights)
    assert not (tmp_path / "run").exists()


def test_labels_that_came_after_the_selection_are_found(small: SmallStore, tmp_path: Path) -> None:
    made = make_store(tmp_path, samples=_unlabelled(small))
    make_shards(tmp_path / "shards", (12, 12, 12), small.samples)
    _train(made, tmp_path / "run")


def test_labels_beyond_the_head_are_named_before_validation(small: SmallStore, tmp_path: Path) -> None:
    beyond = [*fashion_samples(5, split="test"), replace(fashion_samples(1, split="test")[0], key="x", label=77)]
    val = make_shards(tmp_path / "val", (6,), beyond, name="val")
    with pytest.raises(OptionError) as caught:
        _train(small, tmp_path / "run", val_shards=val, test="dense")
    assert str(caught.value) == (
        "the head has 10 classes, and labels of the images for validation go up to 77; give images of the head's "
        "classes"
    )
    with pytest.raises(OptionError, match="labels of the images for testing go up to 77"):
        _evaluate(small, small.weights, shards=val, test="dense", tickets=None)


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
    monkeypatch.setattr("dataltt.stages.training.student_plan.create_student", never)
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
