"""Write a segment: once `append` returned, its data is on disk; after one failure the file is never written again."""

from __future__ import annotations

import os
from pathlib import Path

from edge_agent.spool.segment import SegmentHead, encode_head
from foundation import syscalls
from foundation.files import fsync_folder


class SegmentFile:
    """A new segment. The file is made with its first append, so an empty one never stays behind."""

    def __init__(self, path: Path, head: SegmentHead) -> None:
        self._path = path
        self._head = head
        self._fd = -1
        self.number = head.number
        self.end_bytes = 0
        """The offset up to which everything is durable."""

    def append(self, data: bytes) -> None:
        """Write whole frames and return once they are on the disk. Raises OSError; then call `abandon`."""
        is_new = self._fd < 0
        if is_new:
            self._fd = syscalls.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
            data = encode_head(self._head) + data
        syscalls.write_all(self._fd, data)
        syscalls.fsync(self._fd)
        if is_new:
            fsync_folder(self._path.parent)
        self.end_bytes += len(data)

    def abandon(self) -> None:
        """Truncate to what is durable after a failure (or unlink), and close. Does what the disk allows."""
        try:
            if self._fd >= 0 and self.end_bytes:
                syscalls.truncate(self._fd, self.end_bytes)
            elif self._fd >= 0:
                syscalls.unlink(self._path)
        except OSError:
            pass  # the ledger does not count these bytes either way
        self.close()

    def close(self) -> None:
        """Close the descriptor. Syncs nothing."""
        if self._fd >= 0:
            try:
                syscalls.close(self._fd)
            except OSError:
                pass  # every byte that counts was synced
            self._fd = -1
