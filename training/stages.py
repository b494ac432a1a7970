"""Run the stages train, quantise and package, as functions of paths and parameters; files are written last.

models/candidate/   fp32.onnx, weights.npz, model.json (train), int8.onnx (quantise)
models/package/     model.onnx, weights.npz, model.json, package.json (package)
reports/            training.json, parity.json, evaluation.json, gate.json, accuracy_by_class.png
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from foundation.documents import DocumentType
from foundation.errors import CorruptError, MisconfiguredError
from foundation.files import read_document, write_atomic, write_document
from modelkit.contract import ModelContract
from modelkit.digest import digest_of_json, sha256_hex
from modelkit.tasks import TASKS
from modelkit.verify import VerifiedModel, verify_model
from schemas.reasons import Split
from training.evidence import (
    EVALUATION,
    GATE,
    PACKAGE,
    PARITY,
    TRAINING,
    EvaluationReport,
    GateVerdict,
)
from training.params import QuantiseParams, TrainParams
from training.registry import (
    MODEL_FILE,
    RECORD_FILE,
    WEIGHTS_FILE,
    BaseModel,
    ModelRecord,
    SplitOf,
    check_lineage,
    check_training_drives,
    load_base,
    next_name,
)
from training.rows import TrainingSet, dataset_digest, drives_of, load_training_set
from workspace.layout import Workspace

Found = TypeVar("Found", EvaluationReport, GateVerdict)

FP32_FILE = "fp32.onnx"
INT8_FILE = "int8.onnx"


def read_candidate(place: Workspace, file: str) -> VerifiedModel:
    """Read a candidate's artefact, verified. Raises MisconfiguredError when its stage has not run yet."""
    path = place.candidate_path / file
    if not path.is_file():
        raise MisconfiguredError(
            f"there is no {path}; run `fleetloop {'train' if file == FP32_FILE else 'quantise'}`"
        )
    return verify_model(path.read_bytes(), None)


def run_train(place: Workspace, params: TrainParams, split_of: SplitOf) -> dict[str, object]:
    """Fine-tune the base model on the dataset's train split; return training.json and the `seconds` it took.

    Raises:
        RejectedError: the base was trained on a test drive, or does not record its training data (guarantee 5).
        GuaranteeBrokenError: a training row is of a test drive.
    """
    from training.export import export_onnx
    from training.fit import fit
    from training.network import Architecture, build
    from training.weights import pack_weights, weights_digest

    base = load_base(place.registry_path)
    check_lineage(base, split_of, drives_of(place.dataset_path, Split.TEST))
    contract = base.model.contract
    train = load_training_set(place.dataset_path, Split.TRAIN, contract)
    validation = load_training_set(place.dataset_path, Split.VALIDATION, contract)
    check_training_drives({*train.drives, *validation.drives}, split_of)
    task = TASKS[contract.task]
    architecture = Architecture.from_json(base.record.architecture)
    network = build(architecture, base.weights(), params.seed)
    found = fit(network, train, validation, contract, params)
    tuned = build(architecture, found.weights)
    drives = sorted({*base.record.training_drives, *train.drives, *validation.drives})
    made = _fine_tuned_contract(base, train, drives, params)
    exported = export_onnx(tuned, made)
    place.candidate_path.mkdir(parents=True, exist_ok=True)
    record = ModelRecord(
        name=made.name,
        digest=sha256_hex(exported),
        weights_digest=weights_digest(found.weights),
        architecture=architecture.as_json(),
        training_drives=tuple(drives),
        dataset_digest=dataset_digest(place.dataset_path),
        base_digest=base.model.digest,
    )
    write_atomic(place.candidate_path / WEIGHTS_FILE, pack_weights(found.weights))
    write_atomic(place.candidate_path / FP32_FILE, exported)
    record.write(place.candidate_path / RECORD_FILE)
    report: dict[str, object] = {
        "model_name": made.name,
        "base_name": base.record.name,
        "base_digest": base.model.digest,
        "dataset_digest": record.dataset_digest,
        "fp32_digest": record.digest,
        "weights_digest": record.weights_digest,
        "rows": {
            "train": len(train),
            "validation": len(validation),
            "reference": int(train.is_reference.sum()),
        },
        "rows_by_class": {
            name: sum(name in task.classes_of(label) for label in train.labels) for name in contract.classes
        },
        "best_epoch": found.best_epoch,
        "selected_by": found.selected_by,
        "epochs": [asdict(epoch) for epoch in found.epochs],
        "params": asdict(params),
    }
    place.reports_path.mkdir(parents=True, exist_ok=True)
    write_document(place.reports_path / "training.json", TRAINING, report)
    return {**report, "seconds": found.seconds}


def _fine_tuned_contract(
    base: BaseModel, train: TrainingSet, drives: list[str], params: TrainParams
) -> ModelContract:
    """Return the base's contract, extended by what the new model was trained on."""
    old = base.model.contract
    found = (TASKS[old.task].classes_of(label) for label in train.labels)
    seen = {name for names in found for name in names} | set(old.trained_classes)
    return dataclasses.replace(
        old,
        name=params.name or next_name(old.name),
        trained_classes=tuple(name for name in old.classes if name in seen),
        untrained_conditions=tuple(c for c in old.untrained_conditions if c not in train.conditions),
        base_digest=base.model.digest,
        training_drives_digest=digest_of_json(drives),
        created_by="fleetloop train",
        target="fp32",
        allowed_providers=("CPUExecutionProvider",),
    )


