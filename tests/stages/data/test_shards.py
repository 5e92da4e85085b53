"""Finding shards, and reading every sample out of them or none in silence."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from pathlib import Path

import pytest
from dataltt.artifacts_schema import DatalttError, DuplicateKeyError, OptionError, SampleError, ShardError, TicketStore
from dataltt.stages.data.counting import count_shards
from dataltt.stages.data.shard_headers import count_samples, labelled_keys
from dataltt.stages.data.shards import (
    RawSample,
    Shard,
    absolute_spec,
    given_shards,
    is_url,
    iter_samples,
    resolve_shards,
)
from dataltt.stages.runtime.reporting import SilentReporter
from hypothesis import given, settings
from hypothesis import strategies as st

from ...helpers import Sample, SmallStore, fashion_samples, tar_bytes, write_shard

_TAR_BLOCK_BYTES = 512


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _shard(path: Path) -> Shard:
    return Shard(url=str(path), name=path.name)


def _write(path: Path, members: list[tuple[str, bytes]]) -> Shard:
    path.write_bytes(tar_bytes(members))
    return _shard(path)


# Finding


def test_braces_are_expanded_as_written(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"t-{i:02d}.tar" for i in range(12)))
    found = resolve_shards(f"{tmp_path}/t-{{11..09}}.tar")
    assert found == [Shard(url=f"{tmp_path}/t-{i}.tar", name=f"t-{i}.tar") for i in ("11", "10", "09")]


def test_globs_are_sorted(tmp_path: Path) -> None:
    _touch(tmp_path, "b.tar", "a.tar", "sub/c.tar", "d.txt")
    assert [s.name for s in resolve_shards(f"{tmp_path}/*.tar")] == ["a.tar", "b.tar"]
    assert [s.name for s in resolve_shards(f"{tmp_path}/**/*.tar")] == ["a.tar", "b.tar", "c.tar"]


def test_braces_around_globs(tmp_path: Path) -> None:
    _touch(tmp_path, "x/2.tar", "x/1.tar", "y/3.tar")
    assert [s.name for s in resolve_shards(f"{tmp_path}/{{y,x}}/*.tar")] == ["3.tar", "1.tar", "2.tar"]


def test_a_file_missing_from_a_range_is_named(tmp_path: Path) -> None:
    _touch(tmp_path, "t-0.tar", "t-2.tar")
    with pytest.raises(ShardError, match=r"there is no shard .*t-1\.tar"):
        resolve_shards(f"{tmp_path}/t-{{0..2}}.tar")


@pytest.mark.parametrize("spec", ["nothing-*.tar", "nothing-{0..1}.tar", "nothing.tar", "."])
def test_nothing_matches(tmp_path: Path, spec: str) -> None:
    with pytest.raises(ShardError, match=r"there is no shard|no shard matches|is a folder"):
        resolve_shards(f"{tmp_path}/{spec}")


@pytest.mark.parametrize("spec", ["t-{0..2.tar", "t-0..2}.tar"])
def test_unbalanced_braces(tmp_path: Path, spec: str) -> None:
    with pytest.raises(DatalttError, match=r"t-"):
        resolve_shards(f"{tmp_path}/{spec}")


def test_naming_a_shard_twice_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar")
    with pytest.raises(ShardError, match="twice"):
        resolve_shards(f"{tmp_path}/{{a,a}}.tar")


def test_equal_file_names_in_different_folders_get_distinct_names(tmp_path: Path) -> None:
    _touch(tmp_path, "one/x/0.tar", "two/x/0.tar", "two/x/1.tar")
    found = resolve_shards(f"{tmp_path}/*/x/*.tar")
    assert [s.name for s in found] == ["one/x/0.tar", "two/x/0.tar", "two/x/1.tar"]
    assert [s.url for s in found] == [str(tmp_path / name) for name in ("one/x/0.tar", "two/x/0.tar", "two/x/1.tar")]


def test_names_of_urls_leave_their_queries_out() -> None:
    found = resolve_shards("https://host/data/t-{0..1}.tar?token=x")
    assert [s.url for s in found] == ["https://host/data/t-0.tar?token=x", "https://host/data/t-1.tar?token=x"]
    assert [s.name for s in found] == ["t-0.tar", "t-1.tar"]


@pytest.mark.parametrize(("spec", "url"), [("pipe:cat x.tar", True), ("s3://b/x.tar", True), ("a/b:c.tar", False)])
def test_is_url(spec: str, url: bool) -> None:
    assert is_url(spec) == url


def test_absolute_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("data/t-{0..2}.tar") == f"{tmp_path}/data/t-{{0..2}}.tar"
    assert absolute_spec("hf://datasets/x/{0..2}.tar") == "hf://datasets/x/{0..2}.tar"


# None given


def test_a_star_in_a_url_is_refused_since_nothing_is_listed() -> None:
    with pytest.raises(ShardError) as caught:
        resolve_shards("https://lab.org/t-*.tar")
    assert str(caught.value) == (
        "`shards='https://lab.org/t-*.tar'` is a URL, of which nothing is listed; write t-{000000..000009}.tar"
    )


@pytest.mark.parametrize("spec", [None, ""])
def test_no_shards_given(spec: str | None) -> None:
    with pytest.raises(OptionError, match="which shards"):
        given_shards(spec)
    assert given_shards("a.tar") == "a.tar"


# Reading


def test_samples_come_in_order_with_their_bytes_and_labels(tmp_path: Path) -> None:
    samples = fashion_samples(7)
    order = [3, 0, 6, 1, 5, 2, 4]
    path = write_shard(tmp_path / "t-0.tar", [samples[i] for i in order])
    expected = [RawSample(shard="t-0.tar", key=s.key, image=s.image, label=s.label or 0) for s in samples]
    assert list(iter_samples(_shard(path))) == [expected[i] for i in order]


def test_the_layout_of_timms_imagenet_shards(tmp_path: Path) -> None:
    shard = _write(
        tmp_path / "imagenet1k-train-0000.tar",
        [
            ("n03788195_7673.cls", b"663"),
            ("n03788195_7673.jpg", b"first"),
            ("n03788195_7673.json", b'{"label": 663, "width": 500}'),
            ("n02105855_2933.cls", b" 230\n"),
            ("n02105855_2933.JPG", b"second"),
            ("n02105855_2933.json", b"{}"),
        ],
    )
    assert [(s.key, s.image, s.label) for s in iter_samples(shard)] == [
        ("n03788195_7673", b"first", 663),
        ("n02105855_2933", b"second", 230),
    ]
    assert count_samples(shard) == 2


def test_a_sample_without_label_and_members_that_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in ("README", "a/x.png", "a/x.seg.png", "b.webp", "b.cls"):
            content = b"7" if name == "b.cls" else name.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert [(s.key, s.image, s.label) for s in iter_samples(_shard(path))] == [
        ("a/x", b"a/x.png", -1),
        ("b", b"b.webp", 7),
    ]
    assert count_samples(_shard(path)) == 2


def test_a_sample_without_an_image(tmp_path: Path) -> None:
    shard = _write(tmp_path / "t.tar", [("a.jpg", b"x"), ("a.cls", b"1"), ("b.cls", b"1"), ("b.json", b"{}")])
    with pytest.raises(SampleError, match=r"t\.tar: sample 'b' has no image \(it has cls, json;"):
        list(iter_samples(shard))


@pytest.mark.parametrize("content", [b"cat", b"", b"-2", b"2147483648", b"9" * 5000, b"\xff", b"1.0"])
def test_a_label_that_is_no_class_index(tmp_path: Path, content: bytes) -> None:
    shard = _write(tmp_path / "t.tar", [("a.jpg", b"x"), ("a.cls", content)])
    with pytest.raises(SampleError, match=r"t\.tar: the \.cls of sample 'a' is not a class index"):
        list(iter_samples(shard))


@pytest.mark.parametrize(
    "members",
    [
        [("n/a.jpg", b"1"), ("n/a.jpg", b"2")],
        [("n/a.jpg", b"1"), ("n/a.cls", b"2"), ("n/a.jpg", b"1")],
        [("n/a.jpg", b"1"), ("n/b.jpg", b"2"), ("n/a.jpg", b"3")],
    ],
)
def test_a_key_twice_in_one_shard(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    with pytest.raises(DuplicateKeyError, match=r"key 'n/a' occurs twice in t\.tar") as caught:
        list(iter_samples(_write(tmp_path / "t.tar", members)))
    assert caught.value.key == "n/a"


@pytest.mark.parametrize(
    ("members", "first", "then"),
    [
        ([("0.jpg", b"a"), ("1.jpg", b"b"), ("0.cls", b"0"), ("1.cls", b"0")], "jpg", "cls"),
        ([("0.cls", b"0"), ("1.cls", b"0"), ("0.jpg", b"a"), ("1.jpg", b"b")], "cls", "jpg"),
        ([("0.jpg", b"a"), ("0.cls", b"0"), ("1.jpg", b"b"), ("1.cls", b"0"), ("0.json", b"{}")], "cls", "json"),
    ],
)
def test_members_that_lie_apart_are_no_doubled_key(
    tmp_path: Path, members: list[tuple[str, bytes]], first: str, then: str
) -> None:
    shard = _write(tmp_path / "t t.tar", members)
    with pytest.raises(ShardError) as caught:
        list(iter_samples(shard))
    assert str(caught.value) == (
        f"t t.tar: the members of sample '0' do not stand together (.{first}, and after other samples .{then}); make "
        f"the tar anew with tar --sort=name, or by: dataltt pack --from-shards '{shard.url}' OUT"
    )


@pytest.mark.parametrize(
    ("members", "extension"),
    [
        ([("d.e/1.1.jpg", b"a"), ("d.e/1.1.cls", b"0")], "1.cls"),
        ([("d.e/1.1.jpg", b"a")], "1.jpg"),
        ([("d.e/1.2.cls", b"0"), ("d.e/1.2.PNG", b"a")], "2.cls"),
        ([("d.e/1.jpg", b"a"), ("d.e/1.cls", b"0"), ("d.e/1.1.jpg", b"b"), ("d.e/1.1.cls", b"1")], "1.cls"),
    ],
)
def test_a_dot_in_a_name_is_named(tmp_path: Path, members: list[tuple[str, bytes]], extension: str) -> None:
    shard = _write(tmp_path / "t.tar", members)
    with pytest.raises(SampleError) as caught:
        list(iter_samples(shard))
    assert str(caught.value) == (
        f"t.tar: a key ends at the first dot of a file's name, so 'd.e/1.{extension}' is read as .{extension} of "
        "sample 'd.e/1'; rename the files, or make the tar anew by: dataltt pack --from-shards --key-from last-dot "
        f"{shard.url} OUT"
    )


def test_extensions_of_two_parts_are_still_passed_over(tmp_path: Path) -> None:
    shard = _write(tmp_path / "t.tar", [("a.jpg", b"x"), ("a.seg.png", b"y"), ("a.cls", b"1")])
    assert [(s.key, s.image, s.label) for s in iter_samples(shard)] == [("a", b"x", 1)]


@pytest.mark.parametrize(
    "members",
    [
        [("0.jpg", b"a"), ("1.jpg", b"b"), ("0.cls", b"0"), ("1.cls", b"0")],
        [("0.cls", b"0"), ("1.cls", b"0"), ("0.jpg", b"a"), ("1.jpg", b"b")],
        [("1.1.jpg", b"a"), ("1.1.cls", b"0")],
        [("0.jpg", b"a"), ("0.jpg", b"b")],
        [("0.jpg", b"a"), ("1.jpg", b"b"), ("0.jpg", b"c")],
        [("0.cls", b"a"), ("0.json", b"b")],
        [("0.jpg", b"a"), ("0.CLS", b"x")],
    ],
)
def test_headers_tell_what_reading_tells(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    shard = _write(tmp_path / "t.tar", members)
    with pytest.raises(DatalttError) as read:
        list(iter_samples(shard))
    with pytest.raises(type(read.value)) as looked:
        list(labelled_keys(shard))
    assert str(looked.value) == str(read.value)


@pytest.mark.parametrize("url", ["{}", "file:{}"])
def test_labels_without_images(tmp_path: Path, url: str) -> None:
    members = [("b.jpg", b"x" * 600), ("b.CLS", b"7"), ("a.png", b"y"), ("c.cls", b" 2\n"), ("c.webp", b"z")]
    path = Path(_write(tmp_path / "t.tar", members).url)
    assert list(labelled_keys(Shard(url=url.format(path), name="t.tar"))) == [("b", 7), ("a", -1), ("c", 2)]


# Damage


_WHOLE = tar_bytes(member for sample in fashion_samples(3) for member in sample.members)
_CONTENT_BYTES = -(-len(_WHOLE.rstrip(b"\0")) // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES  # what follows is empty blocks


def _check_cut(folder: Path, length: int) -> None:
    """A shard cut to `length` bytes is an error, unless only empty blocks at its end are gone: then it is whole."""
    path = folder / "cut.tar"
    path.write_bytes(_WHOLE[:length])
    if length <= _CONTENT_BYTES:
        with pytest.raises(ShardError, match=r"cut\.tar"):
            list(iter_samples(_shard(path)))
    elif length >= _CONTENT_BYTES + _TAR_BLOCK_BYTES:
        assert len(list(iter_samples(_shard(path)))) == 3
    else:
        with contextlib.suppress(ShardError):
            assert len(list(iter_samples(_shard(path)))) == 3


@pytest.mark.parametrize("length", [*range(0, len(_WHOLE), 100), *range(0, len(_WHOLE), _TAR_BLOCK_BYTES)])
def test_a_cut_off_shard_is_an_error(tmp_path: Path, length: int) -> None:
    _check_cut(tmp_path, length)


@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, len(_WHOLE) - 1))
def test_a_shard_cut_anywhere_is_an_error(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    _check_cut(tmp_path_factory.getbasetemp(), length)


def test_a_cut_after_an_image_that_ends_with_zeros(tmp_path: Path) -> None:
    # Cameras pad JPEG files with zeros; what is left of the shard then ends as a whole one does.
    padded = [Sample(key=f"k{i}", image=b"\xff\xd8" + bytes(1022), label=i, extension="jpg") for i in range(2)]
    whole = tar_bytes(member for sample in padded for member in sample.members)
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[: _TAR_BLOCK_BYTES + 1024])  # the header and content of the first image
    with pytest.raises(ShardError, match=r"cut\.tar"):
        list(iter_samples(_shard(path)))


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tar", b"x" * 5000, gzip.compress(b"not a tar either" * 100), fashion_samples(1)[0].image],
    ids=["empty", "text", "long text", "gzip", "png"],
)
def test_not_a_tar(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"t\.tar cannot be read to its end"):
        list(iter_samples(_shard(path)))
    with pytest.raises(ShardError, match=r"t\.tar cannot be read to its end"):
        count_samples(_shard(path))


def test_a_shard_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.tar cannot be read"):
        list(iter_samples(_shard(tmp_path / "gone.tar")))
    with pytest.raises(ShardError, match=r"gone\.tar cannot be read"):
        count_samples(_shard(tmp_path / "gone.tar"))


@pytest.mark.parametrize("position", range(0, _CONTENT_BYTES, 997))
def test_a_damaged_byte_is_an_error_or_harmless_to_the_structure(tmp_path: Path, position: int) -> None:
    """Content has no checksum in a tar; its headers have, and what they say cannot change in silence."""
    damaged = bytearray(_WHOLE)
    damaged[position] ^= 0x55
    path = tmp_path / "t.tar"
    path.write_bytes(damaged)
    try:
        found = [(s.key, len(s.image)) for s in iter_samples(_shard(path))]
    except DatalttError:
        return
    assert found == [(s.key, len(s.image)) for s in fashion_samples(3)]


# Compression

_GZIPPED = gzip.compress(_WHOLE, mtime=0)


def test_a_gzipped_shard(tmp_path: Path) -> None:
    path = tmp_path / "t.tar.gz"
    path.write_bytes(_GZIPPED)
    assert [s.image for s in iter_samples(_shard(path))] == [s.image for s in fashion_samples(3)]
    assert count_samples(_shard(path)) == 3


@pytest.mark.parametrize("length", range(0, len(_GZIPPED) - 20, 37))
def test_a_gzipped_shard_that_is_cut_off(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(_GZIPPED[:length])
    with pytest.raises(ShardError, match=r"cut\.tar\.gz"):
        list(iter_samples(_shard(path)))


# URLs


def test_a_command_as_a_shard(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "t.tar", fashion_samples(4))
    shard = Shard(url=f"pipe:cat {path}", name="t.tar")
    assert [s.key for s in iter_samples(shard)] == [s.key for s in fashion_samples(4)]
    assert next(iter_samples(shard)).key == fashion_samples(1)[0].key  # and left off there


@pytest.mark.parametrize("command", ["false", "cat /nowhere/t.tar", "head -c 2000 TAR", "cat TAR; exit 3"])
def test_a_command_that_fails(tmp_path: Path, command: str) -> None:
    path = write_shard(tmp_path / "t.tar", fashion_samples(4))
    with pytest.raises(ShardError, match=r"pipe:.* cannot be read to its end"):
        list(iter_samples(Shard(url=f"pipe:{command.replace('TAR', str(path))}", name="t.tar")))


@pytest.mark.parametrize("name", ["odd:name.tar", "pipe:touch executed;true .tar"])
def test_a_local_file_whose_name_looks_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A glob finds files, whatever they are called; none of their names is a command."""
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / name, fashion_samples(2))
    shards = resolve_shards("*.tar")
    assert len(shards) == 1
    assert [s.key for s in iter_samples(shards[0])] == [s.key for s in fashion_samples(2)]
    assert count_samples(shards[0]) == 2
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("url", ["s3://bucket/t.tar", "ftp://host/t.tar", "nonsense:t.tar"])
def test_a_scheme_that_nobody_opens(url: str) -> None:
    with pytest.raises(DatalttError, match=url):
        list(iter_samples(Shard(url=url, name="t.tar")))


