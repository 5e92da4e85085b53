"""Fetching a store, or a baked folder, whole: objects into a sibling folder, which is renamed when all are there."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..access.location import Location
from ..access.objects import open_objects
from ..access.stream import open_stream
from ..errors import (
    BakedError,
    DatalttError,
    DiskError,
    OptionError,
    OutputExistsError,
    Problem,
    RemoteError,
    SchemaError,
)
from ..files import check_writable, writing
from ..layout import CARD_FILE, is_beside_objects
from ..locking import LOCK_TIMEOUT_S, held, lock_of
from ..space import check_space
from .artifacts import BAKED, STORE, Artifact, Kind, open_artifact
from .outgoing import Progress, no_progress

_AT_ONCE = 8
_BLOCK_BYTES = 1 << 20
_MAX_CARD_BYTES = 32 << 20
CARD_PICTURES = ("card.png", "card-gallery.png")
_WHAT = "fetching"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullResult:
    """Outcome of a pull. Every object has the SHA-256 that the manifest says.

    Attributes:
        num_fetched, num_skipped: objects that were fetched, and that an earlier pull had left here.
        bytes_fetched, bytes_skipped: their bytes.
        card: files of the card that were fetched.
    """

    url: str
    store: str
    ticket_digest: str
    root_sha256: str
    num_fetched: int
    num_skipped: int
    bytes_fetched: int
    bytes_skipped: int
    card: tuple[str, ...]


def default_store(place: str, kind: Kind = STORE) -> Path:
    """The folder that a store is fetched into if none is given: `hf://datasets/lab/cats@v1` into `cats.zarr`.

    A baked folder keeps its name.
    """
    name = PurePosixPath(place.rstrip("/")).name.split("@")[0].split("?")[0]
    for suffix in (".zip", ".zarr"):
        name = name.removesuffix(suffix)
    return Path(name or "baked") if kind is BAKED else Path(f"{name or 'store'}.zarr")


def pull(
    location: Location,
    store: Path | None = None,
    *,
    overwrite: bool = False,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
    on_progress: Progress = no_progress,
) -> PullResult:
    """Fetches a store or a baked folder from a URL, a zip file or another folder, whole or not at all.

    Cut off, it goes on from what is there; repeated, it checks what is there.

    Args:
        store: the folder to write. Default: named after the URL, in the working directory.
        overwrite: whether another store in that folder may be replaced.
        lock_timeout_s: how long another machine that writes there may give no sign of life.
        on_progress: called with (what is done, bytes done, bytes in all).

    Raises:
        OptionError: `store` is a zip file.
        StoreNotFoundError, SchemaError, BakedError: there is no store, or it is damaged.
        OutputExistsError: something else is in that folder.
        LockedError: another process writes there.
        RemoteError: the place cannot be reached, or refuses.
        DiskError: there is no room for it, or it cannot be written.
    """
    if store is not None and store.suffix.lower() == ".zip":
        raise OptionError(
            f"`store={str(store)!r}`: a store is fetched into a folder; dataltt push makes a zip file of one"
        )
    artifact = open_artifact(location)
    out = store or default_store(location.place, artifact.kind)
    _refuse_odd_names(artifact, str(location))
    with held(lock_of(out), "dataltt pull", place=out, timeout_s=lock_timeout_s):
        return _pull(artifact, location, out, overwrite=overwrite, on_progress=on_progress)


def _pull(artifact: Artifact, location: Location, out: Path, *, overwrite: bool, on_progress: Progress) -> PullResult:
    folder = _folder_to_fill(artifact, out, overwrite=overwrite)
    check_writable(folder)
    check_space(out, sum(n for name, n in artifact.contents.sizes.items() if not (folder / name).is_file()))
    fetched, skipped = _fetch(artifact, folder, on_progress)
    with writing(out):
        card = _fetch_card(location, folder)
        if folder != out:
            _finish(artifact, folder, out, card)
    return PullResult(
        url=str(location),
        store=str(out),
        ticket_digest=artifact.contents.ticket_digest,
        root_sha256=hashlib.sha256(artifact.root).hexdigest(),
        num_fetched=len(fetched),
        num_skipped=len(skipped),
        bytes_fetched=sum((out / name).stat().st_size for name in fetched),
        bytes_skipped=sum((out / name).stat().st_size for name in skipped),
        card=tuple(card),
    )


def _folder_to_fill(artifact: Artifact, out: Path, *, overwrite: bool) -> Path:
    """The folder that objects go into: `out` where this very store is, to mend it; else a sibling, to be renamed.

    Raises:
        OutputExistsError
    """
    there = out / artifact.kind.root_file
    if there.is_file() and there.read_bytes() == artifact.root:
        return out
    if out.exists() and not artifact.kind.is_in(out):
        raise OutputExistsError(f"{out} exists and is not a {artifact.kind.name}; give another folder")
    if out.exists() and not overwrite:
        raise OutputExistsError(
            f"{out} is a {artifact.kind.name} in another state than at {artifact.location}; pass `overwrite=True` to "
            "replace it, or give another folder"
        )
    return out.with_name(f"{out.name}.pulling")


def _refuse_odd_names(artifact: Artifact, place: str) -> None:
    """Refuses objects that cannot all be files of a folder, or that would pass for what stands beside them."""
    names = artifact.contents.objects
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    odd = [name for name in names if is_beside_objects(name) or name == artifact.kind.root_file or name in folders]
    if odd:
        raise SchemaError(place, [Problem(where=name, kind="name", message="is no name of an object") for name in odd])


def _fetch(artifact: Artifact, folder: Path, on_progress: Progress) -> tuple[list[str], list[str]]:
    """Fetches the objects that are not in a folder yet; returns the names of these, and of those that were there."""
    names = list(artifact.contents.objects)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sizes = {name: artifact.contents.sizes.get(name) or 1 for name in names}
    total, done = sum(sizes.values()), 0
    fetched: list[str] = []
    skipped: list[str] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        futures = {pool.submit(_fetch_one, artifact, name, folder / name): name for name in names}
        try:
            for future in as_completed(futures):
                name = futures[future]
                (fetched if future.result() else skipped).append(name)
                done += sizes[name]
                on_progress(_WHAT, done, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return fetched, skipped


def _fetch_one(artifact: Artifact, name: str, path: Path) -> bool:
    """Fetches an object unless it is there already, whole; tells whether it was fetched.

    Raises:
        SchemaError, BakedError: it is missing, or is not what the manifest says.
        RemoteError
    """
    sha256 = artifact.contents.objects[name]
    if path.is_file():
        with path.open("rb") as there:
            if hashlib.file_digest(there, "sha256").hexdigest() == sha256:
                return False
    temporary = path.with_name(f"{path.name}.fetching")
    digest = hashlib.sha256()
    try:
        with writing(path, needs=artifact.contents.sizes.get(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as copy:
                for block in _blocks(artifact, name):
                    digest.update(block)
                    copy.write(block)
                copy.flush()
                os.fsync(copy.fileno())
            if digest.hexdigest() != sha256:
                raise _damaged(artifact, name, "has another SHA-256 than the manifest says")
            os.replace(temporary, path)
    except (DiskError, SchemaError, BakedError):
        temporary.unlink(missing_ok=True)
        raise
    return True


def _blocks(artifact: Artifact, name: str) -> Iterator[bytes]:
    """The bytes of an object. The cache does not keep it if it did not have it before.

    Raises:
        SchemaError: it is missing, or cannot be read.
        RemoteError
    """
    from ..access.remote import RemoteObjects

    objects = artifact.objects
    drops = isinstance(objects, RemoteObjects) and not objects.is_here(name)
    try:
        with objects.open(name) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except FileNotFoundError:
        raise _damaged(artifact, name, "is missing") from None
    except OSError as error:  # of a folder's disk, or of a damaged zip file
        raise _damaged(artifact, name, f"cannot be read ({error})") from None
    if drops and isinstance(objects, RemoteObjects):
        objects.drop(name)


def _damaged(artifact: Artifact, name: str, message: str) -> SchemaError | BakedError:
    if artifact.kind is BAKED:
        return BakedError(f"{artifact.location} is damaged: {name} {message}; ask who published it, or bake it again")
    return SchemaError(str(artifact.location), [Problem(where=name, kind="damaged", message=message)])


def _fetch_card(location: Location, folder: Path) -> list[str]:
    """Fetches the card, which nothing depends on: what cannot be had of it is left out."""
    found = []
    for name in (CARD_FILE, *CARD_PICTURES):
        content = _card_file(location, name)
        if content is None and name == CARD_FILE:
            return []
        if content is not None:
            (folder / name).write_bytes(content)
            found.append(name)
    return found


def _card_file(location: Location, name: str) -> bytes | None:
    try:
        if location.is_remote:
            stream = open_stream(replace(location, place=f"{location.place.rstrip('/')}/{name}"))
        else:
            stream = open_objects(location).open(name)
        with stream as file:
            content = file.read(_MAX_CARD_BYTES + 1)
    except (OSError, DatalttError):  # a missing key is even refused where nothing may be listed
        return None
    return content if len(content) <= _MAX_CARD_BYTES else None


def _finish(artifact: Artifact, folder: Path, out: Path, card: Iterable[str]) -> None:
    """Removes what no manifest names, writes the root document last, and renames the folder into place."""
    known = {*artifact.contents.objects, *card}
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        if path.relative_to(folder).as_posix() not in known:
            path.unlink()
    (folder / artifact.kind.root_file).write_bytes(artifact.root)
    aside = out.with_name(f"{out.name}.old-{os.getpid()}")
    if out.exists():
        os.rename(out, aside)
    try:
        os.rename(folder, out)
    except OSError as error:
        if aside.exists():
            os.rename(aside, out)
        raise RemoteError(f"{folder} cannot be renamed to {out} ({error.strerror}); rename it by hand") from None
    shutil.rmtree(aside, ignore_errors=True)
