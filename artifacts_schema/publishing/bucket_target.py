"""A store sent to a bucket (S3, Google's storage) by fsspec: objects first, checked there, the root document last."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from ..access.filesystem import file_system, iter_content
from ..access.location import Location
from ..access.trying import tried
from ..errors import RemoteError
from .outgoing import Outgoing, Progress, Shipment
from .sending import sent
from .targets import FarFile, differing

T = TypeVar("T")

MAX_READ_BYTES = 256 << 20
_AT_ONCE = 8
_MD5 = re.compile(r"[0-9a-f]{32}")


class BucketTarget:
    """Objects below a URL of a bucket. Nothing is listed, so rights to get, put and delete are enough."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._fs, self._root = file_system(location)

    def look(self, names: Sequence[str]) -> dict[str, FarFile]:
        """Looks files up, with MD5 where the service says it."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = dict(zip(names, pool.map(self._look, names), strict=True))
        return {name: far for name, far in found.items() if far is not None}

    def read(self, name: str) -> bytes:
        """A small file that is there."""
        return b"".join(self._do(name, lambda: list(iter_content(self._fs, self._path(name), None, MAX_READ_BYTES))))

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a file that is there, read back."""

        def digest() -> str:
            size = int(self._fs.info(self._path(name))["size"])
            found = hashlib.sha256()
            for block in iter_content(self._fs, self._path(name), size, size):
                found.update(block)
            return found.hexdigest()

        return self._do(name, digest)

    def refuse(self, names: Sequence[str], *, has_store: bool) -> None:
        """Refuses nothing: a bucket is not listed."""

    def publish(
        self, shipment: Shipment, missing: Sequence[Outgoing], stale: Sequence[str], on_progress: Progress
    ) -> None:
        """Sends files so that there is no store before all of it is there, whole."""
        root = shipment.root.name
        before = [file for file in missing if file.name != root]
        if root in self.look([root]) and any(file in shipment.objects for file in before):
            self._remove(root)
        self._put_all(before, sum(file.size for file in missing), on_progress)
        left = differing(self, before, on_progress, "checking what was sent")
        if left:
            raise RemoteError(
                f"{self._path(left[0].name)} and {len(left) - 1} other(s) are not what was sent; push again, which "
                "sends only these"
            )
        if len(before) < len(missing):
            self._put(shipment.root)
        for name in stale:
            self._remove(name)

    def _look(self, name: str) -> FarFile | None:
        def look() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = self._fs.info(self._path(name))
            except OSError as error:
                if isinstance(error, FileNotFoundError) or _is_refusal(error):
                    return None  # who may not list is refused what is not there
                raise
            return found if found.get("type") == "file" else None

        info = self._do(name, look)
        return None if info is None else FarFile(size=int(info["size"]), digests=_md5(info))

    def _put_all(self, files: Sequence[Outgoing], total: int, on_progress: Progress) -> None:
        done = 0
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            futures = {pool.submit(self._put, file): file for file in files}
            try:
                for future in as_completed(futures):
                    future.result()
                    done += futures[future].size
                    on_progress("sending", done, total)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _put(self, file: Outgoing) -> None:
        def put() -> None:
            if isinstance(file.source, bytes):
                self._fs.pipe_file(self._path(file.name), file.source)
            else:
                self._fs.put_file(str(file.source), self._path(file.name))

        try:
            self._do(file.name, put, writes=True)
        except FileNotFoundError:
            bucket = "/".join(self._location.place.split("/")[:3])
            raise RemoteError(f"there is no bucket {bucket}; make it first, or check the URL") from None

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._do(name, lambda: self._fs.rm_file(self._path(name)), writes=True)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _do(self, name: str, attempt: Callable[[], T], *, writes: bool = False) -> T:
        return (sent if writes else tried)(attempt, self._path(name), self._location)


def _is_refusal(error: OSError) -> bool:
    return isinstance(error, PermissionError) or str(error).startswith("Forbidden")  # s3fs, gcsfs


def _md5(info: dict[str, Any]) -> dict[str, str]:
    """The MD5 (hex) of an object, where its information has one: Google says so, S3 mostly has it as the ETag."""
    if "md5Hash" in info:
        return {"md5": base64.b64decode(info["md5Hash"]).hex()}
    tag = str(info.get("ETag", "")).strip('"')
    return {"md5": tag} if _MD5.fullmatch(tag) else {}
