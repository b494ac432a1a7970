"""`fleetloop init`: create a workspace, the user's own git and DVC repository with its keys beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleetloop.options import AsJson, words
from fleetloop.terminal import print_json, show

app = typer.Typer(add_completion=False)


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(help="The folder of the workspace: new, empty, or a workspace already.")
    ],
    classes: Annotated[
        str, typer.Option(help="Comma-separated classes of the model contract, in the order of its outputs.")
    ] = "",
    task: Annotated[
        str,
        typer.Option(help="What a label is: classification (one class per picture) or detection (boxes)."),
    ] = "classification",
    remote: Annotated[
        Path | None, typer.Option(help="Folder of the DVC remote; a sibling folder by default.")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            help="What decides, with a drive's name, in which split it is: random by default, '' for the public one."
        ),
    ] = None,
    root_threshold: Annotated[
        int | None,
        typer.Option(
            help="How many offline root keys must sign a root: 1 by default; with 2 the theft of one gives nothing."
        ),
    ] = None,
    root_keys: Annotated[
        int | None,
        typer.Option(help="How many root keys to make, each to be kept elsewhere; the threshold by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a workspace: your own git and DVC repository, with signing keys beside it. Repeating it changes nothing."""
    from services.init import make_workspace

    place = make_workspace(
        folder,
        classes=tuple(words(classes)),
        task=task,
        remote=remote,
        secret=secret,
        root_threshold=root_threshold,
        root_keys=root_keys,
    )
    if as_json:
        document = {"workspace": str(place.root), "keys": str(place.keys_path)}
        print_json(document)
        return
    show("[green]Workspace[/] {root}", root=place.root)
    show("[green]Private keys[/] {keys} (move offline/ off this machine)", keys=place.keys_path)
    show("Next: [bold]fleetloop enroll[/], then [bold]fleetloop ingest[/] and [bold]fleetloop curate[/].")
