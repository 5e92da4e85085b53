"""A store sent to a data set repository of the Hugging Face hub: contents first, then one commit that names them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..access.filesystem import file_system, iter_content
from ..access.location import Location
from ..access.trying import tried
from ..errors import OptionError, RemoteError
from .outgoing import Outgoing, Progress, Shipment
from .sending import sent
from .targets import FarFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

MAX_READ_BYTES = 256 << 20
_URL = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.+?))?/*")
_ASKED_AT_ONCE = 500
_SENT_AT_ONCE = 16  # contents, between two reports of progress


class HubTarget:
    """A data set repository, or a folder in one.

    A commit is there whole or not at all. The hub keeps contents that no commit names yet for some time, so an upload
    that was cut off goes on.
    """

    def __init__(self, location: Location, *, private: bool = False) -> None:
        found = _URL.fullmatch(location.place)
        if found is None:
            raise OptionError(
                f"{location} is no data set of the hub; write hf://datasets/OWNER/NAME, and /FOLDER if it has several"
            )
        self._location, self._private = location, private
        self._repository = found["repository"]
        self._revision = (found["revision"] or "main").replace("%2F", "/")
        self._prefix = f"{found['folder']}/" if found["folder"] else ""
        if importlib.util.find_spec("huggingface_hub") is None:
            raise RemoteError(f"{location} needs huggingface_hub, which is not installed; pip install 'dataltt[hf]'")

    def look(self, names: Sequence[str]) -> dict[str, FarFile]:
        """Looks files up, with SHA-256 of large ones and git's SHA-1 of others."""
        found: dict[str, FarFile] = {}
        for first in range(0, len(names), _ASKED_AT_ONCE):
            paths = [self._prefix + name for name in names[first : first + _ASKED_AT_ONCE]]
            for info in self._infos(paths):
                found[info.path[len(self._prefix) :]] = _far_file(info)
        return found

    def read(self, name: str) -> bytes:
        """A small file that is there."""
        fs, root = file_system(self._location)
        return self._do(lambda: b"".join(iter_content(fs, f"{root.rstrip('/')}/{name}", None, MAX_READ_BYTES)))

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a file that is there, read back; the hub itself says what every file's content is."""
        return hashlib.sha256(self.read(name)).hexdigest()

    def refuse(self, names: Sequence[str], *, has_store: bool) -> None:
        """Refuses a public repository where a private one is asked for. What else is in it stays in its history."""
        if not self._private:
            return
        try:
            is_private = self._do(lambda: self._api.dataset_info(self._repository)).private
        except FileNotFoundError:  # it will be made
            return
        if not is_private:
            raise OptionError(
                f"hf://datasets/{self._repository} is there already and is public; make it private in its settings, or "
                "leave `private=True` out"
            )

    def publish(
        self, shipment: Shipment, missing: Sequence[Outgoing], stale: Sequence[str], on_progress: Progress
    ) -> None:
        """Sends contents, then commits all files at once."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        self._do(self._make_repository, writes=True)
        stale = list(self.look(stale)) if stale else []
        additions = [
            CommitOperationAdd(
                path_in_repo=self._prefix + file.name,
                path_or_fileobj=file.source if isinstance(file.source, bytes) else str(file.source),
            )
            for file in missing
        ]
        removals = [CommitOperationDelete(path_in_repo=self._prefix + name) for name in stale]
        total, done = sum(file.size for file in missing), 0
        with _quiet():
            for first in range(0, len(additions), _SENT_AT_ONCE):
                some = additions[first : first + _SENT_AT_ONCE]
                self._do(lambda some=some: self._preupload(some), writes=True)  # type: ignore[misc]
                done += sum(file.size for file in missing[first : first + _SENT_AT_ONCE])
                on_progress("sending", done, total)
            self._do(lambda: self._commit([*additions, *removals], shipment), writes=True)

    def _make_repository(self) -> None:
        """Makes the repository if there is none."""
        private = True if self._private else None  # None: as the owner's settings say
        self._api.create_repo(self._repository, repo_type="dataset", private=private, exist_ok=True)

    def _preupload(self, additions: Sequence[Any]) -> None:
        self._api.preupload_lfs_files(
            self._repository, additions, repo_type="dataset", revision=self._revision, free_memory=False
        )

    def _commit(self, operations: Sequence[Any], shipment: Shipment) -> None:
        self._api.create_commit(
            self._repository,
            operations,
            commit_message=f"{shipment.title}, pushed by dataltt",
            repo_type="dataset",
            revision=self._revision,
        )

    def _infos(self, paths: Sequence[str]) -> list[Any]:
        try:
            infos = self._do(
                lambda: self._api.get_paths_info(
                    self._repository, list(paths), repo_type="dataset", revision=self._revision
                )
            )
        except FileNotFoundError:  # no repository yet
            return []
        return [info for info in infos if hasattr(info, "blob_id")]

    @property
    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        options = dict(self._location.access.storage_options)
        return HfApi(endpoint=options.get("endpoint"), token=options.get("token"))

    def _do(self, attempt: Callable[[], T], *, writes: bool = False) -> T:
        try:
            return (sent if writes else tried)(attempt, self._location.place, Location.of(self._api.endpoint))
        except (RuntimeError, ValueError) as error:  # the client's own words for what the hub says
            reason = str(error.__cause__ or error).strip().split("\n")[0]
            raise RemoteError(f"{self._location} could not be {'written' if writes else 'read'}: {reason}") from error


def _far_file(info: Any) -> FarFile:
    if info.lfs is not None:
        return FarFile(size=int(info.lfs.size), digests={"sha256": info.lfs.sha256}, is_sure=True)
    return FarFile(size=int(info.size), digests={"git_sha1": info.blob_id}, is_sure=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the client's own bars and remarks off the screen: dataltt shows its own."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    was_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if not was_disabled:
            enable_progress_bars()
