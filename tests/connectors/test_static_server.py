"""Ranges as RFC 9110 says, and nothing outside the folder."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from devservers.static_server import StaticServer

CONTENT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticServer]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "inside").mkdir()
    (folder / "inside" / "model.bin").write_bytes(CONTENT)
    (folder / "empty").write_bytes(b"")
    (folder.parent / "outside").write_bytes(b"secret")
    (folder / "link").symlink_to(folder.parent / "outside")
    with StaticServer(folder) as running:
        yield running


def ask(server: StaticServer, path: str, header: str | None = None, method: str = "GET"):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    connection.putrequest(method, path, skip_accept_encoding=True)
    if header is not None:
        connection.putheader("Range", header)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("header", "begin", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, len(CONTENT)),
        ("bytes=200000-999999999", 200_000, len(CONTENT)),
        ("bytes=-10", len(CONTENT) - 10, len(CONTENT)),
        ("bytes=-999999999", 0, len(CONTENT)),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(
    server: StaticServer, header: str, begin: int, end: int
) -> None:
    answer, body = ask(server, "/inside/model.bin", header)
    assert (answer.status, body) == (206, CONTENT[begin:end])
    assert answer.getheader("Content-Range") == f"bytes {begin}-{end - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("header", [None, "bytes=5-2", "lines=1-2", "bytes=1-2,5-6", "bytes=-", "bytes=x-"])
def test_what_is_not_one_byte_range_gets_the_whole_file(server: StaticServer, header: str | None) -> None:
    answer, body = ask(server, "/inside/model.bin", header)
    assert (answer.status, body) == (200, CONTENT)
    assert answer.getheader("Accept-Ranges") == "bytes"


@pytest.mark.parametrize("header", [f"bytes={len(CONTENT)}-", "bytes=-0"])
def test_a_range_past_the_end_is_refused_with_the_size(server: StaticServer, header: str) -> None:
    answer, body = ask(server, "/inside/model.bin", header)
    assert (answer.status, body) == (416, b"")
    assert answer.getheader("Content-Range") == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    "path", ["/", "/inside", "/absent", "/../outside", "/%2e%2e/outside", "/link", "//etc/passwd", "/a%00b"]
)
def test_nothing_but_a_file_inside_the_folder_is_served(server: StaticServer, path: str) -> None:
    answer, body = ask(server, path)
    assert answer.status == 404
    assert b"secret" not in body


def test_head_and_the_empty_file(server: StaticServer) -> None:
    answer, body = ask(server, "/inside/model.bin", method="HEAD")
    assert (answer.status, answer.getheader("Content-Length"), body) == (200, str(len(CONTENT)), b"")
    assert ask(server, "/empty")[1] == b""


def test_it_listens_on_loopback_only(server: StaticServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")
