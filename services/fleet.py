"""The vehicles of a workspace with their keys and tags, and the lock under which the fleet changes."""

from __future__ import annotations

from dataclasses import dataclass

from foundation.clock import Clock
from foundation.files import FileLock
from rollout.fleet import active_vehicles, read_tags
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class FleetVehicle:
    """One vehicle of the registry. Not active: all of its keys are revoked."""

    vehicle_id: str
    is_active: bool
    key_ids: tuple[str, ...]
    tags: tuple[str, ...]


def list_fleet(place: Workspace) -> tuple[FleetVehicle, ...]:
    """Return every vehicle ever enrolled, by name; empty before the first. Raises CorruptError."""
    if not place.enrolment_path.is_file():
        return ()
    enrolment = load_enrolment(place.enrolment_path)
    active, tags = set(active_vehicles(enrolment)), read_tags(place.tags_path)
    return tuple(
        FleetVehicle(name, name in active, tuple(key.key_id for key in keys), tags.get(name, ()))
        for name, keys in sorted(enrolment.vehicles.items())
    )


def fleet_lock(place: Workspace, clock: Clock) -> FileLock:
    """Return the lock to hold while the fleet changes or is cut into waves, so that nobody enrols in between."""
    place.registry_path.mkdir(parents=True, exist_ok=True)
    return FileLock(place.registry_path / ".fleet.lock", wait_s=place.settings.lock_wait_s, clock=clock)
