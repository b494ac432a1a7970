"""`fleetloop evaluate`: compare both models on the held-out test set, per slice, and decide on the gate."""

from __future__ import annotations

from typing import Annotated

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, show, show_table
from foundation.errors import RejectedError

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    place: Place = HERE,
    require_pass: Annotated[bool, typer.Option(help="Exit with 65 when the gate refuses.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare both models on the held-out test set and decide on the gate.

    A refusal is a result: it is written to reports/gate.json, and `release` acts on it.
    """
    from services import training as service

    found = service.evaluate(place)
    record(place, "Evaluate the candidate")
    gate = found["gate"]
    if as_json:
        print_json({"gate": gate, "slices": found["evaluation"]["summary"]})
    else:
        rows = []
        for name, values in found["evaluation"]["summary"].items():
            estimate, low, high = (100 * v for v in values["difference"])
            before, after = (f"{values[word]:.1%}" for word in ("before", "after"))
            rows.append((name, values["n"], before, after, f"{estimate:+.1f} [{low:+.1f}, {high:+.1f}]"))
        show_table("", ("slice", "n", "before", "after", "difference"), rows)
        if gate["passed"]:
            show("gate [green]passed[/]: {reason}", reason=gate["reason"])
        else:
            show("gate [red]refused[/]: {reason}", reason=gate["reason"])
    if require_pass and not gate["passed"]:
        raise RejectedError(f"the gate refused: {gate['reason']}", reason="gate_refused")
