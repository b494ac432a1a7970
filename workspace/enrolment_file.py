"""Load and save the enrolment, registry/vehicles.json."""

from __future__ import annotations

from pathlib import Path

from foundation.files import write_atomic
from schemas.enrolment import Enrolment


def load_enrolment(path: Path | str) -> Enrolment:
    """Load the enrolment; an empty one if there is no file yet. Raises CorruptError."""
    try:
        return Enrolment.from_json(Path(path).read_bytes(), path=path)
    except FileNotFoundError:
        return Enrolment()


def save_enrolment(enrolment: Enrolment, path: Path | str) -> None:
    """Save the enrolment atomically."""
    write_atomic(path, enrolment.to_json().encode())