# Counting


def test_counting_is_reading(tmp_path: Path) -> None:
    shard = _shard(write_shard(tmp_path / "t.tar", fashion_samples(11)))
    assert count_samples(shard) == len(list(iter_samples(shard))) == 11


def test_counting_passes_over_what_reading_passes_over(tmp_path: Path) -> None:
    members = [("__meta__/about.json", b"{}"), ("__index__", b"x"), ("a.jpg", b"1"), ("a.cls", b"1"), ("b.jpg", b"2")]
    shard = _write(tmp_path / "t.tar", members)
    assert count_samples(shard) == len(list(iter_samples(shard))) == 2


def test_counting_an_empty_shard(tmp_path: Path) -> None:
    assert count_samples(_write(tmp_path / "t.tar", [])) == 0
    assert list(iter_samples(_shard(tmp_path / "t.tar"))) == []


def test_counting_through_a_url(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "t.tar", fashion_samples(4))
    assert count_samples(Shard(url=f"file:{path}", name="t.tar")) == 4


def test_counts_come_from_a_store_that_knows_the_shards(small: SmallStore) -> None:
    store = TicketStore.open(small.store)
    shards = resolve_shards(small.shards)
    gone = [Shard(url=s.url + ".gone", name=s.name) for s in shards]
    assert [c.num_samples for c in count_shards(gone, store, SilentReporter())] == [12, 12, 12]
    with pytest.raises(ShardError, match=r"\.gone cannot be read"):
        count_shards(gone, store, SilentReporter(), recount=True)
    assert [c.num_samples for c in count_shards(shards, None, SilentReporter())] == [12, 12, 12]


def test_no_sample_in_any_shard(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no sample in 1 shard"):
        count_shards([_write(tmp_path / "t.tar", [])], None, SilentReporter())
