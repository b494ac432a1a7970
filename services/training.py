"""Run the model stages: a first model, fine-tuning, int8, evaluation with the gate, package; choose the base model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.labels.answers import ANSWERS
from connectors.labels.classes import ClassNames
from connectors.labels.label_set import Refusal
from connectors.labels.labelled_pictures import LabelledPicture
from foundation.errors import MisconfiguredError
from modelkit.confined import Confined, Failed
from modelkit.picture_facts import TASK, PictureFacts
from modelkit.tasks import Task
from schemas.reasons import Split
from schemas.roles import SERVING
from services.drives import split_by_params
from services.reference import labelled_pictures
from training.params import EvaluateParams, GateParams, QuantiseParams, TrainParams
from training.registry import RECORD_FILE, ModelRecord, load_model, set_base
from training.rows import REFERENCE, Row
from workspace.layout import Workspace
from workspace.model_name import ModelName, read_model_name
from workspace.params_file import load_classes, load_section, load_task
from workspace.served_models import ServedModel, serve, served_models, serving_name

SHOWN = 5


@dataclass(frozen=True, slots=True)
class FirstModelRequest:
    """What a first model is trained on, and what is left out on purpose."""

    source: Path
    """Parquet file with payload, label and drive_id, or a folder of pictures whose sub-folders are drives."""
    name: str = "v1"
    excluded_classes: Sequence[str] = ()
    excluded_conditions: Sequence[str] = ()
    """normal, dark, bright or blurred."""
    labels: Path | None = None
    """The labels of a folder's pictures: a table of file and class, COCO, KITTI or YOLO."""


@dataclass(frozen=True, slots=True)
class FirstModel:
    """A first model as it was registered, and the classes and conditions that it was not trained on."""

    model_name: str
    digest: str
    model_path: Path
    rows: int
    trained_classes: tuple[str, ...]
    untrained_classes: tuple[str, ...]
    untrained_conditions: tuple[str, ...]
    is_serving: bool
    """Whether it became the fleet's serving model: the first one does."""
    seconds: float
    left_out: Mapping[str, int]
    """Pictures that were not trained on, by reason; those of test drives are kept for a held-out test."""


@dataclass(frozen=True, slots=True)
class Bases:
    """The model that the next training starts from, and the fleet's serving model; None: none yet."""

    base: ModelName | None
    serving: ModelName | None


def train_first(place: Workspace, request: FirstModelRequest) -> FirstModel:
    """Train, quantise and register a first model; it becomes serving model and base unless there is one already.

    Raises:
        MisconfiguredError: the source cannot be read, too few rows, a class that params.yaml does not list, or every
            drive is of the test split.
    """
    from training.initial import train_initial
    from training.network import first_contract

    left_out: Counter[str] = Counter()
    task = load_task(place.params_path)
    classes = load_classes(place.params_path, at_least=task.least_classes)
    params = load_section(place.params_path, "train", TrainParams)
    rows = _read_pictures(place, request, task, classes, left_out)
    found = train_initial(
        place.registry_path,
        rows,
        name=request.name,
        classes=classes,
        like=first_contract(task.name, classes, [row.image.shape[:2] for row in rows], params.input_pixels),
        split_of=split_by_params(place.params_path),
        params=params,
        excluded_classes=request.excluded_classes,
        excluded_conditions=request.excluded_conditions,
    )
    is_serving = SERVING not in served_models(place)
    if is_serving:
        serve(place, ServedModel(found.record.name, found.record.digest))
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
        dict(left_out),
    )


def fine_tune(place: Workspace) -> Mapping[str, Any]:
    """Fine-tune the base model on the dataset; return reports/training.json and the `seconds` it took.

    Raises:
        MisconfiguredError: there is no base or no dataset.
        RejectedError: the base was trained on a test drive, or does not record what it was trained on.
        GuaranteeBrokenError: a training row is of a test drive.
    """
    from training.stages import run_train

    params = load_section(place.params_path, "train", TrainParams)
    return run_train(place, params, split_by_params(place.params_path))


