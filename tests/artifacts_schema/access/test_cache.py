"""The cache: one download for all, whole files or none, and what was not used for longest goes first."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.cache import ObjectCache
from dataltt.artifacts_schema.access.location import Access
from dataltt.artifacts_schema.errors import DiskError, SchemaError
from hypothesis import given, settings
from hypothesis import strategies as st

from ...far.http_server import FileServer
from ...schema_helpers import Made
from .helpers import FIRST_TICKETS, everything, everything_in, left_over

_READ_ALL = """
import sys
from pathlib import Path
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.location import Access
store = TicketStore.open(sys.argv[1], Access(cache_dir=Path(sys.argv[2])))
rows = range(len(store))
print(store.read_tickets(rows).tolist(), store.read_ranks(rows).tolist(), store.read_keys(rows))
"""


def _contents(number: int, size: int) -> bytes:
    return bytes([number]) * size


def _put(cache: ObjectCache, content: bytes) -> str:
    """Opens an object as a reader does, and looks at what it got; returns its name."""
    name = hashlib.sha256(content).hexdigest()

    def fetch(file: IO[bytes]) -> None:
        file.write(content)

    with cache.open(name, fetch) as file:
        assert file.read() == content
    return name


def _age(cache: ObjectCache, name: str, days: float) -> None:
    path = cache.folder / "objects" / name[:2] / name
    then = path.stat().st_mtime - days * 86_400
    os.utime(path, (then, then))


@pytest.mark.long
def test_two_processes_at_once_download_each_object_once(web: FileServer, made: Made, access: Access) -> None:
    web.fail("store.zarr/*", delay_s=0.05)  # so that both want the same at the same time
    command = [sys.executable, "-c", _READ_ALL, f"{web.url}/store.zarr", str(access.cache_folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert printed[0] == printed[1] != ""
    asked = [path for path in web.paths() if path != "store.zarr/zarr.json"]
    assert len(asked) == len(set(asked))
    assert web.paths().count("store.zarr/zarr.json") == 2
    assert left_over(access.cache_folder) == []


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit_bytes=300)
    names = [_put(cache, _contents(n, 100)) for n in range(3)]
    for name, days in zip(names, (3, 2, 1), strict=True):
        _age(cache, name, days)
    _put(cache, _contents(0, 100))  # the oldest is used again
    last = _put(cache, _contents(9, 100))
    assert [cache.has(name) for name in (*names, last)] == [True, False, True, True]
    assert (cache.usage().num_objects, cache.usage().num_bytes) == (3, 300)


def test_an_object_larger_than_the_limit_stays_alone(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit_bytes=100)
    small = _put(cache, _contents(1, 60))
    large = _put(cache, _contents(2, 1000))
    assert (cache.has(small), cache.has(large)) == (False, True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4)), max_size=30), st.integers(1, 800))
def test_whatever_is_asked_for_is_right_and_the_limit_holds(asked: list[tuple[int, int]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = ObjectCache(Path(folder), limit)
        for number, hundreds in asked:
            name = _put(cache, _contents(number, hundreds * 100))
            assert cache.has(name)
            usage = cache.usage()
            assert usage.num_bytes <= limit or usage.num_objects == 1


def test_a_download_that_fails_leaves_nothing_and_is_tried_anew(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit_bytes=1000)
    name = hashlib.sha256(b"whole").hexdigest()

    def break_off(file: IO[bytes]) -> None:
        file.write(b"wh")
        raise ConnectionError("cut off")

    with pytest.raises(ConnectionError, match="cut off"):
        cache.open(name, break_off)
    assert not cache.has(name)
    assert left_over(tmp_path) == []
    assert _put(cache, b"whole") == name


def test_downloads_of_processes_that_were_killed_go_after_a_day(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, limit_bytes=1000)
    name = _put(cache, b"one")
    abandoned = tmp_path / "objects" / name[:2] / "abandoned.tmp"
    running = tmp_path / "objects" / name[:2] / "running.tmp"
    for path in (abandoned, running):
        path.write_bytes(b"half")
    yesterday = abandoned.stat().st_mtime - 25 * 3600
    os.utime(abandoned, (yesterday, yesterday))
    _put(cache, b"two")
    assert left_over(tmp_path) == [running]


def test_a_store_larger_than_the_cache_is_still_read(web: FileServer, made: Made, access: Access) -> None:
    tiny = replace(access, cache_gb=1e-7)  # 100 bytes
    assert everything(TicketStore.open(f"{web.url}/store.zarr", tiny)) == everything_in(made.path)


def test_two_urls_of_the_same_bytes_share_them(made: Made, access: Access) -> None:
    with FileServer(made.path.parent) as first:
        everything(TicketStore.open(f"{first.url}/store.zarr", access))
    with FileServer(made.path.parent) as second:
        store = TicketStore.open(f"{second.url}/store.zarr", access)
        assert everything(store) == everything_in(made.path)
        assert second.paths() == ["store.zarr/zarr.json"]


def test_a_damaged_copy_is_named_with_the_way_out(web: FileServer, made: Made, access: Access) -> None:
    store = TicketStore.open(f"{web.url}/store.zarr", access)
    expected = everything(store)
    digest = made.manifest.objects[FIRST_TICKETS]
    copy = access.cache_folder / "objects" / digest[:2] / digest
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    with pytest.raises(
        SchemaError, match=r"tickets: cannot be read \(.*\); clear its copy with: dataltt cache --clear"
    ):
        TicketStore.open(f"{web.url}/store.zarr", access).read_tickets(range(2))
    assert ObjectCache(access.cache_folder, 10**9).clear().num_objects > 5
    assert everything(TicketStore.open(f"{web.url}/store.zarr", access)) == expected


def test_a_cache_that_cannot_be_made_is_named(web: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError) as caught:
        TicketStore.open(f"{web.url}/store.zarr", Access(cache_dir=tmp_path / "file"))
    assert str(caught.value) == (
        f"the cache {tmp_path / 'file'} cannot be written: a part of the path is a file; make room, or give "
        "another `cache_dir`"
    )


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """A disk that can be filled: no file of this process grows beyond 30 bytes any more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_no_trouble_of_the_network(
    web: FileServer, made: Made, access: Access, full_disk: Callable[[], None]
) -> None:
    store = TicketStore.open(f"{web.url}/store.zarr", access)
    web.clear()
    full_disk()
    with pytest.raises(DiskError) as caught:
        store.read_tickets(range(2))
    assert str(caught.value) == (
        f"the cache {access.cache_folder} cannot be written: files may not be that large there; make room, or "
        "give another `cache_dir`"
    )
    assert len(web.requests) == 1  # asking again would not help
    assert left_over(access.cache_folder) == []


@pytest.mark.long
def test_a_process_that_is_killed_as_it_downloads_holds_nobody_up(web: FileServer, made: Made, access: Access) -> None:
    fault = web.fail(f"store.zarr/{FIRST_TICKETS}", delay_s=60, times=1)
    command = [sys.executable, "-c", _READ_ALL, f"{web.url}/store.zarr", str(access.cache_folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not fault.num_met:
            assert process.poll() is None
            time.sleep(0.01)
        assert left_over(access.cache_folder)
        process.kill()
    assert everything(TicketStore.open(f"{web.url}/store.zarr", access)) == everything_in(made.path)
