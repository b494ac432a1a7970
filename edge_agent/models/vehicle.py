"""Who this vehicle is to a rollout plan: written once at enrolment, read by both processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foundation.errors import CorruptError, MisconfiguredError
from foundation.files import read_json, write_json_atomic
from schemas.identity import is_vehicle_id

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Vehicle:
    """`enrolled_time_ns` is the fleet's clock at enrolment, not this vehicle's."""

    vehicle_id: str
    key_id: str
    enrolled_time_ns: int
    tags: tuple[str, ...] = ()


def write_vehicle(state_folder: Path, vehicle: Vehicle) -> None:
    """Put `vehicle.json` into a state folder, durably."""
    document = {
        "format": FORMAT,
        "vehicle_id": vehicle.vehicle_id,
        "key_id": vehicle.key_id,
        "enrolled_time_ns": vehicle.enrolled_time_ns,
        "tags": sorted(vehicle.tags),
    }
    write_json_atomic(state_folder / "vehicle.json", document)


def read_vehicle(state_folder: Path) -> Vehicle:
    """What `vehicle.json` says.

    Raises:
        MisconfiguredError: there is none; this vehicle was never enrolled.
        CorruptError: it is not what enrolment wrote.
    """
    path = state_folder / "vehicle.json"
    try:
        document = read_json(path)
    except OSError as error:
        raise MisconfiguredError(
            f"{path} cannot be read ({error.strerror}): run `fleetloop enroll` first"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CorruptError(f"is not a format {FORMAT} vehicle", path=path)
    name, key_id, enrolled, tags = (
        document.get(k) for k in ("vehicle_id", "key_id", "enrolled_time_ns", "tags")
    )
    if not isinstance(name, str) or not is_vehicle_id(name) or not isinstance(key_id, str):
        raise CorruptError(f"vehicle_id {name!r} or key_id {key_id!r} is malformed", path=path)
    if (
        not isinstance(enrolled, int)
        or not isinstance(tags, list)
        or not all(isinstance(tag, str) for tag in tags)
    ):
        raise CorruptError(f"enrolled_time_ns {enrolled!r} or tags {tags!r} is malformed", path=path)
    return Vehicle(name, key_id, enrolled, tuple(tags))
