"""`fleetloop evaluate`: both models on the held-out test set, slice by slice, and the gate's verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.options import AsJson, WorkspacePath, record
from foundation.errors import RejectedError

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    workspace: WorkspacePath = Path(),
    require_pass: Annotated[bool, typer.Option(help="Exit with 65 when the gate refuses.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare both models on the held-out test set and pass the gate, or not.

    A refusal is a result: it is written into reports/gate.json, and release acts on it.
    """
    from services import training as service
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    found = service.evaluate(place)
    record(place, "Evaluate the candidate")
    gate = found["gate"]
    if as_json:
        print(json.dumps({"gate": gate, "slices": found["evaluation"]["summary"]}, sort_keys=True))
    else:
        table = Table("slice", "n", "before", "after", "difference")
        for name, values in found["evaluation"]["summary"].items():
            estimate, low, high = (100 * v for v in values["difference"])
            table.add_row(
                name,
                str(values["n"]),
                f"{values['before']:.1%}",
                f"{values['after']:.1%}",
                f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]",
            )
        console = Console()
        console.print(table)
        console.print(f"gate {'[green]passed' if gate['passed'] else '[red]refused'}[/]: {gate['reason']}")
    if require_pass and not gate["passed"]:
        raise RejectedError(f"the gate refused: {gate['reason']}", reason="gate_refused")
