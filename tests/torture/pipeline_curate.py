"""Curate and label killed at a labelled step, and run again: a whole dataset or the one before, no answer lost or doubled."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, Tally
from tests.torture.pipeline_fork import Kill, in_fork, must, pipeline_steps
from tests.torture.topic_broker import warm

CURATE, LABEL = "curate", "label"
STEPS = (
    *((CURATE, f"curate.{word}") for word in ("rows", "built", "put_aside", "placed")),
    *((LABEL, f"label.{word}") for word in ("answered", "recorded", "appended")),
)
BUDGET = 5


class Scene:
    """A workspace with a dataset of an older lock, and what an undisturbed curate makes of the newer one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = folder / "base"
        must(lambda: prepare(self.base))
        self.old = digest_of(self.base)
        shutil.copytree(self.base, folder / "undisturbed")
        must(lambda: work(CURATE, folder / "undisturbed"))
        self.new = digest_of(folder / "undisturbed")
        if self.old == self.new:
            raise RuntimeError("late rows changed nothing")

    def attack(self, number: int) -> list[str]:
        """Kill at the step of this number; every other time there is no dataset before, or it is killed twice."""
        command, label = STEPS[number % len(STEPS)]
        repetition = number // len(STEPS)
        place = self.folder / f"workspace-{number}"
        shutil.copytree(self.base, place)
        if repetition % 5 == 3 and command == CURATE and label != "curate.put_aside":
            shutil.rmtree(place / "datasets" / "current")
        before = digest_of(place)
        found = []
        for _ in range(1 + repetition % 2):
            ended = in_fork(lambda: work(command, place), kill=Kill(label), watch=pipeline_steps)
            if not ended.was_killed:
                found.append(f"was not killed: {ended.error}")
            found += self._between(place, label, before)
        ended = in_fork(lambda: work(command, place), watch=pipeline_steps)
        if not ended.has_worked:
            return [*found, f"{command} after the kill failed: {ended.error}"]
        found += self._after(place, command)
        shutil.rmtree(place)
        return found

    def _between(self, place: Path, label: str, before: str) -> list[str]:
        """Old whole or new whole; nothing at all only between the two renames."""
        found = labels_wrong(place)
        now = digest_of(place)
        if now not in (before, self.new) and not (now == "" and label == "curate.put_aside"):
            found.append(f"after the kill at {label} the dataset is {now or 'not there'}, before {before}")
        return found + torn_of(place)

    def _after(self, place: Path, command: str) -> list[str]:
        found = labels_wrong(place) + torn_of(place)
        if command == CURATE and digest_of(place) != self.new:
            found.append("curate after the kill made another dataset than an undisturbed one")
        if command == LABEL and not [row for row in labels(place) if row["request_id"] != "r1"]:
            found.append("label after the kill kept no answer")
        left = place / ".fleetloop" / "work"
        found += [f"left over: {path.name}" for path in (left.iterdir() if left.is_dir() else ())]
        found += [f"left over: {path.name}" for path in (place / "datasets").glob(".*.old")]
        return found


def prepare(place: Path) -> None:
    """A workspace whose dataset is older than its lock, with frames that have no label yet. In a fork."""
    import pyarrow as pa

    from connectors.lake.schema import ARRIVALS, LABELS
    from connectors.lake.table import LakeTable
    from pipelines.dataset.lock import write_lock
    from pipelines.dataset.make import curate
    from tests.pipelines.curate_lake import (
        arrival,
        fleet_rows,
        label_rows,
        make_workspace,
        picture,
        reference_rows,
    )

    rows = fleet_rows(6, 4)
    workspace = make_workspace(place, rows, label_rows(rows, every=2), reference_rows())
    curate(workspace)
    late = [arrival(picture(9100 + n), seq=2100 + n, drive=f"late-{n}") for n in range(6)]
    LakeTable.open(workspace.arrivals_uri).append(pa.Table.from_pylist(late, ARRIVALS))
    LakeTable.open(workspace.labels_uri).append(pa.Table.from_pylist(label_rows(late), LABELS))
    write_lock(workspace)


def work(command: str, place: Path) -> Any:
    """The product's command, in this process."""
    from pipelines.curate.labelling import label
    from pipelines.dataset.make import curate
    from workspace.layout import Workspace

    workspace = Workspace.open(place)
    if command == CURATE:
        return str(curate(workspace).manifest["digest"])
    return label(workspace, _Desk(), BUDGET).request_id


class _Desk:
    """Knows an answer for every picture: its class follows from its hash."""

    def request(self, payload_sha256s: Sequence[str]) -> list[Any]:
        from connectors.labels.ports import Label
        from tests.pipelines.curate_lake import CLASSES

        return [Label(each, CLASSES[int(each[:8], 16) % len(CLASSES)], "desk", 7) for each in payload_sha256s]


def digest_of(place: Path) -> str:
    """The checker's digest of the dataset's rows; empty when there is none."""
    from tests.checker.dataset_files import rows_digest

    folder = place / "datasets" / "current"
    return must(lambda: rows_digest(folder)).value if (folder / "manifest.json").is_file() else ""


def torn_of(place: Path) -> list[str]:
    """What is torn about the dataset, where there is one."""
    from tests.checker.dataset_files import torn

    folder = place / "datasets" / "current"
    return list(must(lambda: torn(folder)).value) if folder.exists() else []


def labels(place: Path) -> list[dict[str, Any]]:
    """Every row of the table of labels."""
    from tests.checker.lake_state import table_rows

    return list(must(lambda: table_rows(place / "lake" / "labels")).value)


def labels_wrong(place: Path) -> list[str]:
    """No frame is answered twice, no request is in part, every request has its record."""
    rows = [row for row in labels(place) if row["request_id"] != "r1"]
    count = Counter(row["payload_sha256"] for row in rows)
    found = [f"{sha} was answered {number} times" for sha, number in count.items() if number > 1]
    records = place / "reports" / "label_requests"
    for request, number in Counter(row["request_id"] for row in rows).items():
        file = records / f"{request}.json"
        if not file.is_file():
            found.append(f"request {request} has {number} answers and no record")
        elif json.loads(file.read_text())["answered"] != number:
            found.append(f"request {request} has {number} answers, its record says otherwise")
    return found


def run(batch: Batch) -> Tally:
    """See `Fault.run`."""
    tally = Tally()
    warm()
    scene = Scene(batch.folder)
    for number in batch.numbers():
        tally.judge(scene.attack(number), f"try {number} {STEPS[number % len(STEPS)]}")
    return tally
