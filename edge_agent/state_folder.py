"""The layout of a vehicle's state folder: every path in it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

from foundation.documents import DocumentType
from foundation.errors import CorruptError
from foundation.events import EventLog
from foundation.files import json_bytes, read_document
from foundation.private import make_private


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths below `root`; makes folders, never files."""

    root: Path

    @property
    def key_path(self) -> Path:
        """The vehicle's private key (mode 0600)."""
        return self.root / "key.pem"

    @property
    def spool(self) -> Path:
        """Accepted samples and their ledger."""
        return self.root / "spool"

    @property
    def models(self) -> Path:
        """Model slots."""
        return self.root / "models"

    @property
    def trust(self) -> Path:
        """TUF metadata that was verified."""
        return self.root / "trust"

    @property
    def run(self) -> Path:
        """Status files of the processes; may be deleted while the agent is stopped."""
        return self.root / "run"

    @property
    def events(self) -> Path:
        """Events as JSON lines, one file per process."""
        return self.root / "events"

    @property
    def released_progress_path(self) -> Path:
        """The file in which earlier agents kept the resume position; now the spool carries it. Only read."""
        return self.root / "progress.journal"

    @property
    def deliver_epochs_path(self) -> Path:
        """The epochs of telemetry: the last one that was used."""
        return self.root / "deliver-epoch.json"

    def status_path(self, process: str) -> Path:
        """Return run/<process>.json: the status of perceive, deliver or supervisor."""
        return self.run / f"{process}.json"

    def beat_path(self, process: str) -> Path:
        """Return run/<process>.beat: the process's heartbeat (`heartbeat.py`)."""
        return self.run / f"{process}.beat"

    @property
    def crash_mark_path(self) -> Path:
        """run/perceive.mark: the observation at work, and those that crashed the process (`crash_mark.py`)."""
        return self.run / "perceive.mark"

    def lock_path(self, process: str) -> Path:
        """Return run/<process>.lock: one process of a kind at a time."""
        return self.run / f"{process}.lock"

    @property
    def health_socket(self) -> Path:
        """run/health.sock: the health page, for the owner of the folder."""
        return self.run / "health.sock"

    @property
    def drain_path(self) -> Path:
        """run/drain.json: the supervisor asks deliver to empty the spool and end."""
        return self.run / "drain.json"

    def make(self) -> None:
        """Make the folders that the agent writes to, for their owner only, also where they existed before.

        Raises:
            MisconfiguredError: that is not possible; names the folder.
        """
        for folder in (self.root, self.spool, self.models, self.trust, self.run, self.events):
            make_private(folder)


STATUS: Final = DocumentType.first("status", dict[str, Any])
"""The status of a process. Each key is read by itself: one of an unexpected type affects no other."""


def publish_json(path: Path, document: object) -> None:
    """Replace a status file: whole for every reader, not durable (no fsync: it must never stall a loop).

    A number that is not finite is written as null, so that no measurement prevents the status.
    """
    temporary = path.with_name(
        f".{path.name}.tmp"
    )  # one name: a file has one writer, and a kill leaves one at most
    temporary.write_bytes(json_bytes(_finite(STATUS.tree(document))))
    temporary.replace(path)


class StatusFile:
    """A status file of one process. A disk that refuses it is an event once, and no reason to stop."""

    def __init__(self, path: Path, events: EventLog) -> None:
        self._path = path
        self._events = events
        self._error = ""

    def publish(self, document: object) -> bool:
        """Replace the file; False when the disk refused."""
        try:
            publish_json(self._path, document)
        except OSError as error:
            if str(error.strerror) != self._error:
                self._error = str(error.strerror)
                self._events.emit("status_not_written", level="warning", error=str(error))
            return False
        if self._error:
            self._error = ""
            self._events.emit("status_written_again")
        return True


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def read_status(path: Path) -> dict[str, object]:
    """Return a status file's object, {} when there is none that can be read."""
    try:
        return read_document(path, STATUS)
    except (OSError, CorruptError):
        return {}
