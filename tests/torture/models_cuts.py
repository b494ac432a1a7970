"""A line to the repository that is cut at every 64 KB of a model, in several ways. Imports nothing of the product."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CUT_BYTES = 65_536
WAYS = ("reset", "closed", "silent", "refused", "without ranges")
_LINGER_NONE = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class CuttingLine:
    """A TCP proxy on loopback.

    Answers to a request for a model are ended when they reach the next multiple of 64 KB (shifted by `shift`
    bytes) of the file, in the given way; everything else goes through.

    reset: the connection is reset once the other side's system has all bytes up to the cut. closed: it is closed in order.
    silent: nothing more comes. refused: the connection is closed, and the next request is answered with 503. without
    ranges: now and then the answer begins at the first byte again.
    """

    upstream: int
    way: str
    shift: int = 0
    cuts: int = 0
    sent_bytes: int = 0
    """Of models, headers not counted."""
    starts: list[int] = field(default_factory=list)
    """The first byte that each request for a model asked for."""
    _is_refusing: bool = False
    _is_over: bool = False
    _listener: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Requests of one connection, one after the other."""
        with client:
            client.settimeout(30.0)
            try:
                while (request := _head(client)) and self._answer(client, request):
                    pass
            except OSError:
                return

    def _answer(self, client: socket.socket, request: bytes) -> bool:
        """Pass one answer on. False: the connection is over."""
        is_model = b".onnx " in request.split(b"\r\n", 1)[0]
        if is_model and self._is_refusing:
            self._is_refusing = False
            client.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            return True
        start = _range_start(request)
        if is_model:
            self.starts.append(start)
            if self.way == "without ranges" and len(self.starts) % 8 == 0:
                request = b"\r\n".join(
                    line for line in request.split(b"\r\n") if b"range:" not in line.lower()
                )
                start = 0
        with socket.create_connection(("127.0.0.1", self.upstream), timeout=30.0) as server:
            server.sendall(request.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n", 1))
            head = _head(server)
            length = int(_field(head, b"content-length") or 0)
            head = head.replace(b"Connection: close\r\n", b"")
            client.sendall(head)
            at, end = start, start + length
            while at < end:
                until = self._next_cut(at) if is_model else end
                data = server.recv(min(CUT_BYTES, until - at, end - at))
                if not data:
                    return False
                client.sendall(data)
                at += len(data)
                self.sent_bytes += len(data) if is_model else 0
                if is_model and at == until and at < end:
                    return self._cut(client)
        return True

    def _next_cut(self, at: int) -> int:
        cut = (at - self.shift) // CUT_BYTES * CUT_BYTES + self.shift + CUT_BYTES
        if self.way == "without ranges" and len(self.starts) % 8 == 0:
            cut = max(cut, max(self.starts) + CUT_BYTES)  # or it would never come further
        return cut

    def _cut(self, client: socket.socket) -> bool:
        self.cuts += 1
        if self.way == "silent":
            while client.recv(4096):  # until the other side gives up
                pass
        elif self.way == "reset":
            _await_delivery(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self._is_refusing = self.way == "refused"
        return False


def _await_delivery(stream: socket.socket) -> None:
    """Wait until the other side's system has acknowledged every byte: a reset throws away what still waits to be sent.

    Without it an attempt over a narrow receive window brings whatever fitted into the window, and 500 attempts may bring
    less than a model. Raises OSError when the other side takes nothing for as long as the socket's timeout.
    """
    end_s = time.monotonic() + (stream.gettimeout() or 30.0)
    while struct.unpack("i", fcntl.ioctl(stream, termios.TIOCOUTQ, bytes(4)))[0]:
        if time.monotonic() > end_s:
            raise TimeoutError("the other side takes no more bytes")
        time.sleep(0.001)


def _head(stream: socket.socket) -> bytes:
    """Up to the empty line; empty at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def _field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return None


def _range_start(request: bytes) -> int:
    value = _field(request, b"range")
    return int(value.removeprefix(b"bytes=").partition(b"-")[0]) if value else 0
