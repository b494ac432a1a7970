"""What the service manager hears of a service."""

from __future__ import annotations

import socket

from foundation.service_manager import ALIVE, READY, notify


def test_the_service_manager_is_told(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert notify(READY) and notify(ALIVE)
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]


def test_a_service_manager_that_is_not_there_or_never_reads_holds_nobody(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify(ALIVE) is False
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert notify(ALIVE) is False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        sent = [notify(ALIVE) for _ in range(5_000)]
    assert sent[0] and not sent[-1], "its queue is full"
