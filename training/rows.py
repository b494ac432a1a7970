"""Read the rows of a dataset version for training and evaluation, each payload checked by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foundation.documents import DocumentType
from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError
from foundation.files import read_document
from modelkit.contract import ModelContract
from modelkit.geometry import Placed, place
from modelkit.images import Pixels, condition_of, decode_image
from modelkit.prepare import fit_in
from modelkit.tasks import TASKS, Task
from schemas.predictions import CLASSIFICATION
from schemas.reasons import Split

_COLUMNS: Final = ("payload", "payload_sha256", "drive_id", "track_id", "condition", "origin")
REFERENCE: Final = "reference"


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled picture of a dataset, at its original size; the label is the task's."""

    image: Pixels
    payload_sha256: str
    label: Any
    drive_id: str
    track_id: str
    condition: str
    origin: str


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """N pictures at the input's size: pixels uint8 (N, H, W, 3); the task's labels and each picture's placement."""

    pixels: NDArray[np.uint8]
    labels: tuple[Any, ...]
    placed: tuple[Placed, ...]
    drives: tuple[str, ...]
    conditions: tuple[str, ...]
    is_reference: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.drives)

    def take(self, rows: Sequence[int]) -> TrainingSet:
        """Return these rows, in this order."""
        index = np.array(rows, dtype=np.int64)
        return TrainingSet(
            self.pixels[index],
            tuple(self.labels[i] for i in rows),
            tuple(self.placed[i] for i in rows),
            tuple(self.drives[i] for i in rows),
            tuple(self.conditions[i] for i in rows),
            self.is_reference[index],
        )

    def joined(self, other: TrainingSet) -> TrainingSet:
        """Return these rows and then the others."""
        return TrainingSet(
            np.concatenate([self.pixels, other.pixels]),
            self.labels + other.labels,
            self.placed + other.placed,
            self.drives + other.drives,
            self.conditions + other.conditions,
            np.concatenate([self.is_reference, other.is_reference]),
        )


def shards_of(dataset: Path, split: Split) -> list[Path]:
    """Return the split's shards, in order of name; none when the split is empty.

    Raises:
        MisconfiguredError: there is no dataset at this path.
    """
    folder = dataset / "shards"
    if not folder.is_dir():
        raise MisconfiguredError(f"there is no dataset at {dataset}; run `fleetloop curate` first")
    return sorted(folder.glob(f"{split.value}-*.parquet"))


def iter_rows(
    dataset: Path, split: Split, batch_rows: int = 512, task: str = CLASSIFICATION
) -> Iterator[list[Row]]:
    """Yield every row of a split, in batches, in the order of the shards, with labels of the task.

    Raises:
        CorruptError: a shard cannot be read, a payload is not what its hash says, or a row has no label.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in shards_of(dataset, split):
        try:
            columns = [*_COLUMNS, TASKS[task].label_column]
            for batch in pq.ParquetFile(shard).iter_batches(batch_rows, columns=columns):
                yield [_row(values, shard, TASKS[task]) for values in batch.to_pylist()]
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            raise CorruptError(f"cannot be read as a shard: {error}", path=shard) from error


def _row(values: dict[str, object], shard: Path, task: Task[Any, Any]) -> Row:
    payload, digest = values["payload"], str(values["payload_sha256"])
    if not isinstance(payload, bytes) or hashlib.sha256(payload).hexdigest() != digest:
        raise CorruptError(f"the payload of {digest} is not what its hash says", path=shard)
    try:
        label = task.label_of(values[task.label_column])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"the row {digest} has no label of {task.name}: {error}", path=shard) from error
    try:
        image = decode_image(payload)
    except FleetLoopError as error:
        raise CorruptError(f"the payload of {digest}: {error}", path=shard) from error
    return Row(
        image,
        digest,
        label,
        str(values["drive_id"]),
        str(values["track_id"] or ""),
        str(values["condition"] or ""),
        str(values["origin"] or ""),
    )


def load_training_set(dataset: Path, split: Split, contract: ModelContract) -> TrainingSet:
    """Load a whole split at the input's size, for training; refuses the test split.

    Raises:
        MisconfiguredError: `split` is test, or a row's class is not among `classes`.
    """
    if split is Split.TEST:
        raise MisconfiguredError(
            "the test split is for evaluation only: nothing is trained or calibrated on it"
        )
    rows = iter_rows(dataset, split, task=contract.task)
    return make_training_set((row for part in rows for row in part), contract)


def make_training_set(rows: Iterable[Row], contract: ModelContract) -> TrainingSet:
    """Return these rows at the size of the contract's input."""
    spec, classes, how = contract.input, contract.classes, contract.preprocessing
    task = TASKS[contract.task]
    pixels: list[Pixels] = []
    labels: list[Any] = []
    placed: list[Placed] = []
    drives: list[str] = []
    conditions: list[str] = []
    reference: list[bool] = []
    for row in rows:
        problem = task.label_problem(row.label, classes)
        if problem:
            raise MisconfiguredError(f"the label of {row.payload_sha256}: {problem} (the contract's classes)")
        pixels.append(fit_in(row.image, spec, how))
        labels.append(row.label)
        placed.append(place(row.image.shape[1], row.image.shape[0], spec, how))
        drives.append(row.drive_id)
        conditions.append(row.condition or condition_of(row.image))
        reference.append(row.origin == REFERENCE)
    shape = (0, spec.height, spec.width, spec.channels)
    stacked = np.stack(pixels) if pixels else np.zeros(shape, dtype=np.uint8)
    return TrainingSet(
        stacked,
        tuple(labels),
        tuple(placed),
        tuple(drives),
        tuple(conditions),
        np.array(reference, dtype=np.bool_),
    )


def drives_of(dataset: Path, split: Split) -> tuple[str, ...]:
    """Return the drives of a split, sorted; reads no payload."""
    import pyarrow.parquet as pq

    found: set[str] = set()
    for shard in shards_of(dataset, split):
        found.update(str(v) for v in pq.read_table(shard, columns=["drive_id"])["drive_id"].to_pylist())
    return tuple(sorted(found))


def dataset_digest(dataset: Path) -> str:
    """Return the digest in the dataset's manifest, or an empty string for a dataset without one."""
    path = dataset / "manifest.json"
    return read_document(path, MANIFEST).digest if path.exists() else ""


@dataclass(frozen=True, slots=True)
class _Manifest:
    """The keys of a dataset's manifest that training reads."""

    digest: str


MANIFEST: Final = DocumentType.first("dataset manifest", _Manifest)
