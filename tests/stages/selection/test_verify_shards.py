"""Shards against all of a store, or against the part that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.verify_shards import verify_shards

from ...helpers import Sample, SmallStore, fashion_samples, make_shards, make_store


def _verify(small: SmallStore, shards: str) -> tuple[bool, str]:
    check = verify_shards(small.store, shards, SilentReporter())
    assert check.name == "shards"
    return check.ok, check.detail


def _dealt(folder: Path, counts: Sequence[int], samples: Sequence[Sample], name: str = "dealt") -> str:
    return make_shards(folder, counts, samples, name=name)


def test_all_shards(small: SmallStore, tmp_path: Path) -> None:
    assert _verify(small, small.shards) == (True, "36 images in 3 shard(s)")
    assert _verify(small, _dealt(tmp_path, (30, 6), small.samples[::-1])) == (True, "36 images in 2 shard(s)")


def test_a_part_of_the_shards_is_named(small: SmallStore) -> None:
    one = small.shards.replace("*", "000001")
    assert _verify(small, one) == (
        True,
        "shard train-000001.tar: 12 of 36 tickets; 24 tickets are of 2 shards that were not given",
    )
    two = small.shards.replace("*", "00000[02]")
    assert _verify(small, two) == (
        True,
        "shards train-000000.tar, train-000002.tar: 24 of 36 tickets; 12 tickets are of 1 shard that was not given",
    )


def test_many_shards_are_named_by_the_first(tmp_path: Path) -> None:
    made = make_store(tmp_path, counts=(1,) * 6)
    assert _verify(made, made.shards.replace("*", "00000[0-4]")) == (
        True,
        "shards train-000000.tar, train-000001.tar, train-000002.tar and 2 more: 5 of 6 tickets; 1 tickets are of 1 "
        "shard that was not given",
    )


def test_images_of_other_keys(small: SmallStore, tmp_path: Path) -> None:
    samples = [replace(s, key=f"elsewhere/{i}") for i, s in enumerate(small.samples)]
    by_image = "of them by the image: they have other keys"
    assert _verify(small, _dealt(tmp_path, (36,), samples)) == (True, f"36 images in 1 shard(s), 36 {by_image}")
    assert _verify(small, _dealt(tmp_path, (20,), samples)) == (
        True,
        f"shard dealt-000000.tar: 20 of 36 tickets, 20 {by_image}; 16 tickets are of 2 shards that were not given",
    )


@pytest.mark.parametrize("name", ["train", "dealt"])
def test_wrong_images_of_a_part(small: SmallStore, tmp_path: Path, name: str) -> None:
    samples = [replace(s, image=s.image + b"\0") if i in (2, 5) else s for i, s in enumerate(small.samples[:12])]
    assert _verify(small, _dealt(tmp_path, (12,), samples, name)) == (
        False,
        f"{name}-000000.tar: the image of sample 'train/00002' is not the one that its ticket in {small.store} was "
        "made from, nor are 1 others",
    )


def test_images_that_changed_places_in_a_shard_that_the_store_knows(small: SmallStore, tmp_path: Path) -> None:
    samples = list(small.samples[:12])
    samples[3], samples[4] = replace(samples[3], image=samples[4].image), replace(samples[4], image=samples[3].image)
    ok, detail = _verify(small, _dealt(tmp_path, (12,), samples, "train"))
    assert not ok
    assert detail.startswith("train-000000.tar: the image of sample 'train/00003' is not the one")
    # Under names of another lab, keys say nothing, and labels are those of the images.
    ok, detail = _verify(small, _dealt(tmp_path, (12,), samples, "other"))
    assert not ok
    assert detail.startswith("other-000000.tar: sample 'train/00003' is of class")
    samples[3], samples[4] = replace(samples[3], label=samples[4].label), replace(samples[4], label=samples[3].label)
    assert _verify(small, _dealt(tmp_path, (12,), samples, "other"))[0]


def test_images_that_are_missing_or_are_too_many(small: SmallStore, tmp_path: Path) -> None:
    part = _dealt(tmp_path, (12, 10), small.samples[:22], "train")
    assert _verify(small, part) == (
        False,
        "train-000001.tar: 2 of 12 tickets have no image in the shards, such as that of 'train/00022'",
    )
    more = _dealt(tmp_path, (14,), [*small.samples[:12], *fashion_samples(2, first=500)], "train")
    assert _verify(small, more.replace("*", "000000")) == (False, "2 of 14 images in the shards have no ticket")
    twice = f"{{{small.shards.replace('*', '000000')},{_dealt(tmp_path, (3,), small.samples[:3], 'again')}}}"
    assert _verify(small, twice) == (False, "3 keys occur more than once, such as 'train/00000'")


def test_a_shard_that_cannot_be_read_is_named_beside_the_others(small: SmallStore, tmp_path: Path) -> None:
    shards = _dealt(tmp_path, (12, 12), small.samples[:24], "train")
    (tmp_path / "train-000001.tar").write_bytes(b"no tar")
    ok, detail = _verify(small, shards)
    assert not ok
    assert "train-000001.tar cannot be read to its end" in detail
    assert "train-000001.tar: 12 of 12 tickets have no image" in detail
    assert "train-000000" not in detail


def test_identical_images_whose_tickets_differ(tmp_path: Path) -> None:
    samples = fashion_samples(6)
    twins = [*samples, replace(samples[2], key="twin")]
    made = make_store(tmp_path, counts=(7,), samples=twins, augment="deit", num_views=2)
    assert _verify(made, made.shards) == (True, "7 images in 1 shard(s)")
    renamed = [replace(s, key=f"elsewhere/{i}") for i, s in enumerate(samples)]
    assert _verify(made, _dealt(tmp_path / "dealt", (6,), renamed)) == (
        False,
        "1 of 6 images in the shards have no ticket (1 stand there more than once, with different tickets)",
    )


# Labels


def test_labels_that_differ_are_named(small: SmallStore, tmp_path: Path) -> None:
    labels = {14: 10**9, 20: 4}
    assert small.samples[20].label == 3
    samples = [replace(s, label=labels.get(i, s.label)) for i, s in enumerate(small.samples)]
    for name in ("train", "dealt"):
        ok, detail = _verify(small, _dealt(tmp_path / name, (12, 24), samples, name))
        assert not ok
        assert detail.startswith(
            f"{name}-000001.tar: sample 'train/00014' is of class 1000000000 by its .cls and of class "
            f"{small.samples[14].label} in {small.store}, and 1 others differ too"
        )
    renamed = [replace(s, key=f"elsewhere/{i}") for i, s in enumerate(samples)]
    ok, detail = _verify(small, _dealt(tmp_path / "renamed", (36,), renamed))
    assert not ok
    assert "sample 'elsewhere/14' is of class 1000000000 by its .cls" in detail


def test_a_label_that_one_side_lacks_is_counted(small: SmallStore, tmp_path: Path) -> None:
    unlabelled = [replace(s, label=None) if i < 5 else s for i, s in enumerate(small.samples)]
    expected = (True, "36 images in 1 shard(s), 5 with a label on one side alone")
    assert _verify(small, _dealt(tmp_path / "without", (36,), unlabelled)) == expected
    made = make_store(tmp_path / "made", samples=unlabelled)
    assert _verify(made, _dealt(tmp_path / "with", (36,), small.samples)) == expected
    assert _verify(made, _dealt(tmp_path / "same", (36,), unlabelled)) == (True, "36 images in 1 shard(s)")


def test_an_image_of_two_classes_may_have_either_label(tmp_path: Path) -> None:
    first, *others = fashion_samples(6)
    made = make_store(tmp_path, counts=(7,), samples=[first, *others, replace(first, key="twin", label=77)])
    for label, is_sound in ((first.label, True), (77, True), (5 if first.label != 5 else 6, False)):
        shards = _dealt(tmp_path / f"of{label}", (1,), [replace(first, key="elsewhere", label=label)])
        assert _verify(made, shards)[0] == is_sound
