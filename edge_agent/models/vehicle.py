"""The identity of this vehicle for rollout plans: written once at enrolment, read by both processes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from foundation.documents import DocumentType, Meta
from foundation.errors import MisconfiguredError
from foundation.files import read_document, write_document
from schemas.documents import VehicleId


@dataclass(frozen=True, slots=True)
class Vehicle:
    """`enrolled_time_ns` is the fleet's clock at enrolment, not this vehicle's."""

    vehicle_id: VehicleId
    key_id: str
    enrolled_time_ns: Annotated[int, Meta(ge=0)]
    tags: tuple[str, ...] = ()


VEHICLE: Final = DocumentType.first("vehicle", Vehicle)


def write_vehicle(state_folder: Path, vehicle: Vehicle) -> None:
    """Put `vehicle.json` into a state folder, durably."""
    tagged = replace(vehicle, tags=tuple(sorted(vehicle.tags)))
    write_document(state_folder / "vehicle.json", VEHICLE, tagged)


def read_vehicle(state_folder: Path) -> Vehicle:
    """Read `vehicle.json`.

    Raises:
        MisconfiguredError: there is none; this vehicle was never enrolled.
        CorruptError: it is not what enrolment wrote.
    """
    path = state_folder / "vehicle.json"
    try:
        return read_document(path, VEHICLE)
    except OSError as error:
        raise MisconfiguredError(
            f"{path} cannot be read ({error.strerror}): run `fleetloop enroll` first"
        ) from error
