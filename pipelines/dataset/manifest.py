"""The manifest of a dataset: its inputs, the outcome of every row that was read, and the digest of its content.

It does not depend on the time, the machine or the number of workers, so equal inputs give equal bytes. The version
number and the parent are assigned when the dataset is committed (`versions.py`). Counts that do not add up are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.lake.table import Snapshot
from foundation.documents import DocumentType
from foundation.errors import GuaranteeBrokenError, MisconfiguredError
from foundation.files import read_document
from modelkit.tasks import LEARNED
from pipelines.curate.labels import AnyTask, label_histogram
from pipelines.curate.params import Params
from pipelines.curate.quality import MEASURE_VERSION
from pipelines.curate.row_states import KEPT, QUARANTINED, REMOVED, UNLABELLED
from pipelines.curate.shard_rows import logical_columns, logical_rows, shard_schema
from pipelines.dataset.digest import rows_digest
from schemas.predictions import CLASSIFICATION
from schemas.reasons import QuarantineReason, Split
from workspace.layout import WorkspaceSettings

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _MadeFrom:
    """The inputs of a dataset; the lake lock has its own reader (`connectors.lake.lock`)."""

    lake: dict[str, Any]
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Split:
    rows: int
    drives: int
    classes: dict[str, int]
    conditions: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Manifest:
    """The keys that FleetLoop reads, which every manifest has; all others are for people."""

    digest: str
    rows: int
    classes: tuple[str, ...]
    counts: dict[str, Any]
    splits: dict[str, _Split]
    conditions: dict[str, int]
    made_from: _MadeFrom


MANIFEST: Final = DocumentType.whole("dataset manifest", _Manifest)
_DECIDING: Final[Mapping[str, tuple[str, ...]]] = {
    "pipelines.curate": (),
    "pipelines.validate": (),
    "modelkit": ("images.py",),
    "modelkit.tasks": ("boxes.py", "classification.py", "detection.py"),
}
"""The packages whose code decides about rows, and which of their modules do; empty: all."""


def build_manifest(
    rows: pl.DataFrame,
    folder: Path,
    params: Params,
    lake_lock: Mapping[str, object],
    snapshots: Mapping[str, Snapshot],
    settings: WorkspaceSettings,
) -> Manifest:
    """Build the manifest of the dataset in `folder`, given the resolved rows.

    Raises GuaranteeBrokenError if the shards do not hold exactly the kept rows, or if the counts do not add up.
    """
    task = params.task
    kept = rows.filter(pl.col("state") == KEPT)
    digest = rows_digest(logical_rows(kept, task), ["payload_sha256"])
    found = dataset_digest(folder, task)
    if found != digest:
        raise GuaranteeBrokenError(f"the shards in {folder} have digest {found}, the kept rows {digest}")
    counts = _counts(rows)
    return {
        MANIFEST.version_key: max(MANIFEST.versions),
        "digest": digest,
        "rows": kept.height,
        "classes": list(params.classes),
        "counts": counts,
        "splits": {str(split): _split(kept, str(split), params) for split in Split},
        "conditions": _histogram(kept, "condition"),
        "origins": _histogram(kept, "origin" if "origin" in kept.columns else "source"),
        "provenance": _histogram(kept, "provenance"),
        "labellers": _histogram(kept, "labeller"),
        "models": _histogram(kept.filter(pl.col("model_digest").is_not_null()), "model_digest"),
        "quarantine": _quarantine(rows),
        "vehicles_in_quarantine": _vehicles_in_quarantine(rows),
        "made_from": {
            "lake": dict(lake_lock),
            "offsets": _offsets(snapshots.get("arrivals")),
            "parameters": params.as_json(),
            "code": {"version": _version(), "digest": code_digest(), "measures": MEASURE_VERSION},
        },
        "shards": [
            {
                "name": path.name,
                "rows": pq.ParquetFile(path).metadata.num_rows,
                "size_bytes": path.stat().st_size,
            }
            for path in shard_paths(folder)
        ],
        "fleet": settings.name,
        "licence": settings.licence,
        "source": settings.provenance,
    }


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the dataset in `folder`. Raises FileNotFoundError, CorruptError."""
    return read_document(folder / "manifest.json", MANIFEST)


def shard_paths(folder: Path) -> list[Path]:
    """Return the shard files of a dataset, sorted by name."""
    return sorted((folder / "shards").glob("*.parquet"))


def task_of(manifest: Manifest) -> AnyTask:
    """Return the task of a dataset, which defines its labels. Raises MisconfiguredError for an unknown task."""
    name = manifest["made_from"]["parameters"].get("task", CLASSIFICATION)
    if name not in LEARNED:
        raise MisconfiguredError(
            f"the dataset's task is {name!r}; it must be one of {', '.join(sorted(LEARNED))}"
        )
    return LEARNED[name]


