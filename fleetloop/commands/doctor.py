"""`fleetloop doctor`: what is missing on this machine, what that costs, and the command that mends it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleetloop.options import AsJson

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    workspace: Annotated[
        Path | None, typer.Option("--workspace", help="Look at the topics of its broker too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is missing on this machine and how to mend it. Exit status 1 when something required is missing."""
    from services.doctor import examine
    from workspace.layout import Workspace

    found = examine(None if workspace is None else Workspace.open(workspace))
    if as_json:
        document = {
            "ok": found.is_ok,
            "source_tree": None if found.source_tree is None else str(found.source_tree),
            "findings": [asdict(each) for each in found.findings],
        }
        print(json.dumps(document, indent=2))
    else:
        table = Table(title="fleetloop doctor", title_justify="left")
        for heading in ("", "what", "found", "needed for", "how to mend it"):
            table.add_column(heading, overflow="fold")
        for f in found.findings:
            mark = "[green]ok[/]" if f.ok else ("[red]missing[/]" if f.required else "[yellow]absent[/]")
            cells = (f.name, f.found, f.needed_for, "" if f.ok else f.mend)
            table.add_row(mark, *(escape(cell) for cell in cells))
        console = Console()
        console.print(table)
        where = "no source tree: looked in" if found.source_tree is None else "run from the source tree"
        console.print(f"{where} {found.looked_in}", soft_wrap=True, markup=False)
    if not found.is_ok:
        raise typer.Exit(1)
