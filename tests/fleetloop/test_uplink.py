"""The cuttable uplink of the demo: a cut looks like a lost network, mending lets clients through again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlparse

import pytest

from fleetloop.demo.uplink import Uplink


@pytest.fixture
def echo() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def _echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(4096):
            connection.sendall(data)


def connect(uplink: Uplink, target: str) -> tuple[socket.socket, bytes]:
    parts = urlparse(uplink.url)
    client = socket.create_connection((parts.hostname, parts.port), timeout=5)
    client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    return client, client.recv(4096)


def test_bytes_pass_while_it_is_up_and_stop_when_it_is_cut(echo: int) -> None:
    with Uplink() as uplink:
        client, answer = connect(uplink, f"127.0.0.1:{echo}")
        assert answer.startswith(b"HTTP/1.1 200")
        client.sendall(b"hello")
        assert client.recv(16) == b"hello"
        uplink.cut()
        assert client.recv(16) == b"", "the open connection ends"
        late, answer = connect(uplink, f"127.0.0.1:{echo}")
        assert answer == b"", "a new connection is refused"
        assert uplink.refused == 1
        late.close()
        uplink.restore()
        again, answer = connect(uplink, f"127.0.0.1:{echo}")
        assert answer.startswith(b"HTTP/1.1 200")
        again.close()
        client.close()


def test_it_never_leaves_the_machine(echo: int) -> None:
    with Uplink() as uplink:
        client, answer = connect(uplink, "192.0.2.1:80")
        assert answer.startswith(b"HTTP/1.1 403")
        client.close()