def read_rows(folder: Path, columns: list[str] | None = None, task: AnyTask | None = None) -> pl.DataFrame:
    """Read the rows of all shards without payloads, sorted by payload sha256; `task` is by default the manifest's."""
    task = task or task_of(read_manifest(folder))
    chosen = columns or logical_columns(task)
    empty = pl.DataFrame(pl.from_arrow(shard_schema(task).empty_table())).select(chosen)
    parts = [pl.read_parquet(path, columns=chosen).select(chosen) for path in shard_paths(folder)]
    rows = pl.concat([empty, *parts])
    return rows.sort("payload_sha256") if "payload_sha256" in chosen else rows


def dataset_digest(folder: Path, task: AnyTask | None = None) -> str:
    """Compute the digest of the shards in `folder`, independent of the digest in the manifest."""
    task = task or task_of(read_manifest(folder))
    rows = read_rows(folder, task=task).rename({"origin": "source"})
    return rows_digest(logical_rows(rows, task), ["payload_sha256"])


def code_digest() -> str:
    """Compute the sha256 of the source code that decides about rows: curation, rules, image measures, and labels per task."""
    digest = hashlib.sha256()
    for package, names in _DECIDING.items():
        for item in sorted(resources.files(package).iterdir(), key=lambda item: item.name):
            if item.name.endswith(".py") and (not names or item.name in names):
                digest.update(item.name.encode() + b"\0" + item.read_bytes())
    return digest.hexdigest()


def _version() -> str:
    try:
        return metadata.version("fleetloop")
    except metadata.PackageNotFoundError:
        return "source"


def _counts(rows: pl.DataFrame) -> dict[str, object]:
    states = {str(k): int(n) for k, n in rows.group_by("state").len().iter_rows()}
    removed = _histogram(rows.filter(pl.col("state") == REMOVED), "reason")
    counts = {
        "read": rows.height,
        "kept": states.get(KEPT, 0),
        "unlabelled": states.get(UNLABELLED, 0),
        "quarantined": states.get(QUARANTINED, 0),
        "removed": removed,
        "read_by_origin": _histogram(rows, "source"),
        "read_by_outcome": _histogram(rows.with_columns(pl.col("outcome").fill_null("no record")), "outcome"),
    }
    total = (
        states.get(KEPT, 0) + states.get(UNLABELLED, 0) + states.get(QUARANTINED, 0) + sum(removed.values())
    )
    if total != rows.height:
        raise GuaranteeBrokenError(f"{rows.height} rows were read, but {total} are accounted for: {counts}")
    return counts


def _split(kept: pl.DataFrame, split: str, params: Params) -> dict[str, object]:
    """`classes` counts the rows that name each class: where a label may name several, or none, they do not add up."""
    part = kept.filter(pl.col("split") == split)
    found = label_histogram(part[params.task.label_column], params.task)
    return {
        "rows": part.height,
        "drives": part["drive_id"].n_unique(),
        "classes": {name: found.get(name, 0) for name in params.classes},
        "conditions": _histogram(part, "condition"),
    }


def _quarantine(rows: pl.DataFrame) -> dict[str, int]:
    broken = rows.filter(pl.col("state") == QUARANTINED).select(pl.col("rules").list.explode().alias("rule"))
    return _histogram(broken, "rule")


def _vehicles_in_quarantine(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Return for each vehicle of which nothing is trained on its rows by the rules that they break, and all of them."""
    name = str(QuarantineReason.VEHICLE_IN_QUARANTINE)
    of_vehicle = rows.filter(pl.col("state") == QUARANTINED, pl.col("rules").list.contains(name))
    return {
        str(vehicle): _quarantine(part)
        for (vehicle,), part in of_vehicle.sort("vehicle_id").group_by("vehicle_id", maintain_order=True)
    }


def _histogram(rows: pl.DataFrame, column: str) -> dict[str, int]:
    counted = rows.group_by(column).len().sort(column)
    return {str(value): int(count) for value, count in counted.iter_rows()}


def _offsets(arrivals: Snapshot | None) -> dict[str, int]:
    """Return one past the last offset that was read, by "topic_id/partition"."""
    if arrivals is None:
        return {}
    table = arrivals.read(["topic_id", "partition", "offset_end"], filter=pc.field("origin") != "replay")
    grouped = (
        pl.DataFrame(pl.from_arrow(table)).group_by("topic_id", "partition").agg(pl.col("offset_end").max())
    )
    return {
        f"{topic}/{partition}": int(end)
        for topic, partition, end in grouped.sort("topic_id", "partition").iter_rows()
    }
