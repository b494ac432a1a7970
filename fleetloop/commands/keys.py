"""`fleetloop keys`: list the keys that sign releases and rollouts, replace one, or renew signatures."""

from __future__ import annotations

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, say, show_table

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Show the keys that sign releases and rollouts; replace one.",
)


@app.callback()
def keys() -> None:
    """Show the keys that sign releases and rollouts; replace one."""


@app.command("list")
def list_keys(place: Place = HERE, as_json: AsJson = False) -> None:
    """List the private keys on this machine, and whether the repository trusts each. Never prints a private part."""
    from services import keys as service

    found = service.list_keys(place)
    if as_json:
        print_json(
            {
                "keys": [
                    {"role": key.role, "key_id": key.key_id, "trusted": key.is_trusted, "encrypted": key.is_encrypted,
                     "mode": key.mode, "path": key.path}
                    for key in found
                ]
            }
        )  # fmt: skip
        return
    no_yes = ("no", "yes")
    rows = [
        (key.role, key.key_id[:16], no_yes[key.is_trusted], no_yes[key.is_encrypted], key.path)
        for key in found
    ]
    show_table("signing keys on this machine", ("role", "key id", "trusted", "encrypted", "file"), rows)


@app.command()
def rotate(role: str, place: Place = HERE, as_json: AsJson = False) -> None:
    """Replace the key of ROLE (root, targets, snapshot, timestamp, models or rollouts); vehicles then follow."""
    from services.keys import rotate_key

    done = rotate_key(place, role)
    record(place, f"Replace the key of {role}")
    if as_json:
        news = {"key_id": done.key_id} if done.root_version is None else {"root_version": done.root_version}
        print_json({"role": role, **news})
        return
    say(f"the key of {role} was replaced; the old key file is trusted no more")


@app.command()
def refresh(place: Place = HERE, as_json: AsJson = False) -> None:
    """Renew the timestamp's signature. Run it daily: vehicles activate nothing once it has expired."""
    from services import keys as service

    signed = service.refresh(place)
    record(place, "Renew the timestamp's signature")
    if as_json:
        print_json({"signed": list(signed)})
        return
    say(f"signed again: {', '.join(signed)}")
