"""Packing ImageFolder trees: every image comes back under its key, or nothing is written."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import (
    DatalttError,
    DiskError,
    DuplicateKeyError,
    LockedError,
    OptionError,
    OutputExistsError,
)
from dataltt.stages.data.class_list import class_list_of
from dataltt.stages.data.image_folder import key_of
from dataltt.stages.data.packing import EncodedSample, PackSummary, pack_image_folder, write_shards
from dataltt.stages.data.regrouping import regroup_shards
from dataltt.stages.data.shard_headers import count_samples
from dataltt.stages.data.shards import RawSample, Shard, iter_samples
from dataltt.stages.runtime.reporting import SilentReporter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ...helpers import file_digests, tar_bytes

_FILE_NAME_BYTES = 200  # file systems allow 255; the extension comes on top

# A path below the root: class, folders, stem and extension.
_Source = tuple[str, tuple[str, ...], str, str]


def _is_file_name(text: str) -> bool:
    return text not in (".", "..") and len(text.encode()) <= _FILE_NAME_BYTES


_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(_is_file_name)
_telling_names = st.sampled_from(["a", "b.c", "é ü", "v1.0", "日本", "x..y", " lead", "-n", "a b.tar", "_", "__x"])
_any_name = _names | _telling_names
_extensions = st.sampled_from([".jpg", ".jpeg", ".JPG", ".png", ".Png", ".webp"])
_sources = st.tuples(_any_name, st.lists(_any_name, max_size=2).map(tuple), _any_name, _extensions)


def _key(source: _Source) -> str:
    """What the key should be, from the parts of the path."""
    folder, folders, stem, _ = source
    return "/".join([folder, *folders, stem]).replace(".", "_")


def _is_read_as_metadata(key: str) -> bool:
    """WebDataset passes over names that begin with __SOMETHING__ (see the test of such a class below)."""
    first = key.split("/")[0]
    return first.startswith("__") and first.endswith("__")


def _is_hidden(source: _Source) -> bool:
    folder, folders, stem, _ = source
    return any(name.startswith(".") for name in (folder, *folders, stem)) or not stem


def _write_tree(root: Path, sources: Sequence[_Source]) -> dict[str, tuple[bytes, str]]:
    """Files below `root`, as many of the sources as have keys and paths of their own: key → content, class."""
    written: dict[str, tuple[bytes, str]] = {}
    for number, source in enumerate(sources):
        folder, folders, stem, extension = source
        key = _key(source)
        path = root.joinpath(folder, *folders, stem + extension)
        if key in written or _is_hidden(source) or _is_read_as_metadata(key) or path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):  # a folder named as an earlier file
            continue
        content = f"image {number}".encode()
        path.write_bytes(content)
        written[key] = content, folder
    return written


def _pack(
    source: Path, out: Path, *, name: str = "train", max_count: int = 1000, seed: int = 0, classes: Path | None = None
) -> PackSummary:
    return pack_image_folder(
        source, out, name=name, max_count=max_count, seed=seed, classes=classes, reporter=SilentReporter()
    )


def _read_all(paths: Sequence[str]) -> list[RawSample]:
    return [s for p in paths for s in iter_samples(Shard(url=p, name=Path(p).name))]


def _make_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(sources=st.lists(_sources, min_size=1, max_size=8), max_count=st.integers(1, 5), seed=st.integers(0, 3))
@example(sources=[("a.b", ("c.d",), "e.f", ".jpeg"), ("a", (), "日本 x", ".png")], max_count=1, seed=0)
@example(sources=[("new\nline", ("x\ny",), "tab\tname", ".jpg")], max_count=1, seed=0)
def test_every_image_comes_back_by_its_key(sources: list[_Source], max_count: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "source"), Path(folder, "out")
        root.mkdir()
        written = _write_tree(root, sources)
        if not written:
            return
        summary = _pack(root, out, max_count=max_count, seed=seed)

        classes = json.loads((out / "classes.json").read_text())
        names = sorted(d.name for d in root.iterdir())
        assert classes == {name: i for i, name in enumerate(names)}
        assert list(classes) == names

        samples = _read_all(summary.shards)
        assert {s.key: (s.image, names[s.label]) for s in samples} == written
        assert len(samples) == summary.num_samples == len(written)
        assert summary.num_classes == len(names)
        assert not any("." in s.key for s in samples)

        counts = [len(_read_all([path])) for path in summary.shards]
        assert counts[:-1] == [max_count] * (len(counts) - 1)
        assert 1 <= counts[-1] <= max_count
        assert [count_samples(Shard(url=p, name=p)) for p in summary.shards] == counts


@settings(max_examples=15, deadline=None)
@given(sources=st.lists(_sources, min_size=1, max_size=6), max_count=st.integers(1, 4))
def test_packing_twice_gives_the_same_bytes(sources: list[_Source], max_count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "source")
        root.mkdir()
        if not _write_tree(root, sources):
            return
        _pack(root, Path(folder, "one"), max_count=max_count)
        _pack(root, Path(folder, "two"), max_count=max_count)
        assert file_digests(Path(folder, "one")) == file_digests(Path(folder, "two"))


def test_members_are_named_as_other_readers_expect(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"dog/v1.0/a.b.JPEG": b"x", "cat/c.png": b"y", "cat/notes.txt": b"no"})
    summary = pack_image_folder(source, tmp_path / "out", shuffle=False, reporter=SilentReporter())
    assert [Path(p).name for p in summary.shards] == ["train-000000.tar"]
    with tarfile.open(summary.shards[0]) as tar:
        members = [(m.name, tar.extractfile(m).read(), m.mtime, m.uname) for m in tar]  # type: ignore[union-attr]
    assert members == [
        ("cat/c.cls", b"0", 0, "dataltt"),
        ("cat/c.png", b"y", 0, "dataltt"),
        ("dog/v1_0/a_b.cls", b"1", 0, "dataltt"),
        ("dog/v1_0/a_b.jpg", b"x", 0, "dataltt"),
    ]


def test_the_shuffle_mixes_classes_and_depends_on_the_seed(tmp_path: Path) -> None:
    files = {f"{c}/{i:02d}.png": f"{c}{i}".encode() for c in "ab" for i in range(20)}
    source = _make_tree(tmp_path / "source", files)
    keys = [[s.key for s in _read_all(_pack(source, tmp_path / f"out{seed}", seed=seed).shards)] for seed in (0, 1)]
    assert keys[0] != keys[1]
    assert sorted(keys[0]) == sorted(keys[1])
    assert {k[0] for k in keys[0][:10]} == {"a", "b"}


@pytest.mark.parametrize(("path", "key"), [("a/b.jpg", "a/b"), ("a.b/c.d.png", "a_b/c_d"), ("x y/ü.webp", "x y/ü")])
def test_key_of(path: str, key: str) -> None:
    assert key_of(Path(path)) == key


@pytest.mark.parametrize("second", ["a/x.png", "a/x.JPEG"])
def test_two_files_of_one_key_are_refused(tmp_path: Path, second: str) -> None:
    source = _make_tree(tmp_path / "source", {"a/x.jpg": b"1", second: b"2"})
    with pytest.raises(DuplicateKeyError, match="'a/x' occurs in") as caught:
        _pack(source, tmp_path / "out")
    assert {caught.value.first_shard, caught.value.second_shard} == {str(source / "a/x.jpg"), str(source / second)}
    assert not (tmp_path / "out").exists()


def test_dots_may_make_two_files_of_one_key(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"a/x.1.jpg": b"1", "a/x_1.jpg": b"2"})
    with pytest.raises(DuplicateKeyError, match="'a/x_1'"):
        _pack(source, tmp_path / "out")


def test_a_class_that_webdataset_takes_for_metadata_is_not_lost(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"__background__/x.jpg": b"1", "cat/y.jpg": b"2"})
    refused = ""
    found: set[bytes] = set()
    try:
        found = {s.image for s in _read_all(_pack(source, tmp_path / "out").shards)}
    except DatalttError as error:  # refusing it by name will do as well
        refused = str(error)
    assert "__background__" in refused or found == {b"1", b"2"}


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "source" / "a").mkdir(parents=True)
    (Path(os.fsdecode(os.fsencode(tmp_path / "source" / "a") + b"/caf\xe9.jpg"))).write_bytes(b"1")
    with pytest.raises(DatalttError, match="caf"):
        _pack(tmp_path / "source", tmp_path / "out")


def test_existing_shards_are_refused_and_untouched(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"a/x.jpg": b"1"})
    _pack(source, tmp_path / "out")
    before = file_digests(tmp_path / "out")
    (source / "a" / "y.jpg").write_bytes(b"2")
    with pytest.raises(OutputExistsError, match=r"train-000000\.tar exists"):
        _pack(source, tmp_path / "out")
    assert file_digests(tmp_path / "out") == before


def test_another_split_goes_beside_it(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"a/x.jpg": b"1", "b/x.jpg": b"2"})
    _pack(source, tmp_path / "out")
    before = file_digests(tmp_path / "out")
    _pack(source, tmp_path / "out", name="val")
    after = file_digests(tmp_path / "out")
    assert after == {**before, "val-000000.tar": after["val-000000.tar"]}


# Classes


def test_another_split_of_other_classes_is_refused(tmp_path: Path) -> None:
    _pack(_make_tree(tmp_path / "source", {"a/x.jpg": b"1", "b/x.jpg": b"2"}), tmp_path / "out")
    before = file_digests(tmp_path / "out")
    other = _make_tree(tmp_path / "other", {"b/y.jpg": b"1"})
    listed = tmp_path / "out" / "classes.json"
    with pytest.raises(OutputExistsError) as caught:
        _pack(other, tmp_path / "out", name="val")
    assert str(caught.value) == (
        f"{listed} lists other classes than this source has (class 'b' is number 1 in {listed} and 0 in this source); "
        f"number them as it does: `classes='{listed}'`"
    )
    assert file_digests(tmp_path / "out") == before
    # The way out is one.
    summary = _pack(other, tmp_path / "out", name="val", classes=listed)
    assert [(s.key, s.label) for s in _read_all(summary.shards)] == [("b/y", 1)]
    assert {n: d for n, d in file_digests(tmp_path / "out").items() if not n.startswith("val")} == before


def test_a_split_that_lacks_the_last_class_is_refused_too(tmp_path: Path) -> None:
    _pack(_make_tree(tmp_path / "source", {"a/x.jpg": b"1", "b/x.jpg": b"2"}), tmp_path / "out")
    with pytest.raises(OutputExistsError, match="this source has no class 'b'"):
        _pack(_make_tree(tmp_path / "other", {"a/y.jpg": b"1"}), tmp_path / "out", name="val")


@pytest.mark.parametrize("kind", ["file", "folder of shards", "tree", "list of names"])
def test_a_tree_is_numbered_by_the_list_of_another(tmp_path: Path, kind: str) -> None:
    first = _make_tree(tmp_path / "first", {f"{c}/x.jpg": c.encode() for c in "abc"})
    _pack(first, tmp_path / "shards")
    (tmp_path / "names.json").write_text('["a", "b", "c"]')
    places = {
        "file": "shards/classes.json",
        "folder of shards": "shards",
        "tree": "first",
        "list of names": "names.json",
    }
    second = _make_tree(tmp_path / "second", {"c/y.jpg": b"1", "b/y.jpg": b"2"})
    summary = _pack(second, tmp_path / "out", classes=tmp_path / places[kind])
    assert {(s.key, s.label) for s in _read_all(summary.shards)} == {("b/y", 1), ("c/y", 2)}
    assert json.loads((tmp_path / "out/classes.json").read_text()) == {"a": 0, "b": 1, "c": 2}
    assert (summary.num_classes, summary.left_out) == (3, {})


def test_a_folder_that_the_list_does_not_have_is_refused(tmp_path: Path) -> None:
    first = _make_tree(tmp_path / "first", {"a/x.jpg": b"1", "b/x.jpg": b"2"})
    second = _make_tree(tmp_path / "second", {"a/x.jpg": b"1", "d/x.jpg": b"2"})
    with pytest.raises(OptionError, match=r"class folder '.*second/d' is none of the 2 classes that .*first lists"):
        _pack(second, tmp_path / "out", classes=first)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "{}",
        "[]",
        '{"a": "0"}',
        '{"0": ["n01", "tench"]}',
        '{"a": -1}',
        '{"a": 99999999999}',
        '{"a": true}',
    ],
)
def test_lists_that_number_no_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(OptionError, match=r"classes\.json"):
        class_list_of(tmp_path)


def test_there_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"`classes='.*gone'` is not there"):
        class_list_of(tmp_path / "gone")
    (tmp_path / ".git").mkdir()
    with pytest.raises(OptionError, match=r"has no class folders and no classes\.json"):
        class_list_of(tmp_path)


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    files = [".ipynb_checkpoints/0.jpg", "a/0.jpg", "b/0.jpg", "b/.thumbs/0.jpg", "b/._0.jpg", ".DS_Store"]
    source = _make_tree(tmp_path / "source", {name: name.encode() for name in files})
    summary = _pack(source, tmp_path / "out")
    assert {(s.key, s.label) for s in _read_all(summary.shards)} == {("a/0", 0), ("b/0", 1)}
    assert summary.left_out == {"hidden file": 2, "hidden folder": 2}


def test_an_empty_class_is_refused_with_a_way_out(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"a/0.jpg": b"1", "b/0.bmp": b"2", "b/1.bmp": b"2", "c/0.jpg": b"3"})
    with pytest.raises(OptionError) as caught:
        _pack(source, tmp_path / "out")
    assert str(caught.value) == (
        f"class folder '{source / 'b'}' has no image (it has 2 .bmp), so it would take a number for nothing; remove "
        f"it, or say that it is meant with `classes='{source}'`"
    )
    assert not (tmp_path / "out").exists()
    summary = _pack(source, tmp_path / "out", classes=source)
    assert {(s.key, s.label) for s in _read_all(summary.shards)} == {("a/0", 0), ("c/0", 2)}
    assert summary.left_out == {".bmp": 2, "empty class folder": 1}


# What is left out


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    names = [
        "a/0.jpg",
        "b/1.bmp",
        "b/2.BMP",
        "b/1.gif",
        "b/1.tiff",
        "b/0.JPEG",
        "b/README",
        "b/x.\x1b[31m",
        "loose.png",
    ]
    source = _make_tree(tmp_path / "source", {name: name.encode() for name in names})
    (source / "b/gone.jpg").symlink_to("nowhere.jpg")
    summary = _pack(source, tmp_path / "out")
    assert {s.key for s in _read_all(summary.shards)} == {"a/0", "b/0"}
    assert summary.left_out == {
        ".bmp": 2,
        ".gif": 1,
        ".tiff": 1,
        "broken link": 1,
        "loose file": 1,
        "other file": 2,
    }
    assert sum(summary.left_out.values()) + summary.num_samples == len(names) + 1


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    target = _make_tree(tmp_path / "target", {"0.jpg": b"0", "deep/1.jpg": b"1"})
    source = _make_tree(tmp_path / "source", {"b/0.jpg": b"2"})
    (source / "a").symlink_to(target)
    (source / "b/linked").symlink_to("../../target/deep")
    (source / "b/2.jpg").symlink_to(target / "0.jpg")
    summary = _pack(source, tmp_path / "out")
    assert {(s.key, s.label, s.image) for s in _read_all(summary.shards)} == {
        ("a/0", 0, b"0"),
        ("a/deep/1", 0, b"1"),
        ("b/0", 1, b"2"),
        ("b/2", 1, b"0"),
        ("b/linked/1", 1, b"1"),
    }
    assert summary.left_out == {}


@pytest.mark.parametrize(
    ("link", "to"), [("a/up", ".."), ("a/self", "."), ("up", "."), ("a/b/c", "../../a"), ("x", "x")]
)
def test_links_that_lead_back_end_there(tmp_path: Path, link: str, to: str) -> None:
    source = _make_tree(tmp_path / "source", {"a/0.jpg": b"1", "a/b/1.jpg": b"2"})
    (source / link).symlink_to(to)
    summary = _pack(source, tmp_path / "out")
    assert {(s.key, s.label) for s in _read_all(summary.shards)} == {("a/0", 0), ("a/b/1", 0)}
    assert summary.left_out == {"broken link" if link == to else "looping link": 1}
    assert summary.num_classes == 1


# Shards made anew


def _regroup(spec: Path, out: Path, **options: Any) -> PackSummary:
    return regroup_shards(str(spec), out, reporter=SilentReporter(), **options)


_names_of_members = st.permutations([f"{k}.{e}" for k in ("d/2", "1", "d/0") for e in ("jpg", "cls", "json")])


@settings(max_examples=40, deadline=None)
@given(names=_names_of_members)
def test_members_in_any_order_come_together(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "old-000003.tar")
        path.write_bytes(tar_bytes((n, b"7" if n.endswith(".cls") else n.encode()) for n in names))
        summary = _regroup(path, Path(folder, "new"))
        assert summary == PackSummary(shards=[f"{folder}/new/old-000003.tar"], num_samples=3, num_classes=0)
        firsts = list(dict.fromkeys(n.split(".")[0] for n in names))  # a shuffle stays one
        found = _read_all(summary.shards)
        assert [(s.key, s.image, s.label) for s in found] == [(k, f"{k}.jpg".encode(), 7) for k in firsts]
        with tarfile.open(summary.shards[0]) as tar:
            assert sorted(tar.getnames()) == sorted(names)


def test_what_is_no_sample_is_left_out_and_the_list_of_classes_comes_along(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    members = [("README", b"x"), ("__meta__/a.json", b"{}"), ("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"1")]
    for number in range(2):
        (old / f"t-{number}.tar").write_bytes(tar_bytes(members))
    (old / "classes.json").write_text('{"x": 0, "y": 1}')
    summary = _regroup(old / "t-{0..1}.tar", tmp_path / "new")
    assert (summary.num_samples, summary.num_classes, summary.left_out) == (4, 2, {"member of no sample": 4})
    assert (tmp_path / "new/classes.json").read_text() == '{"x": 0, "y": 1}'
    before = file_digests(tmp_path)
    for out in (old, tmp_path / "new"):
        with pytest.raises(OutputExistsError, match=r"t-0\.tar exists"):
            _regroup(old / "t-*.tar", out)
    assert file_digests(tmp_path) == before


def test_keys_that_begin_anew_in_every_shard_get_its_name(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"a.{number}.tar").write_bytes(tar_bytes([("0.jpg", b"x"), ("0.cls", b"0")]))
    summary = _regroup(tmp_path / "a.*.tar", tmp_path / "new", prefix_keys=True)
    assert [(s.shard, s.key, s.label) for s in _read_all(summary.shards)] == [
        ("a.0.tar", "a.0/0", 0),
        ("a.1.tar", "a.1/0", 0),
    ]


def test_keys_may_end_at_the_last_dot(tmp_path: Path) -> None:
    names = ["d.e/1.1.jpg", "d.e/1.1.cls", "d.e/1.2.jpg", "d.e/1.2.cls", "f.PNG", "f.cls"]
    (tmp_path / "t.tar").write_bytes(tar_bytes((n, b"3") for n in names))
    summary = _regroup(tmp_path / "t.tar", tmp_path / "new", key_from="last-dot")
    assert [(s.key, s.label) for s in _read_all(summary.shards)] == [("d.e/1_1", 3), ("d.e/1_2", 3), ("f", 3)]
    (tmp_path / "u.tar").write_bytes(tar_bytes([("1.1.jpg", b"1"), ("1_1.jpg", b"2")]))
    with pytest.raises(DuplicateKeyError, match=r"'1_1' occurs twice in u\.tar"):
        _regroup(tmp_path / "u.tar", tmp_path / "other", key_from="last-dot")
    assert not (tmp_path / "other").exists()


def test_shards_that_cannot_be_made_anew(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(tar_bytes([("1.jpg", b"1"), ("2.cls", b"2"), ("1.cls", b"1")]))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "t.tar").read_bytes()[:1000])
    for name, reason in (("t.tar", "sample '2' has no image"), ("cut.tar", "cannot be read"), ("x.tar", "no shard")):
        with pytest.raises(DatalttError, match=reason):
            _regroup(tmp_path / name, tmp_path / "new")
    with pytest.raises(OptionError, match="is a URL; copy the shards"):
        regroup_shards("https://lab.org/t.tar", tmp_path / "new", reporter=SilentReporter())
    assert not (tmp_path / "new").exists()


def test_shards_made_anew_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(tar_bytes([("1.jpg", b"1")]))
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DiskError, match=r"file/new"):
        _regroup(tmp_path / "t.tar", tmp_path / "file/new")


def test_a_prefix_may_make_a_key_too_long(tmp_path: Path) -> None:
    for name in ("u.tar", "long name.tar"):
        (tmp_path / name).write_bytes(tar_bytes([("x" * 4090 + ".jpg", b"1")]))
    assert _regroup(tmp_path / "u.tar", tmp_path / "new", prefix_keys=True).num_samples == 1
    with pytest.raises(DatalttError, match="has 4100 bytes, and at most 4096 are stored"):
        _regroup(tmp_path / "long name.tar", tmp_path / "other", prefix_keys=True)
    assert not (tmp_path / "other").exists()


# Nothing half done


def _cut_off(after: int, error: BaseException) -> Iterator[EncodedSample]:
    for i in range(after):
        yield EncodedSample(key=f"k{i}", image=b"image", extension="png", label=0)
    raise error


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("error", [RuntimeError("disk on fire"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_interrupted_packing_leaves_nothing_behind(tmp_path: Path, after: int, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_shards(
            _cut_off(after, error),
            tmp_path / "out",
            name="train",
            max_count=2,
            classes=["a"],
            total=9,
            reporter=SilentReporter(),
        )
    assert list(tmp_path.iterdir()) == []


def test_interrupted_packing_leaves_what_was_there(tmp_path: Path) -> None:
    _make_tree(tmp_path / "out", {"other.txt": b"mine", "val-000000.tar": b"theirs"})
    before = file_digests(tmp_path)
    with pytest.raises(RuntimeError, match="disk on fire"):
        write_shards(
            _cut_off(3, RuntimeError("disk on fire")),
            tmp_path / "out",
            name="train",
            max_count=1,
            classes=["a"],
            total=9,
            reporter=SilentReporter(),
        )
    assert file_digests(tmp_path) == before
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == ["other.txt", "val-000000.tar"]


def test_an_unreadable_image_leaves_nothing_behind(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"a/x.jpg": b"1", "a/y.jpg": b"2"})
    samples = [EncodedSample(key="a/x", image=b"1", extension="jpg", label=0)]

    def vanishing() -> Iterator[EncodedSample]:
        yield from samples
        yield EncodedSample(key="a/z", image=(source / "a" / "z.jpg").read_bytes(), extension="jpg", label=0)

    with pytest.raises(FileNotFoundError):
        write_shards(
            vanishing(), tmp_path / "out", name="t", max_count=1, classes=["a"], total=2, reporter=SilentReporter()
        )
    assert not (tmp_path / "out").exists()


def test_no_images(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"a/notes.txt": b"1", "loose.jpg": b"an image outside the class folders"})
    with pytest.raises(OptionError, match="no images in class folders"):
        _pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_not_a_folder(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    if kind == "file":
        source.write_bytes(b"1")
    with pytest.raises(OptionError, match="is not a folder"):
        _pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "a/b"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    source = _make_tree(tmp_path / "source", {"a/x.jpg": b"1"})
    with pytest.raises(OptionError, match=r"`name=.*` should be a plain name"):
        _pack(source, tmp_path / "out", name=name)


def test_max_count_below_one_is_refused(tmp_path: Path) -> None:
    source = _make_tree(tmp_path / "source", {"a/x.jpg": b"1"})
    with pytest.raises(OptionError, match="`max_count=0`"):
        _pack(source, tmp_path / "out", max_count=0)


def _samples(count: int) -> list[EncodedSample]:
    return [EncodedSample(key=f"a/{i}", image=b"image", extension="png", label=0) for i in range(count)]


_OPTIONS: dict[str, Any] = {"name": "train", "classes": ["a"], "total": 4, "reporter": SilentReporter()}


@pytest.mark.parametrize("num_moved", [0, 1, 2, 3])
def test_a_killed_move_is_taken_back(tmp_path: Path, num_moved: int) -> None:
    """As it stands when the process is killed: some of classes.json and two shards have been moved."""
    out, samples = tmp_path / "out", _samples(4)
    expected = write_shards(samples, tmp_path / "whole", max_count=2, **_OPTIONS)
    (out / ".packing").mkdir(parents=True)
    (out / "val-000000.tar").write_bytes(b"of another pack")
    names = ["classes.json", "train-000000.tar", "train-000001.tar"]
    (out / ".packing" / "moved.json").write_text(json.dumps(names))
    for i, name in enumerate(names):
        (out / name if i < num_moved else out / ".packing" / name).write_bytes(b"half of it")
    if num_moved == len(names):  # all were: it was killed a moment later
        with pytest.raises(OutputExistsError, match=r"classes.json|train-000000.tar exists"):
            write_shards(samples, out, max_count=2, **_OPTIONS)
        assert all((out / name).read_bytes() == b"half of it" for name in names)
    else:
        write_shards(samples, out, max_count=2, **_OPTIONS)
        for name in expected.shards:
            assert (out / Path(name).name).read_bytes() == Path(name).read_bytes()
    assert not (out / ".packing").exists()
    assert (out / "val-000000.tar").read_bytes() == b"of another pack"


def test_one_packs_at_a_time(tmp_path: Path) -> None:
    def samples() -> Iterator[EncodedSample]:
        with pytest.raises(LockedError, match=r"out is being written by another process \(.*dataltt pack.*\)"):
            write_shards(_samples(2), tmp_path / "out", max_count=2, **_OPTIONS)
        yield from _samples(2)

    write_shards(samples(), tmp_path / "out", max_count=2, **_OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
