"""`fleetloop quantise`: the int8 artefact of one target, with its parity to the trained network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

app = typer.Typer(add_completion=False)


@app.command()
def quantise(
    workspace: Annotated[Path, typer.Option(help="The workspace.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Make the int8 model (QDQ, unsigned activations, calibrated on training rows) and check its parity."""
    from training.params import QuantiseParams
    from training.stages import Places, run_quantise
    from workspace.layout import Workspace
    from workspace.params_file import load_section

    place = Workspace.open(workspace)
    report = run_quantise(Places.of(place.root), load_section(place.params_path, "quantise", QuantiseParams))
    if as_json:
        print(json.dumps(report, sort_keys=True))
        return
    typer.echo(f"int8 for {report['target']}: {report['int8_bytes']} bytes (fp32 {report['fp32_bytes']})")
    providers = ", ".join(cast(list[str], report["allowed_providers"]))
    typer.echo(f"runs on {providers}; a fall-back to the CPU: {report['cpu_fallback']}")
    for entry in cast(list[dict[str, Any]], report["parity"]):
        typer.echo(
            f"{entry['reference']} and {entry['compared']}: "
            f"{entry['agreement_ratio']:.2%} of {entry['rows']} answers "
            f"agree, largest difference of a logit {entry['max_difference']:.3g}"
        )
