"""Uplinks that misbehave: deaf, slow or late. They differ from the demo's in what they receive and forward."""

from __future__ import annotations

import socket
import threading
import time

from fleetloop.demo.uplink import Uplink

HELD_WAIT_S = 0.01
SLICE_BYTES = 2_048


class DeafUplink(Uplink):
    """`hold()`, then `go_deaf()`: what is held arrives, is written into the broker's log, and no answer to it
    ever comes back. `hear()` ends that. `release()` ends a hold without losing a byte.
    """

    def __init__(self) -> None:
        self._is_deaf = threading.Event()
        self._may_send = threading.Event()
        self._may_send.set()
        super().__init__()

    def hold(self) -> None:
        """Let answers through, and nothing that the vehicle sends."""
        self._may_send.clear()

    def release(self) -> None:
        """Let through what was held."""
        self._may_send.set()

    def go_deaf(self) -> None:
        """Let through what the vehicle sends, and no answers."""
        self._is_deaf.set()
        self._may_send.set()

    def hear(self) -> None:
        """Let answers through again, on connections made from now on: the old ones have lost bytes."""
        self.cut()
        self._is_deaf.clear()
        self.restore()

    def _receive(self, source: socket.socket, is_upward: bool) -> bytes | None:
        if is_upward and not self._may_send.wait(HELD_WAIT_S):
            return None
        return super()._receive(source, is_upward)

    def _forward(self, data: bytes, target: socket.socket, is_upward: bool) -> None:
        if is_upward or not self._is_deaf.is_set():
            super()._forward(data, target, is_upward)


class SlowUplink(Uplink):
    """`throttle(bytes_per_s)` bounds what goes up over all connections together; 0 is no bound."""

    def __init__(self) -> None:
        self._bytes_per_s = 0.0
        self._pace = threading.Lock()
        self._free_at_s = 0.0
        self.sent_bytes = 0
        super().__init__()

    def throttle(self, bytes_per_s: float) -> None:
        """Bound the rate from now on."""
        self._bytes_per_s = bytes_per_s

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        # A smaller buffer stalls loopback, whose segments are 64 kB.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 131_072)
        super()._relay(client, server)

    def _receive(self, source: socket.socket, is_upward: bool) -> bytes | None:
        if is_upward and self._bytes_per_s:
            return source.recv(SLICE_BYTES)
        return super()._receive(source, is_upward)

    def _forward(self, data: bytes, target: socket.socket, is_upward: bool) -> None:
        if is_upward:
            self._wait_for_turn(len(data))
        super()._forward(data, target, is_upward)

    def _wait_for_turn(self, size_bytes: int) -> None:
        with self._pace:
            self.sent_bytes += size_bytes
            rate = self._bytes_per_s
            if not rate:
                return
            begin_s = max(time.monotonic(), self._free_at_s)
            self._free_at_s = begin_s + size_bytes / rate
        time.sleep(max(0.0, self._free_at_s - time.monotonic()))


class LateUplink(DeafUplink):
    """What the broker answers to records waits `delay_s`, as over a long way; nothing is lost on it."""

    FREE_BYTES = 4_000
    """What a connection may send before its answers wait: enough to find the brokers and topics."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._connection = threading.local()  # each connection has a thread of its own
        super().__init__()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        self._connection.sent_bytes = 0
        super()._relay(client, server)

    def _forward(self, data: bytes, target: socket.socket, is_upward: bool) -> None:
        if is_upward:
            self._connection.sent_bytes += len(data)
        elif self._connection.sent_bytes > self.FREE_BYTES:
            time.sleep(self._delay_s)
        super()._forward(data, target, is_upward)
