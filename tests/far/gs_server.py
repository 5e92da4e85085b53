"""Google's storage as gcp-storage-emulator has it: its JSON interface, without rights."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .serving import unused_port

BUCKET = "tickets"
# gcsfs asks Google about a bucket's kind before each call, by gRPC, and for a minute where no one answers. It reads
# this when it is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


class GoogleServer:
    """The emulator at a free port, its bucket in memory. `with GoogleServer() as server: … server.options()`.

    The emulator has no users: rights are not tested with it.
    """

    def __init__(self) -> None:
        emulator = importlib.import_module("gcp_storage_emulator.server")
        port = unused_port()
        self.url = f"http://127.0.0.1:{port}"
        self._server: Any = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def options(self) -> dict[str, Any]:
        """Storage options (of gcsfs)."""
        return {"endpoint_url": self.url, "token": "anon"}

    def put(self, key: str, data: bytes) -> None:
        """Puts one object into the bucket."""
        self._file_system().pipe_file(f"{BUCKET}/{key}", data)

    def get(self, key: str) -> bytes:
        """Bytes of an object of the bucket."""
        data: bytes = self._file_system().cat_file(f"{BUCKET}/{key}")
        return data

    def upload(self, folder: Path, prefix: str) -> None:
        """Puts the files of a folder below `prefix/`."""
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())

    def _file_system(self) -> Any:
        return importlib.import_module("gcsfs.core").GCSFileSystem(project="tickets", **self.options())
