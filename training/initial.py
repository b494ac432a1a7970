"""A first model from given pictures: its contract lists every class and says which it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foundation.errors import MisconfiguredError
from foundation.files import write_atomic
from modelkit.contract import ModelContract
from modelkit.digest import digest_of_json
from modelkit.images import CONDITIONS
from modelkit.verify import VerifiedModel, verify_model
from training.params import TrainParams
from training.registry import ModelRecord, SplitOf, check_training_drives, register_model
from training.rows import Row, TrainingSet, make_training_set
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
) -> InitialModel:
    """Train, export, quantise and register `name`; rows of excluded classes and conditions are left out.

    The contract says what the kept rows really had: `trained_classes`, and as `untrained_conditions` every
    condition without a row. The int8 artefact for the CPU is what is registered; fp32.onnx lies beside.

    Raises:
        MisconfiguredError: too few rows, or an excluded class that is not in `classes`.
        GuaranteeBrokenError: a row is of a test drive.
    """
    from training.export import export_onnx
    from training.fit import fit
    from training.network import Architecture, build
    from training.quantise import pick_rows, quantise

    unknown = sorted(set(excluded_classes) - set(classes))
    if unknown:
        raise MisconfiguredError(f"excluded classes {unknown} are not among {list(classes)}")
    contract = ModelContract(name=name, classes=tuple(classes), trained_classes=())
    kept = [row for row in rows if row.class_name not in excluded_classes]
    train = make_training_set(kept, contract)
    chosen = [i for i, condition in enumerate(train.conditions) if condition not in excluded_conditions]
    train = _take(train, chosen)
    check_training_drives(set(train.drives), split_of)
    drives = sorted(set(train.drives))
    architecture = Architecture(classes=len(classes), embedding_size=contract.embedding_size)
    found = fit(
        build(architecture, None, params.seed), train, _take(train, []), contract.preprocessing, params
    )
    made = ModelContract(
        name=name,
        classes=tuple(classes),
        trained_classes=tuple(c for i, c in enumerate(classes) if i in set(train.labels.tolist())),
        untrained_conditions=tuple(c for c in CONDITIONS if c not in train.conditions),
        embedding_size=architecture.embedding_size,
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


def _take(train: TrainingSet, chosen: list[int]) -> TrainingSet:
    index = np.array(chosen, dtype=np.int64)
    return TrainingSet(
        train.pixels[index],
        train.labels[index],
        tuple(train.drives[i] for i in chosen),
        tuple(train.conditions[i] for i in chosen),
        train.is_reference[index],
    )
