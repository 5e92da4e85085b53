"""The manifest: one JSON document, refused with every problem named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import (
    SCHEMA_VERSION,
    Manifest,
    SchemaError,
    SkippedSample,
    StoreNotFoundError,
    UnsupportedVersionError,
    View,
    parse_manifest,
    read_manifest,
)
from dataltt.artifacts_schema.manifest import needed_version

from ..schema_helpers import reseal

# As a reader in another language would find it; not made by the code under test.
DOCUMENT: dict[str, Any] = {
    "schema_version": "1.1",
    "grid": [14, 14],
    "patch_px": 16,
    "image_px": 224,
    "num_patches": 196,
    "num_keep": 60,
    "num_views": 2,
    "num_images": 50_000,
    "has_ranks": True,
    "selector": {
        "model": "deit_small_patch16_224",
        "weights_sha256": "0123456789abcdef" * 4,
        "drop_blocks": [3, 6, 9],
        "keep_counts": [137, 96, 60],
        "precision": "bf16",
        "ratio": None,
        "keep_rate": 0.7,
    },
    "view": {
        "kind": "replay",
        "resize_px": 256,
        "crop_share": 0.875,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "augment": {"name": "rrc", "version": 2, "seed": 7, "scale": [0.08, 1.0]},
    },
    "dataset": {
        "name": "imagenet",
        "split": "validation",
        "shards": ["val-000.tar", "val-001.tar"],
        "source": "/data/val-{000..001}.tar",
        "keys_sha256": "f" * 64,
    },
    "created": "2025-06-01T12:00:00+00:00",
    "tool_version": "0.1.0",
    "skipped": [{"shard": "val-001.tar", "key": "n01/é", "reason": "truncated"}],
    "parent": [{"created": "2025-05-01T12:00:00+00:00", "how": "merged"}],
    "token_labels": {
        "model": "resnet50",
        "weights_sha256": "89abcdef01234567" * 4,
        "num_classes": 1000,
        "precision": "fp32",
        "tool_version": "0.1.0",
        "created": "2025-06-02T12:00:00+00:00",
    },
    "objects": {"labels/c/0": "a" * 64, "tickets/c/0/0/0": "b" * 64},
}

Change = Callable[[dict[str, Any]], object]


def altered(change: Change) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return document


def problems_of(document: Any) -> set[tuple[str, str]]:
    """(place, kind) of each problem; the error must name the store and each place."""
    with pytest.raises(SchemaError) as caught:
        parse_manifest(document, "some.zarr")
    assert caught.value.store == "some.zarr"
    assert "some.zarr" in str(caught.value)
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
    places = [(problem.where, problem.kind) for problem in caught.value.problems]
    assert len(set(places)) == len(places)
    return set(places)


def test_a_valid_document_gives_every_field() -> None:
    manifest = parse_manifest(DOCUMENT, "some.zarr")
    assert manifest.grid == (14, 14)
    assert (manifest.num_images, manifest.num_views, manifest.num_keep) == (50_000, 2, 60)
    assert manifest.selector.keep_counts == [137, 96, 60]
    assert manifest.selector.ratio is None
    assert manifest.view.augment == DOCUMENT["view"]["augment"]
    assert manifest.dataset.shards == ["val-000.tar", "val-001.tar"]
    assert manifest.skipped == [SkippedSample(shard="val-001.tar", key="n01/é", reason="truncated")]
    assert manifest.token_labels is not None
    assert (manifest.token_labels.model, manifest.token_labels.num_classes) == ("resnet50", 1000)
    assert manifest.objects["labels/c/0"] == "a" * 64


def test_a_document_survives_reading_and_writing() -> None:
    manifest = parse_manifest(DOCUMENT, "some.zarr")
    assert manifest.to_json() == DOCUMENT
    assert parse_manifest(json.loads(json.dumps(manifest.to_json())), "some.zarr") == manifest


def test_what_is_optional_may_be_absent() -> None:
    def drop_optional(document: dict[str, Any]) -> None:
        for name in ("skipped", "parent", "objects", "token_labels"):
            del document[name]
        del document["selector"]["ratio"], document["view"]["augment"]
        document["view"]["kind"] = "center"  # replayed views must name their policy

    manifest = parse_manifest(altered(drop_optional), "some.zarr")
    assert (manifest.skipped, manifest.parent, manifest.objects) == ([], None, {})
    assert (manifest.selector.ratio, manifest.view.augment) == (None, None)


def test_fields_of_a_later_minor_version_are_ignored() -> None:
    def add(document: dict[str, Any]) -> None:
        document.update(schema_version="1.7", licence="CC0", sizes=dict.fromkeys(document["objects"], 1))
        document["view"]["colour_space"] = "sRGB"
        document["checksum"] = ""
        document["ticket_digest"] = parse_manifest(DOCUMENT, "some.zarr").digest
        reseal(document)

    manifest = parse_manifest(altered(add), "some.zarr")
    assert manifest.schema_version == "1.7"
    assert manifest.num_keep == 60
    assert not hasattr(manifest, "licence")


@pytest.mark.parametrize("version", ["3.0", "0.9", "10.0", "", "3"])
def test_another_major_version_is_refused_before_anything_else_is_looked_at(version: str) -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        parse_manifest({"schema_version": version, "grid": "of another shape"}, "some.zarr")
    (problem,) = caught.value.problems
    assert (problem.where, problem.kind) == ("schema_version", "unsupported_version")
    assert repr(version) in str(caught.value)
    assert f"{SCHEMA_VERSION.split('.')[0]}.x" in str(caught.value)


@pytest.mark.parametrize("name", [n for n in DOCUMENT if n not in {"skipped", "parent", "objects", "token_labels"}])
def test_each_required_field_is_missed(name: str) -> None:
    assert problems_of(altered(lambda d: d.pop(name))) == {(name, "missing")}


def test_every_problem_is_reported_with_its_place_and_kind() -> None:
    def break_much(document: dict[str, Any]) -> None:
        del document["created"]
        document["grid"] = [0, 14, 3]
        document["num_images"] = "many"
        document["num_views"] = 2.5
        document["has_ranks"] = 1
        document["selector"]["weights_sha256"] = "F" * 64
        document["selector"]["precision"] = "fp8"
        document["selector"]["keep_counts"][1] = 0
        document["view"]["std"][2] = 0
        document["view"]["crop_share"] = 1.5
        document["dataset"]["shards"] = ["val-000.tar", ""]
        document["objects"]["labels/c/0"] = "short"
        del document["skipped"][0]["key"]

    assert problems_of(altered(break_much)) == {
        ("created", "missing"),
        ("grid", "too_long"),
        ("num_images", "int_type"),
        ("num_views", "int_type"),
        ("has_ranks", "bool_type"),
        ("selector.weights_sha256", "string_pattern_mismatch"),
        ("selector.precision", "literal_error"),
        ("selector.keep_counts.1", "greater_than_equal"),
        ("view.std.2", "greater_than"),
        ("view.crop_share", "less_than_equal"),
        ("dataset.shards.1", "string_too_short"),
        ("objects.labels/c/0", "string_pattern_mismatch"),
        ("skipped.0.key", "missing"),
    }


def test_every_inconsistency_is_reported_too() -> None:
    def disagree(document: dict[str, Any]) -> None:
        document["num_patches"] = 195
        document["image_px"] = 225
        document["selector"]["keep_rate"] = None
        document["selector"]["drop_blocks"] = [3, 6]
        document["view"]["std"] = [1.0]
        document["dataset"]["shards"] = ["a.tar", "a.tar"]
        document["objects"]["../outside"] = "c" * 64

    assert problems_of(altered(disagree)) == {
        ("num_patches", "inconsistent"),
        ("image_px", "inconsistent"),
        ("selector", "inconsistent"),
        ("selector.drop_blocks", "inconsistent"),
        ("view.std", "inconsistent"),
        ("dataset.shards", "inconsistent"),
        ("objects", "inconsistent"),
    }


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda d: d.update(num_keep=197, selector={**d["selector"], "keep_counts": [197] * 3}), "num_keep"),
        (lambda d: d["selector"].update(keep_counts=[137, 96, 61]), "selector.keep_counts"),
        (lambda d: d["selector"].update(keep_counts=[96, 137, 60]), "selector.keep_counts"),
        (lambda d: d["selector"].update(keep_counts=[], drop_blocks=[]), "selector.keep_counts"),
        (lambda d: d["selector"].update(drop_blocks=[3, 9, 6]), "selector.drop_blocks"),
        (lambda d: d["selector"].update(drop_blocks=[3, 3, 6]), "selector.drop_blocks"),
        (lambda d: d["selector"].update(ratio=0.3), "selector"),
        (lambda d: d.update(grid=[14, 7], num_patches=98, patch_px=32), "image_px"),
    ],
    ids=[
        "keeps more than there are",
        "last count is not num_keep",
        "counts increase",
        "no counts",
        "blocks out of order",
        "block twice",
        "ratio and keep_rate",
        "grid of other patches",
    ],
)
def test_fields_that_contradict_each_other_are_refused(change: Change, where: str) -> None:
    assert problems_of(altered(change)) == {(where, "inconsistent")}


@pytest.mark.parametrize(("num_classes", "kind"), [(4, "greater_than_equal"), (65_537, "less_than_equal")])
def test_token_labels_are_of_classes_that_fit(num_classes: int, kind: str) -> None:
    change: Change = lambda d: d["token_labels"].update(num_classes=num_classes)  # noqa: E731
    assert problems_of(altered(change)) == {("token_labels.num_classes", kind)}


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "..", "/etc/passwd", "a//b", "a/", "", "c:\\x", "a b", "~/x", "file://x"]
)
def test_objects_outside_the_store_are_refused(path: str) -> None:
    assert problems_of(altered(lambda d: d["objects"].update({path: "c" * 64}))) == {("objects", "inconsistent")}


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_pixels_are_normalised_by_finite_numbers(text: str) -> None:
    # Python's json reads these words, which JSON does not have.
    document = altered(lambda d: d["view"].update(mean=[json.loads(text), 0.5, 0.5]))
    assert all(where.startswith("view.mean") for where, _ in problems_of(document))


@pytest.mark.parametrize("document", [None, [], "manifest", 1])
def test_a_manifest_that_is_no_object_is_refused(document: object) -> None:
    assert problems_of(document) == {("manifest", "dict_type")}


def write_group(store: Path, text: bytes) -> Path:
    store.mkdir()
    (store / "zarr.json").write_bytes(text)
    return store


def test_the_manifest_is_read_from_the_attributes_of_the_group(tmp_path: Path) -> None:
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"dataltt": DOCUMENT, "other": 1}}
    manifest = read_manifest(str(write_group(tmp_path / "s.zarr", json.dumps(group).encode())))
    assert isinstance(manifest, Manifest)
    assert manifest.to_json() == DOCUMENT


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"", "json_invalid"),
        (b"{", "json_invalid"),
        (b"\xff\xfe\x00", "json_invalid"),
        (b"PK\x03\x04", "json_invalid"),
        (b"[" * 100_000 + b"]" * 100_000, "json_invalid"),
        (b"[]", "missing"),
        (b"{}", "missing"),
        (b'{"attributes": []}', "missing"),
        (b'{"attributes": {"other": {}}}', "missing"),
    ],
    ids=["empty", "cut off", "not UTF-8", "a zip", "too deep", "a list", "no attributes", "odd", "no manifest"],
)
def test_a_store_whose_metadata_holds_no_manifest_is_refused(tmp_path: Path, text: bytes, kind: str) -> None:
    store = write_group(tmp_path / "s.zarr", text)
    with pytest.raises(SchemaError) as caught:
        read_manifest(str(store))
    assert [(p.where, p.kind) for p in caught.value.problems] == [("zarr.json", kind)]
    assert str(store) in str(caught.value)


def test_no_store_and_an_unfinished_store_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with pytest.raises(StoreNotFoundError, match="there is no ticket store at"):
        read_manifest(str(path))
    (tmp_path / "s.zarr.parts").mkdir()
    with pytest.raises(StoreNotFoundError, match="is not finished"):
        read_manifest(str(path))


def _view(**changes: Any) -> View:
    return View(**{**DOCUMENT["view"], **changes})


def test_what_follows_from_a_view_of_colour_images_drawn_by_a_policy() -> None:
    view = _view()
    assert (view.num_channels, view.mode, view.policy_name, view.seed) == (3, "RGB", "rrc", 7)


def test_what_follows_from_the_centre_view_of_grey_images() -> None:
    view = _view(kind="center", mean=[0.286], std=[0.353], augment=None)
    assert (view.num_channels, view.mode, view.policy_name, view.seed) == (1, "L", None, None)


@pytest.mark.parametrize("augment", [{}, {"name": 7, "seed": "rrc"}, {"name": None, "seed": None}])
def test_a_centre_view_whose_augment_names_no_policy_has_none(augment: dict[str, Any]) -> None:
    view = _view(kind="center", augment=augment)
    assert (view.policy_name, view.seed) == (None, None)


def test_what_follows_from_a_view_is_not_written() -> None:
    assert parse_manifest(DOCUMENT, "s.zarr").to_json()["view"] == DOCUMENT["view"]


def _decoded(decoder: str | None, version: str) -> dict[str, Any]:
    def change(document: dict[str, Any]) -> None:
        document["schema_version"] = version
        document["sizes"] = dict.fromkeys(document["objects"], 1)
        document["view"] |= {"decoder": decoder, "decoder_libraries": {"torchvision": "0.29.1"}}
        document |= {"checksum": "", "ticket_digest": ""}
        reseal(document)

    return altered(change)


def test_a_decoder_and_its_libraries_are_of_the_view_and_of_the_ticket_digest() -> None:
    pillow, torchvision = (parse_manifest(_decoded(name, "2.0"), "some.zarr") for name in (None, "torchvision"))
    assert torchvision.view.decoder_name == "torchvision"
    assert torchvision.view.decoder_libraries == {"torchvision": "0.29.1"}
    assert torchvision.to_json()["view"]["decoder"] == "torchvision"
    assert pillow.view.decoder_name == "pillow"
    assert "decoder" not in pillow.to_json()["view"]
    assert pillow.digest != torchvision.digest
    assert [needed_version(m.view, m.selector) for m in (pillow, torchvision)] == ["1.2", "2.0"]


def _scored(version: str = "2.0", **selector: Any) -> dict[str, Any]:
    """A store's manifest whose selector is not the cascade."""

    def change(document: dict[str, Any]) -> None:
        document["schema_version"] = version
        document["sizes"] = dict.fromkeys(document["objects"], 1)
        nothing = {"model": None, "weights_sha256": None, "drop_blocks": [], "keep_counts": []}
        document["selector"] |= {**nothing, "name": "random", "ratio": 0.5, "keep_rate": None, **selector}
        document |= {"checksum": "", "ticket_digest": ""}
        reseal(document)

    return altered(change)


