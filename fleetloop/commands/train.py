"""`fleetloop train`: fine-tune the serving model on the dataset, or train a fleet's first model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from schemas.reasons import Split
    from training.rows import Row

app = typer.Typer(add_completion=False)


@app.command()
def train(
    workspace: Annotated[Path, typer.Option(help="The workspace.")] = Path(),
    from_scratch: Annotated[
        Path | None,
        typer.Option(
            help="Train a first model on this Parquet file (payload, class_name, drive_id) instead."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the first model.")] = "v1",
    exclude_class: Annotated[
        list[str] | None, typer.Option(help="Leave out this class (first model).")
    ] = None,
    exclude_condition: Annotated[
        list[str] | None, typer.Option(help="Leave out normal, dark, bright or blurred (first model).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Fine-tune the serving model on the dataset, on the CPU and repeatably.

    Refuses a base model that saw a test drive, or that does not say what it saw.
    """
    from training.params import TrainParams
    from training.stages import Places, run_train
    from workspace.layout import Workspace
    from workspace.params_file import load_section

    place = Workspace.open(workspace)
    params = load_section(place.params_path, "train", TrainParams)
    split_of = split_by_params(place.params_path)
    if from_scratch is not None:
        report = _first(
            place.root,
            from_scratch,
            name,
            tuple(exclude_class or ()),
            tuple(exclude_condition or ()),
            split_of,
        )
    else:
        report = run_train(Places.of(place.root), params, split_of)
    if as_json:
        print(json.dumps(report, sort_keys=True))
        return
    for line in _lines(report):
        typer.echo(line)


def split_by_params(path: Path) -> Callable[[str], Split]:
    """Where a drive belongs, by the section `split` of params.yaml: the same function as in curation."""
    from pipelines.curate.params import load_params
    from pipelines.curate.split import split_of

    split = load_params(path).split
    return lambda drive_id: split_of(drive_id, split)


def _first(
    root: Path,
    source: Path,
    name: str,
    classes: tuple[str, ...],
    conditions: tuple[str, ...],
    split_of: Callable[[str], Split],
) -> dict[str, object]:
    from training.initial import train_initial
    from training.params import TrainParams
    from training.registry import set_serving
    from workspace.params_file import load_classes, load_section

    params_path = root / "params.yaml"
    found = train_initial(
        root / "registry",
        _read(source),
        name=name,
        classes=load_classes(params_path, at_least=2),
        split_of=split_of,
        params=load_section(params_path, "train", TrainParams),
        excluded_classes=classes,
        excluded_conditions=conditions,
    )
    is_serving = not (root / "registry" / "serving.json").exists()
    if is_serving:
        set_serving(root / "registry", found.record)
    contract = found.model.contract
    return {
        "model_name": name,
        "digest": found.model.digest,
        "model_path": str(found.folder / "model.onnx"),
        "rows": found.rows,
        "trained_classes": list(contract.trained_classes),
        "untrained_classes": list(contract.untrained_classes),
        "untrained_conditions": list(contract.untrained_conditions),
        "serving": is_serving,
        "seconds": found.seconds,
    }


def _read(source: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from foundation.errors import MisconfiguredError
    from modelkit.digest import sha256_hex
    from modelkit.images import condition_of, decode_image
    from training.rows import REFERENCE, Row

    try:
        table = pq.read_table(source, columns=["payload", "class_name", "drive_id"])
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise MisconfiguredError(f"{source} cannot be read as a table of pictures: {error}") from error
    rows = []
    for value in table.to_pylist():
        image = decode_image(value["payload"])
        rows.append(
            Row(
                image,
                sha256_hex(value["payload"]),
                str(value["class_name"]),
                str(value["drive_id"]),
                "",
                condition_of(image),
                REFERENCE,
            )
        )
    return rows


def _lines(report: dict[str, object]) -> list[str]:
    lines = [f"trained {report['model_name']} on {report['rows']} rows in {report['seconds']:.1f} s"]
    if "best_epoch" in report:
        lines.append(f"kept epoch {report['best_epoch']}, chosen by {report['selected_by']}")
    else:
        lines.append(
            f"never saw classes {report['untrained_classes']}, conditions {report['untrained_conditions']}"
        )
    return lines
