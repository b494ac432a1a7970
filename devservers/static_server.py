"""Serve a folder read-only over HTTP on loopback, with byte ranges so that downloads can resume.

For the demo and for tests; any web server or object store can replace it. It serves nothing outside its folder, lists no
folders and cannot be reached from another machine.
"""

from __future__ import annotations

import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

_LOOPBACK: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 64 * 1024
_RANGE: Final = re.compile(r"^bytes=(\d*)-(\d*)$")


class StaticServer:
    """Serves `folder` at `url` in a thread until `close`. `port` 0 selects a free port."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        handler = type("Handler", (_Handler,), {"folder": folder.resolve()})
        self._server = ThreadingHTTPServer((_LOOPBACK, port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="static-server",
            daemon=True,
        )

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT, without a slash at the end."""
        return f"http://{_LOOPBACK}:{self._server.server_address[1]}"

    def start(self) -> str:
        """Start serving and return the URL."""
        self._thread.start()
        return self.url

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Log nothing: callers log their own events."""

    def _answer(self, *, with_body: bool) -> None:
        path = self._path()
        if path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            span = _span(self.headers.get("Range"), size_bytes)
            if span is None:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size_bytes}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            begin, end, is_part = span
            self.send_response(HTTPStatus.PARTIAL_CONTENT if is_part else HTTPStatus.OK)
            if is_part:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size_bytes}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            file.seek(begin)
            while with_body and begin < end:
                chunk = file.read(min(_CHUNK_BYTES, end - begin))
                if not chunk:
                    self.close_connection = (
                        True  # the file was truncated: send a short body, never a wrong one
                    )
                    return
                begin += len(chunk)
                try:
                    self.wfile.write(chunk)
                except ConnectionError:
                    self.close_connection = True
                    return

    def _path(self) -> Path | None:
        """Return the requested file, or None if it is not a file inside the folder."""
        try:
            path = (self.folder / unquote(urlsplit(self.path).path).lstrip("/")).resolve()
        except (ValueError, OSError):
            return None
        return path if path.is_relative_to(self.folder) and path.is_file() else None


def _span(header: str | None, size_bytes: int) -> tuple[int, int, bool] | None:
    """Return [begin, end) and whether that is a part (RFC 9110, section 14); None if it cannot be satisfied.

    A header that is not a single byte range is ignored, as the RFC allows.
    """
    found = _RANGE.match(header or "")
    if found is None or found.groups() == ("", ""):
        return 0, size_bytes, False
    first, last = found.groups()
    if first == "":
        length = min(int(last), size_bytes)
        return (size_bytes - length, size_bytes, True) if length else None
    begin = int(first)
    end = size_bytes if last == "" else min(int(last) + 1, size_bytes)
    if last != "" and int(last) < begin:
        return 0, size_bytes, False
    return (begin, end, True) if begin < size_bytes else None
