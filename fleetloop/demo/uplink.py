"""A vehicle's uplink that can be cut: an HTTP CONNECT proxy on loopback (RFC 9110 section 9.3.6), for the demo and tests.

A plain TCP relay would not do: a Kafka client reconnects to the address that the broker advertises. Through a proxy all of
the client's connections pass here, and cutting it looks to the client like a lost mobile network.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Collection

CONNECT_TIMEOUT_S = 5.0
CHUNK_BYTES = 65_536


class Uplink:
    """Relays connections while it is up; `cut()` drops every connection and refuses new ones until `restore()`."""

    def __init__(self, hosts: Collection[str] = ()) -> None:
        """`hosts` may be reached besides loopback: those of the broker that the user named."""
        self._hosts = frozenset({"127.0.0.1", "localhost", *hosts})
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_cut = threading.Event()
        self._is_closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.refused = 0
        threading.Thread(target=self._accept, name="uplink", daemon=True).start()

    @property
    def url(self) -> str:
        """The proxy URL for clients."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        self._is_cut.set()
        with self._lock:
            for connection in self._open:
                _abort(connection)

    def restore(self) -> None:
        """Let connections through again."""
        self._is_cut.clear()

    def close(self) -> None:
        """Stop listening and drop everything."""
        self._is_closed.set()
        self._listener.close()
        self.cut()

    def __enter__(self) -> Uplink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut.is_set():
                self.refused += 1
                _abort(client)
                client.close()
                continue
            threading.Thread(
                target=self._serve, args=(client,), name="uplink-connection", daemon=True
            ).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            self._track(client, True)
            try:
                client.settimeout(CONNECT_TIMEOUT_S)
                server = self._dial(client)
                if server is None:
                    return
                with server:
                    self._track(server, True)
                    try:
                        self._relay(client, server)
                    finally:
                        self._track(server, False)
            except OSError:
                return
            finally:
                self._track(client, False)

    def _dial(self, client: socket.socket) -> socket.socket | None:
        request = b""
        while b"\r\n\r\n" not in request and len(request) < CHUNK_BYTES:
            part = client.recv(CHUNK_BYTES)
            if not part:
                return None
            request += part
        method, _, rest = request.partition(b" ")
        host, _, port = rest.partition(b" ")[0].decode("ascii", "replace").rpartition(":")
        if method != b"CONNECT" or not port.isdigit() or host not in self._hosts:
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return None
        server = socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return server

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        peer = {client: server, server: client}
        with selectors.DefaultSelector() as ready:
            for connection in peer:
                connection.setblocking(True)
                ready.register(connection, selectors.EVENT_READ)
            while not self._is_cut.is_set():
                for key, _ in ready.select(timeout=0.2):
                    source = key.fileobj
                    if not isinstance(source, socket.socket):
                        continue
                    is_upward = source is client
                    data = self._receive(source, is_upward)
                    if data == b"":
                        return
                    if data is not None:
                        self._forward(data, peer[source], is_upward)

    def _receive(self, source: socket.socket, is_upward: bool) -> bytes | None:  # noqa: ARG002 - tests differ by it
        """Return the bytes to forward now; empty at the end of the connection, None to forward nothing yet."""
        return source.recv(CHUNK_BYTES)

    def _forward(self, data: bytes, target: socket.socket, is_upward: bool) -> None:  # noqa: ARG002
        target.sendall(data)

    def _track(self, connection: socket.socket, is_open: bool) -> None:
        with self._lock:
            (self._open.add if is_open else self._open.discard)(connection)


def _abort(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
