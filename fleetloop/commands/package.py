"""`fleetloop package`: put the model to release and its evidence into one folder."""

from __future__ import annotations

import typer

from fleetloop.options import HERE, AsJson, Place
from fleetloop.terminal import print_json, say

app = typer.Typer(add_completion=False)


@app.command()
def package(place: Place = HERE, as_json: AsJson = False) -> None:
    """Put the model and its evidence into one folder that can be released, if they belong together."""
    from services import training as service

    document = dict(service.package(place))
    if as_json:
        print_json(document)
        return
    gate = document["gate"]
    say(
        f"packaged {document['model_name']} ({document['model_bytes']} "
        f"bytes, sha256 {document['model_digest']})"
    )
    say(f"gate {'passed' if gate['passed'] else 'refused'}: {gate['reason']}")
