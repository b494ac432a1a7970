"""Derive the contract of a model exported elsewhere from its file, from the user's options, and from defaults.

Every default taken is reported; what cannot be derived is asked for by the name of its option.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.foreign import ForeignModel, Port
from modelkit.specs import ExtraInput, HeadSpec, InputSpec, Preprocessing, SizeSpec
from modelkit.tasks import TASKS
from schemas.reasons import RefuseReason

MEBIBYTE: Final = 1024 * 1024
DEFAULT_MAX_BYTES: Final = 64 * MEBIBYTE
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ROLE_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "logits": ("logits", "probabilities", "scores"),
    "embedding": ("embedding", "embeddings", "features"),
    "boxes": ("boxes", "bboxes", "dets", "detection_boxes", "pred_boxes"),
    "scores": ("scores", "detection_scores"),
    "classes": ("classes", "labels", "detection_classes", "class_ids"),
    "count": ("count", "num_detections", "num_dets"),
    "selected": ("selected", "selected_indices"),
    "mask": ("mask", "masks", "seg", "segmentation"),
}
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "0-1": (1 / 255, 0.0),
    "0-255": (1.0, 0.0),
    "-1-1": (2 / 255, 1.0),
}


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What the user states about a model. Empty means: from the file, or a default that is reported.

    `outputs` are the graph's outputs by role. `size` is (width, height) in pixels. `values` is 0-1, 0-255, -1-1 or
    imagenet; `mean` and `std` are in units of 0 to 1, in the order of the input's channels. `any_size`: the sizes in
    the file are only those of the export; it is given `size` and a batch of one (see `modelkit.foreign.resized`).
    """

    file: Path
    classes: tuple[str, ...]
    name: str
    task: str = "classification"
    head: str = ""
    size: tuple[int, int] | None = None
    layout: str = ""
    color: str = ""
    values: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fit: str = ""
    pad: int = 114
    crop_from: int = 0
    resample: str = ""
    input: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    size_input: str = ""
    constants: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    scale_input: str = ""
    scale_order: str = "height-width"
    size_order: str = "height-width"
    size_of: str = "original"
    boxes: str = ""
    first_class: int = 0
    min_score: float = 0.25
    suppression: str = ""
    max_overlap: float = 0.5
    max_boxes: int = 300
    strides: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    priors: tuple[tuple[tuple[float, float], ...], ...] = ()
    variances: tuple[float, ...] = ()
    activation: str = ""
    any_size: bool = False
    max_bytes: int = DEFAULT_MAX_BYTES
    target: str = "cpu"
    allows_chance: bool = False


def contract_for(foreign: ForeignModel, request: ImportRequest, taken: list[str]) -> ModelContract:
    """Return the contract that follows from file and request; defaults that were taken are added to `taken`.

    Raises:
        MisconfiguredError: an option is needed. RejectedError: file and request contradict each other.
    """
    port, size_input, extra_inputs = _inputs(foreign, request)
    spec = _input_spec(port, request, taken)
    if request.task not in TASKS:
        raise MisconfiguredError(f"--task is {request.task!r}; it must be one of {', '.join(sorted(TASKS))}")
    if len(request.classes) < TASKS[request.task].least_classes:
        raise MisconfiguredError(
            f"--classes names {len(request.classes)}, {request.task} needs at least {TASKS[request.task].least_classes}"
        )
    head = TASKS[request.task].completed(_asked(request), request.classes, taken)
    outputs = _outputs(foreign, request, head, taken)
    fixed = {
        port.shape[0]
        for port in foreign.outputs
        if port.name in (outputs.get("logits"), outputs.get("embedding")) and port.shape and port.shape[0] > 0
    }
    if spec.batch == 0 and len(fixed) == 1:
        spec = dataclasses.replace(spec, batch=fixed.pop())
        taken.append(f"a batch of {spec.batch}: the outputs say so, though the input's batch is free")
    embedding = next((each for each in foreign.outputs if each.name == outputs.get("embedding")), None)
    if embedding is not None and (len(embedding.shape) != 2 or embedding.shape[1] < 1):
        raise RejectedError(
            f"the embedding {embedding} is not one row of numbers per picture", reason=RefuseReason.WRONG_IO
        )
    return ModelContract(
        name=request.name,
        classes=request.classes,
        trained_classes=request.classes,
        task=request.task,
        head=head,
        input=spec,
        size_input=size_input,
        extra_inputs=extra_inputs,
        preprocessing=_preprocessing(spec, request, taken),
        outputs=outputs,
        embedding_size=embedding.shape[1] if embedding else 0,
        operator_domains=foreign.domains,
        target=request.target,
        created_by="fleetloop model import",
    )


