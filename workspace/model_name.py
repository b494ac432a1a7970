"""Name and digest of a registered model, as registry/serving.json and registry/base.json hold them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from foundation.documents import DocumentType, Meta
from foundation.files import read_document, write_document

MODEL_NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)"


@dataclass(frozen=True, slots=True)
class ModelName:
    """A registered model; `digest` is the lower-case hex SHA-256 of its artefact."""

    name: Annotated[str, Meta(pattern=MODEL_NAME_PATTERN)]
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


MODEL_NAME: Final = DocumentType.first("model name", ModelName, max_bytes=64 * 1024)


def read_model_name(path: Path) -> ModelName | None:
    """Return the model that the file names; None while there is none. Raises CorruptError."""
    return read_document(path, MODEL_NAME) if path.is_file() else None


def write_model_name(path: Path, named: ModelName) -> None:
    """Replace the file, durably."""
    write_document(path, MODEL_NAME, named)
