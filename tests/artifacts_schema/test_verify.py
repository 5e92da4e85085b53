"""Every check of a store finds what it is there for, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema.geometry import center_box
from dataltt.artifacts_schema.verify import Check, verify_store
from hypothesis import given
from hypothesis import strategies as st

from ..schema_helpers import Made, edit_json, edit_manifest, make_store, put

OPENING = "manifest, shapes, dtypes, codecs"
OBJECTS = "object digests"
NAMES = [OPENING, OBJECTS, "tickets", "keys", "labels", "digests", "views", "ranks"]


def failures(store: Path) -> dict[str, str]:
    """What each check that failed says."""
    return {check.name: check.detail for check in verify_store(str(store)) if not check.ok}


def flip_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def test_a_whole_store_passes_every_check(made: Made) -> None:
    seen: list[tuple[int, int]] = []
    checks = list(verify_store(str(made.path), on_progress=lambda done, total: seen.append((done, total))))
    assert [check.name for check in checks] == NAMES
    assert all(check.ok for check in checks)
    assert checks[0].detail == "11 images, 2 view(s), 6 of 15 patches (40.0%), 3 shard(s)"
    assert checks[1].detail == f"{len(made.manifest.objects)} objects"
    assert seen == [(11, 11)]


def test_a_store_of_one_centre_view_without_ranks_passes(tmp_path: Path) -> None:
    made = make_store(tmp_path, 1, 3, ranks=False)
    checks = list(verify_store(f"{made.path}/"))
    assert [check.name for check in checks] == NAMES[:-1]
    assert all(check.ok for check in checks)


def test_rows_are_checked_in_blocks_to_the_last(tmp_path: Path) -> None:
    made = make_store(tmp_path, 1, 16_400, ranks=False, grid=(2, 2), num_keep=1)
    seen: list[int] = []
    assert all(c.ok for c in verify_store(str(made.path), on_progress=lambda done, _: seen.append(done)))
    assert seen == [16_384, 16_400]
    put(made.path, "labels", 16_399, -2)
    found = failures(made.path)
    assert set(found) == {OBJECTS, "labels"}
    assert "16384-16400" in found["labels"]


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 512), st.integers(1, 512))
def test_the_box_of_a_centre_view_is_central_square_and_within_any_image(
    width_px: int, height_px: int, resize_px: int, crop_px: int
) -> None:
    box = center_box(width_px, height_px, resize_px=resize_px, crop_px=crop_px)
    assert box.dtype == np.float32
    y0, x0, height, width = box.tolist()
    assert min(y0, x0) >= 0
    assert min(height, width) > 0
    assert max(y0 + height, x0 + width) <= 1 + 1e-6  # what a reader lets pass
    assert height * height_px == pytest.approx(width * width_px, rel=1e-5)
    assert (2 * y0 + height, 2 * x0 + width) == pytest.approx((1, 1), abs=1e-6)


def test_the_box_of_a_centre_view_is_the_resized_and_cropped_part() -> None:
    # 640x480: the shorter side becomes 256, of which 224 are cut out: 420 pixels of the source.
    box = center_box(640, 480, resize_px=256, crop_px=224)
    np.testing.assert_allclose(box, [30 / 480, 110 / 640, 420 / 480, 420 / 640], rtol=1e-6)
    whole = center_box(480, 640, resize_px=224, crop_px=256)
    np.testing.assert_allclose(whole, [80 / 640, 0, 480 / 640, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "check"),
    [
        ("tickets/c/0/0/0", "tickets"),
        ("ranks/c/0/0/0", "ranks"),
        ("labels/c/0", "labels"),
        ("keys/data/c/0", "keys"),
        ("keys/offsets/c/0", "keys"),
        ("views/boxes/c/0/0/0", "views"),
        ("views/flips/c/0/0", "views"),
        ("digests/c/0", "digests"),
    ],
)
def test_a_flipped_bit_is_found_in_the_object_and_in_its_rows(store: Path, array: str, check: str | None) -> None:
    flip_bit(store / array)
    found = failures(store)
    wanted = {OBJECTS, *([check] if check else [])}
    if check == "tickets":
        wanted.add("ranks")  # which are compared with the tickets
    assert set(found) == wanted
    assert found[OBJECTS] == f"{array} has another SHA-256 than the manifest says"
    if check:
        assert "cannot be read" in found[check]


def rewritten(array: str, selection: Any, values: Any) -> Callable[[Path], None]:
    return lambda store: put(store, array, selection, values)


@pytest.mark.parametrize(
    ("damage", "check", "text"),
    [
        (rewritten("tickets", (8, 1), [0b0111_1111, 0]), "tickets", "tickets[8]: is not 6 patches"),
        (rewritten("tickets", (8, 1), [0b0001_1111, 0b1000_0000]), "tickets", "tickets[8]: is not 6 patches"),
        (rewritten("ranks", (3, 0), [0] * 15), "ranks", "ranks[3]: is not a permutation"),
        (rewritten("ranks", (3, 0), list(range(15))), "ranks", "ranks < K is not the ticket"),
        (rewritten("labels", 2, -2), "labels", "a label below -1"),
        (rewritten("views/boxes", (2, 1), [-0.1, 0, 0.5, 0.5]), "views", "a box outside its image"),
        (rewritten("views/boxes", (2, 1), [0.6, 0, 0.5, 0.5]), "views", "a box outside its image"),
        (rewritten("views/boxes", (2, 1), [0, 0, 0, 0.5]), "views", "a box outside its image"),
        (rewritten("views/boxes", (2, 1), [0, np.nan, 0.5, 0.5]), "views", "a box outside its image"),
        (rewritten("views/flips", (2, 1), 2), "views", "neither 0 nor 1"),
        (rewritten("keys/data", 0, ord("K")), "keys", "are not those of dataset.keys_sha256"),
        (rewritten("keys/data", 0, 0xFF), "keys", "UTF8"),
        (rewritten("keys/offsets", 0, 1), "keys", "are not those of dataset.keys_sha256"),
        (rewritten("keys/offsets", 3, 0), "keys", "do not divide the data"),
    ],
    ids=[
        "another bit",
        "spare bit",
        "ranks repeat",
        "ranks of another ticket",
        "label",
        "box begins outside",
        "box ends outside",
        "empty box",
        "box of NaN",
        "flip",
        "another key",
        "not UTF-8",
        "offsets start late",
        "offsets decrease",
    ],
)
def test_rows_that_say_what_they_must_not_are_found(
    store: Path, damage: Callable[[Path], None], check: str, text: str
) -> None:
    damage(store)
    found = failures(store)
    assert set(found) - {"ranks"} == {OBJECTS, check} - {"ranks"}
    assert text in found[check]


def test_a_key_that_occurs_twice_is_found(made: Made, store: Path) -> None:
    first, second = made.keys[0].encode(), made.keys[1].encode()
    put(store, "keys/data", slice(0, len(first)), np.frombuffer(second, dtype=np.uint8))
    found = failures(store)
    assert set(found) == {OBJECTS, "keys"}
    assert "a key occurs twice" in found["keys"]


def test_keys_of_another_data_set_are_found(store: Path) -> None:
    edit_manifest(store, lambda m: m["dataset"].update(keys_sha256="0" * 64))
    assert failures(store) == {"keys": "are not those of dataset.keys_sha256"}


def test_an_object_that_should_not_be_there_is_found(store: Path) -> None:
    (store / "labels" / "extra.bin").write_bytes(b"x")
    assert failures(store) == {OBJECTS: "labels/extra.bin is not in the manifest"}


def test_an_edited_digest_is_found(store: Path) -> None:
    edit_manifest(store, lambda m: m["objects"].update({"labels/c/0": "0" * 64}))
    assert failures(store) == {OBJECTS: "labels/c/0 has another SHA-256 than the manifest says"}


def test_metadata_that_was_edited_without_effect_is_found(store: Path) -> None:
    edit_json(store / "labels" / "zarr.json", lambda d: d["attributes"].update(note="hello"))
    (check,) = verify_store(str(store))
    assert (check.name, check.ok) == (OPENING, False)
    assert "labels/zarr.json has another SHA-256 than the manifest says" in check.detail


def test_an_emptied_object_is_found(store: Path) -> None:
    (store / "labels" / "c" / "0").write_bytes(b"")
    found = failures(store)
    assert "labels/c/0" in "".join(found.values())


@pytest.mark.parametrize("missing", ["labels/c/0", "tickets/zarr.json", "shards/rows/c/0"])
def test_a_missing_object_ends_the_checks_with_its_name(store: Path, missing: str) -> None:
    (store / missing).unlink()
    (check,) = verify_store(str(store))
    assert (check.name, check.ok) == (OPENING, False)
    assert f"{missing}: is missing from the store" in check.detail


@pytest.mark.parametrize("damage", ["no store", "no JSON", "another version", "shards", "rows of shards"])
def test_a_store_that_cannot_be_opened_is_one_failed_check(store: Path, damage: str) -> None:
    text = {
        "no store": "there is no ticket store",
        "no JSON": "is not JSON",
        "another version": "this dataltt reads 1.x",
        "shards": "are not the shards that the manifest names",
        "rows of shards": "does not divide the rows",
    }[damage]
    if damage == "no store":
        shutil.rmtree(store)
    elif damage == "no JSON":
        (store / "zarr.json").write_text("{")
    elif damage == "another version":
        edit_manifest(store, lambda m: m.update(schema_version="9.0"))
    elif damage == "shards":
        put(store, "shards/data", 0, ord("S"))
    else:
        put(store, "shards/rows", 1, 12)
    (check,) = verify_store(str(store))
    assert isinstance(check, Check)
    assert (check.name, check.ok) == (OPENING, False)
    assert text in check.detail
