"""`fleetloop doctor`: check what is missing on this machine, what needs it, and how to fix it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from fleetloop.options import AsJson, MaybePlace
from fleetloop.terminal import print_json, say, show_table, styled

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    place: MaybePlace = None,
    as_json: AsJson = False,
) -> None:
    """Check what is missing on this machine and how to fix it. Exit status 1 when something required is missing."""
    from services.doctor import examine

    found = examine(place)
    if as_json:
        document = {
            "ok": found.is_ok,
            "source_tree": found.source_tree,
            "findings": [asdict(each) for each in found.findings],
        }
        print_json(document)
    else:
        rows = []
        for f in found.findings:
            absent = styled("[red]missing[/]") if f.required else styled("[yellow]absent[/]")
            mark = styled("[green]ok[/]") if f.ok else absent
            rows.append((mark, f.name, f.found, f.needed_for, "" if f.ok else f.mend))
        show_table("fleetloop doctor", ("", "what", "found", "needed for", "how to fix it"), rows)
        where = "no source tree: searched" if found.source_tree is None else "run from the source tree"
        say(f"{where} {found.looked_in}")
    if not found.is_ok:
        raise typer.Exit(1)
