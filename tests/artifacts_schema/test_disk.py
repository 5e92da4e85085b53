"""Writing onto a disk that is full, at every point of it, or read-only: one sentence, and nothing half-written."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema import DiskError, Labeller, LabelMaps, Location, TicketStore
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.merge import merge_stores
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.artifacts_schema.files import check_writable, disk_error, write_atomically, writing
from dataltt.artifacts_schema.publishing.pull import pull
from dataltt.artifacts_schema.publishing.push import push
from dataltt.artifacts_schema.space import check_space, existing_folder, free_bytes, shown_bytes
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing.commit import commit
from dataltt.artifacts_schema.writing.label_commit import commit_labels
from dataltt.artifacts_schema.writing.label_parts import LabelPartWriter, label_parts_dir
from dataltt.artifacts_schema.writing.parts import begin_plan, parts_dir, write_part

from ..disks import FULL, PAGE, READ_ONLY, Disk
from ..schema_helpers import Made, digests_of, make_part, make_spec, make_store, write_parts

SPEC = make_spec(shards=("a.tar", "b.tar"), num_views=2)
LABELLER = Labeller(
    model="l", weights_sha256="0" * 64, num_classes=10, precision="fp32", tool_version="0", created="2023-11-14"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something that writes in a folder: what must be there first, and the writing."""

    begin: Callable[[Path, Path], None]
    write: Callable[[Path, Path], object]


def _nothing(folder: Path, source: Path) -> None: ...


def _maps(num_rows: int) -> LabelMaps:
    scores = np.broadcast_to(np.array([0.5, 0.2, 0.1, 0.05, 0.01], np.float16), (num_rows, 2, 15, 5))
    return LabelMaps(np.broadcast_to(np.arange(5, dtype=np.uint16), scores.shape).copy(), scores.copy())


def _write_label_part(folder: Path, index: int, num_rows: int) -> None:
    label_parts_dir(folder / "s.zarr").mkdir(exist_ok=True)
    shard = f"shard-{index:03d}.tar"
    writer = LabelPartWriter(label_parts_dir(folder / "s.zarr"), index, shard, num_views=2, num_patches=15)
    writer.append(_maps(num_rows))
    writer.close()


def _copy_and_label(folder: Path, source: Path) -> None:
    shutil.copytree(source, folder / "s.zarr")
    for index, num_rows in enumerate((4, 1, 6)):
        _write_label_part(folder, index, num_rows)


def _target(folder: Path) -> Target:
    return Target(path=folder / "new.zarr")


def _merge(folder: Path, source: Path) -> object:
    return merge_stores([source, source], _target(folder))


def _commit_parts(folder: Path, source: Path) -> object:
    return commit(folder / "s.zarr", SPEC)


def _make_parts(folder: Path, source: Path) -> None:
    write_parts(folder / "s.zarr", [make_part(SPEC, 0, 9), make_part(SPEC, 1, 5)])


WORKS = {
    "a file": Work(begin=_nothing, write=lambda f, s: write_atomically(f / "file", bytes(30_000))),
    "a plan": Work(begin=_nothing, write=lambda f, s: begin_plan(parts_dir(f / "s.zarr"), {"model": "x" * 9000})),
    "a part": Work(begin=_nothing, write=lambda f, s: write_part(f, 0, make_part(SPEC, 0, 3000))),
    "a commit": Work(begin=_make_parts, write=_commit_parts),
    "a part of labels": Work(
        begin=lambda f, s: label_parts_dir(f / "s.zarr").mkdir(), write=lambda f, s: _write_label_part(f, 0, 900)
    ),
    "labels": Work(begin=_copy_and_label, write=lambda f, s: commit_labels(f / "s.zarr", LABELLER)),
    "merge": Work(begin=_nothing, write=_merge),
    "subset": Work(begin=_nothing, write=lambda f, s: subset_store(s, Wanted(shards="shard-*"), _target(f))),
    "thin": Work(begin=_nothing, write=lambda f, s: thin_store(s, _target(f), ranks=False)),
    "push to a folder": Work(begin=_nothing, write=lambda f, s: push(s, Location.of(f / "far.zarr"), {})),
    "push to a zip file": Work(begin=_nothing, write=lambda f, s: push(s, Location.of(f / "far.zip"), {})),
    "pull": Work(begin=_nothing, write=lambda f, s: pull(Location.of(s), f / "near.zarr")),
}
# These go on from what is there; all others leave nothing.
GOES_ON = ("push to a folder", "pull")


@pytest.mark.long
@pytest.mark.parametrize("name", WORKS)
def test_a_disk_that_is_full_at_any_point(disk: Disk, made: Made, name: str) -> None:
    work = WORKS[name]
    work.begin(disk.folder, made.path)
    before, failures = digests_of(disk.folder), 0
    for pages in (*range(13), *range(13, 400, 9)):
        with disk.with_room_for(pages * PAGE):
            try:
                work.write(disk.folder, made.path)
            except DiskError as error:
                failures += 1
                said = str(error)
                assert str(disk.folder) in said
                assert re.search(rf"cannot be written: {FULL}|will take .* free; make room", said), said
                assert "\n" not in said
            else:
                break
        left = {path: digest for path, digest in digests_of(disk.folder).items() if path != ".ballast"}
        if name not in GOES_ON:
            assert left == before
        assert not [path for path in left if re.search(r"\.tmp|\.sending|\.fetching|\.old-", path)]
    else:
        raise AssertionError("it never fitted")
    assert failures >= (1 if disk.is_mounted else 0)
    for store in disk.folder.glob("*.z*"):
        if store.suffix in (".zarr", ".zip"):
            assert [c for c in verify_store(str(store)) if not c.ok] == []


