"""The health page: GET /healthz and GET /status, on loopback only, read only.

Refuses every other path, method and Host, so that a page in a browser on the same machine cannot read it by
another name.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from foundation.errors import FleetLoopError, MisconfiguredError

LOOPBACK = "127.0.0.1"
REQUEST_TIMEOUT_S = 5.0

Page = Callable[[], tuple[bool, Mapping[str, object]]]
"""Whether all is well (200, else 503), and the JSON object to show."""


class HealthServer:
    """Serves the pages from threads of its own until `close`."""

    def __init__(self, port: int, pages: Mapping[str, Page]) -> None:
        """Listen on `port` of loopback; 0 takes a free one. Raises MisconfiguredError when it is taken."""
        handler = type("Handler", (_Handler,), {"pages": dict(pages)})
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), handler)
        except OSError as error:
            raise MisconfiguredError(f"health.port is {port}; it cannot be used: {error.strerror}") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[Mapping[str, Page]] = {}
    timeout = REQUEST_TIMEOUT_S
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
