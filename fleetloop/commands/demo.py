"""`fleetloop demo`: run the whole loop on one machine, with injected faults, and write a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fleetloop.options import AsJson
from fleetloop.terminal import Terminal, TextTable, print_json, styled

app = typer.Typer(add_completion=False)

EVIDENCE_COLUMNS = 100
"""Longer lines of text are hard to read, however wide the terminal."""


@app.command()
def demo(
    dataset: Annotated[str, typer.Option(help="traffic-lights, or gtsrb (then --data).")] = "traffic-lights",
    data: Annotated[
        Path | None, typer.Option(help="Folder with train.parquet and test.parquet, for gtsrb.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of result, report and workspace.")] = Path("out/demo"),
    bootstrap: Annotated[
        str, typer.Option(help="HOST:PORT of any Kafka, instead of the embedded broker.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of drives, jitter and random arm.")] = 7,
    scale: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the drives that are used.")] = 1.0,
    labels: Annotated[int, typer.Option(min=10, help="The labelling budget.")] = 350,
    only_prepare: Annotated[
        bool, typer.Option(help="Write the drives and labels, and exit: for the tutorial.")
    ] = False,
    wheel_folder: Annotated[Path, typer.Option(hidden=True)] = Path(".cache/data"),
    as_json: AsJson = False,
) -> None:
    """Run the whole loop on this machine. Exit status 0 only if every guarantee that it checks held."""
    from fleetloop.demo.run import DemoOptions, prepare_only, run_demo
    from foundation.errors import GuaranteeBrokenError

    console = Terminal(file=sys.stderr if as_json else sys.stdout)
    options = DemoOptions(
        out=out, dataset=dataset, data=data, bootstrap=bootstrap, seed=seed, scale=scale, label_budget=labels,
        wheel_folder=wheel_folder,
    )  # fmt: skip
    if only_prepare:
        prepare_only(options, console)
        return
    result = run_demo(options, console)
    if as_json:
        print_json(result)
    else:
        _show(console, result, out)
    broken = [g["number"] for g in result["guarantees"] if not g["held"]]
    if broken:
        raise GuaranteeBrokenError(
            f"guarantees {', '.join(f'G{n}' for n in broken)} did not hold; see {out / 'report.html'}"
        )


def _show(console: Terminal, result: dict[str, Any], out: Path) -> None:
    accuracy = result["accuracy"]
    table = TextTable(title=f"Accuracy on {accuracy['n']:d} held-out images", title_justify="left")
    for heading in ("slice", "n", "before", "after", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "slice" else "right")
    rows = [("all", {**accuracy, "interval": accuracy["interval_after"]}), *accuracy["by_class"].items()]
    if len(rows) > 16:
        rows = [rows[0], *((n, accuracy["by_class"][n]) for n in result["dataset"]["untrained_classes"])]
    for name, found in [*rows, *((f"condition {n}", f) for n, f in accuracy["by_condition"].items())]:
        low, high = found["interval"]
        table.add_row(
            name, str(found["n"]), _pct(found["before"]), _pct(found["after"]), f"{_pct(low)} to {_pct(high)}"
        )
    console.print(table)
    ledger, lake, size = result["ledger"], result["lake"], result["bytes"]
    console.print(
        f"{result['captured_frames']:,} frames seen, {ledger['accepted']:,} accepted, {ledger['delivered']:,} delivered, "
        f"{ledger['pending']} pending; {size['uploaded'] / 1e6:.1f} of {size['captured'] / 1e6:.1f} MB uploaded; "
        f"{result['labels_used']} labels"
    )
    console.print(
        f"{lake['offsets']:,} offsets = {lake['landed']:,} landed + {lake['resent']} resent + {lake['rejected']} rejected; "
        f"dataset {result['dataset_version']['id']} {result['dataset_version']['digest'][:16]}"
    )
    for vehicle in result["vehicles"]:
        console.print(
            f"{vehicle['id']} runs {vehicle['model']} after {vehicle['swaps']} swaps, {vehicle['rollbacks']} rollbacks"
        )
    for release in result["releases"]:
        console.print(
            styled("release [bold]{id}[/]: {outcome}", id=release["id"], outcome=release["outcome"])
        )
    evidence = TextTable.grid(padding=(0, 2))
    evidence.add_column(no_wrap=True)
    evidence.add_column(no_wrap=True)
    evidence.add_column(ratio=1)
    for g in result["guarantees"]:
        state = styled("[green]held[/]") if g["held"] else styled("[red]BROKEN[/]")
        evidence.add_row(state, f"G{g['number']}", g["evidence"])
    console.print(evidence, width=min(console.width, EVIDENCE_COLUMNS), highlight=False)
    seconds = result["seconds"]["total"]
    files = {"report": out / "report.html", "result": out / "result.json"}
    console.print(styled("[bold]{report}[/]  [bold]{result}[/]  ({seconds:.0f} s)", **files, seconds=seconds))


def _pct(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"
