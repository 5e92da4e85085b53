"""Plain web server without an index, over a folder: it counts what it is asked, and fails as it is told.

It answers GET and HEAD of files. A folder is 403, as nginx without `autoindex` has it: nothing can be listed.
"""

from __future__ import annotations

import fnmatch
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .serving import Handler, Request, WebServer, part_of, shut

_PIECE_BYTES = 1 << 16


@dataclass(slots=True, kw_only=True)
class Fault:
    """Fault of the paths that match a pattern (as fnmatch has them), for the first `times` requests or all.

    Attributes:
        status: answers this status instead of the file.
        drop_after_bytes: closes the connection after so many bytes of the body, whose whole length was announced.
        delay_s: waits before it answers.
        num_met: how many requests met it.
    """

    pattern: str
    status: int | None = None
    drop_after_bytes: int | None = None
    delay_s: float = 0.0
    times: int | None = None
    num_met: int = 0


class FileServer(WebServer):
    """Web server of a folder. `with FileServer(folder) as server: … server.url`.

    Args:
        folder: whose files are served.
        ranges: whether `Range` is obeyed; else the whole file is sent, with status 200.
        tls: certificate and key to serve https with, one PEM file.
        authorization: value of the header `Authorization` without which every answer is 401.
    """

    def __init__(
        self, folder: Path, *, ranges: bool = True, tls: Path | None = None, authorization: str | None = None
    ) -> None:
        super().__init__(_FileHandler)
        self.folder, self.ranges, self.authorization = folder, ranges, authorization
        self._faults: list[Fault] = []
        self._faults_lock = threading.Lock()
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls)
            # The handshake is left to the connection's own thread.
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.url = f"https://127.0.0.1:{self.port}"

    def fail(
        self,
        pattern: str,
        *,
        status: int | None = None,
        drop_after_bytes: int | None = None,
        delay_s: float = 0.0,
        times: int | None = None,
    ) -> Fault:
        """Adds a fault in front of those there are, and returns it."""
        fault = Fault(pattern=pattern, status=status, drop_after_bytes=drop_after_bytes, delay_s=delay_s, times=times)
        with self._faults_lock:
            self._faults.insert(0, fault)
        return fault

    def clear(self) -> None:
        """Forgets faults and requests."""
        with self._faults_lock:
            self._faults.clear()
        self.requests.clear()

    def meet(self, path: str) -> Fault:
        """The fault that a request meets; one in which nothing goes wrong if there is none for it."""
        with self._faults_lock:
            for fault in self._faults:
                if fnmatch.fnmatchcase(path, fault.pattern) and (fault.times is None or fault.num_met < fault.times):
                    fault.num_met += 1
                    return fault
        return Fault(pattern=path)


class _FileHandler(Handler):
    def answer(self) -> None:
        """Answers a file, a part of it, or a fault."""
        owner: FileServer = self.owner
        path = unquote(urlsplit(self.path).path).lstrip("/")
        fault = owner.meet(path)
        if fault.delay_s:
            owner.closing.wait(fault.delay_s)
        file = owner.folder / path
        refusal = fault.status or self._refusal(file)
        if refusal:
            status, headers, body = refusal, {"WWW-Authenticate": "Basic"} if refusal == 401 else {}, b"no"
        else:
            status, headers, body = part_of(file.read_bytes(), self.headers.get("Range") if owner.ranges else None)
        headers["Accept-Ranges"] = "bytes" if owner.ranges else "none"
        stop = len(body) if fault.drop_after_bytes is None else min(fault.drop_after_bytes, len(body))
        stop, wanted = 0 if self.command == "HEAD" else stop, self.headers.get("Range")
        # Noted before it is sent: whoever has the answer finds the request in the log.
        owner.requests.append(Request(method=self.command, path=path, range=wanted, status=status, num_bytes=stop))
        self._send(status, headers, body, stop)
        if fault.drop_after_bytes is not None:
            self.close_connection = True
            shut(self.connection)

    def _refusal(self, file: Path) -> int | None:
        wanted = self.owner.authorization
        if wanted is not None and self.headers.get("Authorization") != wanted:
            return 401
        if file.is_dir():
            return 403
        return None if file.is_file() and ".." not in file.parts else 404

    def _send(self, status: int, headers: dict[str, str], body: bytes, stop: int) -> None:
        """Sends an answer that announces the whole body, and the body up to `stop`."""
        try:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            for first in range(0, stop, _PIECE_BYTES):
                self.wfile.write(body[first : min(first + _PIECE_BYTES, stop)])
        except OSError:
            self.close_connection = True  # the client hung up
