"""A server that sends a byte now and then holds no exchange beyond its deadline: real sockets on loopback."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, SlowRetrievalError

from edge_agent.models.http import BoundedFetcher, StagedDownload, UrlTransport
from edge_agent.models.settings import DownloadSettings
from foundation.clock import SystemClock

SETTINGS = DownloadSettings(connect_timeout_s=1.0, read_timeout_s=0.4, metadata_deadline_s=0.5)
OK = b"HTTP/1.1 200 OK\r\n"
STORIES = {
    "header": (OK + b"X-Long: ", b"a"),
    "headers": (OK, b"A: b\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk size": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "body": (OK + b"Content-Length: 100000\r\n\r\n", b"a"),
}
"""What the server sends at once, then again and again, each within the read timeout."""


@contextmanager
def server(first: bytes, again: bytes, before: bytes = b"") -> Iterator[int]:
    """Serve on a port of loopback until the end of the block; `before` answers the first request of a connection."""
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            with suppress(OSError):
                client, _address = listener.accept()
                with client:
                    if client.recv(4096) and before:
                        client.sendall(before)
                        client.recv(4096)
                    client.sendall(first)
                    while again and not is_over.wait(0.02):
                        client.sendall(again)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            is_over.set()
            with suppress(OSError):
                socket.create_connection(listener.getsockname(), timeout=1.0).close()
            thread.join(5.0)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began_s = time.monotonic()
    yield
    assert time.monotonic() - began_s < seconds


class Resolver:
    """In place of the system's: answers once it may, with addresses by name, and counts its questions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **addresses: list[str]) -> None:
        self.may_answer, self.asked = threading.Event(), 0
        self._addresses, self._real = addresses, socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._ask)

    def _ask(self, host: str, port: int, *arguments: int, **options: int) -> list[tuple[object, ...]]:
        if host not in self._addresses:
            return list(self._real(host, port, *arguments, **options))
        self.asked += 1
        self.may_answer.wait(30.0)
        if not self._addresses[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self._addresses[host]]


def test_a_resolver_that_does_not_answer_ends_at_the_deadline_and_is_asked_once_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver(monkeypatch, slow=["127.0.0.1"])
    fetcher = BoundedFetcher(UrlTransport(SETTINGS), SETTINGS, SystemClock())
    try:
        for _ in range(2):
            with within(3.0), pytest.raises(SlowRetrievalError, match=r"0\.5 s"):
                list(fetcher.fetch("http://slow:1/timestamp.json"))
        assert resolver.asked == 1
    finally:
        resolver.may_answer.set()


def test_a_name_without_an_address_is_a_failed_download(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolver(monkeypatch, nowhere=[]).may_answer.set()
    with pytest.raises(DownloadError, match="cannot resolve nowhere"):
        UrlTransport(SETTINGS).open("http://nowhere:1/timestamp.json", 0, 5.0)


def test_of_several_addresses_the_first_that_answers_is_used_under_the_name_of_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Resolver(monkeypatch, two=["127.0.0.2", "127.0.0.1"]).may_answer.set()
    with server(OK + b"Content-Length: 2\r\n\r\nok", b"") as port:
        _start, chunks = UrlTransport(SETTINGS).open(f"http://two:{port}/timestamp.json", 0, 5.0)
        assert b"".join(chunks) == b"ok"


@pytest.mark.parametrize("story", STORIES)
def test_metadata_that_trickles_ends_at_its_deadline_wherever_it_trickles(story: str) -> None:
    with server(*STORIES[story]) as port, within(3.0), pytest.raises(SlowRetrievalError):
        fetcher = BoundedFetcher(UrlTransport(SETTINGS), SETTINGS, SystemClock())
        list(fetcher.fetch(f"http://127.0.0.1:{port}/timestamp.json"))


def test_a_tls_handshake_that_trickles_ends_at_the_deadline() -> None:
    record = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xf0"  # a ServerHello of 16 KiB begins
    with server(record, b"\x00") as port, within(3.0), pytest.raises(SlowRetrievalError):
        fetcher = BoundedFetcher(UrlTransport(SETTINGS), SETTINGS, SystemClock())
        list(fetcher.fetch(f"https://127.0.0.1:{port}/timestamp.json"))


@pytest.mark.parametrize("story", STORIES)
def test_a_model_that_trickles_ends_a_read_timeout_after_its_slice(tmp_path: Path, story: str) -> None:
    with server(*STORIES[story]) as port, within(3.0), pytest.raises(SlowRetrievalError):
        download = StagedDownload(UrlTransport(SETTINGS), SETTINGS, SystemClock())
        download.advance(f"http://127.0.0.1:{port}/m.onnx", tmp_path / "m.part", 100_000, slice_s=0.1)


def test_a_connection_that_is_used_again_heeds_the_deadline_of_its_second_exchange() -> None:
    with server(*STORIES["header"], before=OK + b"Content-Length: 2\r\n\r\nok") as port:
        transport = UrlTransport(SETTINGS)
        assert b"".join(transport.open(f"http://127.0.0.1:{port}/a", 0, 0.5)[1]) == b"ok"
        with within(3.0), pytest.raises(SlowRetrievalError):
            list(transport.open(f"http://127.0.0.1:{port}/b", 0, 0.5)[1])


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "identity, gzip"])
def test_an_answer_in_an_encoding_is_refused_before_anything_is_unpacked(encoding: str) -> None:
    answer = OK + f"Content-Encoding: {encoding}\r\nContent-Length: 2\r\n\r\nok".encode()
    with server(answer, b"") as port, pytest.raises(DownloadError, match="Content-Encoding"):
        UrlTransport(SETTINGS).open(f"http://127.0.0.1:{port}/a", 0, 2.0)


def test_bytes_that_came_before_a_reset_are_kept_and_resumed_from_though_they_are_read_after_it(
    tmp_path: Path,
) -> None:
    body, first = bytes(range(256)) * 1_000, 18_840

    def serve() -> None:
        """Each answer is `first` bytes of the range that is asked for; the connection is reset behind them."""
        for _ in range(2):
            client, _address = listener.accept()
            asked = client.recv(4096)
            start = first if b"Range: bytes=%d-" % first in asked else 0
            head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes %d-/*\r\n" % start if start else OK
            client.sendall(head + b"Content-Length: %d\r\n\r\n" % (len(body) - start))
            client.sendall(body[start : start + first])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            is_reset.set()

    class AfterTheReset(UrlTransport):
        """Hands the first chunk on when the connection has been reset already."""

        def open(self, url: str, start_bytes: int, within_s: float) -> tuple[int, Iterator[bytes]]:
            begins, chunks = super().open(url, start_bytes, within_s)
            assert is_reset.wait(5.0)
            is_reset.clear()
            return begins, chunks

    is_reset, path = threading.Event(), tmp_path / "m.part"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        settings = DownloadSettings(chunk_bytes=4096)
        download = StagedDownload(AfterTheReset(settings), settings, SystemClock())
        for attempt in (1, 2):
            with pytest.raises(DownloadError, match="cut"):
                download.advance(
                    f"http://127.0.0.1:{listener.getsockname()[1]}/m", path, len(body), slice_s=5.0
                )
            assert path.read_bytes() == body[: attempt * first]
