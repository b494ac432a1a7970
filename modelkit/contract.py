"""The contract of a model, embedded in the model file: classes, input, preprocessing, head, outputs.

The contract names every class from the first model on, trained or not, so that a new class never changes
the shape of an output; `trained_classes` and `untrained_conditions` say what the model was trained on. A
contract that contradicts itself cannot be built.

As text it has versions: every released one is read, and the oldest that can express the contract is written. Version 1
knows classification of one stretched picture with logits and an embedding; writing it where it is enough keeps
digests, and lets vehicles that know nothing else serve the model.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from foundation.documents import MUST_UNDERSTAND, DocumentType, Version
from foundation.errors import RejectedError
from modelkit.digest import digest_of_json
from modelkit.specs import ContractFields, ExtraInput, HeadSpec, InputSpec, Preprocessing, is_plain
from modelkit.tasks import TASKS
from schemas.reasons import RefuseReason

METADATA_KEY: Final = "fleetloop.contract"
MAX_CLASSES: Final = 10_000
STANDARD_DOMAIN: Final = "ai.onnx"
MAX_CONTRACT_BYTES: Final = 262_144
_LATER_IN_HEAD: Final = ("activation", "priors", "variances")
"""Keys of `head` that version 2 gained: written where they are not the default, and then to be understood."""
_LATER: Final = ("extra_inputs",)
"""The same of the contract itself."""
MAX_EXTRA_INPUTS: Final = 16
MAX_CONSTANT_NUMBERS: Final = 4096
_NEW_IN_2: Final = ("embedding_size", "extra_inputs", "head", "size_input", "task")

_RANGES: Final = {
    "float32": (-3.4e38, 3.4e38),
    "float16": (-65504.0, 65504.0),
    "int64": (-(2.0**53), 2.0**53),
    "int32": (-(2.0**31), 2.0**31 - 1),
    "uint8": (0.0, 255.0),
    "bool": (0.0, 1.0),
}
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_DIGEST = re.compile(r"^([0-9a-f]{64})?$")


@dataclass(frozen=True, slots=True)
class ModelContract(ContractFields):
    """The contract of a model. `base_digest` is empty for a first model; digests are lower-case hex SHA-256.

    `outputs` gives the graph's outputs by role; which roles there are is for the task and its head to say, and
    `embedding` is optional for all (then `embedding_size` is 0). `training_drives_digest` is `digest_of_json`
    of the sorted list of every drive that this model or any ancestor was trained on (guarantee 5). `target`
    names the kind of processor the artefact was made for. `operator_domains` are the operator domains it may
    use besides the standard one. Raises RejectedError(bad_contract) when it contradicts itself.
    """

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise _bad(f"model contract: {problem}")

    @property
    def untrained_classes(self) -> tuple[str, ...]:
        """Classes of the contract that the model was not trained on, in the contract's order."""
        return tuple(name for name in self.classes if name not in self.trained_classes)

    @property
    def digest(self) -> str:
        """The digest of the contract alone, whatever the weights."""
        return digest_of_json(to_document(self))

    def to_json(self) -> str:
        """Return the contract as one JSON object with sorted keys, in the oldest version that can express it."""
        return json.dumps(to_document(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelContract:
        """Return the contract in `text`, of any version that was ever released.

        Raises:
            RejectedError: reason `bad_contract`; a missing key, a wrong type, a contradiction, or a key that
                must be understood and is not.
        """
        if len(text) > MAX_CONTRACT_BYTES:
            raise _bad(f"model contract: {len(text)} characters, the limit is {MAX_CONTRACT_BYTES}")
        return CONTRACT.read(text)


def _problems(c: ModelContract) -> Iterator[str]:
    """Yield every contradiction, with its bound; the first one is reported."""
    if c.task not in TASKS:
        yield f"task {c.task!r}, this knows {sorted(TASKS)}"
        return
    yield from (message for holds, message in _general(c) if not holds)
    yield from (message for holds, message in _of_input(c) if not holds)
    yield from (message for each in c.extra_inputs for message in _of_extra(each))
    if len(c.extra_inputs) > MAX_EXTRA_INPUTS:
        yield f"{len(c.extra_inputs)} extra inputs, the limit is {MAX_EXTRA_INPUTS}"
    yield from TASKS[c.task].problems(c)


def input_names(contract: ContractFields) -> list[str]:
    """Return the names of all inputs: of the picture, its size, then the extra ones."""
    size = [contract.size_input.name] if contract.size_input else []
    return [contract.input.name, *size, *(each.name for each in contract.extra_inputs)]


def _of_extra(extra: ExtraInput) -> Iterator[str]:
    what = f"extra input {extra.name!r}"
    if extra.kind == "scale":
        if extra.shape or extra.values or extra.dtype not in ("float32", "float16"):
            yield f"{what} is a scale: float32 or float16, without shape and values, not {extra.dtype} {extra.shape}"
        return
    count = math.prod(extra.shape)
    if extra.kind != "constant" or not all(side >= 1 for side in extra.shape):
        yield f"{what} of kind {extra.kind!r} and shape {extra.shape}"
    elif not 1 <= len(extra.values) <= MAX_CONSTANT_NUMBERS or len(extra.values) != count:
        limit = MAX_CONSTANT_NUMBERS
        yield f"{what} has {len(extra.values)} numbers, its shape {extra.shape} needs {count}, the limit is {limit}"
    if extra.dtype not in _RANGES:
        yield f"{what} is of {extra.dtype}, allowed are {list(_RANGES)}"
        return
    low, high = _RANGES[extra.dtype]
    for value in extra.values:
        if not low <= value <= high or (extra.dtype not in ("float32", "float16") and value != int(value)):
            yield f"{what} is {value:g}, which is no {extra.dtype}"
            return


def _general(c: ModelContract) -> list[tuple[bool, str]]:
    inputs = input_names(c)
    names = [*inputs, *c.outputs.values()]
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
        (len(set(inputs)) == len(inputs), f"two of the inputs {inputs} have one name"),
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


def with_name(contract: ModelContract, name: str | None) -> ModelContract:
    """Return the same contract under another name; None keeps the name."""
    return contract if name is None else dataclasses.replace(contract, name=name)


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
        """Return the same contract; what version 1 could not express has its default."""
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
    """Return the contract as plain values, in the oldest version that can express it."""
    plain = dataclasses.replace(contract, outputs=dict(contract.outputs))
    document = {**dataclasses.asdict(plain), "format_version": 2}
    if not _is_version_1(contract):
        _leave_out_defaults(document["head"], HeadSpec, _LATER_IN_HEAD)
        _leave_out_defaults(document, ContractFields, _LATER)
        return document
    for key in _NEW_IN_2:
        del document[key]
    document["format_version"] = 1
    document["outputs"]["embedding_size"] = contract.embedding_size
    document["preprocessing"]["resize"] = "bilinear"
    for key, kind in (("input", _InputV1), ("preprocessing", _PreprocessingV1)):
        document[key] = {f.name: document[key][f.name] for f in dataclasses.fields(kind)}
    return document


def _leave_out_defaults(plain: dict[str, Any], kind: type, later: tuple[str, ...]) -> None:
    """Drop keys with their default value, so that digests stay; a reader that skips one of the others would be wrong."""
    found = {field.name: field.default for field in dataclasses.fields(kind)}
    said = [key for key in later if plain[key] != found[key]]
    for key in set(later) - set(said):
        del plain[key]
    if said:
        plain[MUST_UNDERSTAND] = said


def _is_version_1(c: ModelContract) -> bool:
    spec, how = c.input, c.preprocessing
    return (
        c.task == "classification"
        and c.head == HeadSpec()
        and c.size_input is None
        and not c.extra_inputs
        and set(c.outputs) == {"embedding", "logits"}
        and spec == InputSpec(spec.name, spec.channels, spec.height, spec.width)
        and how == Preprocessing(scale=how.scale, mean=how.mean, std=how.std)
    )
