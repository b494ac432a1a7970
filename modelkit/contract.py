"""What a model promises to whoever runs it, written into the model file itself.

The contract names every class from the first model on, trained or not, so that a new class never changes
the shape of an output; `trained_classes` and `untrained_conditions` say what the model has really seen. A
contract that contradicts itself cannot be built.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from foundation.errors import RejectedError
from modelkit.digest import digest_of_json
from schemas.reasons import RefuseReason

METADATA_KEY: Final = "fleetloop.contract"
MAX_CLASSES: Final = 10_000
STANDARD_DOMAIN: Final = "ai.onnx"

_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_DIGEST = re.compile(r"^([0-9a-f]{64})?$")

Fit = Literal["stretch", "letterbox-centre", "letterbox-topleft", "crop-centre"]
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


def _default_outputs() -> dict[str, str]:
    return {"logits": "logits", "embedding": "embedding"}


@dataclass(frozen=True, slots=True)
class ModelContract:
    """A model's promises. `base_digest` is empty for a first model; digests are lower-case hex SHA-256.

    `outputs` gives the graph's outputs by role; which roles there are is for the task and its head to say, and
    `embedding` is optional for all (then `embedding_size` is 0). `training_drives_digest` is `digest_of_json`
    of the sorted list of every drive that this model or any ancestor was trained on (guarantee 5). `target`
    names the kind of processor the artefact was made for. `operator_domains` are the operator domains it may
    use besides the standard one. Raises RejectedError(bad_contract) when it contradicts itself.
    """

    name: str
    classes: tuple[str, ...]
    trained_classes: tuple[str, ...]
    untrained_conditions: tuple[str, ...] = ()
    task: str = "classification"
    head: HeadSpec = HeadSpec()
    input: InputSpec = InputSpec()
    size_input: SizeSpec | None = None
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

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise RejectedError(f"model contract: {problem}", reason=RefuseReason.BAD_CONTRACT)

    @property
    def untrained_classes(self) -> tuple[str, ...]:
        """Classes that are in the contract but that the model never saw, in the contract's order."""
        return tuple(name for name in self.classes if name not in self.trained_classes)

    @property
    def digest(self) -> str:
        """Digest of the contract alone, whatever the weights."""
        from modelkit.contract_json import to_document

        return digest_of_json(to_document(self))

    def to_json(self) -> str:
        """The contract as one JSON object with sorted keys, in the oldest version that can say it."""
        from modelkit.contract_json import write_contract

        return write_contract(self)

    @classmethod
    def from_json(cls, text: str) -> ModelContract:
        """The contract in `text`, of any version that was ever released.

        Raises:
            RejectedError: reason `bad_contract`; a missing key, a wrong type, a contradiction, or a key that
                must be understood and is not.
        """
        from modelkit.contract_json import read_contract

        return read_contract(text)


def _problems(c: ModelContract) -> Iterator[str]:
    """Everything that contradicts itself; the first one is reported. Bounds are named."""
    from modelkit.tasks import TASKS

    if c.task not in TASKS:
        yield f"task {c.task!r}, this knows {sorted(TASKS)}"
        return
    yield from (message for holds, message in _general(c) if not holds)
    yield from (message for holds, message in _of_input(c) if not holds)
    yield from TASKS[c.task].problems(c)


