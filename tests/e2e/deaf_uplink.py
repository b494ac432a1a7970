"""An uplink that can go deaf: what the vehicle sends arrives, what the broker answers does not."""

from __future__ import annotations

import selectors
import socket
import threading
import time

from fleetloop.demo.uplink import CHUNK_BYTES, Uplink

HELD_WAIT_S = 0.01


class DeafUplink(Uplink):
    """`hold()`, then `go_deaf()`: what is held arrives, is written into the broker's log, and no answer to it
    ever comes back. `hear()` ends that."""

    def __init__(self) -> None:
        self._is_deaf = threading.Event()
        self._is_held = threading.Event()
        super().__init__()

    def hold(self) -> None:
        """Let answers through, and nothing that the vehicle sends."""
        self._is_held.set()

    def go_deaf(self) -> None:
        """Let through what the vehicle sends, and no answers."""
        self._is_deaf.set()
        self._is_held.clear()

    def hear(self) -> None:
        """Let answers through again, on connections made from now on: the old ones have lost bytes."""
        self.cut()
        self._is_deaf.clear()
        self.mend()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        peer = {client: server, server: client}
        with selectors.DefaultSelector() as ready:
            for connection in peer:
                connection.setblocking(True)
                ready.register(connection, selectors.EVENT_READ)
            while not self._is_cut.is_set():
                for key, _ in ready.select(timeout=0.2):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if source is client and self._is_held.is_set():
                        time.sleep(HELD_WAIT_S)
                        continue
                    data = source.recv(CHUNK_BYTES)
                    if not data:
                        return
                    if source is client or not self._is_deaf.is_set():
                        peer[source].sendall(data)