def run_quantise(place: Workspace, params: QuantiseParams) -> dict[str, object]:
    """Make the target's int8 artefact from the fp32 candidate; return parity.json."""
    from training.fit import infer
    from training.network import Architecture, build
    from training.parity import compare, outputs_of
    from training.quantise import pick_rows, quantise
    from training.weights import load_weights

    fp32 = read_candidate(place, FP32_FILE)
    record = ModelRecord.read(place.candidate_path / RECORD_FILE)
    if record.digest != fp32.digest:
        raise CorruptError(
            f"is the record of {record.digest}, not of {fp32.digest}", path=place.candidate_path / RECORD_FILE
        )
    contract = fp32.contract
    train = load_training_set(place.dataset_path, Split.TRAIN, contract)
    if not len(train):
        raise MisconfiguredError("the train split is empty: nothing to calibrate on")
    calibration = train.pixels[pick_rows(len(train), params.calibration_rows, params.seed)]
    int8 = quantise(
        fp32,
        calibration,
        params.target,
        allowed_providers=params.allowed_providers,
        cpu_fallback=params.cpu_fallback,
    )
    validation = load_training_set(place.dataset_path, Split.VALIDATION, contract)
    # Validation first, filled up from train: the agreement of thirty rows would mean little.
    filled_up = pick_rows(len(train), max(0, params.parity_rows - len(validation)), params.seed + 1)
    held_out = validation.take(range(min(len(validation), params.parity_rows)))
    rows = held_out.joined(train.take(filled_up.tolist()))
    pixels, placed = rows.pixels, rows.placed
    weights = load_weights(place.candidate_path / WEIGHTS_FILE, record.weights_digest)
    network = build(Architecture.from_json(record.architecture), weights)
    forms = {
        "torch": infer(network, pixels, contract),
        "fp32": outputs_of(fp32, pixels),
        "int8": outputs_of(int8, pixels),
    }
    pairs = (("torch", "fp32"), ("fp32", "int8"), ("torch", "int8"))
    report: dict[str, object] = {
        "fp32_digest": fp32.digest,
        "int8_digest": int8.digest,
        "fp32_bytes": len(fp32.data),
        "int8_bytes": len(int8.data),
        "target": params.target,
        "allowed_providers": list(int8.contract.allowed_providers),
        "cpu_fallback": int8.contract.cpu_fallback,
        "rows_from": {"validation": len(pixels) - len(filled_up), "train": len(filled_up)},
        "parity": [asdict(compare(a, forms[a], b, forms[b], contract, placed)) for a, b in pairs],
    }
    write_atomic(place.candidate_path / INT8_FILE, int8.data)
    place.reports_path.mkdir(parents=True, exist_ok=True)
    write_document(place.reports_path / "parity.json", PARITY, report)
    return report


def run_package(place: Workspace) -> dict[str, object]:
    """Put the shipped artefact and its evidence into one folder; refuses evidence about another model.

    Raises:
        CorruptError: evaluation.json, gate.json or model.json is about other bytes than int8.onnx.
    """
    model = read_candidate(place, INT8_FILE)
    record = ModelRecord.read(place.candidate_path / RECORD_FILE)
    evaluation = _evidence(place.reports_path / "evaluation.json", EVALUATION, model.digest)
    gate = _evidence(place.reports_path / "gate.json", GATE, model.digest)
    if (
        record.training_drives
        and digest_of_json(sorted(record.training_drives)) != model.contract.training_drives_digest
    ):
        raise CorruptError("is not the record of this candidate", path=place.candidate_path / RECORD_FILE)
    shipped = dataclasses.replace(record, name=model.contract.name, digest=model.digest)
    package: dict[str, object] = {
        "model_name": model.contract.name,
        "model_digest": model.digest,
        "model_bytes": len(model.data),
        "model_target": model.contract.target,
        "contract_digest": model.contract.digest,
        "weights_digest": record.weights_digest,
        "dataset_digest": record.dataset_digest,
        "base_digest": record.base_digest,
        "gate": {"passed": gate.passed, "reason": gate.reason},
        "evaluation": evaluation.summary,
    }
    place.package_path.mkdir(parents=True, exist_ok=True)
    write_atomic(place.package_path / MODEL_FILE, model.data)
    write_atomic(place.package_path / WEIGHTS_FILE, (place.candidate_path / WEIGHTS_FILE).read_bytes())
    shipped.write(place.package_path / RECORD_FILE)
    write_document(place.package_path / "package.json", PACKAGE, package)
    return package


def _evidence(path: Path, kind: DocumentType[Found], model_digest: str) -> Found:
    if not path.is_file():
        raise MisconfiguredError(f"there is no {path}; run `fleetloop evaluate`")
    document = read_document(path, kind)
    if document.candidate_digest != model_digest:
        raise CorruptError(
            f"is not about the candidate {model_digest}; run `fleetloop evaluate` again", path=path
        )
    return document
