"""The contract as text: every version that was released is read, and the oldest that can say it is written.

Version 1 knows classification of one stretched picture with logits and an embedding. Writing it where it is
enough keeps digests, and lets vehicles that know nothing else serve the model.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from foundation.errors import RejectedError
from modelkit.contract import HeadSpec, InputSpec, ModelContract, Preprocessing
from schemas.reasons import RefuseReason

VERSIONS: Final = (1, 2)
MAX_CONTRACT_BYTES: Final = 262_144
_V1_OUTPUTS: Final = ("embedding", "logits")
_V1_INPUT: Final = ("channels", "height", "name", "width")
_V1_PREPROCESSING: Final = ("color", "mean", "scale", "std")
_NEW_IN_2: Final = ("embedding_size", "head", "size_input", "task")
_DEFAULTS: Final = ModelContract(name="defaults", classes=("a", "b"), trained_classes=())


def to_document(contract: ModelContract) -> dict[str, Any]:
    """The contract as plain values, in the oldest version that can say it."""
    document = {
        **dataclasses.asdict(dataclasses.replace(contract, outputs=dict(contract.outputs))),
        "format_version": 2,
    }
    if not _is_version_1(contract):
        return document
    for key in _NEW_IN_2:
        del document[key]
    document["format_version"] = 1
    document["input"] = {key: document["input"][key] for key in _V1_INPUT}
    document["preprocessing"] = {key: document["preprocessing"][key] for key in _V1_PREPROCESSING}
    document["preprocessing"]["resize"] = "bilinear"
    document["outputs"]["embedding_size"] = contract.embedding_size
    return document


def _is_version_1(c: ModelContract) -> bool:
    spec, how = c.input, c.preprocessing
    return (
        c.task == "classification"
        and c.head == HeadSpec()
        and c.size_input is None
        and tuple(sorted(c.outputs)) == _V1_OUTPUTS
        and spec == InputSpec(spec.name, spec.channels, spec.height, spec.width)
        and how == Preprocessing(scale=how.scale, mean=how.mean, std=how.std)
    )


def write_contract(contract: ModelContract) -> str:
    """One JSON object with sorted keys."""
    return json.dumps(to_document(contract), sort_keys=True, ensure_ascii=False)


def read_contract(text: str) -> ModelContract:
    """See `ModelContract.from_json`."""
    if len(text) > MAX_CONTRACT_BYTES:
        raise _bad(f"{len(text)} characters, the limit is {MAX_CONTRACT_BYTES}")
    try:
        document = json.loads(text, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise _bad(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _bad(f"contract is {type(document).__name__}, not an object")
    version = document.pop("format_version", None)
    if version not in VERSIONS or isinstance(version, bool):
        raise _bad(f"format_version {version!r}, this reads {list(VERSIONS)}")
    if version == 1:
        document = _from_version_1(document)
    return cast(ModelContract, _dataclass(document, ModelContract, "contract"))


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """The same promises in the keys of version 2; what version 1 could not say has its default."""
    new = dataclasses.asdict(_DEFAULTS)
    found = {**document, **{key: new[key] for key in _NEW_IN_2}}
    outputs = _object(document, "outputs", ("embedding", "embedding_size", "logits"))
    found["outputs"] = {key: outputs[key] for key in _V1_OUTPUTS}
    found["embedding_size"] = outputs["embedding_size"]
    found["input"] = {**new["input"], **_object(document, "input", _V1_INPUT)}
    how = _object(document, "preprocessing", (*_V1_PREPROCESSING, "resize"))
    if how["resize"] != "bilinear":
        raise _bad(f"preprocessing.resize is {how['resize']!r}, allowed is 'bilinear'")
    found["preprocessing"] = {**new["preprocessing"], **how}
    return found


def _object(document: dict[str, Any], name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict) or not set(keys) <= set(value):
        raise _bad(f"{name} is no object with the keys {list(keys)}")
    return value


def _dataclass(value: object, cls: Any, where: str) -> object:
    """`value` as an instance of the dataclass; a key that it does not know is skipped unless it must be understood."""
    if not isinstance(value, dict):
        raise _bad(f"{where} is {type(value).__name__}, not an object")
    hints = get_type_hints(cls)
    needed = value.get("must_understand", [])
    if not isinstance(needed, list) or not set(map(str, needed)) <= set(hints):
        raise _bad(f"{where}: {needed} must be understood, this version knows {sorted(hints)}")
    missing = sorted(set(hints) - set(value))
    if missing:
        raise _bad(f"{where}: missing keys {missing}")
    return cls(**{name: _value(value[name], hint, f"{where}.{name}") for name, hint in hints.items()})


def _value(value: object, hint: Any, where: str) -> object:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _dataclass(value, hint, where)
    if origin in (Union, types.UnionType):
        return None if value is None else _value(value, arguments[0], where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _bad(f"{where} is {value!r}, not a list")
        return tuple(_value(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _bad(f"{where} is {value!r}, not an object")
        return {key: _value(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise _bad(f"{where} is {value!r}, allowed are {list(arguments)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _bad(f"{where} is {value!r}, not {hint.__name__}")
    return value


def _bad(message: str) -> RejectedError:
    return RejectedError(f"model contract: {message}", reason=RefuseReason.BAD_CONTRACT)
