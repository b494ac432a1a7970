"""`fleetloop labels`: import existing labels, matched to pictures; every row and picture is accounted for."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.own_labels import ImportedLabels

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Import labels of your own.")
SHOWN = 10


@app.callback()
def labels() -> None:
    """Import labels of your own: a table of file and class, COCO, KITTI or YOLO."""


@app.command(name="import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A table with the columns file (or frame_id, payload_sha256) and class; COCO's .json; or a folder "
            "in the layout of KITTI or YOLO."
        ),
    ],
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder of the pictures; without it the frames that landed in the lake."),
    ] = None,
    form: Annotated[str, typer.Option(help="auto, table, coco, kitti or yolo.")] = "auto",
    task: Annotated[
        str,
        typer.Option(
            help="classification: one class per picture; detection: boxes. By default the workspace's task."
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(help="File of answers for the label desk; FILE.answers.jsonl by default."),
    ] = None,
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Match labels to pictures by name and write them as answers for `fleetloop label --desk`.

    A file name is tried as it is written first; another reading counts only if exactly one picture fits, and is noted.
    """
    from fleetloop.options import choice
    from services.own_labels import LabelForm, import_labels

    found = import_labels(
        place,
        file,
        pictures=pictures,
        form=choice(LabelForm, form, "--form"),
        task=task,
        out=out,
    )
    record(place, "Import labels")
    if as_json:
        print_json(asdict(found))
        return
    for line in lines(found):
        say(line)


def lines(found: ImportedLabels) -> list[str]:
    """Return the report of one import, line by line: two sums, the notes, and the first refusals."""
    told = [
        _sum(f"{found.rows} rows", found.rows_by_outcome),
        _sum(f"{found.pictures} pictures", found.pictures_by_state),
        _sum("classes", found.classes),
    ]
    for words, where in found.notes.items():
        told.append(f"note: {len(where)} {words} ({', '.join(where[:3])}{', ...' if len(where) > 3 else ''})")
    told += [f"refused {each.where}: {each.reason} [{each.value!a}]" for each in found.refused[:SHOWN]]
    if len(found.refused) > SHOWN:
        told.append(f"... and {len(found.refused) - SHOWN} more; --json shows all")
    told.append(f"{found.answers} answers in {found.written}")
    return told


def _sum(whole: str, parts: Mapping[str, int]) -> str:
    return f"{whole} = " + (" + ".join(f"{count} {name}" for name, count in parts.items()) or "none")
