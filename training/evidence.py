"""The documents that the stages write about a candidate, and the keys of them that later stages read.

All other keys are for people.

reports/training.json, parity.json   of training and quantisation
reports/evaluation.json, gate.json   the measurements, and the gate's verdict
models/package/package.json          a summary of all, beside the model that is shipped
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from foundation.documents import DocumentType
from foundation.files import read_document, read_json


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Digests of the trained model and its dataset; for people."""

    model_name: str
    fp32_digest: str
    dataset_digest: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """The share of answers of one form of a model that agree with those of another, 0 to 1."""

    reference: str
    compared: str
    agreement_ratio: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The agreement between the forms of a candidate."""

    int8_digest: str
    parity: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """The evaluation of a candidate; `summary` is repeated in package.json."""

    candidate_digest: str
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The gate's verdict on one artefact."""

    candidate_digest: str
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class GateWord:
    """The gate's verdict inside a package."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Package:
    """A package; `base_digest` is that of the model that the candidate was compared with, "" for none."""

    model_digest: str
    gate: GateWord
    base_digest: str = ""
    model_name: str = ""
    evaluation: dict[str, Any] = field(default_factory=dict)


TRAINING: Final = DocumentType.first("training report", TrainingReport)
PARITY: Final = DocumentType.first("parity report", ParityReport)
EVALUATION: Final = DocumentType.first("evaluation report", EvaluationReport)
GATE: Final = DocumentType.first("gate verdict", GateVerdict)
PACKAGE: Final = DocumentType.first("package", Package)


def read_verdict(path: Path) -> GateVerdict:
    """Read the gate's verdict from a package.json or a gate.json. Raises CorruptError."""
    document = read_json(path)
    if not isinstance(document, dict) or "gate" not in document:
        return read_document(path, GATE)
    package = read_document(path, PACKAGE)
    return GateVerdict(package.model_digest, package.gate.passed, package.gate.reason)
