"""Small stand-in for the Hugging Face hub: what its client library asks for to read a file of a data set.

It answers `resolve` (HEAD and GET, large files by a redirect to another host, as the hub does with LFS), `revision`,
`paths-info` and `tree`, with the hub's error codes: a repository that is missing, private or gated, a revision and a
file that are missing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .serving import Handler, Request, WebServer, part_of

# Files of so many bytes are behind a redirect, as LFS objects are.
LFS_BYTES = 1024
_RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/datasets/([^/]+/[^/]+?)(?:/(revision|paths-info|tree)/([^/]+)/?(.*))?")

_Answer = tuple[int, dict[str, str], bytes]


@dataclass(slots=True, kw_only=True)
class Repository:
    """Data set repository: its files by path, and who may read it. One revision, `main`.

    Attributes:
        token: without this token a private repository is not there, as far as anybody can tell.
        gated: whether a token alone is not enough.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    @property
    def commit(self) -> str:
        """Hash of the commit, 40 hex digits."""
        return hashlib.sha1(json.dumps(sorted(self.files)).encode()).hexdigest()


class HubServer(WebServer):
    """The hub. `with HubServer() as hub: hub.add("lab/tickets", folder); … hub.url` (as `HF_ENDPOINT`, `endpoint`)."""

    def __init__(self) -> None:
        super().__init__(_HubHandler)
        self.repositories: dict[str, Repository] = {}
        self.tokens_at_files: set[str] = set()  # that came along to where large files lie, and should not
        # Large files are at another host, as the hub's are.
        self._files_url = f"http://localhost:{self.port}"

    def add(
        self, repo_id: str, folder: Path, prefix: str = "", *, token: str | None = None, gated: bool = False
    ) -> Repository:
        """Makes a repository of a folder's files, below a prefix (`"train.zarr/"`), and returns it."""
        files = {
            prefix + file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        self.repositories[repo_id] = Repository(files=files, token=token, gated=gated)
        return self.repositories[repo_id]

    def answer(self, url: str, authorization: str | None, byte_range: str | None, body: bytes) -> _Answer:
        """Status, headers and body for a request."""
        path = unquote(urlsplit(url).path)
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            self.tokens_at_files.update({authorization} if authorization else ())
            return self._lfs(found[1], byte_range)
        if found := _RESOLVE.fullmatch(path):
            repo_id, revision, name = found[1], found[2], found[3]
            refused = self._refusal(repo_id, revision, authorization)
            return refused or self._resolve(self.repositories[repo_id], name, byte_range)
        if found := _API.fullmatch(path):
            repo_id, what, revision = found[1], found[2], found[3] or "main"
            refused = self._refusal(repo_id, revision, authorization)
            return refused or self._api(repo_id, what, body, found[4])
        return 404, {}, b"{}"

    def _refusal(self, repo_id: str, revision: str, authorization: str | None) -> _Answer | None:
        repository = self.repositories.get(repo_id)
        token = (authorization or "").removeprefix("Bearer ")
        if repository is None or (repository.token is not None and token != repository.token):
            # The hub does not tell private from missing; it says 401 to nobody and 404 to somebody.
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.gated:
            return _error(403 if token else 401, "GatedRepo", f"Access to dataset {repo_id} is restricted")
        if revision not in ("main", repository.commit):
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _resolve(self, repository: Repository, name: str, byte_range: str | None) -> _Answer:
        data = repository.files.get(name)
        if data is None:
            return _error(404, "EntryNotFound", "Entry not found")
        common = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if len(data) < LFS_BYTES:
            return _with_range(data, byte_range, {**common, "ETag": f'"{_blob_id(data)}"'})
        digest = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{digest}"'}
        return 302, {**common, **linked, "Location": f"{self._files_url}/lfs/{digest}"}, b""

    def _lfs(self, digest: str, byte_range: str | None) -> _Answer:
        blobs = (data for repository in self.repositories.values() for data in repository.files.values())
        data = next(data for data in blobs if hashlib.sha256(data).hexdigest() == digest)
        return _with_range(data, byte_range, {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"})

    def _api(self, repo_id: str, what: str | None, body: bytes, folder: str | None) -> _Answer:
        repository = self.repositories[repo_id]
        if what == "tree":
            return _json([_entry(p, data) for p, data in repository.files.items() if p.startswith(folder or "")])
        if what == "paths-info":
            wanted = _paths(body)
            entries = [_entry(p, repository.files[p]) for p in wanted if p in repository.files]
            folders = [p for p in wanted if any(f.startswith(f"{p}/") for f in repository.files)]
            entries += [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders]
            return _json(entries)
        siblings = [{"rfilename": name} for name in repository.files]
        private = repository.token is not None
        info = {"id": repo_id, "sha": repository.commit, "private": private, "tags": [], "siblings": siblings}
        return _json(info)


def _paths(body: bytes) -> list[str]:
    if body.startswith(b"{"):
        return list(json.loads(body)["paths"])
    return parse_qs(body.decode()).get("paths", [])


def _blob_id(data: bytes) -> str:
    """The name that git has for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}
    if len(data) >= LFS_BYTES:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _json(document: Any) -> _Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _error(status: int, code: str, message: str) -> _Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
    return status, headers, json.dumps({"error": message}).encode()


def _with_range(data: bytes, byte_range: str | None, headers: dict[str, str]) -> _Answer:
    status, extra, body = part_of(data, byte_range)
    return status, {**headers, **extra}, body


class _HubHandler(Handler):
    def answer(self) -> None:
        """Answers by `HubServer.answer`."""
        hub: HubServer = self.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wanted = self.headers.get("Range")
        status, headers, data = hub.answer(self.path, self.headers.get("Authorization"), wanted, body)
        num_bytes = 0 if self.command == "HEAD" else len(data)
        path = unquote(urlsplit(self.path).path).lstrip("/")
        hub.requests.append(Request(method=self.command, path=path, range=wanted, status=status, num_bytes=num_bytes))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:num_bytes])
