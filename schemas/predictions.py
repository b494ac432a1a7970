"""What a model said about one observation, as it crosses a border: one record per model, one field per task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """The best class and the probabilities of all classes in the contract's order, each in [0, 1]."""

    class_name: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """One object. Edges in pixels of the picture as a viewer shows it: pixel i covers [i, i + 1)."""

    class_name: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class DetectionOutput:
    """The objects, by falling score; an empty tuple means that the picture was looked at and holds none."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class ModelPrediction:
    """What one model said, in the field of its task. `scores` are in [0, 1]: how much there is to learn."""

    role: str
    task: str
    model_name: str
    model_digest: str
    scores: Mapping[str, float] = field(default_factory=dict)
    embedding: tuple[float, ...] = field(default=(), repr=False)
    classification: ClassificationOutput | None = None
    detection: DetectionOutput | None = None
