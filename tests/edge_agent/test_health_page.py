"""The health page: for its owner, on this machine only, and never held by many or slow clients."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import threading

import pytest

from edge_agent.health_http import MAX_REQUESTS, HealthServer
from foundation.errors import MisconfiguredError, RetryLaterError
from tests.waiting import until


def get(port: int, path: str, host: str | None = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def test_the_health_page_answers_on_loopback_and_refuses_the_rest():
    def broken():
        raise RetryLaterError("not now")

    pages = {
        "/healthz": lambda: (True, {"ok": True}),
        "/status": lambda: (False, {"ok": False}),
        "/x": broken,
    }
    server = HealthServer(0, pages)
    try:
        assert get(server.port, "/healthz") == (200, {"ok": True})
        assert get(server.port, "/status") == (503, {"ok": False})
        assert get(server.port, "/x") == (503, {"error": "RetryLaterError: not now"})
        assert get(server.port, "/etc/passwd")[0] == 404
        assert get(server.port, "/healthz", host="evil.example")[0] == 403
        assert server._server.server_address[0] == "127.0.0.1"
        with pytest.raises(MisconfiguredError, match=str(server.port)):
            HealthServer(server.port, pages)
    finally:
        server.close()


class OverSocket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=5)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


@pytest.mark.parametrize("depth", [1, 12], ids=["short path", "path longer than an address"])
def test_the_health_socket_is_for_its_owner_and_is_made_anew_after_a_kill(tmp_path, depth, monkeypatch):
    folder = tmp_path.joinpath(*["a folder's name"] * depth)
    folder.mkdir(parents=True)
    path = folder / "health.sock"
    pages = {"/healthz": lambda: (True, {"ok": True})}
    for _ in range(2):
        server = HealthServer(path, pages)  # the first one is left as a kill leaves it
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        monkeypatch.chdir(folder)
        connection = OverSocket("health.sock")
        connection.request("GET", "/healthz")
        assert json.load(connection.getresponse()) == {"ok": True}
        connection.close()
    finally:
        server.close()
    assert not path.exists()


def test_many_and_slow_clients_of_the_health_page_hold_few_threads_and_not_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_agent.health_http.REQUEST_WITHIN_S", 0.5)
    server = HealthServer(0, {"/healthz": lambda: (True, {"ok": True})})
    slow = []
    try:
        before = threading.active_count()
        for _ in range(60):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            slow.append(client)
        assert threading.active_count() - before <= MAX_REQUESTS
        until(lambda: threading.active_count() <= before, "the slow clients are cut off")
        assert get(server.port, "/healthz") == (200, {"ok": True})
    finally:
        for client in slow:
            client.close()
        server.close()


def test_a_health_page_without_room_for_a_thread_answers_again_afterwards(tmp_path, monkeypatch):
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    server = HealthServer(0, {"/healthz": lambda: (True, {"ok": True})})
    try:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            for _ in range(MAX_REQUESTS):
                with pytest.raises(OSError, match=r"."):
                    get(server.port, "/healthz")
        assert get(server.port, "/healthz") == (200, {"ok": True})
    finally:
        server.close()
