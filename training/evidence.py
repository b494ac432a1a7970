"""What the stages write about a candidate, and what of it the next ones read; every other key of a file is for people.

reports/training.json, parity.json   from training and quantisation
reports/evaluation.json, gate.json   what was measured, and the gate's word on it
models/package/package.json          all of it in short, beside the model that is shipped
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from foundation.documents import DocumentType
from foundation.files import read_document, read_json


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Digests of what was trained from what; for people."""

    model_name: str
    fp32_digest: str
    dataset_digest: str


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many answers of one form of a model agree with those of another, 0 to 1."""

    reference: str
    compared: str
    agreement_ratio: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The forms of a candidate beside each other."""

    int8_digest: str
    parity: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """`summary` is what package.json repeats."""

    candidate_digest: str
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The gate's word on one artefact."""

    candidate_digest: str
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class GateWord:
    """The gate's word inside a package."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Package:
    """`base_digest` is that of the model that the candidate was compared with; "" where there was none."""

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
    """The gate's word in a package.json or a gate.json. Raises CorruptError."""
    document = read_json(path)
    if not isinstance(document, dict) or "gate" not in document:
        return read_document(path, GATE)
    package = read_document(path, PACKAGE)
    return GateVerdict(package.model_digest, package.gate.passed, package.gate.reason)
