"""`fleetloop base`: show or choose the model that the next training starts from and is compared with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, say

app = typer.Typer(add_completion=False)


@app.command()
def base(
    model: Annotated[
        str, typer.Argument(help="Name of a registered model; without one the base is shown.")
    ] = "",
    serving: Annotated[bool, typer.Option("--serving", help="Choose the fleet's serving model.")] = False,
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Show or choose the base of the next training.

    A rollout never changes it: otherwise the model that was just rolled out would look stale.
    """
    from services import training as service

    if model and serving:
        raise typer.BadParameter("MODEL and --serving exclude each other")
    if model or serving:
        found = service.choose_base(place, model)
        record(place, f"Train from {found.base.name if found.base else model}")
    else:
        found = service.bases(place)
    if as_json:
        document = {
            "base": asdict(found.base) if found.base else None,
            "serving": asdict(found.serving) if found.serving else None,
        }
        print_json(document)
        return
    for word, each in (("base   ", found.base), ("serving", found.serving)):
        say(f"{word} {each.name} {each.digest}" if each else f"{word} none yet")
    if found.serving is not None and found.base != found.serving:
        say("the next training does not start from the fleet's serving model: `fleetloop base --serving`")
