"""A file of JSON lines to which rows are appended: durable once `append` returns, readable with `tail -f`.

A crash may leave half a row at the end: no reader takes it, and the next append writes over it. Writers exclude each
other by a lock of the caller; readers need none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foundation import syscalls
from foundation.documents import parse_json
from foundation.errors import CorruptError, RetryLaterError
from foundation.files import fsync_folder, write_atomic

MAX_ROW_BYTES = 16 * 1024 * 1024


class RowFile:
    """The rows of one file, each a JSON object. Keeps its place, so that `news` reads only what was appended since."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows_read = 0
        self._end = 0
        self._inode = 0

    def news(self) -> tuple[bool, list[Any]]:
        """Whole rows since the last call, and whether they are all rows there are: the first call, or a replaced file.

        Raises:
            CorruptError: a row is not JSON; names the line.
        """
        try:
            with self.path.open("rb") as stream:
                found = os.fstat(stream.fileno())
                is_anew = found.st_ino != self._inode or found.st_size < self._end
                if is_anew:
                    self._inode, self._end, self.rows_read = found.st_ino, 0, 0
                stream.seek(self._end)
                data = stream.read()
        except FileNotFoundError:
            is_anew, self._inode, self._end, self.rows_read = self._inode != 0, 0, 0, 0
            return is_anew, []
        whole = data[: data.rfind(b"\n") + 1]
        rows = []
        for line in whole.splitlines():
            self.rows_read += 1
            name = f"line {self.rows_read}"
            row = parse_json(line, name, family=self._damaged, max_bytes=MAX_ROW_BYTES)
            if not isinstance(row, dict):
                raise self._damaged(f"{name} is no object")
            rows.append(row)
        self._end += len(whole)
        return is_anew, rows

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Put rows behind what `news` has read, durably; the caller holds the lock and has read all news.

        Raises:
            RetryLaterError: the disk refused; nothing counts as written.
        """
        lines = [_line(row) for row in rows]
        if not lines:
            return
        data = b"".join(lines)
        try:
            fd = syscalls.open(self.path, os.O_RDWR | os.O_CREAT)
            try:
                os.ftruncate(fd, self._end)
                os.lseek(fd, self._end, os.SEEK_SET)
                syscalls.write_all(fd, data)
                syscalls.fsync(fd)
                inode = os.fstat(fd).st_ino
            finally:
                syscalls.close(fd)
            if inode != self._inode:
                fsync_folder(self.path.parent)
        except OSError as error:
            raise RetryLaterError(f"{self.path} cannot be written: {error.strerror}") from error
        self._inode, self._end, self.rows_read = inode, self._end + len(data), self.rows_read + len(lines)

    def replace(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Compact: these rows and no others, whole or not at all. Raises RetryLaterError."""
        lines = [_line(row) for row in rows]
        data = b"".join(lines)
        try:
            write_atomic(self.path, data)
            self._inode = self.path.stat().st_ino
        except OSError as error:
            raise RetryLaterError(f"{self.path} cannot be written: {error.strerror}") from error
        self._end, self.rows_read = len(data), len(lines)

    def _damaged(self, message: str) -> CorruptError:
        return CorruptError(message, path=self.path)


def _line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n"
