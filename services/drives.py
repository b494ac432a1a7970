"""Tell the split of each drive: a hash of its id and the section `split` of params.yaml, so known before curation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.lake.table import LakeTable
from connectors.sensors.folder_listing import FolderListing
from foundation.errors import MisconfiguredError
from pipelines.curate.params import load_params
from pipelines.curate.split import drive_name, split_of
from schemas.reasons import Split
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class DriveSplit:
    """One drive, its split and its number of rows."""

    drive_id: str
    split: Split
    rows: int


def split_by_params(path: Path) -> Callable[[str], Split]:
    """Return the function drive id -> split, by the section `split` of params.yaml: the same as in curation."""
    split = load_params(path).split
    return lambda drive_id: split_of(drive_id, split)


def drives_of_lake(place: Workspace) -> tuple[DriveSplit, ...]:
    """Return every drive of the lake (landed frames and reference pictures), by id."""
    counts: Counter[str] = Counter()
    tables = {
        place.arrivals_uri: (pc.field("outcome") == "landed"),
        place.reference_uri: None,
    }
    split = load_params(place.params_path).split
    for uri, condition in tables.items():
        if (Path(uri) / "_delta_log").is_dir():
            columns = ["drive_id"] if condition is None else ["drive_id", "vehicle_id"]
            held = LakeTable.open(uri).snapshot().read(columns=columns, filter=condition)
            for row in held.group_by(columns).aggregate([([], "count_all")]).to_pylist():
                if row["drive_id"] is not None:
                    name = drive_name(row.get("vehicle_id"), str(row["drive_id"]), split)
                    counts[name] += int(row["count_all"])
    return _placed(place, counts)


def drives_of_file(place: Workspace, file: Path) -> tuple[DriveSplit, ...]:
    """Return every drive of a file or folder, by id, before it is added or trained on.

    The drives of a Parquet file are in its column drive_id; those of a folder are its sub-folders and itself.

    Raises MisconfiguredError when the file cannot be read or has no such column.
    """
    if file.is_dir():
        listed = FolderListing(file).read()
        return _placed(place, Counter(each.drive or file.resolve().name for each in listed))
    try:
        column = pq.read_table(file, columns=["drive_id"])["drive_id"]
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError, KeyError) as error:
        raise MisconfiguredError(
            f"{file} cannot be read as a table with a column drive_id: {error}"
        ) from error
    return _placed(place, Counter(_counted(column)))


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = pc.value_counts(column).to_pylist()
    return {str(each["values"]): int(each["counts"]) for each in pairs if each["values"] is not None}


def _placed(place: Workspace, counts: Counter[str]) -> tuple[DriveSplit, ...]:
    where = split_by_params(place.params_path)
    return tuple(DriveSplit(name, where(name), counts[name]) for name in sorted(counts))
