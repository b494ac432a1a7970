"""Boxes as labels: from the label table to shards, rules, card and diff, by the same path as classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from connectors.labels.ports import Label
from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import LABELS
from connectors.lake.table import LakeTable
from foundation.errors import MisconfiguredError, RejectedError
from modelkit.tasks import TASKS
from pipelines.curate.labelling import label
from pipelines.dataset.diff import diff
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import dataset_digest, read_rows, shard_paths
from pipelines.validate.stage import validate
from schemas.predictions import Box, DetectionOutput, ModelPrediction, to_plain
from schemas.reasons import Split
from tests.pipelines.curate_lake import PARAMS, fleet_rows, make_workspace, reference_rows
from training.rows import iter_rows

TASK = TASKS["detection"]
CLASSES = ("car", "person")
BOXES: dict[str, object] = {**PARAMS, "task": "detection", "classes": list(CLASSES)}
CAR = {"class_name": "car", "left": 1.0, "top": 2.0, "right": 21.5, "bottom": 12.0}
PERSON = {"class_name": "person", "left": 20.0, "top": 4.0, "right": 26.0, "bottom": 30.0}
KINDS: list[list[dict[str, object]]] = [[CAR], [CAR, PERSON], [], [CAR]]
Rows = list[dict[str, object]]


def answers(rows: Rows, **changes: object) -> Rows:
    """An answer for every row, of four kinds in turn; the third says that there is nothing."""
    return [
        {
            "payload_sha256": row["payload_sha256"],
            "boxes": KINDS[number % 4],
            "labeller": "ann",
            "labelled_time_ns": 5,
            "cost": 1.0,
            "request_id": "r",
            **changes,
        }
        for number, row in enumerate(rows)
    ]


def test_boxes_and_their_absence_reach_the_shards_as_training_reads_them(tmp_path: Path) -> None:
    rows = fleet_rows(8, 4)
    place = make_workspace(tmp_path / "ws", rows, answers(rows[:-1]), params=BOXES)
    manifest = curate(place).manifest
    assert manifest["counts"]["unlabelled"] == 1, "a row that nobody looked at is no picture without objects"
    found = {
        row.payload_sha256: row.label
        for split in Split
        for part in iter_rows(place.dataset_path, split, task="detection")
        for row in part
    }
    known = {str(each["payload_sha256"]): TASK.label_of(each["boxes"]) for each in answers(rows[:-1])}
    assert found == {sha: known[sha] for sha in found}
    assert () in found.values()
    counted = {name: sum(s["classes"][name] for s in manifest["splits"].values()) for name in CLASSES}
    assert counted == {n: sum(n in TASK.classes_of(label) for label in found.values()) for n in CLASSES}
    assert validate(place)["success"], "both judges"


def test_a_dataset_of_boxes_is_the_same_in_any_order_of_answers_and_of_files(tmp_path: Path) -> None:
    rows = fleet_rows(8, 4)
    labels = answers(rows) + answers(rows[:6], boxes=[PERSON], labeller="bob")
    first = curate(make_workspace(tmp_path / "a", rows, labels, params=BOXES)).manifest["digest"]
    turned = make_workspace(tmp_path / "b", rows[::-1], labels[::-1], files=5, params=BOXES)
    assert curate(turned).manifest["digest"] == first == dataset_digest(turned.dataset_path)
    moved = [{**PERSON, "left": 20.5}]
    other = make_workspace(
        tmp_path / "c", rows, labels + answers(rows[:1], boxes=moved, labelled_time_ns=9), params=BOXES
    )
    assert curate(other).manifest["digest"] != first, "half a pixel is another dataset"


def test_a_box_that_cannot_be_used_puts_its_row_into_quarantine(tmp_path: Path) -> None:
    rows = fleet_rows(8, 4)
    labels = answers(rows)
    labels[0]["boxes"] = [{**CAR, "class_name": "tram"}]
    labels[1]["boxes"] = [{**CAR, "right": 33.5}]
    labels[4]["boxes"] = [{**CAR, "right": float("nan")}]
    labels[5]["boxes"] = [{**CAR, "right": None}]
    place = make_workspace(
        tmp_path / "ws", rows, labels, params={**BOXES, "validate": {"max_failing_ratio": 0.2}}
    )
    assert curate(place).manifest["quarantine"] == {"boxes_usable": 4}
    report = validate(place)
    counted = {rule["rule"]: rule for rule in report["rules"]}["boxes_usable"]
    assert (counted["failing_rows"], counted["great_expectations_failing_rows"]) == (4, 4)
    assert counted["failing_in_shards"] == 0


def test_labels_of_two_tasks_lie_in_one_table_and_each_dataset_reads_its_own(tmp_path: Path) -> None:
    rows = fleet_rows(8, 4)
    classes = [{**each, "boxes": None, "class_name": "green"} for each in answers(rows[:9])]
    both = [{**each, "class_name": None} for each in answers(rows)] + classes
    boxes = make_workspace(tmp_path / "boxes", rows, both, params=BOXES)
    assert curate(boxes).manifest["rows"] == 32
    single = make_workspace(tmp_path / "classes", rows, both, params=PARAMS)
    assert curate(single).manifest["counts"]["unlabelled"] == 23
    single.params_path.write_text(boxes.params_path.read_text())
    with pytest.raises(
        MisconfiguredError, match=r"is of the task classification, but params\.yaml says detection"
    ):
        validate(single, with_expectations=False)


def test_a_table_from_before_there_were_boxes_is_read_and_gains_them(tmp_path: Path) -> None:
    rows = fleet_rows(8, 4)
    place = make_workspace(tmp_path / "ws", rows, params=PARAMS)
    old = pa.schema([field for field in LABELS if field.name != "boxes"])
    folder = tmp_path / "old"
    held = [{**each, "class_name": "green"} for each in answers(rows)]
    for each in held:
        del each["boxes"]
    DeltaTable.create(str(folder), schema=old)
    LakeTable.open(folder).append(pa.Table.from_pylist(held, old))
    (place.lake_path / "labels").rename(tmp_path / "new")
    folder.rename(place.lake_path / "labels")
    tables = {name: LakeTable.open(place.lake_path / name) for name in ("arrivals", "labels", "reference")}
    write_lake_lock(place.lake_lock_path, tables)
    before = curate(place).manifest["digest"]
    table = LakeTable.create(place.labels_uri, LABELS)
    table.append(pa.Table.from_pylist(answers(rows), LABELS))
    assert curate(place).manifest["digest"] == before, "the lock names the version without boxes"
    write_lake_lock(place.lake_lock_path, {**tables, "labels": table})
    assert curate(place).manifest["digest"] == before, "boxes are no classes"


def test_reference_pictures_bring_their_boxes_until_the_table_says_otherwise(tmp_path: Path) -> None:
    rows, brought = fleet_rows(8, 4), reference_rows(4)
    reference = [{**row, "class_name": None, "boxes": [PERSON]} for row in brought]
    later = answers([brought[0]], boxes=[CAR])
    place = make_workspace(tmp_path / "ws", rows, later, reference, params=BOXES)
    curate(place)
    found = dict(read_rows(place.dataset_path, ["payload_sha256", "boxes"]).iter_rows())
    assert found == {row["payload_sha256"]: [PERSON] for row in brought} | {
        brought[0]["payload_sha256"]: [CAR]
    }


def said(*names: str) -> str:
    """predictions_json of a serving detector."""
    output = DetectionOutput(tuple(Box(name, 0.6, 1.0, 1.0, 9.0, 9.0) for name in names))
    return json.dumps([to_plain(ModelPrediction("serving", "detection", "d", "d" * 64, detection=output))])


class Desk:
    """Knows boxes for every payload."""

    def __init__(self, value: object) -> None:
        self.value = value

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        return [Label(sha, self.value, "desk", 7) for sha in payload_sha256s]


def test_a_budget_goes_to_frames_on_which_the_vehicle_saw_the_class_with_the_fewest_labels(
    tmp_path: Path,
) -> None:
    rows = fleet_rows(10, 4)
    for number, row in enumerate(rows):
        row |= {
            "predicted_class": None,
            "predictions_json": said("car", "person") if number % 10 == 0 else said("car"),
        }
    balanced = {
        "strategy": "class_balanced",
        "at_most_per_track": 100,
        "random_ratio": 0.0,
        "test_ratio": 0.0,
    }
    place = make_workspace(
        tmp_path / "ws", rows, answers(rows[1:4], boxes=[CAR]), params={**BOXES, "label": balanced}
    )
    result = label(place, Desk([CAR, PERSON]), 3)
    (record,) = (place.reports_path / "label_requests").iterdir()
    asked = [frame["predicted_class"] for frame in json.loads(record.read_text())["frames"]]
    assert asked == ["person"] * 3
    assert (result.answered, result.classes) == (3, {"car": 3, "person": 3})
    table = pl.DataFrame(pl.from_arrow(LakeTable.open(place.labels_uri).snapshot().read()))
    assert table.filter(pl.col("labeller") == "desk")["boxes"].to_list() == [[CAR, PERSON]] * 3


@pytest.mark.parametrize(
    "value",
    ["car", [{**CAR, "class_name": "tram"}], [{"class_name": "car"}], [{**CAR, "right": 900.0}]],
    ids=["text", "unknown class", "no edges", "outside of the picture of 32 pixels"],
)
def test_an_answer_that_is_no_label_of_the_task_is_refused_before_it_is_appended(
    tmp_path: Path, value: object
) -> None:
    place = make_workspace(tmp_path / "ws", fleet_rows(6, 2), params=BOXES)
    with pytest.raises(RejectedError, match="the label desk answers"):
        label(place, Desk(value), 3)
    assert LakeTable.open(place.labels_uri).snapshot().count() == 0


def test_a_diff_tells_a_box_that_moved_and_its_card_marks_boxes(tmp_path: Path) -> None:
    rows = fleet_rows(8, 4)
    place = make_workspace(tmp_path / "ws", rows, answers(rows), params=BOXES)
    before = read_rows(curate(place).path)
    LakeTable.open(place.labels_uri).append(
        pa.Table.from_pylist(answers(rows[:1], boxes=[{**CAR, "left": 2.0}], labelled_time_ns=9), LABELS)
    )
    write_lake_lock(
        place.lake_lock_path,
        {name: LakeTable.open(place.lake_path / name) for name in ("arrivals", "labels", "reference")},
    )
    unmarked = {
        path.name: path.read_bytes() for path in (place.dataset_path / "pictures").glob("class-*.png")
    }
    found = diff(before, read_rows(curate(place).path), TASK)
    assert (found.relabelled, found.unchanged, found.added) == (1, 31, 0)
    assert found.relabelled_rows == ((rows[0]["payload_sha256"], "1 car", "1 car"),)
    drawn = {path.name: path.read_bytes() for path in (place.dataset_path / "pictures").glob("class-*.png")}
    assert drawn.keys() == unmarked.keys() and drawn != unmarked


def test_a_shard_of_boxes_is_plain_parquet(tmp_path: Path) -> None:
    rows = fleet_rows(8, 4)
    place = make_workspace(tmp_path / "ws", rows, answers(rows), params=BOXES)
    schema = pq.read_schema(shard_paths(curate(place).path)[0])
    assert schema.field("boxes").type == LABELS.field("boxes").type
    assert not {"class_name", "class_index"} & set(schema.names)
