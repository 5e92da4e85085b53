"""The hub's stand-in as it is written to: repositories made, contents uploaded, and commits of many files at once.

The client library asks, in this order: `repos/create`; for files of 16 at a time `preupload` (which of them go by LFS),
the LFS `batch` (which contents are not there yet) and a PUT of each; then `validate-yaml` of a README.md, and `commit`.
Xet, which the hub prefers to LFS, is a service of its own and is not here (`HF_HUB_DISABLE_XET=1`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from .hub_server import LFS_BYTES, HubServer, Repository

WRITER = "hf_writer"

_Answer = tuple[int, dict[str, str], bytes]
_CALLS = re.compile(r"/(?:api/)?datasets/([^/]+/[^/]+?)(?:\.git/info/lfs/objects/(batch)|/(preupload|commit)/([^/]+))")


class WritableHub(HubServer):
    """The hub for whoever has the token `WRITER`.

    Attributes:
        contents: uploaded contents by SHA-256, committed or not.
        refuses_after: number of uploads after which each is refused; None for never.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, bytes] = {}
        self.refuses_after: int | None = None
        self.num_uploads = 0

    def answer(self, url: str, authorization: str | None, byte_range: str | None, body: bytes) -> _Answer:
        """Status, headers and body for a request."""
        path = unquote(urlsplit(url).path)
        if found := re.fullmatch(r"/lfs-upload/([0-9a-f]{64})", path):
            return self._upload(found[1], body)
        if path == "/api/validate-yaml":
            return _json(200, {"errors": [], "warnings": []})
        found = _CALLS.fullmatch(path)
        if path != "/api/repos/create" and found is None:
            return super().answer(url, authorization, byte_range, body)
        if authorization != f"Bearer {WRITER}":
            return _json(403, {"error": "You have no right to write here"})
        if found is None:
            return self._create(json.loads(body))
        repository = self.repositories.get(found[1])
        if repository is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        act: Mapping[str, Callable[[Repository, bytes], _Answer]] = {
            "batch": self._batch,
            "preupload": self._preupload,
            "commit": self._commit,
        }
        self._committed_url = f"{self.url}/datasets/{found[1]}/commit/"
        return act[found[2] or found[3]](repository, body)

    def _create(self, asked: Mapping[str, Any]) -> _Answer:
        name = f"{asked['organization']}/{asked['name']}"
        answer = {"url": f"{self.url}/datasets/{name}"}
        if name in self.repositories:
            return _json(409, {**answer, "error": "You already created this dataset repo"})
        is_private = asked.get("private") or asked.get("visibility") == "private"
        self.repositories[name] = Repository(token=WRITER if is_private else None)
        return _json(200, answer)

    def _preupload(self, repository: Repository, body: bytes) -> _Answer:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LFS_BYTES else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        return _json(200, {"files": files})

    def _batch(self, repository: Repository, body: bytes) -> _Answer:
        objects: list[dict[str, Any]] = json.loads(body)["objects"]
        for each in objects:
            if each["oid"] not in self.contents:
                each["actions"] = {"upload": {"href": f"{self.url}/lfs-upload/{each['oid']}"}}
        return _json(200, {"transfer": "basic", "objects": objects})

    def _upload(self, oid: str, body: bytes) -> _Answer:
        self.num_uploads += 1
        if self.refuses_after is not None and self.num_uploads > self.refuses_after:
            return _json(403, {"error": "You are over your quota"})
        if hashlib.sha256(body).hexdigest() != oid:
            return _json(400, {"error": "another SHA-256"})
        self.contents[oid] = body
        return _json(200, {})

    def _commit(self, repository: Repository, body: bytes) -> _Answer:
        after = dict(repository.files)
        for operation in _lines(body):
            value = operation["value"]
            if operation["key"] == "file":
                after[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.contents:
                    return _json(400, {"error": f"{value['path']} was not uploaded"})
                after[value["path"]] = self.contents[value["oid"]]
            elif operation["key"] == "deletedFile":
                del after[value["path"]]
        repository.files = after
        return _json(200, {"commitUrl": self._committed_url + repository.commit, "commitOid": repository.commit})


def _lines(body: bytes) -> Iterable[dict[str, Any]]:
    return (json.loads(line) for line in body.splitlines())


def _json(status: int, document: Any) -> _Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()
