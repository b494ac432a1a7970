"""Download with bounds on bytes, time and minimum rate, resuming interrupted downloads.

One fetcher serves metadata (through python-tuf's interface) and model files (with ranges), from `http://`,
`https://` or a folder. It decides nothing about trust. Redirects are not followed, proxies of the environment
    are not used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient.fetcher import FetcherInterface

from edge_agent.models.deadline import WallDeadline, watched_pool
from edge_agent.models.settings import DownloadSettings
from foundation.clock import Clock
from foundation.errors import MisconfiguredError


class Transport(Protocol):
    """Opens a byte range of a URL. Implemented by tests and other protocols."""

    def open(self, url: str, start_bytes: int, within_s: float) -> tuple[int, Iterator[bytes]]:
        """Return the offset at which the answer starts (`start_bytes`, or 0 when ranges are not served) and its chunks.

        `within_s` bounds the time from here to the last chunk, on a wall clock.

        Raises:
            DownloadHTTPError: the server said 400 or above; SlowRetrievalError, DownloadError. The chunks raise them too.
        """


class UrlTransport:
    """HTTP through urllib3, or files below a folder named by `file://` or a plain path."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._pool = watched_pool()

    def open(self, url: str, start_bytes: int, within_s: float) -> tuple[int, Iterator[bytes]]:
        """See `Transport.open`."""
        parts = urlsplit(url)
        if parts.scheme in ("http", "https"):
            return self._open_http_within(url, start_bytes, within_s)
        if parts.scheme in ("", "file"):
            return start_bytes, self._read_file(Path(unquote(parts.path)), start_bytes)
        raise MisconfiguredError(
            f"base_url {url!r} has scheme {parts.scheme!r}; use http, https, file or a path"
        )

    def _open_http_within(self, url: str, start_bytes: int, within_s: float) -> tuple[int, Iterator[bytes]]:
        try:
            deadline = WallDeadline(within_s)
        except RuntimeError as error:
            raise DownloadError(f"no thread for the deadline of {url}: {error}") from error
        try:
            with deadline.over_connections():
                begins, response = self._open_http(url, start_bytes)
        except BaseException as error:
            deadline.close()
            if deadline.is_over and isinstance(error, DownloadError):
                raise _late(url, deadline) from error
            raise
        return begins, self._read_http(response, url, deadline)

    def _open_http(self, url: str, start_bytes: int) -> tuple[int, Any]:
        headers = {"Accept-Encoding": "identity"}
        if start_bytes:
            headers["Range"] = f"bytes={start_bytes}-"
        timeout = urllib3.Timeout(
            connect=self._settings.connect_timeout_s, read=self._settings.read_timeout_s
        )
        try:
            response = self._pool.request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=timeout,
            )
        except urllib3.exceptions.NewConnectionError as error:  # a kind of TimeoutError to urllib3
            raise DownloadError(f"cannot reach {url}: {error}") from error
        except urllib3.exceptions.TimeoutError as error:
            raise SlowRetrievalError(
                f"no answer from {url} within {self._settings.read_timeout_s} s"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise DownloadError(f"cannot reach {url}: {error}") from error
        if response.status not in (200, 206):
            response.close()
            raise DownloadHTTPError(f"{url} answered {response.status}", response.status)
        begins = start_bytes if response.status == 206 else 0
        if response.status == 206 and not _starts_at(response.headers.get("Content-Range", ""), start_bytes):
            response.close()
            raise DownloadError(
                f"{url} answered range {response.headers.get('Content-Range')!r}, asked from {start_bytes}"
            )
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() != "identity":
            response.close()
            raise DownloadError(f"{url} answered in Content-Encoding {encoding[:100]!r}, asked for identity")
        return begins, response

    def _read_http(self, response: Any, url: str, deadline: WallDeadline) -> Iterator[bytes]:
        with closing(deadline), closing(response):
            try:
                # read1 returns what is there: a trickle is seen as a trickle, not as one long silence.
                while chunk := response.read1(self._settings.chunk_bytes):
                    yield chunk
            except urllib3.exceptions.HTTPError as error:
                raise self._cut(error, url, deadline) from error
            if deadline.is_over:
                raise _late(url, deadline)

    def _cut(self, error: Exception, url: str, deadline: WallDeadline) -> DownloadError:
        if deadline.is_over:
            return _late(url, deadline)
        if isinstance(error, urllib3.exceptions.TimeoutError):
            return SlowRetrievalError(f"{url}: nothing for {self._settings.read_timeout_s} s")
        return DownloadError(f"{url} was cut: {error}")

    def _read_file(self, path: Path, start_bytes: int) -> Iterator[bytes]:
        if not path.is_file():
            raise DownloadHTTPError(f"no file {path}", 404)
        return self._file_chunks(path, start_bytes)

    def _file_chunks(self, path: Path, start_bytes: int) -> Iterator[bytes]:
        try:
            with path.open("rb") as stream:
                stream.seek(start_bytes, os.SEEK_SET)
                while chunk := stream.read(self._settings.chunk_bytes):
                    yield chunk
        except OSError as error:
            raise DownloadError(f"cannot read {path}: {error.strerror}") from error


class BoundedFetcher(FetcherInterface):  # type: ignore[misc]  # python-tuf is untyped here
    """python-tuf's port: every metadata file ends within its deadline, python-tuf bounds its bytes."""

    def __init__(self, transport: Transport, settings: DownloadSettings, clock: Clock) -> None:
        self._transport = transport
        self._settings = settings
        self._clock = clock

    def _fetch(self, url: str) -> Iterator[bytes]:
        deadline_ns = self._clock.monotonic_ns() + round(self._settings.metadata_deadline_s * 1e9)
        _start, chunks = self._transport.open(url, 0, self._settings.metadata_deadline_s)
        return self._within(chunks, deadline_ns, url)

    def _within(self, chunks: Iterator[bytes], deadline_ns: int, url: str) -> Iterator[bytes]:
        for chunk in chunks:
            if self._clock.monotonic_ns() > deadline_ns:
                raise SlowRetrievalError(f"{url} took longer than {self._settings.metadata_deadline_s} s")
            yield chunk


@dataclass(frozen=True, slots=True)
class Downloaded:
    """How far a staged download is: complete, or to be continued in the next step."""

    bytes_total: int
    is_complete: bool


class StagedDownload:
    """Downloads a file of known length to `path`, a slice of time per call, resuming after any interruption.

    What is staged is untrusted until its hash is checked by the caller. Never writes more than
    `length_bytes`.
    """

    def __init__(self, transport: Transport, settings: DownloadSettings, clock: Clock) -> None:
        self._transport = transport
        self._settings = settings
        self._clock = clock

    def advance(self, url: str, path: Path, length_bytes: int, slice_s: float) -> Downloaded:
        """Download for at most about `slice_s` seconds; a server that is silent or trickles gets a read timeout more.

        Raises:
            SlowRetrievalError: slower than the bound over the whole slice, or silent; what was received is kept.
            DownloadError: interrupted, refused, or more bytes than `length_bytes` (endless data: the staged file is
                removed).
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        have = _own_bytes(path)
        if have > length_bytes:
            path.unlink()
            have = 0
        if have == length_bytes:
            return Downloaded(have, True)
        began_ns = self._clock.monotonic_ns()
        within_s = slice_s + self._settings.read_timeout_s
        begins, chunks = self._transport.open(url, have, within_s)
        received = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o644), "r+b") as stream:
            stream.truncate(begins)
            stream.seek(begins)
            at = begins
            for chunk in chunks:
                if at + len(chunk) > length_bytes:
                    path.unlink()
                    raise DownloadError(f"{url} gives more than the signed {length_bytes} bytes")
                stream.write(chunk)
                at += len(chunk)
                received += len(chunk)
                elapsed_s = (self._clock.monotonic_ns() - began_ns) / 1e9
                if at < length_bytes and elapsed_s >= slice_s:
                    self._check_speed(url, received, elapsed_s)
                    break
            else:
                if at < length_bytes:
                    raise DownloadError(f"{url} ended at {at} of {length_bytes} bytes")
            stream.flush()
            os.fsync(stream.fileno())
        return Downloaded(at, at == length_bytes)

    def _check_speed(self, url: str, received: int, elapsed_s: float) -> None:
        if received < self._settings.min_bytes_per_s * elapsed_s:
            raise SlowRetrievalError(
                f"{url} gave {received} bytes in {elapsed_s:.1f} s; "
                f"the least is {self._settings.min_bytes_per_s} bytes/s"
            )


def _own_bytes(path: Path) -> int:
    """Return the number of bytes staged so far. A link, symbolic or hard, is removed: it leads to a foreign file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return found.st_size
    path.unlink()
    return 0


def _late(url: str, deadline: WallDeadline) -> SlowRetrievalError:
    return SlowRetrievalError(f"{url} took longer than {deadline.seconds} s from connection to last byte")


def _starts_at(content_range: str, start_bytes: int) -> bool:
    return content_range.startswith(f"bytes {start_bytes}-")
