"""Check the bytes of graphs that are not ONNX, before any runtime reads them: form, bounds, references. Runs nothing.

What an OpenVINO file says of its inputs, outputs and weights is compared here; TFLite and ExecuTorch files are binary trees whose
inside only their runtimes read, in the confined trial first: here their form is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final
from xml.parsers import expat

from foundation.errors import RejectedError
from schemas.bundle import OPENVINO, PTE, TFLITE
from schemas.reasons import RefuseReason

MAX_LAYERS: Final = 20_000
MAX_XML_DEPTH: Final = 32
_ROOT_OFFSET_BYTES: Final = 4
_OPERATION_SETS: Final = "opset"
_BITS: Final = {"boolean": 8, "u1": 1, "u4": 4, "i4": 4, "nf4": 4, "f8e4m3": 8, "f8e5m2": 8}


def check_artefact(kind: str, data: bytes, weights_bytes: int) -> None:
    """Check the bytes of a graph of `kind`; `weights_bytes` is the size of the file with its weights, or 0.

    Raises:
        RejectedError: reason `bad_artefact`, or `too_complex`, `external_data`, `foreign_domain` as for ONNX.
    """
    _CHECKS[kind](data, weights_bytes)


def _flatbuffer(name: str, identifiers: tuple[bytes, ...]) -> Callable[[bytes, int], None]:
    def check(data: bytes, _weights_bytes: int) -> None:
        found = data[_ROOT_OFFSET_BYTES : _ROOT_OFFSET_BYTES + 4]
        root = int.from_bytes(data[:_ROOT_OFFSET_BYTES], "little")
        if found not in identifiers or not 8 <= root < len(data):
            wanted = " or ".join(one.decode() for one in identifiers)
            raise _bad(
                f"{len(data)} bytes are no {name}: bytes 4 to 7 are {found!r}, not {wanted}, or the root is outside"
            )

    return check


class _IrReader:
    """Reads an OpenVINO XML file element by element. No entity, no declaration of a type: only elements and attributes."""

    def __init__(self, weights_bytes: int) -> None:
        self._weights_bytes = weights_bytes
        self._path: list[str] = []
        self._layer: Mapping[str, str] = {}
        self.layers = 0
        self.parameters = 0
        self.results = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        if len(self._path) > MAX_XML_DEPTH:
            raise RejectedError(
                f"elements nested deeper than {MAX_XML_DEPTH}", reason=RefuseReason.TOO_COMPLEX
            )
        if self._path == ["net"] and attributes.get("version") != "11":
            raise _bad(f"an OpenVINO model of version {attributes.get('version')!r}, this reads 11")
        if self._path[0] != "net":
            raise _bad(f"an XML file that begins with {name!r}, an OpenVINO model begins with 'net'")
        if name == "layer":
            self._begin_layer(attributes)
        elif name == "data" and self._path[-2:-1] == ["layer"] and self._layer.get("type") == "Const":
            self._check_constant(attributes)

    def _begin_layer(self, attributes: Mapping[str, str]) -> None:
        self.layers += 1
        if self.layers > MAX_LAYERS:
            raise RejectedError(f"more than {MAX_LAYERS} layers", reason=RefuseReason.TOO_COMPLEX)
        self._layer = attributes
        version, kind = attributes.get("version", ""), attributes.get("type", "")
        if not version.startswith(_OPERATION_SETS):
            where = f"layer {attributes.get('name')!r} ({kind})"
            raise RejectedError(
                f"{where} is of {version!r}, allowed are the operation sets opset1 and following",
                reason=RefuseReason.FOREIGN_DOMAIN,
            )
        if len(self._path) == 3:  # of the outermost graph
            self.parameters += kind == "Parameter"
            self.results += kind == "Result"

    def _check_constant(self, attributes: Mapping[str, str]) -> None:
        name = self._layer.get("name")
        offset, size = (
            _number(attributes.get(key, ""), f"{key} of constant {name!r}") for key in ("offset", "size")
        )
        if offset + size > self._weights_bytes:
            raise RejectedError(
                f"constant {name!r} is bytes {offset} to {offset + size} of weights of {self._weights_bytes} bytes",
                reason=RefuseReason.EXTERNAL_DATA,
            )
        element = attributes.get("element_type", "")
        bits = _BITS.get(element) or int("".join(filter(str.isdigit, element[1:3])) or 0)
        shape = [
            _number(part.strip(), f"shape of {name!r}")
            for part in attributes.get("shape", "").split(",")
            if part.strip()
        ]
        count = 1
        for length in shape:
            count *= length
        if bits and element != "string" and size != (count * bits + 7) // 8:
            raise RejectedError(
                f"constant {name!r} of {element} {shape} has {size} bytes, it needs {(count * bits + 7) // 8}",
                reason=RefuseReason.BAD_TENSOR,
            )

    def end(self, _name: str) -> None:
        self._path.pop()


def _openvino(data: bytes, weights_bytes: int) -> None:
    reader, parser = _IrReader(weights_bytes), expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse_declaration
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _bad(f"{len(data)} bytes are no OpenVINO model: {error}") from error
    if reader.parameters < 1 or reader.results < 1:
        raise _bad(f"an OpenVINO model with {reader.parameters} inputs and {reader.results} outputs")


def _refuse_declaration(*_arguments: object) -> None:
    raise _bad("an XML file that declares a document type or an entity; an OpenVINO model does not")


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _bad(f"{what} is {text[:40]!r}, no number")
    return int(text)


def _bad(message: str) -> RejectedError:
    return RejectedError(message, reason=RefuseReason.BAD_ARTEFACT)


_CHECKS: Final[Mapping[str, Callable[[bytes, int], None]]] = MappingProxyType(
    {
        OPENVINO: _openvino,
        TFLITE: _flatbuffer("TFLite model", (b"TFL3",)),
        PTE: _flatbuffer("ExecuTorch program", (b"ET12",)),
    }
)
