"""The predictions of models for an observation, as they are transferred: any number, each for one task.

A prediction names its role on the vehicle, its task and its model, and holds scores by name, an embedding and the output
of its task. A new task adds an optional field here and in the Avro schema, which old readers skip.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Final

from schemas.limits import digest, invalid, text, vector
from schemas.roles import ROLE_PATTERN, SERVING, is_role

CLASSIFICATION: Final = "classification"
MAX_PREDICTIONS: Final = 32
MAX_CLASSES: Final = 10_000
MAX_EMBEDDING: Final = 4096
MAX_BOXES: Final = 1000
MAX_SCORES: Final = 64
MAX_VALUES: Final = 1000
MAX_MASK_CLASSES: Final = 255
MAX_MASK_SIDE: Final = 2048
"""Rows and columns of a mask."""
UNSEEN: Final = 255

_name = re.compile(r"[a-z][a-z0-9_]{0,63}").fullmatch


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """The class of a picture; `probabilities` are in the order of the contract's classes, or empty if unknown."""

    class_name: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """One detected object. Edges are in pixels of the picture after its orientation tag is applied: pixel i covers [i, i + 1)."""

    class_name: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class DetectionOutput:
    """The detected objects by decreasing score; an empty tuple means that the model found none."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class SegmentationOutput:
    """A mask over the whole picture: `height` rows of `width` cells, each the number of one of `classes`.

    `mask` has the numbers row by row, one byte each, compressed by zlib; UNSEEN is what the model did not look at.
    """

    classes: tuple[str, ...]
    height: int
    width: int
    mask: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RegressionOutput:
    """Numbers by name, in the units that the model's contract means."""

    names: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModelPrediction:
    """The prediction of one model. `scores` are in [0, 1], by name; outputs of tasks other than `task` are None."""

    role: str
    task: str
    model_name: str
    model_digest: str
    scores: Mapping[str, float] = field(default_factory=dict)
    embedding: tuple[float, ...] = field(default=(), repr=False)
    classification: ClassificationOutput | None = None
    detection: DetectionOutput | None = None
    segmentation: SegmentationOutput | None = None
    regression: RegressionOutput | None = None


def of_role(predictions: Sequence[ModelPrediction], role: str) -> ModelPrediction | None:
    """Return the first prediction of `role`, or None."""
    return next((one for one in predictions if one.role == role), None)


def flat_prediction(predictions: Sequence[ModelPrediction]) -> ModelPrediction | None:
    """Return the prediction for the flat fields of the wire format and the flat columns of the lake.

    It is the first classification, or else the serving prediction, whose class is then empty.
    """
    first = next((one for one in predictions if one.classification is not None), None)
    return first or of_role(predictions, SERVING)


def to_plain(prediction: ModelPrediction) -> dict[str, Any]:
    """Return the prediction as a dictionary for Avro."""
    classification, detection = prediction.classification, prediction.detection
    segmentation, regression = prediction.segmentation, prediction.regression
    return {
        "role": prediction.role,
        "task": prediction.task,
        "model_name": prediction.model_name,
        "model_digest": prediction.model_digest,
        "scores": dict(prediction.scores),
        "embedding": prediction.embedding,
        "classification": classification
        and {"class_name": classification.class_name, "probabilities": classification.probabilities},
        "detection": detection and {"boxes": [asdict(box) for box in detection.boxes]},
        "segmentation": segmentation and asdict(segmentation),
        "regression": regression and asdict(regression),
    }


def to_json_plain(prediction: ModelPrediction) -> dict[str, Any]:
    """As `to_plain`, for JSON: a mask is base64 text, and the outputs that version 4 gained are there when they are said."""
    document = to_plain(prediction)
    for name in ("segmentation", "regression"):
        if document[name] is None:
            del document[name]
    if prediction.segmentation is not None:
        document["segmentation"]["mask"] = base64.b64encode(prediction.segmentation.mask).decode()
    return document


def from_plain(fields: Mapping[str, Any]) -> ModelPrediction:
    """Return the prediction that `to_plain` or `to_json_plain` wrote; unknown keys are skipped.

    Raises KeyError, TypeError or ValueError for a dictionary that is not a prediction.
    """
    classification, detection = fields.get("classification"), fields.get("detection")
    segmentation, regression = fields.get("segmentation"), fields.get("regression")
    return ModelPrediction(
        role=fields["role"],
        task=fields["task"],
        model_name=fields["model_name"],
        model_digest=fields["model_digest"],
        scores=dict(fields["scores"]),
        embedding=tuple(fields["embedding"]),
        classification=classification
        and ClassificationOutput(classification["class_name"], tuple(classification["probabilities"])),
        detection=detection and DetectionOutput(tuple(_box(box) for box in detection["boxes"])),
        segmentation=segmentation and _mask(segmentation),
        regression=regression and RegressionOutput(tuple(regression["names"]), tuple(regression["values"])),
    )


def check_predictions(predictions: Sequence[ModelPrediction]) -> None:
    """Raise RejectedError (invalid_value) for the first field out of bounds; it names field, value and bound."""
    if len(predictions) > MAX_PREDICTIONS:
        raise invalid("predictions", len(predictions), f"at most {MAX_PREDICTIONS} of them")
    for number, one in enumerate(predictions):
        _check(f"predictions[{number}]", one)


