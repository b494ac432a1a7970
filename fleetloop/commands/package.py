"""`fleetloop package`: the shipped model and its evidence in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from fleetloop.options import AsJson, WorkspacePath

app = typer.Typer(add_completion=False)


@app.command()
def package(workspace: WorkspacePath = Path(), as_json: AsJson = False) -> None:
    """Put the model and its evidence into one folder that can be released, if they belong together."""
    from services import training as service
    from workspace.layout import Workspace

    document = dict(service.package(Workspace.open(workspace)))
    if as_json:
        print(json.dumps(document, sort_keys=True))
        return
    gate = document["gate"]
    typer.echo(
        f"packaged {document['model_name']} ({document['model_bytes']} "
        f"bytes, sha256 {document['model_digest']})"
    )
    typer.echo(f"gate {'passed' if gate['passed'] else 'refused'}: {gate['reason']}")
