"""Verify a model that is a folder of files (a bundle). Files are hashed as streams: only the graph is read whole.

Links and anything else that is not a regular file are refused, so that no bundle reaches outside its folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from foundation.documents import build
from foundation.errors import RejectedError
from modelkit.embed import parse_model
from modelkit.tensor_checks import locations
from modelkit.verify import ModelLimits, VerifiedModel, verify_artefact, verify_model
from schemas.bundle import (
    CONTRACT,
    EXTERNAL_DATA,
    GRAPH,
    KIND_LIMITS,
    MAX_FILES,
    OPENVINO,
    OPENVINO_WEIGHTS,
    PTE,
    TFLITE,
    BundleFile,
    bundle_digest,
    check_bundle,
    external_data_of,
    file_of,
    graph_of,
)
from schemas.reasons import RefuseReason

CHUNK_BYTES: Final = 1024 * 1024
CONTRACT_FILE: Final = "contract.json"
"""Name of the contract beside a graph that cannot hold it."""
_GRAPH_SUFFIXES: Final = {".onnx": GRAPH, ".xml": OPENVINO, ".tflite": TFLITE, ".pte": PTE}
_TOKENIZER_NAMES: Final = frozenset(
    {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"}
    | {"vocab.txt", "merges.txt", "spiece.model", "added_tokens.json"}
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder, and the files in it that are the model, sorted by path."""

    folder: Path
    files: tuple[BundleFile, ...]

    @property
    def digest(self) -> str:
        """See `bundle_digest`."""
        return bundle_digest(self.files)

    def verified(
        self,
        limits: ModelLimits | None = None,
        *,
        is_hashed: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> VerifiedModel:
        """Return the model, if all files match their list and the graph passes `verify_model`. Runs nothing.

        Args:
            is_hashed: the caller has just compared every file with its sha256.
            on_progress: called for each piece that is read.

        Raises:
            RejectedError: as `check_bundle` and `verify_model`; `wrong_hash`, or `bad_bundle` for a file that is missing, a
                link, or of another length.
        """
        check_bundle(self.files)
        if not is_hashed:
            for file in self.files:
                self._compare(file, on_progress)
        graph = graph_of(self.files)
        path = self.folder / graph.path
        with open_own_file(path, graph.path) as stream:
            data = stream.read(graph.length_bytes + 1)
        if graph.kind == GRAPH:
            verified = verify_model(data, graph.sha256, limits, external_data_of(self.files))
        else:
            verified = self._other(graph.kind, data)
        return verified.in_bundle(self.digest, path.parent)

    def _other(self, kind: str, data: bytes) -> VerifiedModel:
        contract = file_of(self.files, CONTRACT)
        with open_own_file(self.folder / contract.path, contract.path) as stream:
            text = stream.read(contract.length_bytes + 1)
        weights = ("", 0)
        if kind == OPENVINO:
            file = file_of(self.files, OPENVINO_WEIGHTS)
            weights = (os.path.relpath(file.path, Path(graph_of(self.files).path).parent), file.length_bytes)
        return verify_artefact(kind, data, text, weights)

    def _compare(self, file: BundleFile, on_progress: Callable[[], None]) -> None:
        with open_own_file(self.folder / file.path, file.path) as stream:
            length = os.fstat(stream.fileno()).st_size
            if length != file.length_bytes:
                raise _bad(f"{file.path} has {length} bytes, the list says {file.length_bytes}")
            found = sha256_of(stream, on_progress)
        if found != file.sha256:
            raise RejectedError(
                f"{file.path} has sha256 {found}, expected {file.sha256}", reason=RefuseReason.WRONG_HASH
            )


def read_bundle(folder: Path) -> Bundle:
    """Return the files of a folder as a bundle; the kind of each follows from its name and the graph's references.

    Raises:
        RejectedError: reason `bad_bundle` (no file, a link, a name that is none of a bundle, not one graph) or `too_large`.
    """
    names = sorted(_walk(folder))
    if len(names) > MAX_FILES:
        raise _bad(f"more than {MAX_FILES} files in {folder}")
    graphs = [name for name in names if Path(name).suffix in _GRAPH_SUFFIXES]
    if len(graphs) != 1:
        raise _bad(f"{len(graphs)} files {', '.join(_GRAPH_SUFFIXES)} in {folder}; a bundle has one graph")
    beside = _beside(folder, graphs[0])
    files = []
    for name in names:
        kind = "tokenizer" if name.rpartition("/")[2] in _TOKENIZER_NAMES else "weights"
        kind = beside.get(name, kind)
        with open_own_file(folder / name, name) as stream:
            row = {"path": name, "kind": kind, "length_bytes": os.fstat(stream.fileno()).st_size}
            digest = sha256_of(stream)
        files.append(build(BundleFile, {**row, "sha256": digest}, "bundle", family=_bad))
    check_bundle(files)
    return Bundle(folder, tuple(files))


def _beside(folder: Path, graph: str) -> dict[str, str]:
    """Return the kinds of the graph and of what it needs beside it, by path."""
    kind = _GRAPH_SUFFIXES[Path(graph).suffix]
    found = {graph: kind}
    if kind != GRAPH:
        found[str(Path(graph).with_name(CONTRACT_FILE))] = CONTRACT
    if kind == OPENVINO:
        found[str(Path(graph).with_suffix(".bin"))] = OPENVINO_WEIGHTS
    if kind == GRAPH:
        with open_own_file(folder / graph, graph) as stream:
            length, limit = os.fstat(stream.fileno()).st_size, KIND_LIMITS[GRAPH]
            if length > limit:
                message = f"{graph} has {length} bytes, the limit is {limit}"
                raise RejectedError(message, reason=RefuseReason.TOO_LARGE)
            data = stream.read(length)
        above = graph.rpartition("/")[0]
        found |= {f"{above}/{n}" if above else n: EXTERNAL_DATA for n in locations(parse_model(data))}
        found[graph] = GRAPH
    return found


@contextmanager
def open_own_file(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a regular file that has this one name only.

    Raises:
        RejectedError: reason `bad_bundle`; there is none, or it is a link, a device or the like.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _bad(f"{name} cannot be opened as a file: {error.strerror}") from error
    with os.fdopen(fd, "rb") as stream:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise _bad(f"{name} is no file of its own (mode {found.st_mode:o}, {found.st_nlink} names)")
        yield stream


def sha256_of(stream: IO[bytes], on_progress: Callable[[], None] = lambda: None) -> str:
    """Return the sha256 of the rest of a stream, read in chunks; `on_progress` is called for each."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
        on_progress()
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[str]:
    count = 0
    for root, folders, names in os.walk(folder, onerror=_unreadable):
        for name in (*folders, *names):
            count += 1
            path = Path(root, name)
            if path.is_symlink():
                raise _bad(f"{path.relative_to(folder)} is a link")
            if count > 4 * MAX_FILES:
                raise _bad(f"more than {4 * MAX_FILES} files and folders in {folder}")
        yield from (str(Path(root, name).relative_to(folder)) for name in names)


def _unreadable(error: OSError) -> None:
    raise _bad(f"{error.filename} cannot be listed: {error.strerror}")


def _bad(message: str) -> RejectedError:
    return RejectedError(message, reason=RefuseReason.BAD_BUNDLE)
