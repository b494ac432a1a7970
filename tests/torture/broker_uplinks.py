"""Uplinks that are slow, or hold back what a vehicle sends."""

from __future__ import annotations

import selectors
import socket
import threading
import time

from fleetloop.demo.uplink import Uplink
from tests.e2e.deaf_uplink import DeafUplink

SLICE_BYTES = 2_048


class SlowUplink(Uplink):
    """`throttle(bytes_per_s)`: so much a second goes up over all connections together; 0: as fast as it can."""

    def __init__(self) -> None:
        self._bytes_per_s = 0.0
        self._pace = threading.Lock()
        self._free_at_s = 0.0
        self.sent_bytes = 0
        super().__init__()

    def throttle(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s

    def _wait_for_turn(self, size_bytes: int) -> None:
        with self._pace:
            self.sent_bytes += size_bytes
            rate = self._bytes_per_s
            if not rate:
                return
            begin_s = max(time.monotonic(), self._free_at_s)
            self._free_at_s = begin_s + size_bytes / rate
        time.sleep(max(0.0, self._free_at_s - time.monotonic()))

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        client.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072
        )  # less stalls loopback, whose segments are 64 kB
        peer = {client: server, server: client}
        with selectors.DefaultSelector() as ready:
            for connection in peer:
                connection.setblocking(True)
                ready.register(connection, selectors.EVENT_READ)
            while not self._is_cut.is_set():
                for key, _ in ready.select(timeout=0.2):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(SLICE_BYTES if source is client and self._bytes_per_s else 65_536)
                    if not data:
                        return
                    if source is client:
                        self._wait_for_turn(len(data))
                    peer[source].sendall(data)


class ForgetfulUplink(DeafUplink):
    """A `DeafUplink` whose hold can end without losing a byte."""

    def release(self) -> None:
        """Let through what was held."""
        self._is_held.clear()