def picture_port(foreign: ForeignModel, request: ImportRequest) -> Port:
    """Return the input that takes the picture. Raises MisconfiguredError when several could."""
    return _inputs(foreign, request)[0]


def _inputs(
    foreign: ForeignModel, request: ImportRequest
) -> tuple[Port, SizeSpec | None, tuple[ExtraInput, ...]]:
    ports = {port.name: port for port in foreign.inputs}
    named = (request.size_input, request.scale_input, *request.constants)
    for name in (request.input, *named):
        if name and name not in ports:
            raise MisconfiguredError(f"there is no input {name!r}; there are {_listed(foreign.inputs)}")
    others = [port for port in foreign.inputs if port.name not in named]
    if request.input:
        picture, others = ports[request.input], [port for port in others if port.name != request.input]
    else:
        wide = [port for port in others if len(port.shape) == 4]
        if len(wide) != 1:
            raise MisconfiguredError(
                f"{len(wide)} inputs of four axes could be the picture: name it with --input; there are {_listed(foreign.inputs)}"
            )
        picture, others = wide[0], [port for port in others if port is not wide[0]]
    if others:
        raise MisconfiguredError(
            f"the model has the input {others[0]} besides the picture: say that it is the picture's size with --size-input, "
            "its scale with --scale-input, or numbers with --constant NAME=NUMBERS, or export the model without it"
        )
    extras = tuple(_constant(ports[name], values) for name, values in request.constants.items())
    if request.scale_input:
        scale = ports[request.scale_input]
        extras += (
            ExtraInput(scale.name, "scale", cast(Any, scale.dtype), order=cast(Any, request.scale_order)),
        )
    if not request.size_input:
        return picture, None, extras
    size = ports[request.size_input]
    spec = SizeSpec(
        size.name, cast(Any, request.size_order), cast(Any, request.size_of), cast(Any, size.dtype)
    )
    return picture, spec, extras


