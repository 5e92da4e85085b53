"""Plain web server of a folder, which counts what it sends and lists nothing: `python -m … FOLDER` prints its port."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

_COUNTS_PATH = "/-/counts"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Handler of GET and HEAD, on connections that stay open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    counts = {"requests": 0, "bytes": 0}  # noqa: RUF012  # of the server's process
    _lock = threading.Lock()

    def do_GET(self) -> None:
        """Sends a file; counts since the last time at the path for them."""
        if self.path != _COUNTS_PATH:
            super().do_GET()
            return
        with self._lock:
            body = json.dumps(self.counts).encode()
            self.counts.update(requests=0, bytes=0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Sends a file's bytes, and counts them."""
        with self._lock:
            self.counts["requests"] += 1
            self.counts["bytes"] += Path(source.name).stat().st_size
        super().copyfile(source, outputfile)

    def list_directory(self, path: Any) -> None:
        """Refuses."""
        self.send_error(403)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


def take_counts(url: str) -> dict[str, int]:
    """Files and bytes that the server at a URL sent since the last time."""
    with urllib.request.urlopen(f"{url}{_COUNTS_PATH}") as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves a folder from a process of its own; gives the URL."""
    command = [sys.executable, "-m", __name__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            out: IO[str] | None = process.stdout
            assert out is not None
            yield f"http://127.0.0.1:{int(out.readline())}"
        finally:
            process.terminate()


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=sys.argv[1]))
    print(server.server_address[1], flush=True)
    server.serve_forever()
