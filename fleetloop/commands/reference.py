"""`fleetloop reference`: add labelled pictures that did not come from the vehicles."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fleetloop.options import HERE, AsJson, Place
from fleetloop.terminal import print_json, show

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Add labelled pictures to the lake: a held-out test set, the training data of the first model.",
)


@app.callback()
def reference() -> None:
    """Add labelled pictures to the lake: a held-out test set, the training data of the first model."""


@app.command()
def add(
    source: Annotated[
        Path,
        typer.Argument(
            help="Parquet with payload, class_name (or boxes), drive_id and, if known, track_id; or a folder of pictures."
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels of a folder's pictures: a table of file and class, COCO, KITTI or YOLO."),
    ] = None,
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Append the pictures that the lake does not have yet; the id of their drive decides their split."""
    from services.reference import add_reference

    found = add_reference(place, source, labels=labels)
    added = found.added
    refused = [f"{each.where}: {each.reason} {each.value}".rstrip() for each in found.refused]
    if as_json:
        print_json(asdict(added) | {"refused": refused})
        return
    show(
        "[green]Added[/] {added:,} pictures, {known:,} were known (reference version {version})",
        added=added.added,
        known=added.known,
        version=added.version,
    )
    for line in (*added.unreadable, *refused):
        show("[yellow]left out[/] {line}", line=line)
