"""Name and digest of a registered model, as serving.json and base.json hold them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foundation.files import read_json


@dataclass(frozen=True, slots=True)
class ModelName:
    """A registered model."""

    name: str
    digest: str


def read_model_name(path: Path) -> ModelName | None:
    """Name and digest of the model in serving.json or base.json; None while there is none."""
    document = read_json(path) if path.is_file() else None
    match document:
        case {"name": str(name), "digest": str(digest)}:
            return ModelName(name, digest)
    return None
