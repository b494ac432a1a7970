"""Store models on disk with their record: what they were trained on, from which base, with which weights.

registry/base.json                    {"name", "digest"} of the model that training starts from and evaluation compares
                                      with: never written by a rollout, which would make trained models stale
registry/models/<name>/model.onnx     the served artefact (int8), contract inside
                       weights.npz    the weights that fine-tuning starts from
                       model.json     the record: architecture, training drives, digests
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from foundation.documents import DocumentType
from foundation.errors import CorruptError, GuaranteeBrokenError, MisconfiguredError, RejectedError
from foundation.files import read_json, write_atomic, write_document
from modelkit.digest import digest_of_json, sha256_hex
from modelkit.verify import VerifiedModel, verify_model
from schemas.reasons import Split
from training.weights import load_weights
from workspace.model_name import MODEL_NAME_PATTERN, ModelName, read_model_name, write_model_name

SplitOf = Callable[[str], Split]

MODEL_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "weights.npz"
RECORD_FILE: Final = "model.json"
_NAME = re.compile(MODEL_NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The contents of model.json. Digests are lower-case hex SHA-256; `digest` is that of the served artefact.

    `training_drives` is every drive that this model or an ancestor was trained or selected on, sorted: the
    contract inside the model binds it by its digest.
    """

    name: str
    digest: str
    weights_digest: str
    architecture: dict[str, Any]
    training_drives: tuple[str, ...]
    dataset_digest: str
    base_digest: str

    def write(self, path: Path) -> None:
        """Replace the file by this record, durably."""
        write_document(path, RECORD, self)

    @classmethod
    def read(cls, path: Path) -> ModelRecord:
        """Read the record in a file.

        Raises:
            RejectedError: reason `no_training_record`; there is none, so its training data is unknown.
            CorruptError: the file is not a record.
        """
        if not path.exists():
            raise RejectedError(
                f"there is no {path}: a model without a record of its training data is not trained further",
                reason="no_training_record",
            )
        document = read_json(path)
        if isinstance(document, dict) and "training_drives" not in document:
            raise RejectedError(f"{path} has no training_drives", reason="no_training_record")
        return RECORD.of(document, family=partial(CorruptError, path=path))


RECORD: Final = DocumentType.first("model record", ModelRecord)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A registered model with its record; weights are read on demand."""

    folder: Path
    model: VerifiedModel
    record: ModelRecord

    def weights(self) -> dict[str, NDArray[Any]]:
        """Read the weights that fine-tuning starts from. Raises CorruptError for another digest."""
        return load_weights(self.folder / WEIGHTS_FILE, self.record.weights_digest)


def base_name(registry: Path) -> tuple[str, str]:
    """Return name and digest of the base model, from base.json.

    Raises:
        MisconfiguredError: no base was chosen yet. CorruptError: the file is not of that form.
    """
    path = registry / "base.json"
    named = read_model_name(path)
    if named is None:
        raise MisconfiguredError(
            f"there is no {path}: no base model yet; choose one with `fleetloop base`, or train a first one with "
            "`fleetloop train --from-scratch`"
        )
    return named.name, named.digest


def load_base(registry: Path) -> BaseModel:
    """Load the base model, whose digest is that of base.json and of its record."""
    return load_model(registry, *base_name(registry))


def load_model(registry: Path, name: str, digest: str) -> BaseModel:
    """Load the registered model of this name, which must have this digest.

    Raises:
        MisconfiguredError: there is no such model here.
        RejectedError: its bytes are refused (see `verify_model`), or it has no record.
    """
    if not _NAME.match(name):
        raise MisconfiguredError(f"model name {name!r} does not match {_NAME.pattern}")
    folder = registry / "models" / name
    path = folder / MODEL_FILE
    if not path.is_file():
        raise MisconfiguredError(f"there is no model {name!r} in {registry / 'models'}")
    model = verify_model(path.read_bytes(), digest)
    record = ModelRecord.read(folder / RECORD_FILE)
    if record.digest != digest:
        raise CorruptError(f"is the record of {record.digest}, not of {digest}", path=folder / RECORD_FILE)
    return BaseModel(folder, model, record)


def why_not_registered(registry: Path, name: str, digest: str) -> str:
    """Return why the registry does not have this model; "" when it does (its bytes are not checked).

    Raises:
        CorruptError: the record cannot be read.
    """
    folder = registry / "models" / name
    if not _NAME.match(name) or not (folder / RECORD_FILE).exists():
        return f"there is no model {name!r} with a record in {registry / 'models'}: it was released from a bare file"
    held = ModelRecord.read(folder / RECORD_FILE).digest
    if held != digest:
        return f"another model is registered as {name!r}: {held}, released was {digest}"
    return ""


def check_lineage(base: BaseModel, split_of: SplitOf, test_drives: Iterable[str] = ()) -> None:
    """Check that the base was provably never trained on a test drive (guarantee 5).

    Raises:
        RejectedError: reason `no_training_record` (the record is not the one its contract binds) or
        `saw_test_drive`.
    """
    drives = sorted(base.record.training_drives)
    if digest_of_json(drives) != base.model.contract.training_drives_digest:
        raise RejectedError(
            f"the training drives in {base.folder / RECORD_FILE} are not "
            "those that the contract inside the model binds",
            reason="no_training_record",
        )
    held_out = set(test_drives)
    seen = [drive for drive in drives if drive in held_out or split_of(drive) is Split.TEST]
    if seen:
        raise RejectedError(
            f"the base model {base.record.name!r} was trained on {len(seen)} test drives, first {seen[:3]}",
            reason="saw_test_drive",
        )


def check_training_drives(drives: Iterable[str], split_of: SplitOf) -> None:
    """Check that no row to train or select on is of a test drive, whatever its shard (guarantee 5).

    Raises:
        GuaranteeBrokenError: one is; the dataset breaks the guarantee of curation.
    """
    wrong = sorted({drive for drive in drives if split_of(drive) is Split.TEST})
    if wrong:
        raise GuaranteeBrokenError(
            f"{len(wrong)} drives among the rows to train on hash to test, first {wrong[:3]}: leave them out"
            " (`fleetloop dataset drives` shows the split of every drive, of the lake or of a file); before the first"
            " dataset version the section split of params.yaml may change too"
        )


def next_name(base_name: str) -> str:
    """Return the base's name with its last number raised by one, or with `-2` appended."""
    match = re.fullmatch(r"(.*?)(\d+)", base_name)
    return f"{match[1]}{int(match[2]) + 1}" if match else f"{base_name}-2"


def register_model(registry: Path, model: bytes, weights: bytes, record: ModelRecord) -> Path:
    """Add a model to the registry under its record's name; adding it again changes nothing.

    Raises:
        RejectedError: reason `name_taken`; another model has this name, or the bytes are not the record's.
    """
    if sha256_hex(model) != record.digest or not _NAME.match(record.name):
        raise RejectedError(f"the model is not the one of the record {record.name!r}", reason="wrong_hash")
    folder = registry / "models" / record.name
    if (folder / RECORD_FILE).exists() and ModelRecord.read(folder / RECORD_FILE).digest != record.digest:
        raise RejectedError(f"another model is registered as {record.name!r}", reason="name_taken")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / MODEL_FILE, model)
    write_atomic(folder / WEIGHTS_FILE, weights)
    record.write(folder / RECORD_FILE)
    return folder


def set_base(registry: Path, record: ModelRecord) -> None:
    """Make this model the base: fine-tuning starts from it, and evaluation compares with it."""
    write_model_name(registry / "base.json", ModelName(record.name, record.digest))
