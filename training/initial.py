"""Train a first model on given pictures; its contract lists every class and those without a training row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foundation.errors import MisconfiguredError
from foundation.files import write_atomic
from modelkit.contract import ModelContract
from modelkit.digest import digest_of_json
from modelkit.images import CONDITIONS
from modelkit.tasks import TASKS
from modelkit.verify import VerifiedModel, verify_model
from training.params import TrainParams
from training.registry import ModelRecord, SplitOf, check_training_drives, register_model
from training.rows import Row, make_training_set
from training.weights import pack_weights, weights_digest


@dataclass(frozen=True, slots=True)
class InitialModel:
    """The first model as it was registered."""

    folder: Path
    model: VerifiedModel
    record: ModelRecord
    rows: int
    seconds: float


def train_initial(
    registry: Path,
    rows: Sequence[Row],
    *,
    name: str,
    classes: Sequence[str],
    split_of: SplitOf,
    params: TrainParams,
    excluded_classes: Sequence[str] = (),
    excluded_conditions: Sequence[str] = (),
    like: ModelContract | None = None,
) -> InitialModel:
    """Train, export, quantise and register `name`; rows of excluded classes and conditions are left out.

    The contract records what the kept rows had: `trained_classes`, and as `untrained_conditions` every condition
    without a row. The int8 artefact for the CPU is registered, with fp32.onnx beside it.
    `like` gives task, head, input and preprocessing (default: classification of 32 x 32 pixels).

    Raises:
        MisconfiguredError: too few rows, or an excluded class that is not in `classes`.
        GuaranteeBrokenError: a row is of a test drive.
    """
    from training.export import export_onnx
    from training.fit import fit
    from training.network import architecture_for, build
    from training.quantise import pick_rows, quantise

    unknown = sorted(set(excluded_classes) - set(classes))
    if unknown:
        raise MisconfiguredError(f"excluded classes {unknown} are not among {list(classes)}")
    names = tuple(classes)
    contract = (
        ModelContract(name=name, classes=names, trained_classes=())
        if like is None
        else replace(like, name=name, classes=names, trained_classes=())
    )
    task = TASKS[contract.task]
    kept = [row for row in rows if not set(task.classes_of(row.label)) & set(excluded_classes)]
    train = make_training_set(kept, contract)
    chosen = [i for i, condition in enumerate(train.conditions) if condition not in excluded_conditions]
    train = train.take(chosen)
    check_training_drives(set(train.drives), split_of)
    drives = sorted(set(train.drives))
    architecture = architecture_for(contract)
    found = fit(build(architecture, None, params.seed), train, train.take([]), contract, params)
    seen = {c for label in train.labels for c in task.classes_of(label)}
    made = replace(
        contract,
        trained_classes=tuple(c for c in names if c in seen),
        untrained_conditions=tuple(c for c in CONDITIONS if c not in train.conditions),
        training_drives_digest=digest_of_json(drives),
        created_by="fleetloop train --from-scratch",
    )
    fp32 = export_onnx(build(architecture, found.weights), made)
    int8 = quantise(verify_model(fp32, None), train.pixels[pick_rows(len(train), 512, params.seed)], "cpu")
    record = ModelRecord(
        name, int8.digest, weights_digest(found.weights), architecture.as_json(), tuple(drives), "", ""
    )
    folder = register_model(registry, int8.data, pack_weights(found.weights), record)
    write_atomic(folder / "fp32.onnx", fp32)
    return InitialModel(folder, int8, record, len(train), found.seconds)