def _constant(port: Port, values: tuple[float, ...]) -> ExtraInput:
    """Return the constant of an input; a free size is what the numbers leave for it, if it is the only one."""
    free = [axis for axis, size in enumerate(port.shape) if size < 1]
    known = math.prod(size for size in port.shape if size > 0)
    if len(free) > 1 or len(values) % known or (not free and len(values) != known):
        raise MisconfiguredError(f"--constant {port.name} has {len(values)} numbers, the input is {port}")
    shape = tuple(size if size > 0 else len(values) // known for size in port.shape)
    return ExtraInput(port.name, "constant", cast(Any, port.dtype), shape, values)


def _input_spec(port: Port, request: ImportRequest, taken: list[str]) -> InputSpec:
    if len(port.shape) != 4:
        raise RejectedError(
            f"the input {port} does not have the four axes of pictures", reason=RefuseReason.WRONG_IO
        )
    if port.dtype not in ("float32", "float16", "uint8"):
        raise RejectedError(
            f"the input {port} is {port.dtype}; it must be float32, float16 or uint8: export it again",
            reason=RefuseReason.WRONG_IO,
        )
    layout = request.layout.upper()
    if not layout:
        fits = [name for name, axis in (("NCHW", 1), ("NHWC", 3)) if port.shape[axis] == 3]
        if len(fits) != 1:
            if not fits and -1 not in (port.shape[1], port.shape[3]):
                raise RejectedError(
                    f"the input {port} has no axis of 3 channels: pictures are RGB",
                    reason=RefuseReason.WRONG_IO,
                )
            raise MisconfiguredError(f"the input {port} can be read as NCHW or NHWC: say which with --layout")
        layout = fits[0]
    elif layout not in ("NCHW", "NHWC"):
        raise MisconfiguredError(f"--layout is {request.layout!r}; it must be nchw or nhwc")
    height, width = port.shape[2:] if layout == "NCHW" else port.shape[1:3]
    if request.size is None:
        if min(height, width) < 1:
            raise MisconfiguredError(
                f"the input {port} has no fixed height and width: say them with --size WIDTHxHEIGHT"
            )
    else:
        wanted = (request.size[1], request.size[0])
        if any(found not in (-1, each) for found, each in zip((height, width), wanted, strict=True)):
            raise MisconfiguredError(
                f"--size is {request.size[0]} x {request.size[1]}, the input {port} is {width} wide and {height} high"
            )
        height, width = wanted
    if port.shape[0] > 1:
        taken.append(f"a batch of {port.shape[0]}, as the file says: one picture fills it up")
    return InputSpec(
        port.name, 3, height, width, cast(Any, layout), cast(Any, port.dtype), max(port.shape[0], 0)
    )


def _preprocessing(spec: InputSpec, request: ImportRequest, taken: list[str]) -> Preprocessing:
    color, values, fit, resample = request.color.upper(), request.values, request.fit, request.resample
    if not color:
        color = "RGB"
        taken.append("colours in the order RGB (--color bgr for the other)")
    if bool(request.mean) != bool(request.std):
        raise MisconfiguredError("--mean and --std belong together")
    if spec.dtype == "uint8":
        if request.mean or values not in ("", "0-255"):
            raise MisconfiguredError(
                f"the input {spec.name!r} is uint8: it takes pixels of 0-255 as they are"
            )
        values = "0-255"
    elif not values and not request.mean:
        values = "0-1"
        taken.append("values of 0-1 (--values 0-255, -1-1, imagenet, or --mean and --std for others)")
    if not fit:
        fit = "stretch"
        taken.append("pictures stretched to the input (--fit for letterbox or crop)")
    mean, std, scale = request.mean, request.std, 1 / 255
    if values == "imagenet":
        mean, std = (each if color == "RGB" else each[::-1] for each in IMAGENET)
    elif not mean:
        if values not in _RANGES:
            raise MisconfiguredError(f"--values is {values!r}; it must be {', '.join(_RANGES)} or imagenet")
        scale, offset = _RANGES[values]
        mean, std = (offset,) * 3, (1.0,) * 3
    return Preprocessing(
        resample=cast(Any, resample or "averaged"),
        color=cast(Any, color),
        scale=scale,
        mean=tuple(mean),
        std=tuple(std),
        fit=cast(Any, fit),
        pad=request.pad,
        crop_from=request.crop_from,
    )


def _asked(request: ImportRequest) -> HeadSpec:
    """Return the head as it was said, "" where nothing was."""
    return HeadSpec(
        request.head,
        request.boxes,
        request.strides,
        request.columns,
        request.first_class,
        request.min_score,
        cast(Any, request.suppression),
        request.max_overlap,
        request.max_boxes,
        request.priors,
        cast(Any, request.variances or HeadSpec().variances),
        cast(Any, request.activation or HeadSpec().activation),
    )


def _outputs(
    foreign: ForeignModel, request: ImportRequest, head: HeadSpec, taken: list[str]
) -> dict[str, str]:
    names = [port.name for port in foreign.outputs]
    for role, name in request.outputs.items():
        if name not in names:
            raise MisconfiguredError(
                f"--output {role}={name}: there is no such output; there are {_listed(foreign.outputs)}"
            )
    found = dict(request.outputs)
    free = [port for port in foreign.outputs if port.name not in found.values()]
    needed, optional = TASKS[request.task].roles(head, request.classes)
    if "embedding" not in (*found, *needed):
        named = [
            port
            for port in free
            if port.name in ROLE_NAMES["embedding"] and len(port.shape) == 2 and port.shape[1] > 0
        ]
        if len(named) == 1 and len(foreign.outputs) > 1:
            found["embedding"] = named[0].name
            free.remove(named[0])
            taken.append(f"the output {named[0].name!r} as the embedding")
    for role in (*needed, *(optional if request.outputs or len(free) > len(needed) else ())):
        if role in found:
            continue
        fits = [port for port in free if port.name == role]
        fits = fits or [port for port in free if port.name in ROLE_NAMES.get(role, ())]
        if not fits and len(needed) == 1 and role in needed and len(free) == 1:
            fits = free[:1]
        if len(fits) == 1:
            found[role] = fits[0].name
            free = [port for port in free if port is not fits[0]]
        elif role in needed:
            raise MisconfiguredError(
                f"which output is the {role}? Say --output {role}=NAME; there are {_listed(foreign.outputs)}"
            )
    return found


def _listed(ports: Sequence[Port]) -> str:
    return ", ".join(map(str, ports))
