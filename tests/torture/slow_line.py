"""A line to a server on which the first answers trickle, each byte within the read timeout, until the client gives up."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\n"
STORIES = {
    "header": (OK + b"X-Long: ", b"a"),
    "headers": (OK, b"A: b\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk-size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "body": (OK + b"Content-Length: 100000\r\n\r\n", b"a"),
    "silence": (b"", b""),
    "second-answer": (OK + b"X-Long: ", b"a"),
}
"""What is sent at once, then again and again. In the last one the first answer of the connection comes as it should."""
EVERY_S = 0.03


class SlowLine:
    """Relays connections to `port`; the next `slow` requests get a trickle of `story` instead of their answers."""

    def __init__(self, port: int, story: str, slow: int) -> None:
        self._port = port
        self._first, self._again = STORIES[story]
        self._is_second = story == "second-answer"
        self.slow_left = slow
        self.trickled = 0
        self._is_over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """End the line and all that goes over it."""
        self._is_over.set()
        with suppress(OSError):
            socket.create_connection(self._listener.getsockname(), timeout=1.0).close()
        for thread in self._threads:
            thread.join(5.0)
        self._listener.close()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            client, _address = self._listener.accept()
            thread = threading.Thread(target=self._one, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _one(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as server:
            requests = 0
            while not self._is_over.is_set():
                for ready in select.select([client, server], [], [], 0.1)[0]:
                    data = ready.recv(65_536)
                    if not data:
                        return
                    requests += ready is client
                    if ready is client and self.slow_left and requests > self._is_second:
                        self.slow_left -= 1
                        self._trickle(client)
                        return
                    (server if ready is client else client).sendall(data)

    def _trickle(self, client: socket.socket) -> None:
        self.trickled += 1
        client.sendall(self._first)
        while not self._is_over.wait(EVERY_S):
            client.sendall(self._again)


@contextmanager
def slow_line(port: int, story: str, slow: int) -> Iterator[SlowLine]:
    """Such a line, ended with the context."""
    line = SlowLine(port, story, slow)
    try:
        yield line
    finally:
        line.close()
