"""The file of enrolled keys, registry/vehicles.json."""

from __future__ import annotations

from pathlib import Path

from foundation.files import write_atomic
from schemas.enrolment import Enrolment


def load_enrolment(path: Path | str) -> Enrolment:
    """The enrolment in a file; an empty one when there is no file yet. Raises CorruptError."""
    try:
        return Enrolment.from_json(Path(path).read_bytes(), path=path)
    except FileNotFoundError:
        return Enrolment()


def save_enrolment(enrolment: Enrolment, path: Path | str) -> None:
    """Replace the file atomically."""
    write_atomic(path, enrolment.to_json().encode())
