"""The parts of a contract (input, preprocessing, head, names), as plain values that are not checked yet.

Tasks read these; `modelkit.contract` asks the tasks whether they fit together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Fit = Literal["stretch", "letterbox-centre", "letterbox-topleft", "crop-centre"]
Activation = Literal["none", "sigmoid", "softmax"]
Suppression = Literal["none", "per-class", "agnostic"]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The input of role `image`: one picture per row of a batch. Sizes in pixels.

    `batch` is the number of rows that one run takes, 0 when any number will do; a fixed batch is filled up.
    """

    name: str = "image"
    channels: int = 3
    height: int = 32
    width: int = 32
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    batch: int = 0


@dataclass(frozen=True, slots=True)
class SizeSpec:
    """An input of role `size` (N, 2): a size in pixels, of the `original` picture or of the model's `input`."""

    name: str
    order: Literal["height-width", "width-height"] = "height-width"
    of: Literal["original", "input"] = "original"
    dtype: Literal["float32", "int64", "int32"] = "float32"


@dataclass(frozen=True, slots=True)
class ExtraInput:
    """A further named input: `constant` numbers of this shape, or the `scale` of each picture (N, 2).

    `scale` is by how much the picture was enlarged to lie in the input, in `order`; it has no shape and no values.
    """

    name: str
    kind: Literal["constant", "scale"]
    dtype: Literal["float32", "float16", "int64", "int32", "uint8", "bool"] = "float32"
    shape: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    order: Literal["height-width", "width-height"] = "height-width"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From 8-bit pixels to the input: fit into it, then `(pixel * scale - mean) / std` per channel.

    `fit` says how a picture of another shape gets into the input. A letterbox keeps the picture's shape, also
    enlarges, and fills the rest with `pad` (0 to 255); in the centre an odd spare row goes below or right.
    `crop-centre` resizes the short side to `crop_from` pixels and cuts out the middle. `resample` "averaged"
    is bilinear with anti-aliasing, "two-point" is bilinear between the nearest pixels alone. `mean` and `std`
    are in the order of the input's channels.
    """

    resample: Literal["averaged", "two-point"] = "averaged"
    color: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    fit: Fit = "stretch"
    pad: int = 114
    crop_from: int = 0


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """How the outputs are to be read; `kind` is one of the task's heads, the rest is for heads that have boxes.

    `boxes` is a convention and a unit: xyxy, cxcywh, xywh or yxyx, then px (of the input), norm (0 to 1 of the
    input) or original (pixels of the picture). A box counts when its score is above `min_score`; it is
    suppressed by a better one when their overlap (intersection over union) is above `max_overlap`.

    `priors` are the boxes that the head `ssd-priors` starts from: per stride those of one cell, each (width, height)
    in pixels of the input. `variances` scale its numbers: of the centre (x, y), then of the size (width, height).
    `activation` is what remains to be done to scores; "none" when the graph does it.
    """

    kind: str = "softmax"
    boxes: str = "xyxy-px"
    strides: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    first_class: int = 0
    min_score: float = 0.25
    suppression: Suppression = "per-class"
    max_overlap: float = 0.5
    max_boxes: int = 300
    priors: tuple[tuple[tuple[float, float], ...], ...] = ()
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    activation: Activation = "none"


def _default_outputs() -> dict[str, str]:
    return {"logits": "logits", "embedding": "embedding"}


@dataclass(frozen=True, slots=True)
class ContractFields:
    """The fields of `modelkit.contract.ModelContract`, which says what they mean and checks them."""

    name: str
    classes: tuple[str, ...]
    trained_classes: tuple[str, ...]
    untrained_conditions: tuple[str, ...] = ()
    task: str = "classification"
    head: HeadSpec = HeadSpec()
    input: InputSpec = InputSpec()
    size_input: SizeSpec | None = None
    extra_inputs: tuple[ExtraInput, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    outputs: Mapping[str, str] = field(default_factory=_default_outputs)
    embedding_size: int = 64
    allowed_providers: tuple[str, ...] = ("CPUExecutionProvider",)
    cpu_fallback: Literal["allow", "refuse"] = "allow"
    operator_domains: tuple[str, ...] = ()
    target: str = "cpu"
    base_digest: str = ""
    training_drives_digest: str = ""
    created_by: str = ""


def is_plain(how: Preprocessing) -> bool:
    """Return whether pixels of 0 to 255 reach the input unchanged."""
    return how.scale == 1.0 and not any(how.mean) and all(math.isclose(s, 1.0) for s in how.std)
