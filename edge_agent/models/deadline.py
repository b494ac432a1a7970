"""A wall deadline over one exchange with a server: name, connection, headers and body, however slowly their bytes come.

A socket's timeout bounds the silence between two bytes, not the time that they take together. At the deadline the
sockets of the exchange are shut down by a timer thread, which ends whatever waits for them. The system's resolver cannot
be interrupted, so it is asked in a thread that is waited for until the deadline; who asks for the same name meanwhile
waits for the same thread, so there is at most one for each name.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError


class WallDeadline:
    """Of one exchange; begins when it is made, and must be closed. Raises RuntimeError: no thread can be started."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_over = False
        """Whether the sockets were shut down. What was read since, also an end, says nothing."""
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._waiting: list[threading.Event] = []
        self._end_s = time.monotonic() + seconds
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

    def left_s(self) -> float:
        """Return the time until the deadline; 0 after it."""
        return 0.0 if self.is_over else max(0.0, self._end_s - time.monotonic())

    def addresses_of(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, as the system's resolver orders them.

        Raises:
            OSError: the resolver says that there are none, or the deadline came first (TimeoutError).
        """
        answer = _asked(host, port)
        came = threading.Event()
        with self._lock:
            self._waiting.append(came)
        answer.add_done_callback(lambda _answer: came.set())
        if not self.is_over:
            came.wait()
        if not answer.done():
            raise TimeoutError(f"{host} was not resolved within {self.seconds:g} s")
        return answer.result()

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
            for waiting in self._waiting:
                waiting.set()


_ASKED: dict[tuple[str, int], Future[list[str]]] = {}
_ASKED_LOCK = threading.Lock()


def _asked(host: str, port: int) -> Future[list[str]]:
    """The answer of the system's resolver, which is asked now unless it still works at the same question."""
    with _ASKED_LOCK:
        if (host, port) in _ASKED:
            return _ASKED[host, port]
        answer: Future[list[str]] = Future()
        _ASKED[host, port] = answer

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            told: list[str] | Exception = [str(each[4][0]) for each in found]
        except (OSError, UnicodeError) as error:
            told = error
        with _ASKED_LOCK:
            del _ASKED[host, port]
        answer.set_exception(told) if isinstance(told, Exception) else answer.set_result(told)

    try:
        threading.Thread(target=ask, name="resolver", daemon=True).start()
    except RuntimeError:  # no thread can be started
        with _ASKED_LOCK:
            del _ASKED[host, port]
        raise
    return answer


_CURRENT: ContextVar[WallDeadline | None] = ContextVar("deadline", default=None)


def _watch(sock: socket.socket | None) -> None:
    deadline = _CURRENT.get()
    if deadline is not None and sock is not None:
        deadline.watch(sock.fileno())


def _connected(connection: HTTPConnection, connect: Callable[[], socket.socket]) -> socket.socket:
    """Connect to one address of the host after the other until one answers; the name stays what TLS checks."""
    deadline = _CURRENT.get()
    if deadline is None:
        return connect()
    host, timeout = connection._dns_host, connection.timeout
    try:
        addresses = deadline.addresses_of(host.strip("[]"), connection.port)
    except (OSError, RuntimeError, UnicodeError) as error:
        raise NewConnectionError(connection, f"cannot resolve {host}: {error}") from error
    failed: NewConnectionError | ConnectTimeoutError | None = None
    try:
        for address in addresses:
            left_s = deadline.left_s()
            if not left_s:
                break
            connection._dns_host = address
            connection.timeout = min(timeout, left_s) if isinstance(timeout, int | float) else left_s
            try:
                return connect()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failed = error
    finally:
        connection._dns_host, connection.timeout = host, timeout
    raise failed or NewConnectionError(connection, f"no time is left to connect to {host}")


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        sock = _connected(self, super()._new_conn)
        _watch(sock)
        return sock

    def request(self, *arguments: Any, **options: Any) -> None:
        _watch(self.sock)  # of a connection that is used again
        super().request(*arguments, **options)


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        sock = _connected(self, super()._new_conn)
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
