"""`fleetloop quantise`: make the int8 artefact of one target, and check its parity with the trained network."""

from __future__ import annotations

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, say

app = typer.Typer(add_completion=False)


@app.command()
def quantise(place: Place = HERE, as_json: AsJson = False) -> None:
    """Make the int8 model (QDQ, unsigned activations, calibrated on training rows) and check its parity."""
    from services import training as service

    report = dict(service.quantise(place))
    record(place, "Quantise the candidate")
    if as_json:
        print_json(report)
        return
    say(f"int8 for {report['target']}: {report['int8_bytes']} bytes (fp32 {report['fp32_bytes']})")
    providers = ", ".join(report["allowed_providers"])
    say(f"runs on {providers}; falls back to the CPU: {report['cpu_fallback']}")
    for entry in report["parity"]:
        say(
            f"{entry['reference']} and {entry['compared']}: "
            f"{entry['agreement_ratio']:.2%} of {entry['rows']} answers "
            f"agree, largest difference of a logit {entry['max_difference']:.3g}"
        )
