"""`fleetloop package`: the shipped model and its evidence in one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

app = typer.Typer(add_completion=False)


@app.command()
def package(
    workspace: Annotated[Path, typer.Option(help="The workspace.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Put the model and its evidence into one folder that can be released, if they belong together."""
    from training.stages import Places, run_package
    from workspace.layout import Workspace

    document = run_package(Places.of(Workspace.open(workspace).root))
    if as_json:
        print(json.dumps(document, sort_keys=True))
        return
    gate = cast(dict[str, Any], document["gate"])
    typer.echo(
        f"packaged {document['model_name']} ({document['model_bytes']} "
        f"bytes, sha256 {document['model_digest']})"
    )
    typer.echo(f"gate {'passed' if gate['passed'] else 'refused'}: {gate['reason']}")
