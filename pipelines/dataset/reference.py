"""Add labelled pictures that do not come from the vehicles, such as training pictures of v1 or a held-out test set.

They are added to the lake's table `reference` and pass the same split, quality and duplicate rules as other rows. A
picture is identified by its sha256: adding it again changes nothing, and adding it with another label is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from connectors.labels.answers import ANSWERS
from connectors.labels.classes import ClassNames
from connectors.labels.labelled_pictures import LabelledPicture
from connectors.lake.schema import REFERENCE
from connectors.lake.table import LakeTable
from foundation.errors import RejectedError
from modelkit.confined import Confined, Failed
from modelkit.digest import sha256_hex
from modelkit.picture_facts import TASK, PictureFacts
from pipelines.curate.params import Params
from workspace.layout import Workspace

ORIGIN = "reference"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Added:
    """The result of adding one file. `known` pictures existed before; `unreadable` ones are listed and left out."""

    file: str
    added: int
    known: int
    unreadable: tuple[str, ...]
    version: int


def add_reference(
    workspace: Workspace, name: str, pictures: Iterable[LabelledPicture], params: Params
) -> Added:
    """Append the pictures that the lake does not have yet; `name` is their source in messages.

    Raises:
        RejectedError: a label has a class that is not in the contract, or is missing (reason unknown_class), or a picture
            has two labels (reason conflict). Nothing is appended then.
    """
    rows = list(pictures)
    column = params.task.label_column
    given = _labels(name, rows, column, params.classes)
    table = LakeTable.create(workspace.reference_uri, REFERENCE)
    snapshot = table.snapshot()
    before = snapshot.read(columns=["payload_sha256", column]).to_pylist()
    known = {row["payload_sha256"]: row[column] for row in before if row[column] is not None}
    wanted: dict[str, tuple[LabelledPicture, Any]] = {}
    again: list[tuple[str, str]] = []
    repeated = 0
    for row, label in zip(rows, given, strict=True):
        digest = sha256_hex(row.payload)
        if digest in known and known[digest] != label:
            raise RejectedError(
                f"{name}, {row.where}: picture {digest} is {label!r} here and {known[digest]!r} in the lake "
                "or in another row",
                reason="conflict",
            )
        if digest in wanted:
            again.append((row.where, digest))
        elif digest in known:
            repeated += 1
        else:
            known[digest] = label
            wanted[digest] = row, label
    fresh: list[dict[str, object]] = []
    unreadable: list[str] = []
    why_not: dict[str, str] = {}
    with Confined(TASK, PictureFacts) as work:
        for digest, found in work.each((digest, row.payload) for digest, (row, _) in wanted.items()):
            row, label = wanted[digest]
            if isinstance(found, Failed):
                why_not[digest] = found.why
                unreadable.append(f"{row.where} ({digest}): {found.why}")
                continue
            fresh.append(
                {
                    "payload_sha256": digest,
                    "payload": row.payload,
                    column: label,
                    "drive_id": row.drive_id,
                    "track_id": row.track_id,
                    "condition": found.condition,
                    "origin": ORIGIN,
                }
            )
    unreadable += [f"{where} ({digest}): {why_not[digest]}" for where, digest in again if digest in why_not]
    repeated += sum(digest not in why_not for _, digest in again)
    version = snapshot.version
    if fresh:
        version = table.append(
            pa.Table.from_pylist(fresh, schema=REFERENCE), expected_version=snapshot.version
        )
    return Added(name, len(fresh), repeated, tuple(unreadable), version)


def _labels(name: str, rows: list[LabelledPicture], column: str, classes: tuple[str, ...]) -> list[Any]:
    """Return the label of each row, with classes in the spelling of the contract."""
    names = ClassNames(classes)
    found = [ANSWERS[column](row.value, names) for row in rows]
    wrong = [f"{row.where}: {problem}" for row, (_, problem) in zip(rows, found, strict=True) if problem]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise RejectedError(
            f"{name}: {len(wrong)} rows have no label of the classes that params.yaml lists: {'; '.join(wrong[:_SHOWN])}{more}",
            reason="unknown_class",
        )
    return [label for label, _ in found]
