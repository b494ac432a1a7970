"""Labelled pictures that did not come through the vehicles: what a first model was trained on, a held-out test.

They land in the lake's table `reference` and go through the same split, quality and duplicate rules as every other
frame. A picture is known by its sha256: added twice it is there once, and with another class it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa

from connectors.labels.classes import ClassNames
from connectors.labels.labelled_pictures import LabelledPicture
from connectors.lake.schema import REFERENCE
from connectors.lake.table import LakeTable
from foundation.errors import RejectedError
from modelkit.digest import sha256_hex
from modelkit.images import condition_of, decode_image
from workspace.layout import Workspace

ORIGIN = "reference"
_SHOWN = 5


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


def add_reference(
    workspace: Workspace, name: str, pictures: Iterable[LabelledPicture], classes: tuple[str, ...]
) -> Added:
    """Append the pictures that the lake does not have yet; `name` says in messages where they come from.

    Raises:
        RejectedError: a class is not in the contract (reason unknown_class), or a picture comes with two classes
            (reason conflict). Nothing is appended then.
    """
    rows = list(pictures)
    given = _classes(name, rows, classes)
    table = LakeTable.create(workspace.reference_uri, REFERENCE)
    snapshot = table.snapshot()
    before = snapshot.read(columns=["payload_sha256", "class_name"])
    known = dict(zip(before["payload_sha256"].to_pylist(), before["class_name"].to_pylist(), strict=True))
    fresh: list[dict[str, object]] = []
    unreadable: list[str] = []
    repeated = 0
    for row, class_name in zip(rows, given, strict=True):
        digest = sha256_hex(row.payload)
        if digest in known:
            if known[digest] != class_name:
                raise RejectedError(
                    f"{name}, {row.where}: picture {digest} is {class_name!r} here and {known[digest]!r} in the lake "
                    "or in another row",
                    reason="conflict",
                )
            repeated += 1
            continue
        try:
            condition = condition_of(decode_image(row.payload))
        except RejectedError as error:
            unreadable.append(f"{row.where} ({digest}): {error}")
            continue
        known[digest] = class_name
        fresh.append(
            {
                "payload_sha256": digest,
                "payload": row.payload,
                "class_name": class_name,
                "drive_id": row.drive_id,
                "track_id": row.track_id,
                "condition": condition,
                "origin": ORIGIN,
            }
        )
    version = snapshot.version
    if fresh:
        version = table.append(
            pa.Table.from_pylist(fresh, schema=REFERENCE), expected_version=snapshot.version
        )
    return Added(name, len(fresh), repeated, tuple(unreadable), version)


def _classes(name: str, rows: list[LabelledPicture], classes: tuple[str, ...]) -> list[str]:
    """The contract's class of each row, in the contract's own letters."""
    names = ClassNames(classes)
    found = [names.match(row.class_name) for row in rows]
    wrong = [f"{row.where}: {match.problem}" for row, match in zip(rows, found, strict=True) if match.problem]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise RejectedError(
            f"{name}: {len(wrong)} rows have a class that params.yaml does not list: {'; '.join(wrong[:_SHOWN])}{more}",
            reason="unknown_class",
        )
    return [match.name for match in found]
