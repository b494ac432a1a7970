"""Labelled pictures that did not come through the vehicles: what a first model was trained on, a held-out
test.

They land in the lake's table `reference` and go through the same split, quality and duplicate rules as every
other frame. A picture is known by its sha256: added twice it is there once, and with another class it is
refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.lake.schema import REFERENCE
from connectors.lake.table import LakeTable
from foundation.errors import MisconfiguredError, RejectedError
from modelkit.digest import sha256_hex
from modelkit.images import condition_of, decode_image
from workspace.layout import Workspace

COLUMNS = ("payload", "class_name", "drive_id")
ORIGIN = "reference"


@dataclass(frozen=True, slots=True)
class Added:
    """What one file brought. `known` pictures were there before; `unreadable` ones are named and left out."""

    file: str
    added: int
    known: int
    unreadable: tuple[str, ...]
    version: int

    def to_json(self) -> dict[str, object]:
        """The counts as a JSON object."""
        return asdict(self)


def add_reference(workspace: Workspace, file: Path, classes: tuple[str, ...]) -> Added:
    """Append the pictures of a Parquet file with payload, class_name, drive_id and, optionally, track_id.

    Raises:
        MisconfiguredError: the file or a column is missing.
        RejectedError: a class is not in the contract, or a known picture comes with another class.
    """
    rows = _read(file)
    unknown = sorted(set(rows["class_name"].to_pylist()) - set(classes))
    if unknown:
        raise RejectedError(
            f"{file} has classes {unknown}; params.yaml allows {list(classes)}", reason="unknown_class"
        )
    table = LakeTable.create(workspace.reference_uri, REFERENCE)
    snapshot = table.snapshot()
    before = snapshot.read(columns=["payload_sha256", "class_name"])
    known = dict(zip(before["payload_sha256"].to_pylist(), before["class_name"].to_pylist(), strict=True))
    fresh: list[dict[str, object]] = []
    unreadable: list[str] = []
    repeated = 0
    for row in rows.to_pylist():
        digest = sha256_hex(row["payload"])
        if digest in known:
            if known[digest] != row["class_name"]:
                raise RejectedError(
                    f"{file}: picture {digest} is {row['class_name']!r} here and {known[digest]!r} in the lake",
                    reason="conflict",
                )
            repeated += 1
            continue
        try:
            condition = condition_of(decode_image(row["payload"]))
        except RejectedError as error:
            unreadable.append(f"{digest}: {error}")
            continue
        known[digest] = row["class_name"]
        fresh.append(
            {
                "payload_sha256": digest,
                "payload": row["payload"],
                "class_name": row["class_name"],
                "drive_id": row["drive_id"],
                "track_id": row.get("track_id"),
                "condition": condition,
                "origin": ORIGIN,
            }
        )
    version = snapshot.version
    if fresh:
        version = table.append(
            pa.Table.from_pylist(fresh, schema=REFERENCE), expected_version=snapshot.version
        )
    return Added(file.name, len(fresh), repeated, tuple(unreadable), version)


def _read(file: Path) -> pa.Table:
    try:
        names = set(pq.read_schema(file).names)
    except (OSError, pa.ArrowInvalid) as error:
        raise MisconfiguredError(f"{file} cannot be read as Parquet: {error}") from error
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise MisconfiguredError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(sorted(names))}"
        )
    return pq.read_table(file, columns=[*COLUMNS, *(["track_id"] if "track_id" in names else [])])