def _general(c: ModelContract) -> list[tuple[bool, str]]:
    names = [c.input.name, *c.outputs.values(), *([c.size_input.name] if c.size_input else [])]
    doubled = sorted({name for name in c.outputs.values() if list(c.outputs.values()).count(name) > 1})
    return [
        (_NAME.match(c.name) is not None, f"name {c.name!r} does not match {_NAME.pattern}"),
        (len(c.classes) <= MAX_CLASSES, f"{len(c.classes)} classes, the limit is {MAX_CLASSES}"),
        (len(set(c.classes)) == len(c.classes), "a class is listed twice"),
        (all(c.classes), "a class has an empty name"),
        (len(set(c.trained_classes)) == len(c.trained_classes), "a trained class is listed twice"),
        (
            set(c.trained_classes) <= set(c.classes),
            f"trained_classes {c.trained_classes} are not all in classes",
        ),
        (all(names), "an input or output has an empty name"),
        (not doubled, f"two outputs are named {doubled[0] if doubled else ''!r}"),
        (
            ("embedding" in c.outputs) == (c.embedding_size > 0),
            f"embedding_size {c.embedding_size}, but the outputs are {sorted(c.outputs)}",
        ),
        (0 <= c.embedding_size <= 4096, f"embedding_size {c.embedding_size}, allowed are 0 to 4096"),
        (
            c.cpu_fallback in ("allow", "refuse"),
            f"cpu_fallback {c.cpu_fallback!r} is not 'allow' or 'refuse'",
        ),
        (bool(c.allowed_providers), "allowed_providers is empty"),
        (_DIGEST.match(c.base_digest) is not None, f"base_digest {c.base_digest!r} is no sha256"),
        (_DIGEST.match(c.training_drives_digest) is not None, "training_drives_digest is no sha256"),
    ]


def _of_input(c: ModelContract) -> list[tuple[bool, str]]:
    spec, how = c.input, c.preprocessing
    sizes = {"input.height": spec.height, "input.width": spec.width}
    checks = [
        (spec.channels == 3, f"input.channels {spec.channels}, RGB has 3"),
        (spec.layout in ("NCHW", "NHWC"), f"input.layout {spec.layout!r} is not 'NCHW' or 'NHWC'"),
        (
            spec.dtype in ("float32", "float16", "uint8"),
            f"input.dtype {spec.dtype!r} is not 'float32', 'float16' or 'uint8'",
        ),
        (0 <= spec.batch <= 1024, f"input.batch {spec.batch}, allowed are 0 (free) to 1024"),
        (len(how.mean) == spec.channels, f"mean has {len(how.mean)} values, not {spec.channels}"),
        (len(how.std) == spec.channels, f"std has {len(how.std)} values, not {spec.channels}"),
        (all(0 < s < 1e6 for s in how.std), f"std {how.std} is not all above 0"),
        (all(abs(m) < 1e6 for m in how.mean), f"mean {how.mean} is out of range"),
        (0 < how.scale < 1e6, f"scale {how.scale} is not above 0"),
        (
            how.resample in ("averaged", "two-point"),
            f"resample {how.resample!r}, allowed are 'averaged' and 'two-point'",
        ),
        (how.color in ("RGB", "BGR"), f"color {how.color!r}, allowed are 'RGB' and 'BGR'"),
        (
            how.fit in ("stretch", "letterbox-centre", "letterbox-topleft", "crop-centre"),
            f"fit {how.fit!r} is none of stretch, letterbox-centre, letterbox-topleft, crop-centre",
        ),
        (0 <= how.pad <= 255, f"pad {how.pad}, allowed are 0 to 255"),
        (
            how.fit != "crop-centre" or how.crop_from >= max(spec.height, spec.width),
            f"crop_from {how.crop_from} is below the input's {spec.width} x {spec.height}",
        ),
        (
            spec.dtype != "uint8" or is_plain(how),
            "an input of uint8 takes pixels as they are: scale must be 1, mean 0 and std 1",
        ),
    ]
    checks += [(1 <= v <= 4096, f"{k} {v}, allowed are 1 to 4096") for k, v in sizes.items()]
    return checks


def is_plain(how: Preprocessing) -> bool:
    """Whether pixels of 0 to 255 reach the input unchanged."""
    return how.scale == 1.0 and not any(how.mean) and all(math.isclose(s, 1.0) for s in how.std)


def with_name(contract: ModelContract, name: str | None) -> ModelContract:
    """The same promises under another name; None keeps the name."""
    return contract if name is None else dataclasses.replace(contract, name=name)