def _check(at: str, one: ModelPrediction) -> None:
    if not isinstance(one.role, str) or not is_role(one.role):
        raise invalid(f"{at}.role", one.role, f"of the form {ROLE_PATTERN}")
    if not isinstance(one.task, str) or _name(one.task) is None:
        raise invalid(f"{at}.task", one.task, "of the form [a-z][a-z0-9_]{0,63}")
    text(f"{at}.model_name", one.model_name, least=1)
    digest(f"{at}.model_digest", one.model_digest)
    if len(one.scores) > MAX_SCORES:
        raise invalid(f"{at}.scores", len(one.scores), f"at most {MAX_SCORES} of them")
    for name, score in one.scores.items():
        if _name(name) is None:
            raise invalid(f"{at}.scores", name, "names of the form [a-z][a-z0-9_]{0,63}")
        if not 0 <= score <= 1:
            raise invalid(f"{at}.scores.{name}", score, "in [0, 1] or absent")
    vector(f"{at}.embedding", one.embedding, MAX_EMBEDDING)
    if one.classification is not None:
        _check_classification(f"{at}.classification", one.classification)
    if one.detection is not None:
        _check_detection(f"{at}.detection", one.detection)
    if one.segmentation is not None:
        check_mask(f"{at}.segmentation", one.segmentation)
    if one.regression is not None:
        _check_regression(f"{at}.regression", one.regression)


def _check_classification(at: str, output: ClassificationOutput) -> None:
    text(f"{at}.class_name", output.class_name, least=1)
    shares = output.probabilities
    vector(f"{at}.probabilities", shares, MAX_CLASSES)
    if shares and not (min(shares) >= 0 and max(shares) <= 1):
        raise invalid(f"{at}.probabilities", (min(shares), max(shares)), "in [0, 1]")


def _check_detection(at: str, output: DetectionOutput) -> None:
    if len(output.boxes) > MAX_BOXES:
        raise invalid(f"{at}.boxes", len(output.boxes), f"at most {MAX_BOXES} of them")
    for number, box in enumerate(output.boxes):
        text(f"{at}.boxes[{number}].class_name", box.class_name, least=1)
        if not 0 <= box.score <= 1:
            raise invalid(f"{at}.boxes[{number}].score", box.score, "in [0, 1]")
        edges = (box.left, box.top, box.right, box.bottom)
        vector(f"{at}.boxes[{number}]", edges, len(edges))
        if not (isfinite(sum(edges)) and box.left <= box.right and box.top <= box.bottom):
            raise invalid(f"{at}.boxes[{number}]", edges, "left <= right and top <= bottom")


def check_mask(at: str, output: SegmentationOutput) -> None:
    """Raise RejectedError (invalid_value) unless the mask unpacks to exactly its cells, each a class or UNSEEN."""
    if not 1 <= len(output.classes) <= MAX_MASK_CLASSES:
        raise invalid(f"{at}.classes", len(output.classes), f"1 to {MAX_MASK_CLASSES} of them")
    for number, name in enumerate(output.classes):
        text(f"{at}.classes[{number}]", name, least=1)
    for name, side in (("height", output.height), ("width", output.width)):
        if not isinstance(side, int) or not 1 <= side <= MAX_MASK_SIDE:
            raise invalid(f"{at}.{name}", side, f"in [1, {MAX_MASK_SIDE}]")
    cells, unpacker = output.height * output.width, zlib.decompressobj()
    try:
        found = unpacker.decompress(output.mask, cells + 1)
    except (zlib.error, TypeError) as error:
        raise invalid(f"{at}.mask", str(error)[:80], "bytes of zlib") from error
    if len(found) != cells or not unpacker.eof or unpacker.unused_data:
        raise invalid(f"{at}.mask", f"{len(found)} cells", f"exactly {cells} of them")
    known = bytes(range(len(output.classes))) + bytes((UNSEEN,))
    other = found.translate(None, known)
    if other:
        raise invalid(f"{at}.mask", other[0], f"below {len(output.classes)}, or {UNSEEN}")


def _check_regression(at: str, output: RegressionOutput) -> None:
    if not 1 <= len(output.names) <= MAX_VALUES or len(output.values) != len(output.names):
        counts = (len(output.names), len(output.values))
        raise invalid(f"{at}.names, values", counts, f"1 to {MAX_VALUES} names, a value for each")
    for number, name in enumerate(output.names):
        text(f"{at}.names[{number}]", name, least=1)
    vector(f"{at}.values", output.values, MAX_VALUES)
    if not isfinite(sum(output.values)):
        raise invalid(f"{at}.values", sum(output.values), "finite")


def _mask(fields: Mapping[str, Any]) -> SegmentationOutput:
    """Return a mask of Avro (bytes) or of JSON (base64 text)."""
    mask = fields["mask"]
    data = base64.b64decode(mask, validate=True) if isinstance(mask, str) else bytes(mask)
    return SegmentationOutput(tuple(fields["classes"]), fields["height"], fields["width"], data)


def _box(fields: Mapping[str, Any]) -> Box:
    return Box(
        fields["class_name"],
        fields["score"],
        fields["left"],
        fields["top"],
        fields["right"],
        fields["bottom"],
    )
