"""Parts that the web servers of these tests share: threads, a log of requests, an end that leaves nobody connected."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Request that a server got, and its answer: `num_bytes` of a body were sent; `path` has no slash in front."""

    method: str
    path: str
    range: str | None
    status: int
    num_bytes: int


class WebServer:
    """Server at a free port of this machine, in threads; `with … as server:` starts and ends it.

    Attributes:
        url: where it answers, without a slash at the end.
        requests: what it was asked, in order.
    """

    def __init__(self, handler: type[Handler]) -> None:
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), handler)
        self.server.owner = self
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        """Number of the port."""
        return int(self.server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and every connection to it, so that the port refuses. A second time it does nothing."""
        if self.closing.is_set():
            return
        self.closing.set()
        self.server.shutdown()
        with self._lock:
            for connection in self._connections:
                shut(connection)
        self.server.server_close()
        self._thread.join()

    def opened(self, connection: socket.socket) -> None:
        """Notes a connection, to be ended with the server."""
        with self._lock:
            self._connections.add(connection)
        if self.closing.is_set():
            shut(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forgets a connection."""
        with self._lock:
            self._connections.discard(connection)

    def paths(self, method: str | None = None) -> list[str]:
        """Paths that were asked for (by this method), in order."""
        return [r.path for r in self.requests if method in (None, r.method)]

    def num_bytes(self) -> int:
        """Bytes of all bodies that were sent."""
        return sum(r.num_bytes for r in self.requests)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    owner: WebServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: clients that hang up, or refuse our certificate, are what tests are about."""


class Handler(BaseHTTPRequestHandler):
    """Quiet handler of one connection, which its server knows of."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its headers
    server: _Server

    @property
    def owner(self) -> Any:
        """The `WebServer`."""
        return self.server.owner

    def setup(self) -> None:
        """Begins a connection."""
        super().setup()
        self.owner.opened(self.connection)

    def finish(self) -> None:
        """Ends a connection."""
        self.owner.closed(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""

    def answer(self) -> None:
        """Answers a request, whatever its method."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answers a request."""
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815


def shut(connection: socket.socket) -> None:
    """Ends a connection that another thread may be reading."""
    with contextlib.suppress(OSError):  # the other side was first
        connection.shutdown(socket.SHUT_RDWR)


def part_of(data: bytes, byte_range: str | None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer to a request with this `Range` header, or without one."""
    wanted = _RANGE.fullmatch(byte_range or "")
    if wanted is None:
        return 200, {}, data
    first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
    if first > last:
        return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
    return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, data[first : last + 1]


def unused_port() -> int:
    """Port at which nobody listens: connections to it are refused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
