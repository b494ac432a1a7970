"""Models on disk with their record: what they were trained on, from which base, with which weights.

registry/serving.json                 {"name", "digest"} of the model that the fleet serves, as its rollout left it
registry/base.json                    the same of the model that training starts from and evaluation compares with:
                                      written on purpose only, so that a rollout makes no trained model stale
registry/models/<name>/model.onnx     the served artefact (int8), contract inside
                       weights.npz    the weights that fine-tuning starts from
                       model.json     the record: architecture, training drives, digests
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from numpy.typing import NDArray

from foundation.documents import Meta, build, version_of
from foundation.errors import CorruptError, GuaranteeBrokenError, MisconfiguredError, RejectedError
from foundation.files import read_json, write_atomic, write_json_atomic
from modelkit.digest import digest_of_json, sha256_hex
from modelkit.verify import VerifiedModel, verify_model
from schemas.reasons import Split
from training.weights import load_weights

SplitOf = Callable[[str], Split]

MODEL_FILE: Final = "model.onnx"
WEIGHTS_FILE: Final = "weights.npz"
RECORD_FILE: Final = "model.json"
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$(?!\n)")
_DIGEST = re.compile(r"^[0-9a-f]{64}$(?!\n)")


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What model.json says. Digests are lower-case hex SHA-256; `digest` is that of the served artefact.

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
    format: int = 1

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {**asdict(self), "training_drives": list(self.training_drives)}

    @classmethod
    def read(cls, path: Path) -> ModelRecord:
        """The record in a file.

        Raises:
            RejectedError: reason `no_training_record`; there is none, so nobody knows what the model saw.
            CorruptError: the file is not a record.
        """
        if not path.exists():
            raise RejectedError(
                f"there is no {path}: a model that does not say what it saw is not trained further",
                reason="no_training_record",
            )
        document = read_json(path)
        if isinstance(document, dict) and "training_drives" not in document:
            raise RejectedError(f"{path} does not say training_drives", reason="no_training_record")
        corrupt = partial(CorruptError, path=path)
        version_of(document, "model record", "format", {1}, family=corrupt)
        return build(cls, document, "model record", family=corrupt)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A registered model with its record; weights are read when they are asked for."""

    folder: Path
    model: VerifiedModel
    record: ModelRecord

    def weights(self) -> dict[str, NDArray[Any]]:
        """The weights that fine-tuning starts from. Raises CorruptError when they are others."""
        return load_weights(self.folder / WEIGHTS_FILE, self.record.weights_digest)


def serving_name(registry: Path) -> tuple[str, str]:
    """Name and digest of the serving model, from serving.json.

    Raises:
        MisconfiguredError: no model serves yet, or the file is not of that form.
    """
    return _name_in(
        registry / "serving.json",
        "no model serves yet; train a first one with `fleetloop train --from-scratch`",
    )


def base_name(registry: Path) -> tuple[str, str]:
    """Name and digest of the base model, from base.json.

    Raises:
        MisconfiguredError: no base was chosen yet, or the file is not of that form.
    """
    return _name_in(
        registry / "base.json",
        "no base model yet; choose one with `fleetloop base`, or train a first one with `fleetloop train --from-scratch`",
    )


def load_base(registry: Path) -> BaseModel:
    """The base model: its bytes are those that base.json and its record name."""
    return load_model(registry, *base_name(registry))


def _name_in(path: Path, advice: str) -> tuple[str, str]:
    if not path.exists():
        raise MisconfiguredError(f"there is no {path}: {advice}")
    named = build(_Named, read_json(path), path.name, family=MisconfiguredError)
    return named.name, named.digest


@dataclass(frozen=True, slots=True)
class _Named:
    name: Annotated[str, Meta(pattern=_NAME.pattern)]
    digest: Annotated[str, Meta(pattern=_DIGEST.pattern)]


def load_model(registry: Path, name: str, digest: str) -> BaseModel:
    """The registered model of this name, if its bytes have this digest.

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
    """Why the registry does not have this model, in words; "" when it does (its bytes are not looked at).

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
    """Guarantee 5: this base may be trained further only if it provably never saw a test drive.

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
            f"the base model {base.record.name!r} saw {len(seen)} test drives, first {seen[:3]}",
            reason="saw_test_drive",
        )


def check_training_drives(drives: Iterable[str], split_of: SplitOf) -> None:
    """Guarantee 5, the other half: no row to train or select on is of a test drive, whatever its shard.

    Raises:
        GuaranteeBrokenError: one is; the dataset is not what curation promises.
    """
    wrong = sorted({drive for drive in drives if split_of(drive) is Split.TEST})
    if wrong:
        raise GuaranteeBrokenError(
            f"{len(wrong)} drives among the rows to train on hash to test, first {wrong[:3]}: leave them out"
            " (`fleetloop dataset drives` shows the split of every drive, of the lake or of a file); before the first"
            " dataset version the section split of params.yaml may change too"
        )


def next_name(base_name: str) -> str:
    """The base's name with its last number raised by one, or with `-2` behind it."""
    match = re.fullmatch(r"(.*?)(\d+)", base_name)
    return f"{match[1]}{int(match[2]) + 1}" if match else f"{base_name}-2"


def register_model(registry: Path, model: bytes, weights: bytes, record: ModelRecord) -> Path:
    """Put a model into the registry under its record's name; the same model twice is no change.

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
    write_json_atomic(folder / RECORD_FILE, record.to_json())
    return folder


def set_serving(registry: Path, record: ModelRecord) -> None:
    """From now on the fleet is served this model, and vehicles are enrolled with it."""
    write_json_atomic(registry / "serving.json", {"name": record.name, "digest": record.digest})


def set_base(registry: Path, record: ModelRecord) -> None:
    """From now on fine-tuning starts from this model, and evaluation compares with it."""
    write_json_atomic(registry / "base.json", {"name": record.name, "digest": record.digest})
