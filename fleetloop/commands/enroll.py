"""`fleetloop enroll`: give a vehicle its own key, the fleet's trust root and its first model; or revoke its
keys.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from foundation.clock import Clock, SystemClock
from foundation.errors import MisconfiguredError

if TYPE_CHECKING:
    from edge_agent.models.vehicle import Vehicle
    from foundation.files import FileLock
    from workspace.layout import Workspace

app = typer.Typer(add_completion=False)
TAGS_NAME = "tags.json"
_STATE = typer.Option(None, "--state", help="The vehicle's state folder, made if missing.")
_MODEL = typer.Option(None, "--model", help="First model, instead of the one that serves now.")
_WORKSPACE = typer.Option(Path(), "--workspace", help="Folder made by `fleetloop init`.")


@app.command()
def enroll(
    vehicle: str = typer.Argument(..., help="Name of the vehicle: lower-case letters, digits, hyphens."),
    state: Path | None = _STATE,
    tags: str = typer.Option("", "--tags", help="Words that rollouts may ask for, with commas."),
    model: Path | None = _MODEL,
    revoke: bool = typer.Option(False, "--revoke", help="Revoke every key of the vehicle instead."),
    workspace: Path = _WORKSPACE,
    as_json: bool = typer.Option(False, "--json", help="One JSON document on standard output."),
) -> None:
    """Enrol a vehicle: its own key, its first model, its trust root. Doing it again changes nothing."""
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    if revoke:
        revoke_vehicle(place, vehicle, SystemClock())
        document: dict[str, object] = {"vehicle_id": vehicle, "revoked": True}
    else:
        if state is None:
            raise MisconfiguredError(
                "--state is missing: name the folder in which the vehicle keeps its state"
            )
        words = [word.strip() for word in tags.split(",") if word.strip()]
        done = enrol_vehicle(place, vehicle, state, words, SystemClock(), model_path=model)
        document = {
            "vehicle_id": done.vehicle_id,
            "key_id": done.key_id,
            "tags": list(done.tags),
            "state": str(state),
            "revoked": False,
        }
    if as_json:
        print(json.dumps(document, sort_keys=True, indent=2))
    elif revoke:
        typer.echo(f"every key of {vehicle} is revoked: ingest rejects what it signs from now on")
    else:
        typer.echo(f"{vehicle} is enrolled with key {document['key_id']}; its state is in {state}")


def enrol_vehicle(
    place: Workspace,
    vehicle_id: str,
    state: Path,
    tags: Sequence[str],
    clock: Clock,
    *,
    model_path: Path | None = None,
) -> Vehicle:
    """Make a state folder that an agent can start from. Each step may be the last before a crash: run it
    again.

    The vehicle is held out of a running rollout before anything of it can be read by the vehicle: that
    rollout's waves were cut without it. `vehicle.json` is written last: without it no agent starts.

    Raises:
        MisconfiguredError: a malformed name, a state folder of another vehicle, no model, no workspace keys.
        RejectedError: the model's bytes are refused, or the folder holds another first model.
    """
    from edge_agent.models.slots import install_initial
    from edge_agent.models.trust_folder import TrustFolder
    from edge_agent.models.vehicle import Vehicle, read_vehicle, write_vehicle
    from rollout.fleet import read_tags, write_tags
    from rollout.repository import Repository
    from rollout.service import RolloutService
    from schemas.enrolment import EnrolledKey, Enrolment
    from schemas.identity import VEHICLE_ID_PATTERN, is_vehicle_id
    from schemas.signing import VehicleKey

    if not is_vehicle_id(vehicle_id):
        raise MisconfiguredError(f"vehicle name {vehicle_id!r} is not of the form {VEHICLE_ID_PATTERN}")
    if (state / "vehicle.json").exists() and read_vehicle(state).vehicle_id != vehicle_id:
        raise MisconfiguredError(
            f"{state} is the state folder of {read_vehicle(state).vehicle_id}, not {vehicle_id}"
        )
    model_bytes = (model_path or _serving_model(place)).read_bytes()
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_path = state / "key.pem"
    if not key_path.exists():
        VehicleKey.generate().save(key_path)
    key = VehicleKey.load(key_path)
    repository = Repository(place.tuf_path, place.keys_path, clock=clock)
    with fleet_lock(place, clock):
        enrolment = Enrolment.load(place.enrolment_path)
        if vehicle_id not in enrolment.vehicles:
            RolloutService(repository, rollouts_folder(place), clock).hold_out(vehicle_id)
        known = {each.key_id: each for each in enrolment.vehicles.get(vehicle_id, ())}
        if key.key_id in known:
            entry = known[key.key_id]
        else:
            entry = EnrolledKey(vehicle_id, key.key_id, key.public_b64, clock.now_ns())
            enrolment.with_key(entry).save(place.enrolment_path)
        tags_path = place.registry_path / TAGS_NAME
        if tags or vehicle_id not in read_tags(tags_path):
            write_tags(tags_path, {**read_tags(tags_path), vehicle_id: tuple(tags)})
        kept = read_tags(tags_path)[vehicle_id]
    TrustFolder(state).install(repository.root_bytes())
    install_initial(state, model_bytes, clock)
    vehicle = Vehicle(vehicle_id, key.key_id, entry.enrolled_time_ns, kept)
    write_vehicle(state, vehicle)
    return vehicle


def revoke_vehicle(place: Workspace, vehicle_id: str, clock: Clock) -> None:
    """Revoke every key of a vehicle. Raises MisconfiguredError when it has none."""
    from schemas.enrolment import Enrolment

    with fleet_lock(place, clock):
        enrolment = Enrolment.load(place.enrolment_path)
        enrolment.with_revoked(vehicle_id, clock.now_ns()).save(place.enrolment_path)


def fleet_lock(place: Workspace, clock: Clock) -> FileLock:
    """Held while the fleet changes, and while a rollout cuts it into waves: nobody enrols in between."""
    from foundation.files import FileLock

    place.registry_path.mkdir(parents=True, exist_ok=True)
    return FileLock(place.registry_path / ".fleet.lock", wait_s=place.settings.lock_wait_s, clock=clock)


def rollouts_folder(place: Workspace) -> Path:
    """Where the fleet's side of rollouts is kept: state.json, reports.json, history.jsonl."""
    return place.registry_path / "rollouts"


def _serving_model(place: Workspace) -> Path:
    from training.registry import serving_name

    name, _digest = serving_name(place.registry_path)
    return place.models_path / name / "model.onnx"
