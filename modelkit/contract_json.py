"""The contract as text: every version that was released is read, and the oldest that can say it is written.

Version 1 knows classification of one stretched picture with logits and an embedding. Writing it where it is
enough keeps digests, and lets vehicles that know nothing else serve the model.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from foundation.documents import DocumentType, Version
from foundation.errors import RejectedError
from modelkit.contract import HeadSpec, InputSpec, ModelContract, Preprocessing
from schemas.reasons import RefuseReason

MAX_CONTRACT_BYTES: Final = 262_144
_NEW_IN_2: Final = ("embedding_size", "head", "size_input", "task")


@dataclass(frozen=True, slots=True)
class _InputV1:
    name: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class _PreprocessingV1:
    resize: Literal["bilinear"]
    color: Literal["RGB"]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _OutputsV1:
    logits: str
    embedding: str
    embedding_size: int


@dataclass(frozen=True, slots=True)
class _ContractV1:
    name: str
    classes: tuple[str, ...]
    trained_classes: tuple[str, ...]
    untrained_conditions: tuple[str, ...]
    input: _InputV1
    preprocessing: _PreprocessingV1
    outputs: _OutputsV1
    allowed_providers: tuple[str, ...]
    cpu_fallback: Literal["allow", "refuse"]
    operator_domains: tuple[str, ...]
    target: str
    base_digest: str
    training_drives_digest: str
    created_by: str

    def upgrade(self) -> ModelContract:
        """The same promises; what version 1 could not say has its default."""
        how, spec, out = self.preprocessing, self.input, self.outputs
        same = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        changed: dict[str, Any] = {
            "input": InputSpec(spec.name, spec.channels, spec.height, spec.width),
            "preprocessing": Preprocessing(scale=how.scale, mean=how.mean, std=how.std),
            "outputs": {"logits": out.logits, "embedding": out.embedding},
            "embedding_size": out.embedding_size,
        }
        return ModelContract(**{**same, **changed})


def _bad(message: str) -> RejectedError:
    return RejectedError(message, reason=RefuseReason.BAD_CONTRACT)


CONTRACT: Final[DocumentType[ModelContract]] = DocumentType(
    "model contract",
    {1: Version(_ContractV1, _ContractV1.upgrade), 2: Version(ModelContract, lambda contract: contract)},
    family=_bad,
)


def to_document(contract: ModelContract) -> dict[str, Any]:
    """The contract as plain values, in the oldest version that can say it."""
    plain = dataclasses.replace(contract, outputs=dict(contract.outputs))
    document = {**dataclasses.asdict(plain), "format_version": 2}
    if not _is_version_1(contract):
        return document
    for key in _NEW_IN_2:
        del document[key]
    document["format_version"] = 1
    document["outputs"]["embedding_size"] = contract.embedding_size
    document["preprocessing"]["resize"] = "bilinear"
    for key, kind in (("input", _InputV1), ("preprocessing", _PreprocessingV1)):
        document[key] = {f.name: document[key][f.name] for f in dataclasses.fields(kind)}
    return document


def _is_version_1(c: ModelContract) -> bool:
    spec, how = c.input, c.preprocessing
    return (
        c.task == "classification"
        and c.head == HeadSpec()
        and c.size_input is None
        and set(c.outputs) == {"embedding", "logits"}
        and spec == InputSpec(spec.name, spec.channels, spec.height, spec.width)
        and how == Preprocessing(scale=how.scale, mean=how.mean, std=how.std)
    )


def write_contract(contract: ModelContract) -> str:
    """One JSON object with sorted keys."""
    return json.dumps(to_document(contract), sort_keys=True, ensure_ascii=False)


def read_contract(text: str) -> ModelContract:
    """See `ModelContract.from_json`."""
    if len(text) > MAX_CONTRACT_BYTES:
        raise _bad(f"model contract: {len(text)} characters, the limit is {MAX_CONTRACT_BYTES}")
    return CONTRACT.read(text)
