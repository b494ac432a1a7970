"""Check that a tensor holds exactly the bytes that its header claims, outside the graph only in a file of its bundle."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from foundation.errors import RejectedError
from schemas.reasons import RefuseReason

if TYPE_CHECKING:
    from onnx import ModelProto, SparseTensorProto, TensorProto

# Bits per element, by the numbers of onnx.proto's TensorProto.DataType; strings (8) are refused.
_BITS: Final = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64,
    14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8,
}  # fmt: skip
_EXTERNAL: Final = 1
_EXTERNAL_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
NOWHERE: Final[Mapping[str, int]] = MappingProxyType({})
"""For a model that is one file: no tensor is outside."""
_TYPED_FIELDS: Final = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_COMPLEX_TYPES: Final = (14, 15)
_FOUR_BIT_TYPES: Final = (21, 22, 23)


def check_tensor(tensor: TensorProto, max_bytes: int, external: Mapping[str, int] = NOWHERE) -> None:
    """Raise unless the tensor's data is complete, of the size in its header, here or in an allowed file.

    Args:
        external: location as the tensor says it -> bytes of that file.

    Raises:
        RejectedError: `external_data` (it points elsewhere, or beyond the end), or `bad_tensor` (size, type or shape is
            false).
    """
    is_outside = tensor.data_location == _EXTERNAL or bool(tensor.external_data)
    if is_outside and not external:
        raise RejectedError(
            f"tensor {tensor.name!r} keeps its data outside, in {_location(tensor)!r}",
            reason=RefuseReason.EXTERNAL_DATA,
        )
    if tensor.HasField("segment"):
        raise RejectedError(f"tensor {tensor.name!r} is a segment of another", reason=RefuseReason.BAD_TENSOR)
    bits = _BITS.get(tensor.data_type)
    if bits is None or tensor.string_data:
        raise RejectedError(
            f"tensor {tensor.name!r} has data type {tensor.data_type}", reason=RefuseReason.BAD_TENSOR
        )
    dims = list(tensor.dims)
    if any(size < 0 for size in dims):
        raise RejectedError(f"tensor {tensor.name!r} has shape {dims}", reason=RefuseReason.BAD_TENSOR)
    elements = math.prod(dims)
    claimed_bytes = (elements * bits + 7) // 8
    if is_outside:
        _check_outside(tensor, claimed_bytes, external)
        return
    if claimed_bytes > max_bytes:
        raise RejectedError(
            f"tensor {tensor.name!r} of shape {dims[:8]} claims {claimed_bytes} bytes, the limit is {max_bytes}",
            reason=RefuseReason.BAD_TENSOR,
        )
    _check_length(tensor, elements, claimed_bytes)


def locations(model: ModelProto) -> frozenset[str]:
    """Return every external location that a tensor of the graph's initializers names."""
    return frozenset(
        _location(tensor)
        for tensor in model.graph.initializer
        if tensor.data_location == _EXTERNAL or tensor.external_data
    )


def _location(tensor: TensorProto) -> str:
    said: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    return said.get("location", "")[:300]


def _check_outside(tensor: TensorProto, claimed_bytes: int, external: Mapping[str, int]) -> None:
    """Check that external data lies inside an allowed file, is given once, and is not in the graph as well."""
    entries = [(entry.key, entry.value) for entry in tensor.external_data]
    said, where = dict(entries), _location(tensor)
    if len(said) != len(entries) or set(said) - _EXTERNAL_KEYS or tensor.data_location != _EXTERNAL:
        raise _outside(tensor, f"says {sorted(key[:40] for key, _ in entries)[:8]} of its data outside")
    if where not in external:
        raise _outside(
            tensor, f"keeps its data in {where!r}, which is no file of external data of its bundle"
        )
    if tensor.HasField("raw_data") or any(len(getattr(tensor, name)) for name in _TYPED_FIELDS):
        raise _outside(tensor, "keeps its data twice")
    numbers = [said.get("offset", "0"), said.get("length", str(claimed_bytes))]
    if not all(_NUMBER.fullmatch(number) for number in numbers):
        raise _outside(
            tensor, f"has offset {numbers[0][:40]!r} and length {numbers[1][:40]!r}, no whole numbers"
        )
    offset, length = map(int, numbers)
    if length != claimed_bytes:
        raise _outside(tensor, f"claims {claimed_bytes} bytes and has {length} in {where!r}")
    if offset + length > external[where]:
        raise _outside(tensor, f"ends at byte {offset + length} of {where!r}, which has {external[where]}")


def _outside(tensor: TensorProto, what: str) -> RejectedError:
    return RejectedError(f"tensor {tensor.name!r} {what}", reason=RefuseReason.EXTERNAL_DATA)


def _check_length(tensor: TensorProto, elements: int, claimed_bytes: int) -> None:
    lengths = {name: len(getattr(tensor, name)) for name in _TYPED_FIELDS}
    filled = [name for name, length in lengths.items() if length]
    if tensor.HasField("raw_data"):
        if filled:
            raise RejectedError(
                f"tensor {tensor.name!r} keeps its data twice", reason=RefuseReason.BAD_TENSOR
            )
        if len(tensor.raw_data) != claimed_bytes:
            message = f"tensor {tensor.name!r} claims {claimed_bytes} bytes and has {len(tensor.raw_data)}"
            raise RejectedError(message, reason=RefuseReason.BAD_TENSOR)
        return
    wanted = elements
    if tensor.data_type in _COMPLEX_TYPES:
        wanted = 2 * elements
    elif tensor.data_type in _FOUR_BIT_TYPES:
        wanted = (elements + 1) // 2
    if len(filled) > 1 or sum(lengths.values()) != wanted:
        message = f"tensor {tensor.name!r} claims {wanted} values and has {sum(lengths.values())}"
        raise RejectedError(message, reason=RefuseReason.BAD_TENSOR)


def check_sparse_tensor(sparse: SparseTensorProto, max_bytes: int) -> None:
    """Check both halves of a sparse tensor, as `check_tensor` does, and the dense size that it unfolds to."""
    check_tensor(sparse.values, max_bytes)
    check_tensor(sparse.indices, max_bytes)
    dims = list(sparse.dims)
    if any(size < 0 for size in dims) or math.prod(dims) * 16 > max_bytes:
        raise RejectedError(
            f"sparse tensor {sparse.values.name!r} unfolds to shape {dims[:8]}",
            reason=RefuseReason.BAD_TENSOR,
        )
