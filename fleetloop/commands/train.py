"""`fleetloop train`: fine-tune the base model on the dataset, or train a fleet's first model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, say

if TYPE_CHECKING:
    from services.training import FirstModel

app = typer.Typer(add_completion=False)


@app.command()
def train(
    place: Place = HERE,
    from_scratch: Annotated[
        Path | None,
        typer.Option(
            help="Train a first model instead, on a Parquet file (payload, drive_id, and class_name or boxes), a folder of "
            "pictures, or a table of file and class in their folder."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels of a folder's pictures: a table of file and class, COCO, KITTI or YOLO."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the first model.")] = "v1",
    exclude_class: Annotated[
        list[str] | None, typer.Option(help="Leave out this class (first model).")
    ] = None,
    exclude_condition: Annotated[
        list[str] | None, typer.Option(help="Leave out normal, dark, bright or blurred (first model).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the base model (see `fleetloop base`) on the dataset, on the CPU and reproducibly.

    Refuses a base model that was trained on a test drive, or that does not record what it was trained on.
    """
    from services import training as service

    if from_scratch is not None:
        excluded = (exclude_class or (), exclude_condition or ())
        request = service.FirstModelRequest(from_scratch, name, *excluded, labels=labels)
        first = service.train_first(place, request)
        record(place, f"Train {first.model_name}")
        unseen = (
            f"not trained on classes {list(first.untrained_classes)}, "
            f"conditions {list(first.untrained_conditions)}"
        )
        parts = ", ".join(f"{count} {reason}" for reason, count in first.left_out.items())
        _show(_first_document(first), f"{unseen}\nleft out: {parts}" if parts else unseen, as_json)
        return
    report = dict(service.fine_tune(place))
    record(place, f"Train {report['model_name']}")
    _show(report, f"kept epoch {report['best_epoch']}, chosen by {report['selected_by']}", as_json)


def _first_document(first: FirstModel) -> dict[str, Any]:
    document = asdict(first) | {"model_path": str(first.model_path)}
    document["serving"] = document.pop("is_serving")
    return document


def _show(document: dict[str, Any], told: str, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    say(f"trained {document['model_name']} on {document['rows']} rows in {document['seconds']:.1f} s")
    say(told)
