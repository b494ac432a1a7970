"""What files a model is made of: their names, kinds and sizes, and the one digest that stands for all. Touches no files.

A bundle of one file is that file: its digest is the file's. The digest of several is that of their sorted list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal

from foundation.document_messages import brief
from foundation.documents import Meta, plain
from foundation.errors import RejectedError
from schemas.reasons import RefuseReason

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
FileKind = Literal[
    "onnx",
    "external_data",
    "tokenizer",
    "weights",
    "openvino",
    "openvino_weights",
    "tflite",
    "pte",
    "contract",
]
GRAPH: Final = "onnx"
"""An ONNX graph, with its contract inside."""
OPENVINO: Final = "openvino"
"""The XML file of an OpenVINO model; its weights lie in one file of kind `openvino_weights` beside it."""
TFLITE: Final = "tflite"
PTE: Final = "pte"
"""A program of ExecuTorch."""
GRAPHS: Final = (GRAPH, OPENVINO, TFLITE, PTE)
"""Kinds of which a bundle has exactly one file, which is read into memory; all others are streamed."""
CONTRACT: Final = "contract"
"""The contract of a graph that cannot hold it: all but ONNX. A bundle of such a graph has exactly one."""
OPENVINO_WEIGHTS: Final = "openvino_weights"
EXTERNAL_DATA: Final = "external_data"
"""Tensors of the graph that are kept beside it."""
KIND_LIMITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        GRAPH: 64 * MIB,
        EXTERNAL_DATA: 16 * GIB,
        "tokenizer": 64 * MIB,
        "weights": 16 * GIB,
        OPENVINO: 64 * MIB,
        OPENVINO_WEIGHTS: 1 * GIB,
        TFLITE: 256 * MIB,
        PTE: 256 * MIB,
        CONTRACT: MIB // 4,
    }
)
"""Most bytes of one file, by its kind."""
MAX_BUNDLE_BYTES: Final = 32 * GIB
MAX_FILES: Final = 64
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
PATH_PATTERN: Final = rf"^{_PART}(/{_PART}){{0,3}}$(?!\n)"
"""Of a path inside a bundle: no part begins with a dot, so none leads out or is hidden; at most three folders."""

Sha256Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of a bundle, by its path inside."""

    path: Annotated[str, Meta(pattern=PATH_PATTERN)]
    kind: FileKind
    length_bytes: Annotated[int, Meta(ge=1, le=2**40)]
    sha256: Sha256Hex


def check_bundle(files: Sequence[BundleFile]) -> None:
    """Check that these files may be a bundle.

    Raises:
        RejectedError: reason `too_large` (a file for its kind, or all of them), or `bad_bundle`: none or too many files, not
            sorted by path, a path that differs from another only in case or is another one's folder, not one graph.
    """
    if not 1 <= len(files) <= MAX_FILES:
        raise _bad(f"{len(files)} files; a bundle has 1 to {MAX_FILES}")
    paths = [file.path for file in files]
    if paths != sorted(paths):
        raise _bad(f"paths {brief(paths)} are not sorted")
    taken: dict[str, str] = {}
    for path in paths:
        folded = path.lower()
        if folded in taken:
            raise _bad(f"paths {taken[folded]!r} and {path!r} are the same in lower case")
        taken[folded] = path
    for path in paths:
        for folder in _folders(path.lower()):
            if folder in taken:
                raise _bad(f"path {taken[folder]!r} is a file, and a folder of {path!r}")
    for file in files:
        if file.length_bytes > KIND_LIMITS[file.kind]:
            limit = KIND_LIMITS[file.kind]
            raise RejectedError(
                f"{file.path} has {file.length_bytes} bytes, the limit of its kind {file.kind} is {limit}",
                reason=RefuseReason.TOO_LARGE,
            )
    graphs = [file.path for file in files if file.kind in GRAPHS]
    if len(graphs) != 1:
        raise _bad(f"{len(graphs)} graphs ({brief(graphs)}); a bundle has one")
    kind = graph_of(files).kind
    for beside, wanted in ((CONTRACT, int(kind != GRAPH)), (OPENVINO_WEIGHTS, int(kind == OPENVINO))):
        found = [file.path for file in files if file.kind == beside]
        if len(found) != wanted:
            raise _bad(
                f"{len(found)} files of kind {beside} ({brief(found)}); beside a graph of kind {kind} it must be {wanted}"
            )
    if bundle_bytes(files) > MAX_BUNDLE_BYTES:
        raise RejectedError(
            f"{bundle_bytes(files)} bytes in {len(files)} files, the limit is {MAX_BUNDLE_BYTES}",
            reason=RefuseReason.TOO_LARGE,
        )


def bundle_digest(files: Sequence[BundleFile]) -> str:
    """Return the file's own sha256 for one file, else that of the list sorted by path (canonical JSON)."""
    if len(files) == 1:
        return files[0].sha256
    rows = [plain(file) for file in sorted(files, key=lambda file: file.path)]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def bundle_bytes(files: Sequence[BundleFile]) -> int:
    """Return the size of all files together."""
    return sum(file.length_bytes for file in files)


def graph_of(files: Sequence[BundleFile]) -> BundleFile:
    """Return the graph of a checked bundle."""
    return next(file for file in files if file.kind in GRAPHS)


def file_of(files: Sequence[BundleFile], kind: str) -> BundleFile:
    """Return the one file of this kind of a checked bundle."""
    return next(file for file in files if file.kind == kind)


def external_data_of(files: Sequence[BundleFile]) -> dict[str, int]:
    """Return the allowed external data: location as written in the graph, below its own folder -> size in bytes."""
    folder = graph_of(files).path.rpartition("/")[0]
    below = f"{folder}/" if folder else ""
    return {
        file.path.removeprefix(below): file.length_bytes
        for file in files
        if file.kind == EXTERNAL_DATA and file.path.startswith(below)
    }


def _folders(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _bad(message: str) -> RejectedError:
    return RejectedError(message, reason=RefuseReason.BAD_BUNDLE)