def quantise(place: Workspace) -> Mapping[str, Any]:
    """Make the target's int8 artefact and check its parity; return the contents of reports/parity.json."""
    from training.stages import run_quantise

    return run_quantise(place, load_section(place.params_path, "quantise", QuantiseParams))


def evaluate(place: Workspace) -> Mapping[str, Any]:
    """Compare candidate and base on the held-out test set; return the documents `evaluation` and `gate`.

    A refusal of the gate is a result: it is written to reports/gate.json, and `release` acts on it.
    """
    from training.judge import run_evaluate

    return run_evaluate(
        place,
        load_section(place.params_path, "evaluate", EvaluateParams),
        load_section(place.params_path, "gate", GateParams),
    )


def package(place: Workspace) -> Mapping[str, Any]:
    """Put the model and its evidence into models/package, if they belong together; return package.json."""
    from training.stages import run_package

    return run_package(place)


def bases(place: Workspace) -> Bases:
    """Return which model is the base, and which one serves."""
    served = served_models(place).get(SERVING)
    return Bases(
        read_model_name(place.base_path), None if served is None else ModelName(served.name, served.digest)
    )


def choose_base(place: Workspace, name: str = "") -> Bases:
    """Make a registered model the base of the next training; without a name the one that serves.

    A rollout never does this: models that were trained from the base before would look stale.

    Raises:
        MisconfiguredError: there is no such model, or none serves yet.
        RejectedError: it does not pass verification, or does not record what it was trained on.
    """
    if name:
        record = place.models_path / name / RECORD_FILE
        if not record.is_file():
            known = ", ".join(sorted(path.parent.name for path in place.models_path.glob(f"*/{RECORD_FILE}")))
            raise MisconfiguredError(f"no model {name!r} in {place.models_path}; there are {known or 'none'}")
        digest = ModelRecord.read(record).digest
    else:
        name, digest = serving_name(place)
    set_base(place.registry_path, load_model(place.registry_path, name, digest).record)
    return bases(place)


def _read_pictures(
    place: Workspace,
    request: FirstModelRequest,
    task: Task[Any, Any],
    classes: Sequence[str],
    left_out: Counter[str],
) -> list[Row]:
    """Return the pictures of a source that may be trained on, decoded; others are counted in `left_out` by reason.

    Raises MisconfiguredError, with the remedy, when all are of test drives.
    """
    from modelkit.digest import sha256_hex
    from modelkit.images import decode_image

    names, split_of = ClassNames(classes), split_by_params(place.params_path)
    refused: list[Refusal] = []
    test_drives: set[str] = set()
    unknown: list[str] = []

    def to_decode() -> Iterator[tuple[tuple[LabelledPicture, Any], bytes]]:
        for picture in labelled_pictures(place, request.source, refused, labels=request.labels):
            value, problem = ANSWERS[task.label_column](picture.value, names)
            if problem:
                unknown.append(f"{picture.where}: {problem}")
            elif split_of(picture.drive_id) is Split.TEST:
                test_drives.add(picture.drive_id)
                left_out["of test drives"] += 1
            else:
                yield (picture, value), picture.payload

    rows = []
    with Confined(TASK, PictureFacts) as work:
        for (picture, value), found in work.each(to_decode()):
            if isinstance(found, Failed):
                left_out["unreadable"] += 1
                continue
            image, label = decode_image(picture.payload), task.label_of(value)
            digest, drive = sha256_hex(picture.payload), picture.drive_id
            rows.append(Row(image, digest, label, drive, "", found.condition, REFERENCE))
    if unknown:
        raise MisconfiguredError(
            f"{request.source}: {len(unknown)} pictures have a label that is not a class of params.yaml: "
            f"{'; '.join(unknown[:SHOWN])}"
        )
    if test_drives and not rows:
        some = ", ".join(sorted(test_drives)[:SHOWN])
        raise MisconfiguredError(
            f"all {len(test_drives)} drives ({some}) are of the test split, by a hash of their ids, and nothing may be "
            "trained on them: spread the pictures over more drives (a drive is a sub-folder, or the column drive_id); "
            "`fleetloop dataset drives SOURCE` shows the split of each"
        )
    left_out.update(refusal.reason.partition(":")[0].partition(";")[0] for refusal in refused)
    return rows
