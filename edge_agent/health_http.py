"""Serve the health page: GET /healthz and GET /status, read only, for this machine only.

It is a Unix socket that its owner alone may open (`curl --unix-socket run/health.sock http://localhost/healthz`), or a
port of loopback when the settings name one. Refuses every other path, method and Host, so that a page in a browser on
the same machine cannot read it by another name. Slow or many clients hold a few threads for a few seconds.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseServer, TCPServer, ThreadingMixIn, UnixStreamServer
from typing import Any, ClassVar

from foundation.errors import FleetLoopError, MisconfiguredError, RetryLaterError
from foundation.files import is_disk_trouble

LOOPBACK = "127.0.0.1"
REQUEST_WITHIN_S = 5.0
"""From the accepted connection to the end of the answer."""
MAX_REQUESTS = 8
"""At once; a connection beyond them is closed."""

Page = Callable[[], tuple[bool, Mapping[str, object]]]
"""Whether all is well (200, else 503), and the JSON object to show."""


class _Bounded(ThreadingMixIn, BaseServer):
    """One thread per request, a few at once, each with a deadline over the whole of it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._deadlines: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._deadlines) >= MAX_REQUESTS:
                self.shutdown_request(request)
                return
            self._deadlines[request] = time.monotonic() + REQUEST_WITHIN_S
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started: the caller closes the connection
            with self._lock:
                self._deadlines.pop(request, None)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._deadlines.pop(request, None)

    def service_actions(self) -> None:
        """Close connections that are too slow; called by `serve_forever` twice per second."""
        now_s = time.monotonic()
        with self._lock:
            late = [request for request, until_s in self._deadlines.items() if now_s > until_s]
        for request in late:
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error: a client that went away, or was cut off, is not an event."""


class _Port(_Bounded, TCPServer):
    allow_reuse_address = True


class _Socket(_Bounded, UnixStreamServer):
    pass


class HealthServer:
    """Serves the pages from threads of its own until `close`."""

    def __init__(self, at: Path | int, pages: Mapping[str, Page]) -> None:
        """Listen on a Unix socket, or on a port of loopback (0 takes a free one).

        Raises:
            MisconfiguredError: the port is taken, or the socket cannot be made.
            RetryLaterError: the disk has no room for the socket.
        """
        handler = type("Handler", (_Handler,), {"pages": dict(pages)})
        self._server: _Bounded
        self.socket_path: Path | None = None
        self.port: int | None = None
        try:
            if isinstance(at, Path):
                self.socket_path = at
                others = os.umask(0o177)
                try:
                    self._server = _Socket(_address(at), handler)
                finally:
                    os.umask(others)
            else:
                port = _Port((LOOPBACK, at), handler)
                self._server, self.port = port, int(port.server_address[1])
        except OSError as error:
            name = f"the health socket {at}" if isinstance(at, Path) else f"health.port is {at}; it"
            kind = RetryLaterError if is_disk_trouble(error) else MisconfiguredError
            raise kind(f"{name} cannot be used: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        if self.socket_path is not None:
            self.socket_path.unlink(missing_ok=True)


def _address(path: Path) -> str:
    """Return the socket's address, without what an earlier process left; only the owner may come through the folder."""
    path.unlink(missing_ok=True)
    direct = str(path)
    if len(os.fsencode(direct)) < 100:
        return direct
    # Why? An address has 107 bytes; a path by the folder's descriptor is as short as it gets.
    return f"/proc/self/fd/{os.open(path.parent, os.O_PATH | os.O_DIRECTORY)}/{path.name}"


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[Mapping[str, Page]] = {}
    timeout = REQUEST_WITHIN_S
    server_version = "fleetloop"
    sys_version = ""

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        page = self.pages.get(self.path)
        if host not in (LOOPBACK, "localhost"):
            self._answer(403, {"error": f"Host {host[:100]!r} is not {LOOPBACK} or localhost"})
        elif page is None:
            self._answer(404, {"error": f"no such page; there are {', '.join(sorted(self.pages))}"})
        else:
            try:
                is_well, document = page()
            except FleetLoopError as error:
                is_well, document = False, {"error": f"{type(error).__name__}: {error}"}
            self._answer(200 if is_well else 503, document)

    def _answer(self, code: int, document: Mapping[str, object]) -> None:
        data = json.dumps(document, sort_keys=True).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments: object) -> None:
        """Stay silent: requests are not events."""
