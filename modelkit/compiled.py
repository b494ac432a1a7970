"""The record inside a model that was compiled ahead of time: what for, by which versions, from which model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from foundation.documents import DocumentType, Meta
from foundation.errors import RejectedError
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import ModelProto

COMPILED: Final = "EPContext"
"""Operator of a node that holds a part of the graph, compiled for an accelerator."""
COMPILED_KEY: Final = "fleetloop.compiled"
"""Metadata key of the record."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """For which architecture of the Hexagon tensor processor a model was compiled, by which versions and from which model."""

    htp_arch: Annotated[int, Meta(ge=0, le=999)]
    onnxruntime: str
    onnxruntime_qnn: str
    source_digest: str
    macs: Annotated[int, Meta(ge=0, le=2**62)]
    """Multiply-accumulate operations of the model that it was made from; a compiled node shows none."""


def _wrong(message: str) -> RejectedError:
    return RejectedError(message, reason=RefuseReason.WRONG_TARGET)


RECORD: Final = DocumentType.first("record of a compiled model", Compiled, family=_wrong)


def record_of(model: ModelProto) -> Compiled | None:
    """Return the record in a model; None if there is none.

    Raises:
        RejectedError: reason `wrong_target`; it cannot be read.
    """
    found = [entry.value for entry in model.metadata_props if entry.key == COMPILED_KEY]
    return RECORD.read(found[0]) if found else None
