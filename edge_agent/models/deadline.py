"""A wall deadline over one exchange with a server: connection, headers and body, however slowly their bytes come.

A socket's timeout bounds the silence between two bytes, not the time that they take together. At the deadline the
sockets of the exchange are shut down by a timer thread, which ends whatever waits for them; the resolution of a host name
has the bounds of the system's resolver.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


class WallDeadline:
    """Of one exchange; begins when it is made, and must be closed. Raises RuntimeError: no thread can be started."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_over = False
        """Whether the sockets were shut down. What was read since, also an end, says nothing."""
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    @contextmanager
    def over_connections(self) -> Iterator[None]:
        """Watch the connections of a `watched_pool` that this thread makes or uses again inside."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def watch(self, fd: int) -> None:
        """Shut this socket down at the deadline. A copy is kept, for TLS and `Connection: close` give up the original."""
        copy = socket.socket(fileno=os.dup(fd))
        with self._lock:
            self._sockets.append(copy)
        if self.is_over:
            self._end()

    def close(self) -> None:
        """End the deadline: the sockets are left as they are."""
        self._timer.cancel()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            for each in self._sockets:
                with suppress(OSError):  # not connected any more
                    each.shutdown(socket.SHUT_RDWR)


_CURRENT: ContextVar[WallDeadline | None] = ContextVar("deadline", default=None)


def _watch(sock: socket.socket | None) -> None:
    deadline = _CURRENT.get()
    if deadline is not None and sock is not None:
        deadline.watch(sock.fileno())


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        _watch(sock)
        return sock

    def request(self, *arguments: Any, **options: Any) -> None:
        _watch(self.sock)  # of a connection that is used again
        super().request(*arguments, **options)


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        _watch(sock)
        return sock

    def request(self, *arguments: Any, **options: Any) -> None:
        _watch(self.sock)
        super().request(*arguments, **options)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def watched_pool() -> urllib3.PoolManager:
    """Return a pool of connections that heed `WallDeadline.over_connections`."""
    pool = urllib3.PoolManager(num_pools=2, maxsize=1)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pool
