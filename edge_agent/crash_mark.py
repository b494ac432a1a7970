"""Record which observation was being processed when the process crashed, so that one that crashes it again is skipped.

A mark is a store to a file that is mapped into memory: it costs no system call and outlives the process. An observation
during which the process crashed twice (ended by a fault signal, or ended because it hung) is skipped from then on. A
crash that a model may have caused (see `ModelSet.is_suspect`) counts a third of that, so that the model gives way first,
but no observation is tried for ever.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from edge_agent.heartbeat import Activity, map_file

OWN_CRASH, DOUBTFUL_CRASH = 3, 1
"""What a crash counts against the observation, and what one counts that a model may have caused."""
SKIPPED_FROM = 6
"""So much skips the observation: two crashes. Why not the first? A crash may have had any cause."""
REMEMBERED = 4096
"""Observations with a crash; the file has 24 bytes for each."""
_DIGEST_BYTES = 16
_ROW = struct.Struct(f"<{_DIGEST_BYTES}sQ")
_NONE = bytes(_DIGEST_BYTES)


def observation_key(source_id: str, place: str, lap: int) -> bytes:
    """Return 16 bytes that identify one playback of one observation."""
    return hashlib.sha256(f"{source_id}\0{place}\0{lap}".encode()).digest()[:_DIGEST_BYTES]


class CrashMark:
    """The mark of the current observation. One thread only. Without room for its file it does nothing: see `error`.

    The file: the key of the observation that is looked at now (zeros for none), then rows of key and count, oldest first.
    """

    def __init__(self, path: Path, *, crashed_in: Activity | None, is_model_suspect: bool) -> None:
        """`crashed_in`: what the previous process was doing when it crashed or hung; None when it did neither.

        `is_model_suspect`: a model may have caused a crash in `Activity.MODEL`.
        """
        self.error = ""
        self._at_work: memoryview | None = None
        at_work, self._crashes = _read(path)
        if crashed_in in (Activity.WORKING, Activity.MODEL) and at_work != _NONE:
            is_doubtful = is_model_suspect and crashed_in is Activity.MODEL
            count = DOUBTFUL_CRASH if is_doubtful else OWN_CRASH
            self._crashes[at_work] = self._crashes.pop(at_work, 0) + count
            while len(self._crashes) > REMEMBERED:
                del self._crashes[next(iter(self._crashes))]
        try:
            mapped = map_file(path, _DIGEST_BYTES + REMEMBERED * _ROW.size)
        except OSError as error:
            self.error = f"{path}: {error.strerror}"
            return
        for number, row in enumerate(self._crashes.items()):
            _ROW.pack_into(mapped, _DIGEST_BYTES + number * _ROW.size, *row)
        self._at_work = mapped[:_DIGEST_BYTES]

    def begin(self, key: bytes) -> bool:
        """Mark the observation as being processed; return False when it must be skipped instead."""
        if self._crashes and self._crashes.get(key, 0) >= SKIPPED_FROM:
            return False
        if self._at_work is not None:
            self._at_work[:] = key
        return True

    def end(self) -> None:
        """Clear the mark: the observation was processed."""
        if self._at_work is not None:
            self._at_work[:] = _NONE


def _read(path: Path) -> tuple[bytes, dict[bytes, int]]:
    try:
        data = path.read_bytes()
    except OSError:
        data = b""
    if len(data) != _DIGEST_BYTES + REMEMBERED * _ROW.size:
        return _NONE, {}
    rows = dict(_ROW.iter_unpack(data[_DIGEST_BYTES:]))
    return data[:_DIGEST_BYTES], {key: crashes for key, crashes in rows.items() if key != _NONE}
