"""A journal of a snapshot followed by changes: bounded on disk, repaired by rewriting it, readable by other processes.

Its owner holds the whole state in memory, so whatever the disk does to the journal, the next snapshot repairs it: it
is written to another file, synced and renamed. A snapshot is written twice, so that one flipped bit does no harm.
`Follower` is the other side: it reads what another process has written so far, and starts over when a snapshot replaced
the file. Refuses to continue a file whose fsync failed, and to grow beyond a few snapshots.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from foundation import syscalls
from foundation.errors import CorruptError, RejectedError
from foundation.files import fsync_folder
from foundation.framing import Damage, ScannedFrame, encode_frame, scan

SNAPSHOT: Final = 1
"""The kind of a snapshot frame, in every log of states."""

_LEAST_BYTES: Final = 256_000
_GROWTH: Final = 6
_TEMPORARY: Final = ".new"


class State(Protocol):
    """The state that a log records."""

    def apply(self, kind: int, value: object) -> None:
        """Apply one frame. Raises CorruptError."""

    def snapshot(self) -> dict[str, object]:
        """Return the whole state as the object of a snapshot frame."""


class StateLog:
    """The owner's side. Changes are applied to `state` first, then appended: memory is never behind the file."""

    def __init__(
        self,
        path: Path,
        state: State,
        *,
        reserve_bytes: int = 0,
        before_snapshot: Callable[[], None] | None = None,
        short_snapshot: Callable[[], dict[str, object]] | None = None,
    ) -> None:
        """`short_snapshot` is what is written when the disk and the reserve have no room for the whole one."""
        self._path = path
        self._reserve_path = path.with_suffix(".reserve")
        self._reserve_bytes = reserve_bytes
        self._state = state
        self.before_snapshot = before_snapshot
        self._short_snapshot = short_snapshot
        self._fd = -1
        self._size_bytes = 0
        self._limit_bytes = _LEAST_BYTES
        self._is_synced = False
        self.last_error = ""

    @property
    def is_broken(self) -> bool:
        """Whether the file is behind the state; the next `append` or `sync` tries to rewrite it."""
        return self._fd < 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the file, as far as it is known."""
        return self._size_bytes

    def record(self, kind: int, value: dict[str, object]) -> bool:
        """Apply a change and append it. False when the disk refused; then the state still has it."""
        self._state.apply(kind, value)
        if self.is_broken or self._size_bytes > self._limit_bytes:
            return self.rewrite()  # the snapshot holds the change
        frame = encode_frame(kind, b"", _json(value))
        try:
            syscalls.write_all(self._fd, frame)
        except OSError as error:
            self._break(error)
            return self.rewrite()
        self._size_bytes += len(frame)
        self._is_synced = False
        return True

    def sync(self) -> bool:
        """Sync every change so far; return whether it is on disk. A failed fsync is never retried on the same file."""
        if self.is_broken:
            return self.rewrite()
        if self._is_synced:
            return True
        try:
            syscalls.fsync(self._fd)
        except OSError as error:
            self._break(error)
            return self.rewrite()
        self._is_synced = True
        return True

    def rewrite(self) -> bool:
        """Replace the file by a snapshot of the state, durable when this returns True. Gives up the reserve to do so."""
        if self.before_snapshot is not None:
            self.before_snapshot()
        try:
            data = _twice(self._state.snapshot())
            is_written = self._replace(data) or (self._release_reserve() and self._replace(data))
        except RejectedError as error:  # larger than a frame may be
            if self._short_snapshot is None:
                raise
            is_written, self.last_error = False, str(error)
        if not is_written:
            if self._short_snapshot is None:
                return False
            data = _twice(self._short_snapshot())
            if not self._replace(data):
                return False
        self._limit_bytes = max(_LEAST_BYTES, _GROWTH * len(data))
        self._keep_reserve()
        self.last_error = ""
        return True

    def _replace(self, data: bytes) -> bool:
        temporary = self._path.with_name(self._path.name + _TEMPORARY)
        fd = -1
        try:
            fd = syscalls.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            syscalls.write_all(fd, data)
            syscalls.fsync(fd)
            syscalls.rename(temporary, self._path)
        except OSError as error:
            if fd >= 0:
                _close(fd)
            try:
                syscalls.unlink(temporary)
            except OSError:
                pass  # the first failure is the one to report
            self._break(error)
            return False
        if self._fd >= 0:
            _close(self._fd)
        self._fd = fd
        self._size_bytes = len(data)
        try:
            fsync_folder(self._path.parent)
        except OSError as error:
            self._break(error)
            return False
        self._is_synced = True
        return True

    def _break(self, error: OSError) -> None:
        self.last_error = f"{self._path.name}: {error.strerror}"
        self._is_synced = False
        if self._fd >= 0:
            _close(self._fd)
            self._fd = -1

    def _release_reserve(self) -> bool:
        try:
            syscalls.unlink(self._reserve_path)
        except OSError:
            return False
        return True

    def _keep_reserve(self) -> None:
        """Reserve bytes again; on a full disk the next snapshot retries it."""
        if self._reserve_bytes <= 0 or self._reserve_path.exists():
            return
        try:
            fd = syscalls.open(self._reserve_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except OSError:
            return
        try:
            syscalls.write_all(fd, bytes(self._reserve_bytes))
        except OSError:
            self._release_reserve()
        finally:
            _close(fd)

    def close(self) -> None:
        """Close the descriptor. Syncs nothing."""
        if self._fd >= 0:
            _close(self._fd)
            self._fd = -1


S = TypeVar("S", bound=State)


class Follower(Generic[S]):
    """The side of other readers: what the owner has written so far. A new snapshot replaces `state`."""

    def __init__(self, path: Path, make_state: Callable[[], S]) -> None:
        self._path = path
        self._make_state = make_state
        self._fd = -1  # kept open: an inode that is held cannot be given to the next snapshot
        self.read_bytes = 0
        self.state: S = make_state()
        self.damaged = 0

    def poll(self) -> bool:
        """Read what is new; return whether there was anything. A half-written last frame is left for the next time.

        Raises:
            CorruptError: the file cannot be read, or a whole frame makes no sense.
        """
        is_new_file = self._reopen()
        if self._fd < 0:
            return False
        start = self.read_bytes
        size_bytes = os.fstat(self._fd).st_size
        if size_bytes <= start:
            return is_new_file
        try:
            data = _pread_all(self._fd, size_bytes - start, start)
        except OSError as error:
            raise CorruptError(
                f"cannot be read: {error.strerror}", path=self._path, offset_bytes=start
            ) from error
        for item in scan(data):
            if isinstance(item, Damage):
                if item.end == len(data):
                    break
                self.damaged += 1
                continue
            self.state.apply(item.kind, _parse(data, item, self._path))
            self.read_bytes = start + item.end
        return True

    def _reopen(self) -> bool:
        """Return whether the file was replaced since the last poll; then the state starts over."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise CorruptError(f"cannot be opened: {error.strerror}", path=self._path) from error
        if self._fd >= 0 and os.path.sameopenfile(fd, self._fd):
            os.close(fd)
            return False
        self.close()
        self._fd, self.read_bytes, self.damaged = fd, 0, 0
        self.state = self._make_state()
        return True

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _pread_all(fd: int, length: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return b"".join(parts)


def _parse(data: bytes, frame: ScannedFrame, path: Path) -> object:
    try:
        value: object = json.loads(data[frame.body_offset : frame.body_offset + frame.body_bytes])
    except (ValueError, RecursionError) as error:
        raise CorruptError("a frame is not JSON", path=path, offset_bytes=frame.offset) from error
    return value


def _twice(snapshot: dict[str, object]) -> bytes:
    return encode_frame(SNAPSHOT, b"", _json(snapshot)) * 2


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _close(fd: int) -> None:
    try:
        syscalls.close(fd)
    except OSError:
        pass  # what matters was synced or is known to be not
