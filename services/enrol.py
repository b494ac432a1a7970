"""Enrol a vehicle with its own key, the fleet's trust root and a first model; revoke its keys."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.key_file import load_key, save_key
from edge_agent.models.slots import install_initial
from edge_agent.models.trust_folder import TrustFolder
from edge_agent.models.vehicle import Vehicle, read_vehicle, write_vehicle
from foundation.clock import Clock
from foundation.errors import MisconfiguredError
from foundation.private import close_tree_to_others, make_private
from rollout.fleet import read_tags, write_tags
from rollout.repository import Repository
from rollout.service import RolloutService
from schemas.enrolment import EnrolledKey
from schemas.identity import VEHICLE_ID_PATTERN, is_vehicle_id
from schemas.signing import VehicleKey
from services.fleet import fleet_lock
from workspace.enrolment_file import load_enrolment, save_enrolment
from workspace.layout import Workspace
from workspace.served_models import serving_name

_LOG = logging.getLogger(__name__)


def enrol_vehicle(
    place: Workspace,
    vehicle_id: str,
    state: Path,
    tags: Sequence[str],
    clock: Clock,
    *,
    model_path: Path | None = None,
    warn: Callable[[str], object] = _LOG.warning,
) -> Vehicle:
    """Create a state folder that an agent can start from. After a crash, run it again: every step is idempotent.

    `warn` is told of files in the folder that stay open to other accounts.

    The vehicle is excluded from a running rollout before it can read anything of that rollout, whose waves were cut
    without it. `vehicle.json` is written last: without it no agent starts.

    Raises:
        MisconfiguredError: a malformed name, a state folder of another vehicle, no model, no workspace keys.
        RejectedError: the model does not pass verification, or the folder holds another first model.
    """
    if not is_vehicle_id(vehicle_id):
        raise MisconfiguredError(f"vehicle name {vehicle_id!r} is not of the form {VEHICLE_ID_PATTERN}")
    if (state / "vehicle.json").exists() and read_vehicle(state).vehicle_id != vehicle_id:
        raise MisconfiguredError(
            f"{state} is the state folder of {read_vehicle(state).vehicle_id}, not {vehicle_id}"
        )
    model_bytes = (model_path or serving_model(place)).read_bytes()
    make_private(state)
    closed = close_tree_to_others(state)
    if closed.refused:
        warn(str(closed))
    key_path = state / "key.pem"
    if not key_path.exists():
        save_key(VehicleKey.generate(), key_path)
    key = load_key(key_path)
    repository = Repository(place.tuf_path, place.keys_path, clock=clock)
    with fleet_lock(place, clock):
        enrolment = load_enrolment(place.enrolment_path)
        if vehicle_id not in enrolment.vehicles:
            RolloutService(repository, place.rollouts_path, clock).hold_out(vehicle_id)
        known = {each.key_id: each for each in enrolment.vehicles.get(vehicle_id, ())}
        if key.key_id in known:
            entry = known[key.key_id]
        else:
            entry = EnrolledKey(vehicle_id, key.key_id, key.public_b64, clock.now_ns())
            save_enrolment(enrolment.with_key(entry), place.enrolment_path)
        if tags or vehicle_id not in read_tags(place.tags_path):
            write_tags(place.tags_path, {**read_tags(place.tags_path), vehicle_id: tuple(tags)})
        kept = read_tags(place.tags_path)[vehicle_id]
    TrustFolder(state).install(repository.root_bytes())
    install_initial(state, model_bytes, clock)
    vehicle = Vehicle(vehicle_id, key.key_id, entry.enrolled_time_ns, kept)
    write_vehicle(state, vehicle)
    return vehicle


def revoke_vehicle(place: Workspace, vehicle_id: str, clock: Clock) -> None:
    """Revoke every key of a vehicle. Raises MisconfiguredError when it has none."""
    with fleet_lock(place, clock):
        enrolment = load_enrolment(place.enrolment_path)
        save_enrolment(enrolment.with_revoked(vehicle_id, clock.now_ns()), place.enrolment_path)


def serving_model(place: Workspace) -> Path:
    """Return the file of the fleet's serving model. Raises MisconfiguredError when there is none yet."""
    name, _digest = serving_name(place)
    return place.models_path / name / "model.onnx"
