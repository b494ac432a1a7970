"""What a model promises to whoever runs it, written into the model file itself.

The contract names every class from the first model on, trained or not, so that a new class never changes
the shape of an output; `trained_classes` and `untrained_conditions` say what the model has really seen. A
contract that contradicts itself cannot be built.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from foundation.errors import RejectedError
from modelkit.digest import digest_of_json
from schemas.reasons import RefuseReason

METADATA_KEY: Final = "fleetloop.contract"
FORMAT_VERSION: Final = 1
MAX_CONTRACT_BYTES: Final = 262_144
MAX_CLASSES: Final = 10_000
STANDARD_DOMAIN: Final = "ai.onnx"

_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
_DIGEST = re.compile(r"^([0-9a-f]{64})?$")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The one input: float32, NCHW, batch first and free. Sizes in pixels."""

    name: str = "image"
    channels: int = 3
    height: int = 32
    width: int = 32


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From 8-bit pixels to the input: resize, then `(pixel * scale - mean) / std`, a value a channel."""

    resize: Literal["bilinear"] = "bilinear"
    color: Literal["RGB"] = "RGB"
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """The two outputs: logits float32 (N, classes) and embedding float32 (N, embedding_size)."""

    logits: str = "logits"
    embedding: str = "embedding"
    embedding_size: int = 64


@dataclass(frozen=True, slots=True)
class ModelContract:
    """A model's promises. `base_digest` is empty for a first model; digests are lower-case hex SHA-256.

    `training_drives_digest` is `digest_of_json` of the sorted list of every drive that this model or any
    ancestor was trained on (guarantee 5). `target` names the kind of processor the artefact was made for.
    `operator_domains` are the operator domains it may use besides the standard one. Raises
    RejectedError(bad_contract) when it contradicts itself.
    """

    name: str
    classes: tuple[str, ...]
    trained_classes: tuple[str, ...]
    untrained_conditions: tuple[str, ...] = ()
    input: InputSpec = InputSpec()
    preprocessing: Preprocessing = Preprocessing()
    outputs: OutputSpec = OutputSpec()
    allowed_providers: tuple[str, ...] = ("CPUExecutionProvider",)
    cpu_fallback: Literal["allow", "refuse"] = "allow"
    operator_domains: tuple[str, ...] = ()
    target: str = "cpu"
    base_digest: str = ""
    training_drives_digest: str = ""
    created_by: str = ""
    format_version: int = FORMAT_VERSION

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
        return digest_of_json(dataclasses.asdict(self))

    def to_json(self) -> str:
        """The contract as one JSON object with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelContract:
        """The contract in `text`.

        Raises:
            RejectedError: reason `bad_contract`; an unknown or missing key, a wrong type, or a contradiction.
        """
        if len(text) > MAX_CONTRACT_BYTES:
            raise _bad(f"{len(text)} characters, the limit is {MAX_CONTRACT_BYTES}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _bad(f"not JSON: {error}") from error
        fields = _object(document, cls, "contract")
        return cls(
            name=_str(fields, "name"),
            classes=_strings(fields, "classes"),
            trained_classes=_strings(fields, "trained_classes"),
            untrained_conditions=_strings(fields, "untrained_conditions"),
            input=_input(fields["input"]),
            preprocessing=_preprocessing(fields["preprocessing"]),
            outputs=_outputs(fields["outputs"]),
            allowed_providers=_strings(fields, "allowed_providers"),
            cpu_fallback=cast(Literal["allow", "refuse"], _str(fields, "cpu_fallback")),
            operator_domains=_strings(fields, "operator_domains"),
            target=_str(fields, "target"),
            base_digest=_str(fields, "base_digest"),
            training_drives_digest=_str(fields, "training_drives_digest"),
            created_by=_str(fields, "created_by"),
            format_version=_int(fields, "format_version"),
        )


def _problems(c: ModelContract) -> list[str]:
    """Everything that contradicts itself, the first one is reported. Bounds are named."""
    channels = c.input.channels
    sizes = {
        "input.height": c.input.height,
        "input.width": c.input.width,
        "embedding_size": c.outputs.embedding_size,
    }
    checks = [
        (
            c.format_version == FORMAT_VERSION,
            f"format_version {c.format_version}, this reads {FORMAT_VERSION}",
        ),
        (_NAME.match(c.name) is not None, f"name {c.name!r} does not match {_NAME.pattern}"),
        (2 <= len(c.classes) <= MAX_CLASSES, f"{len(c.classes)} classes, allowed are 2 to {MAX_CLASSES}"),
        (len(set(c.classes)) == len(c.classes), "a class is listed twice"),
        (all(c.classes), "a class has an empty name"),
        (len(set(c.trained_classes)) == len(c.trained_classes), "a trained class is listed twice"),
        (
            set(c.trained_classes) <= set(c.classes),
            f"trained_classes {c.trained_classes} are not all in classes",
        ),
        (channels == 3, f"input.channels {channels}, RGB has 3"),
        (
            len(c.preprocessing.mean) == channels,
            f"mean has {len(c.preprocessing.mean)} values, not {channels}",
        ),
        (len(c.preprocessing.std) == channels, f"std has {len(c.preprocessing.std)} values, not {channels}"),
        (all(0 < s < 1e6 for s in c.preprocessing.std), f"std {c.preprocessing.std} is not all above 0"),
        (all(abs(m) < 1e6 for m in c.preprocessing.mean), f"mean {c.preprocessing.mean} is out of range"),
        (0 < c.preprocessing.scale < 1e6, f"scale {c.preprocessing.scale} is not above 0"),
        (c.preprocessing.resize == "bilinear", f"resize {c.preprocessing.resize!r}, allowed is 'bilinear'"),
        (c.preprocessing.color == "RGB", f"color {c.preprocessing.color!r}, allowed is 'RGB'"),
        (
            bool(c.input.name and c.outputs.logits and c.outputs.embedding),
            "an input or output has an empty name",
        ),
        (c.outputs.logits != c.outputs.embedding, f"both outputs are named {c.outputs.logits!r}"),
        (
            c.cpu_fallback in ("allow", "refuse"),
            f"cpu_fallback {c.cpu_fallback!r} is not 'allow' or 'refuse'",
        ),
        (bool(c.allowed_providers), "allowed_providers is empty"),
        (_DIGEST.match(c.base_digest) is not None, f"base_digest {c.base_digest!r} is no sha256"),
        (_DIGEST.match(c.training_drives_digest) is not None, "training_drives_digest is no sha256"),
    ]
    checks += [(1 <= v <= 4096, f"{k} {v}, allowed are 1 to 4096") for k, v in sizes.items()]
    return [message for holds, message in checks if not holds]


def _bad(message: str) -> RejectedError:
    return RejectedError(f"model contract: {message}", reason=RefuseReason.BAD_CONTRACT)


def _object(value: object, cls: type, where: str) -> dict[str, object]:
    expected = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(value, dict):
        raise _bad(f"{where} is {type(value).__name__}, not an object")
    if set(value) != expected:
        missing, unknown = sorted(expected - set(value)), sorted(set(value) - expected)
        raise _bad(f"{where}: missing keys {missing}, unknown keys {unknown}")
    return value


def _str(fields: dict[str, object], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise _bad(f"{key} is {value!r}, not a string")
    return value


def _int(fields: dict[str, object], key: str) -> int:
    value = fields[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(f"{key} is {value!r}, not an integer")
    return value


def _float(value: object, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _bad(f"{key} is {value!r}, not a number")
    return float(value)


def _list(fields: dict[str, object], key: str) -> list[object]:
    value = fields[key]
    if not isinstance(value, list):
        raise _bad(f"{key} is {value!r}, not a list")
    return value


def _strings(fields: dict[str, object], key: str) -> tuple[str, ...]:
    values = _list(fields, key)
    if not all(isinstance(value, str) for value in values):
        raise _bad(f"{key} holds something that is not a string")
    return tuple(cast(list[str], values))


def _input(value: object) -> InputSpec:
    f = _object(value, InputSpec, "input")
    return InputSpec(_str(f, "name"), _int(f, "channels"), _int(f, "height"), _int(f, "width"))


def _preprocessing(value: object) -> Preprocessing:
    f = _object(value, Preprocessing, "preprocessing")
    return Preprocessing(
        resize=cast(Literal["bilinear"], _str(f, "resize")),
        color=cast(Literal["RGB"], _str(f, "color")),
        scale=_float(f["scale"], "scale"),
        mean=tuple(_float(v, "mean") for v in _list(f, "mean")),
        std=tuple(_float(v, "std") for v in _list(f, "std")),
    )


def _outputs(value: object) -> OutputSpec:
    f = _object(value, OutputSpec, "outputs")
    return OutputSpec(_str(f, "logits"), _str(f, "embedding"), _int(f, "embedding_size"))
