"""An append-only file of JSON lines: rows are durable once `append` returns, and readable with `tail -f`.

A crash may leave a partial row at the end, which readers ignore and the next append overwrites. A failed append removes
what it wrote; a reader that saw those rows reads the file again. Writers need a lock of the caller; readers need none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from foundation import syscalls
from foundation.documents import UnreadableRow, parse_json
from foundation.errors import CorruptError, RetryLaterError
from foundation.files import fsync_folder, write_atomic

T = TypeVar("T")
MAX_ROW_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 64 * 1024
"""How many of the last bytes read are compared at each reading, to detect that they were overwritten."""


class RowFile(Generic[T]):
    """The rows of one file, each a JSON object. It remembers its position, so that `news` reads only appended rows.

    Args:
        read: builds a row from an object and its name; raises CorruptError.
        is_strict: whether an unreadable row refuses the file; otherwise it is listed in `unreadable`.
    """

    def __init__(self, path: Path, read: Callable[[Any, str], T], *, is_strict: bool = True) -> None:
        self.path = path
        self.unreadable: list[UnreadableRow] = []
        self._read = read
        self._is_strict = is_strict
        self.rows_read = 0
        self._end = 0
        self._tail = b""
        self._inode = 0
        self._is_known = False

    def forget(self) -> None:
        """Let the next `news` return all rows."""
        self._is_known = False

    def news(self) -> tuple[bool, list[T]]:
        """Return whether these are all rows of the file, and the complete rows since the last call.

        They are all rows at the first call, after `forget` or a failed write, and if the file is missing, was replaced, or
        no longer holds what was read.

        Raises:
            CorruptError: a row cannot be read; names the line.
        """
        try:
            with self.path.open("rb") as stream:
                inode = os.fstat(stream.fileno()).st_ino
                stream.seek(self._end - len(self._tail))
                data = stream.read()
                is_anew = not self._is_known or inode != self._inode or not data.startswith(self._tail)
                if is_anew:
                    stream.seek(0)
                    data = stream.read()
        except FileNotFoundError:
            self._inode, self._end, self._tail, self.rows_read, self.unreadable = 0, 0, b"", 0, []
            return True, []
        end, tail, count = (0, b"", 0) if is_anew else (self._end, self._tail, self.rows_read)
        whole = data[len(tail) : data.rfind(b"\n") + 1]
        rows, unreadable = [], [] if is_anew else self.unreadable
        lines = whole.splitlines()
        for number, line in enumerate(lines, count + 1):
            try:
                rows.append(self._row(line, f"line {number}"))
            except CorruptError as error:
                if self._is_strict:
                    raise
                unreadable.append(UnreadableRow(number - 1, str(error), line))
        self._inode, self._is_known, self.unreadable = inode, True, unreadable
        self._end, self.rows_read = end + len(whole), count + len(lines)
        self._tail = (tail + whole)[-_TAIL_BYTES:]
        return is_anew, rows

    def append(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Append rows durably; the caller holds the lock and has read all news.

        Raises:
            RetryLaterError: writing failed; nothing counts as written, and the next `news` returns all rows.
        """
        lines = [_line(row) for row in rows]
        if not lines:
            return
        data = b"".join(lines)
        try:
            fd = syscalls.open(self.path, os.O_RDWR | os.O_CREAT)
            try:
                syscalls.truncate(fd, self._end)
                os.lseek(fd, self._end, os.SEEK_SET)
                syscalls.write_all(fd, data)
                syscalls.fsync(fd)
                inode = os.fstat(fd).st_ino
            except OSError:
                with suppress(OSError):  # the first error is reported
                    syscalls.truncate(fd, self._end)
                raise
            finally:
                syscalls.close(fd)
            if inode != self._inode:
                fsync_folder(self.path.parent)
        except OSError as error:
            self.forget()
            raise RetryLaterError(f"{self.path} cannot be written: {error.strerror}") from error
        self._inode, self._end, self.rows_read = inode, self._end + len(data), self.rows_read + len(lines)
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def replace(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Replace the content by these rows atomically. Raises RetryLaterError."""
        lines = [_line(row) for row in rows]
        data = b"".join(lines)
        try:
            write_atomic(self.path, data)
            self._inode = self.path.stat().st_ino
        except OSError as error:
            self.forget()
            raise RetryLaterError(f"{self.path} cannot be written: {error.strerror}") from error
        self._end, self._tail, self.rows_read = len(data), data[-_TAIL_BYTES:], len(lines)
        self._is_known = True

    def _row(self, line: bytes, name: str) -> T:
        row = parse_json(line, name, family=self._damaged, max_bytes=MAX_ROW_BYTES)
        if not isinstance(row, dict):
            raise self._damaged(f"{name} is not a JSON object")
        return self._read(row, name)

    def _damaged(self, message: str) -> CorruptError:
        return CorruptError(message, path=self.path)


def _line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n"
