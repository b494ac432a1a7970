"""Rows of a dataset version, as training and evaluation read them, each payload checked by its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError
from foundation.files import read_json
from modelkit.contract import ModelContract
from modelkit.images import Pixels, condition_of, decode_image
from modelkit.prepare import fit_in
from schemas.reasons import Split

_COLUMNS: Final = ("payload", "payload_sha256", "class_name", "drive_id", "track_id", "condition", "origin")
REFERENCE: Final = "reference"


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled picture of a dataset, at the size at which the vehicle saw it."""

    image: Pixels
    payload_sha256: str
    class_name: str
    drive_id: str
    track_id: str
    condition: str
    origin: str


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Pictures at the input's size: pixels uint8 (N, H, W, 3), labels int64 (N,), the rest of length N."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    drives: tuple[str, ...]
    conditions: tuple[str, ...]
    is_reference: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.drives)


def shards_of(dataset: Path, split: Split) -> list[Path]:
    """The split's shards, in order of name; none when the split is empty.

    Raises:
        MisconfiguredError: there is no dataset at this path.
    """
    folder = dataset / "shards"
    if not folder.is_dir():
        raise MisconfiguredError(f"there is no dataset at {dataset}; run `fleetloop curate` first")
    return sorted(folder.glob(f"{split.value}-*.parquet"))


def iter_rows(dataset: Path, split: Split, batch_rows: int = 512) -> Iterator[list[Row]]:
    """Every row of a split, in batches, in the order of the shards.

    Raises:
        CorruptError: a shard cannot be read, a payload is not what its hash says, or a row has no label.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for shard in shards_of(dataset, split):
        try:
            for batch in pq.ParquetFile(shard).iter_batches(batch_rows, columns=list(_COLUMNS)):
                yield [_row(values, shard) for values in batch.to_pylist()]
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            raise CorruptError(f"cannot be read as a shard: {error}", path=shard) from error


def _row(values: dict[str, object], shard: Path) -> Row:
    payload, digest = values["payload"], str(values["payload_sha256"])
    if not isinstance(payload, bytes) or hashlib.sha256(payload).hexdigest() != digest:
        raise CorruptError(f"the payload of {digest} is not what its hash says", path=shard)
    if not values["class_name"]:
        raise CorruptError(f"the row {digest} has no label", path=shard)
    try:
        image = decode_image(payload)
    except FleetLoopError as error:
        raise CorruptError(f"the payload of {digest}: {error}", path=shard) from error
    return Row(
        image,
        digest,
        str(values["class_name"]),
        str(values["drive_id"]),
        str(values["track_id"] or ""),
        str(values["condition"] or ""),
        str(values["origin"] or ""),
    )


def load_training_set(dataset: Path, split: Split, contract: ModelContract) -> TrainingSet:
    """A whole split at the input's size, for training; refuses the test split.

    Raises:
        MisconfiguredError: `split` is test, or a row's class is not among `classes`.
    """
    if split is Split.TEST:
        raise MisconfiguredError(
            "the test split is for evaluation only: nothing is trained or calibrated on it"
        )
    return make_training_set((row for rows in iter_rows(dataset, split) for row in rows), contract)


def make_training_set(rows: Iterable[Row], contract: ModelContract) -> TrainingSet:
    """These rows inside the contract's input."""
    spec, classes = contract.input, contract.classes
    index = {name: i for i, name in enumerate(classes)}
    pixels: list[Pixels] = []
    labels: list[int] = []
    drives: list[str] = []
    conditions: list[str] = []
    reference: list[bool] = []
    for row in rows:
        if row.class_name not in index:
            raise MisconfiguredError(
                f"class {row.class_name!r} of {row.payload_sha256} is not in the contract's {list(classes)}"
            )
        pixels.append(fit_in(row.image, spec, contract.preprocessing))
        labels.append(index[row.class_name])
        drives.append(row.drive_id)
        conditions.append(row.condition or condition_of(row.image))
        reference.append(row.origin == REFERENCE)
    shape = (0, spec.height, spec.width, spec.channels)
    stacked = np.stack(pixels) if pixels else np.zeros(shape, dtype=np.uint8)
    return TrainingSet(
        stacked,
        np.array(labels, dtype=np.int64),
        tuple(drives),
        tuple(conditions),
        np.array(reference, dtype=np.bool_),
    )


def drives_of(dataset: Path, split: Split) -> tuple[str, ...]:
    """The drives of a split, sorted; reads no payload."""
    import pyarrow.parquet as pq

    found: set[str] = set()
    for shard in shards_of(dataset, split):
        found.update(str(v) for v in pq.read_table(shard, columns=["drive_id"])["drive_id"].to_pylist())
    return tuple(sorted(found))


def dataset_digest(dataset: Path) -> str:
    """The digest that the dataset's manifest states, or an empty string for a dataset without one."""
    path = dataset / "manifest.json"
    if not path.exists():
        return ""
    manifest = read_json(path)
    value = manifest.get("digest", "") if isinstance(manifest, dict) else ""
    return value if isinstance(value, str) else ""