@pytest.mark.parametrize("name", [n for n in WORKS if n not in ("a part", "a part of labels")])
def test_a_disk_that_is_read_only(disk: Disk, made: Made, name: str) -> None:
    WORKS[name].begin(disk.folder, made.path)
    before = digests_of(disk.folder)
    with disk.read_only(), pytest.raises(DiskError, match=READ_ONLY) as caught:
        WORKS[name].write(disk.folder, made.path)
    assert str(disk.folder) in str(caught.value)
    assert digests_of(disk.folder) == before


# Permission

_AS_NOBODY = """
import os, sys
from pathlib import Path
from dataltt.artifacts_schema import DiskError
from dataltt.artifacts_schema.files import check_writable, write_atomically
check_writable(Path(sys.argv[1]))  # all is imported
os.setuid(65534)
for work in (lambda path: check_writable(path), lambda path: write_atomically(path, b"x")):
    try:
        work(Path(sys.argv[1]))
    except DiskError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.parent.chmod(0o755)
        done = subprocess.run([sys.executable, "-c", _AS_NOBODY, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        sentence = f"{path} cannot be written: permission denied; have it permitted, or write to another place"
        assert done.stdout == f"{sentence}\n{sentence}\n"
        assert list(path.parent.iterdir()) == []


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "not" / "there" / "yet")
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"as it was")
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"as it was"
    with pytest.raises(DiskError, match="below cannot be written: a part of the path is a file; write to"):
        check_writable(tmp_path / "file" / "below")
    with pytest.raises(DiskError, match="cannot be written: the name is too long"):
        write_atomically(tmp_path / ("x" * 300), b"")


# Sentences


def test_what_is_read_meanwhile_is_no_failure_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing(tmp_path / "out"):
        (tmp_path / "source.png").read_bytes()
    with pytest.raises(PermissionError), writing(tmp_path / "out"):
        raise PermissionError(13, "Permission denied", str(tmp_path / "source.png"))
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "out"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "too little room on its disk"),
        (OSError(122, "Disk quota exceeded"), "your quota on its disk is used up"),
        (OSError(30, "Read-only file system", "x"), "its file system is read-only"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "too little room"),
        (ExceptionGroup("writes", [ValueError("x"), OSError(28, "No space left")]), "too little room"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 32960 vs 32848"), "its disk fails"),
    ],
)
def test_how_libraries_say_it(tmp_path: Path, error: Exception, said: str) -> None:
    found = disk_error(error, tmp_path / "out", needs=7_100_000)
    assert found is not None
    assert str(found).startswith(f"{tmp_path / 'out'} cannot be written: {said}")
    assert ("7.1 MB to write" in str(found)) == ("room" in said or "quota" in said)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


def test_the_cause_of_an_error_counts(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="too little room"), writing(tmp_path / "out"):
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")


def test_bytes_for_people() -> None:
    counts = (0, 1, 996, 1000, 7_140_000, 38.4e9, 999_499, 999_600, 1.2e12, 5e18)
    shown = "0 bytes,1 byte,996 bytes,1.0 kB,7.1 MB,38 GB,999 kB,1.0 MB,1.2 TB,5000 PB"
    assert ",".join(map(shown_bytes, counts)) == shown


def test_room_is_compared_with_what_is_needed(disk: Disk, tmp_path: Path) -> None:
    if not disk.is_mounted:
        pytest.skip("mounts are not allowed here")
    place = disk.folder / "not" / "there"
    assert existing_folder(place) == disk.folder
    with disk.with_room_for(10 * PAGE):
        free = free_bytes(place)
        assert free == 10 * PAGE
        assert check_space(place, free) is None
        warned = f"{place} will take about 100 kB, and its disk has 41 kB free; make room, or write to another disk"
        assert check_space(place, 100_000, least=30_000) == warned
        with pytest.raises(DiskError, match="will take about 100 kB"):
            check_space(place, 100_000, least=50_000)
        with pytest.raises(DiskError, match="will take 41 kB, and its disk has 41 kB free"):
            check_space(place, free + 1)


def test_a_store_goes_on_after_the_disk_was_full(disk: Disk, tmp_path: Path) -> None:
    """What was selected stays, and the store is the same in the end."""
    wanted = make_store(tmp_path / "elsewhere", rows_per_shard=(40, 20, 10))
    write_parts(disk.folder / "store.zarr", wanted.parts)
    with disk.with_room_for(2 * PAGE), pytest.raises(DiskError):
        commit(disk.folder / "store.zarr", wanted.spec)
    assert commit(disk.folder / "store.zarr", wanted.spec).digest == wanted.manifest.digest
    assert len(TicketStore.open(disk.folder / "store.zarr")) == 70