def test_a_selector_without_cascade_is_of_2_0() -> None:
    settings = {"seed": 1, "rate": 1.0, "labels": True, "kind": "a"}
    manifest = parse_manifest(_scored(settings=settings), "some.zarr")
    assert needed_version(manifest.view, manifest.selector) == "2.0"
    written = manifest.to_json()["selector"]["settings"]
    assert {name: (type(value), value) for name, value in written.items()} == {
        name: (type(value), value) for name, value in settings.items()
    }
    assert manifest.digest != parse_manifest(_scored(settings={**settings, "seed": 2}), "some.zarr").digest


def test_a_cascade_says_no_word_of_what_came_with_other_selectors() -> None:
    selector = parse_manifest(altered(lambda document: None), "some.zarr").to_json()["selector"]
    assert not {"name", "settings", "package", "uses_labels"} & set(selector)


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"version": "1.2"}, "selector.name"),
        ({"drop_blocks": [3], "keep_counts": [2]}, "selector"),
        ({"ratio": None, "keep_rate": 0.7}, "selector.ratio"),
        ({"model": "deit"}, "selector.model"),
        ({"name": None}, "selector.model"),
    ],
)
def test_a_selector_that_is_neither_a_cascade_nor_another_is_refused(changed: dict[str, Any], where: str) -> None:
    assert (where, "inconsistent") in problems_of(_scored(**changed))


def test_a_decoder_that_older_readers_would_pass_over_is_refused_in_their_versions() -> None:
    assert problems_of(_decoded("torchvision", "1.2")) == {("view.decoder", "inconsistent")}
    assert parse_manifest(_decoded("pillow", "1.2"), "some.zarr").view.decoder_name == "pillow"
    assert problems_of(_decoded("turbo", "2.0")) == {("view.decoder", "literal_error")}
