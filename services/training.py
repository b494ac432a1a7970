"""The model stages: a first model, fine-tuning, int8, evaluation with the gate, the package; and which model is the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import MisconfiguredError
from services.drives import split_by_params
from services.model_name import ModelName, read_model_name
from training.params import EvaluateParams, GateParams, QuantiseParams, TrainParams
from training.registry import RECORD_FILE, ModelRecord, load_model, serving_name, set_base, set_serving
from training.rows import REFERENCE, Row
from workspace.layout import Workspace
from workspace.params_file import load_classes, load_section

PICTURE_COLUMNS = ("payload", "class_name", "drive_id")


@dataclass(frozen=True, slots=True)
class FirstModelRequest:
    """What a first model is trained on, and what of it is left out on purpose."""

    source: Path
    """Parquet file with `PICTURE_COLUMNS`."""
    name: str = "v1"
    excluded_classes: Sequence[str] = ()
    excluded_conditions: Sequence[str] = ()
    """normal, dark, bright or blurred."""


@dataclass(frozen=True, slots=True)
class FirstModel:
    """A first model as it was registered, and what it never saw."""

    model_name: str
    digest: str
    model_path: Path
    rows: int
    trained_classes: tuple[str, ...]
    untrained_classes: tuple[str, ...]
    untrained_conditions: tuple[str, ...]
    is_serving: bool
    """Whether it became the model that the fleet is served: the first one does."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Bases:
    """Which model the next training starts from, and which one the fleet is served; None: none yet."""

    base: ModelName | None
    serving: ModelName | None


def train_first(place: Workspace, request: FirstModelRequest) -> FirstModel:
    """Train, quantise and register a first model; it serves, and is the base, unless another one does already.

    Raises:
        MisconfiguredError: the file has not the columns, too few rows, or a class that params.yaml does not list.
        GuaranteeBrokenError: a row is of a test drive.
    """
    from training.initial import train_initial

    found = train_initial(
        place.registry_path,
        _read_pictures(request.source),
        name=request.name,
        classes=load_classes(place.params_path, at_least=2),
        split_of=split_by_params(place.params_path),
        params=load_section(place.params_path, "train", TrainParams),
        excluded_classes=request.excluded_classes,
        excluded_conditions=request.excluded_conditions,
    )
    is_serving = not place.serving_path.exists()
    if is_serving:
        set_serving(place.registry_path, found.record)
    if not place.base_path.exists():
        set_base(place.registry_path, found.record)
    contract = found.model.contract
    return FirstModel(
        request.name,
        found.model.digest,
        found.folder / "model.onnx",
        found.rows,
        tuple(contract.trained_classes),
        tuple(contract.untrained_classes),
        tuple(contract.untrained_conditions),
        is_serving,
        found.seconds,
    )


def fine_tune(place: Workspace) -> Mapping[str, Any]:
    """Fine-tune the base model on the dataset; the contents of reports/training.json and the `seconds` it took.

    Raises:
        MisconfiguredError: there is no base or no dataset.
        RejectedError: the base saw a test drive, or does not say what it saw.
        GuaranteeBrokenError: a training row is of a test drive.
    """
    from training.stages import run_train

    params = load_section(place.params_path, "train", TrainParams)
    return run_train(place, params, split_by_params(place.params_path))


def quantise(place: Workspace) -> Mapping[str, Any]:
    """Make the target's int8 artefact and check its parity; the contents of reports/parity.json."""
    from training.stages import run_quantise

    return run_quantise(place, load_section(place.params_path, "quantise", QuantiseParams))


def evaluate(place: Workspace) -> Mapping[str, Any]:
    """Compare candidate and base on the held-out test set; the documents `evaluation` and `gate`.

    A refusal of the gate is a result: it is written into reports/gate.json, and `release` acts on it.
    """
    from training.judge import run_evaluate

    return run_evaluate(
        place,
        load_section(place.params_path, "evaluate", EvaluateParams),
        load_section(place.params_path, "gate", GateParams),
    )


def package(place: Workspace) -> Mapping[str, Any]:
    """Put the model and its evidence into models/package, if they belong together; the contents of package.json."""
    from training.stages import run_package

    return run_package(place)


def bases(place: Workspace) -> Bases:
    """Which model is the base, and which one serves."""
    return Bases(read_model_name(place.base_path), read_model_name(place.serving_path))


def choose_base(place: Workspace, name: str = "") -> Bases:
    """Make a registered model the base of the next training; without a name the one that serves.

    A rollout never does this: models that were trained from the base before would look stale.

    Raises:
        MisconfiguredError: there is no such model, or none serves yet.
        RejectedError: its bytes are refused, or it does not say what it was trained on.
    """
    if name:
        record = place.models_path / name / RECORD_FILE
        if not record.is_file():
            known = ", ".join(sorted(path.parent.name for path in place.models_path.glob(f"*/{RECORD_FILE}")))
            raise MisconfiguredError(f"no model {name!r} in {place.models_path}; there are {known or 'none'}")
        digest = ModelRecord.read(record).digest
    else:
        name, digest = serving_name(place.registry_path)
    set_base(place.registry_path, load_model(place.registry_path, name, digest).record)
    return bases(place)


def _read_pictures(source: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from modelkit.digest import sha256_hex
    from modelkit.images import condition_of, decode_image

    try:
        table = pq.read_table(source, columns=list(PICTURE_COLUMNS))
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise MisconfiguredError(
            f"{source} cannot be read as a table of pictures, a Parquet file with the columns"
            f" {', '.join(PICTURE_COLUMNS)}: {error}"
        ) from error
    rows = []
    for value in table.to_pylist():
        image = decode_image(value["payload"])
        digest, condition = sha256_hex(value["payload"]), condition_of(image)
        rows.append(
            Row(image, digest, str(value["class_name"]), str(value["drive_id"]), "", condition, REFERENCE)
        )
    return rows
