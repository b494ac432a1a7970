"""`fleetloop enroll`: give a vehicle its own key, the fleet's trust root and a first model; or revoke its keys."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import typer

from fleetloop.options import HERE, AsJson, Place, record, words
from fleetloop.terminal import print_json, say
from foundation.clock import SystemClock
from foundation.errors import MisconfiguredError

app = typer.Typer(add_completion=False)
_STATE = typer.Option(None, "--state", help="The vehicle's state folder, created if missing.")
_MODEL = typer.Option(None, "--model", help="First model, instead of the one that serves now.")


@app.command()
def enroll(
    vehicle: str = typer.Argument(..., help="Name of the vehicle: lower-case letters, digits, hyphens."),
    state: Path | None = _STATE,
    tags: str = typer.Option("", "--tags", help="Comma-separated tags that rollouts may select by."),
    model: Path | None = _MODEL,
    revoke: bool = typer.Option(False, "--revoke", help="Revoke every key of the vehicle instead."),
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Enrol a vehicle: its own key, its first model, its trust root. Repeating it changes nothing."""
    from services.enrol import enrol_vehicle, revoke_vehicle

    if revoke:
        revoke_vehicle(place, vehicle, SystemClock())
        document: dict[str, object] = {"vehicle_id": vehicle, "revoked": True}
        told = f"every key of {vehicle} is revoked: ingest rejects what it signs from now on"
    else:
        if state is None:
            raise MisconfiguredError(
                "--state is missing: name the folder in which the vehicle keeps its state"
            )
        done = enrol_vehicle(
            place,
            vehicle,
            state,
            words(tags),
            SystemClock(),
            model_path=model,
            warn=partial(say, err=True),
        )
        document = {
            "vehicle_id": done.vehicle_id,
            "key_id": done.key_id,
            "tags": list(done.tags),
            "state": str(state),
            "revoked": False,
        }
        told = f"{vehicle} is enrolled with key {done.key_id}; its state is in {state}"
    record(place, f"{'Revoke' if revoke else 'Enrol'} {vehicle}")
    print_json(document) if as_json else say(told)
