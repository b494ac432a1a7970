"""A label is asked for only when it was selected, paid once, and kept with its request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from connectors.labels.ports import Label
from connectors.lake.table import LakeTable, StaleSnapshotError
from foundation.errors import MisconfiguredError, RejectedError
from foundation.files import json_bytes
from pipelines.curate.labelling import LABEL_REQUEST, MOST_FRAMES, label
from pipelines.curate.selection import SELECTED
from pipelines.steps import watched
from schemas.limits import MAX_TEXT_CHARS
from tests.pipelines.curate_lake import CLASSES, PARAMS, fleet_rows, label_rows, make_workspace

ALL = {"label": {"strategy": "margin", "at_most_per_track": 100, "random_ratio": 0.0, "test_ratio": 0.0}}


class Desk:
    """Answers about every payload it knows and remembers what it was asked."""

    def __init__(self, rows: list[dict[str, object]], also: Sequence[str] = ()) -> None:
        self.known = {str(row["payload_sha256"]): CLASSES[int(str(row["seq"])) % 3] for row in rows}
        self.asked: list[str] = []
        self.also = also

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        self.asked += payload_sha256s
        answered = [sha for sha in payload_sha256s if sha in self.known]
        return [Label(sha, self.known.get(sha, "red"), "desk", 7, 2.5) for sha in [*answered, *self.also]]


def test_the_desk_is_asked_only_for_the_selected_and_the_cost_is_kept(tmp_path: Path) -> None:
    rows = fleet_rows(6, 5)
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows[:4]), params=PARAMS | ALL)
    desk = Desk(rows[:-1])
    result = label(workspace, desk, 8)
    assert len(desk.asked) == result.asked == 8
    assert result.cost == 2.5 * result.answered
    sizes = {row["payload_sha256"]: row["payload_bytes"] for row in rows}
    answered = set(desk.asked) & set(desk.known)
    assert result.payload_bytes == sum(int(str(sizes[sha])) for sha in answered) > 0
    assert not set(desk.asked) & {row["payload_sha256"] for row in rows[:4]}
    table = pl.DataFrame(pl.from_arrow(LakeTable.open(workspace.labels_uri).snapshot().read()))
    ours = table.filter(pl.col("request_id") == result.request_id)
    assert set(ours["payload_sha256"]) == set(desk.asked) & set(desk.known)
    assert ours["cost"].sum() == result.cost
    record = json.loads((workspace.reports_path / "label_requests" / f"{result.request_id}.json").read_text())
    assert [frame["payload_sha256"] for frame in record["frames"]] == desk.asked


def test_the_next_request_asks_for_others_until_nothing_is_left(tmp_path: Path) -> None:
    rows = fleet_rows(3, 4)
    workspace = make_workspace(tmp_path / "ws", rows, params=PARAMS | ALL)
    desk = Desk(rows)
    first, second, third = label(workspace, desk, 7), label(workspace, desk, 7), label(workspace, desk, 7)
    assert (first.asked, second.asked, third.asked) == (7, 5, 0)
    assert len(set(desk.asked)) == len(desk.asked) == 12
    assert third.labels_version == second.labels_version


def test_an_answer_that_nobody_asked_for_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    rows = fleet_rows(2, 4)
    workspace = make_workspace(tmp_path / "ws", rows, params=PARAMS | ALL)
    with pytest.raises(RejectedError, match="not requested"):
        label(workspace, Desk(rows, also=["f" * 64]), 3)
    assert LakeTable.open(workspace.labels_uri).snapshot().count() == 0


def test_an_answer_that_is_no_class_of_the_contract_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    rows = fleet_rows(2, 4)
    workspace = make_workspace(tmp_path / "ws", rows, params=PARAMS | ALL)
    desk = Desk(rows)
    desk.known = dict.fromkeys(desk.known, "Red")
    with pytest.raises(
        RejectedError,
        match=r"answers 'Red' for [0-9a-f]{64}: class 'Red' is not in .*; params.yaml has the classes",
    ) as caught:
        label(workspace, desk, 3)
    assert caught.value.reason == "unknown_class"
    assert LakeTable.open(workspace.labels_uri).snapshot().count() == 0


def test_the_largest_request_can_be_read_again_and_a_larger_one_is_refused_before_anybody_is_asked(
    tmp_path: Path,
) -> None:
    longest = "\x01" * MAX_TEXT_CHARS  # six bytes each in JSON
    frame: dict[str, object] = dict.fromkeys(("predicted_class", "drive_id", "track_id"), longest)
    frame |= {
        "vehicle_id": "v" * 64,
        "payload_sha256": "a" * 64,
        "arm": "strategy",
        "split": "validation",
        "worth": -1.2345678901234567e-300,
    }
    assert set(frame) == set(SELECTED)
    assert len(json_bytes({"frames": [frame]})) * MOST_FRAMES <= LABEL_REQUEST.max_bytes
    desk = Desk(rows := fleet_rows(2, 4))
    workspace = make_workspace(tmp_path / "ws", rows, params=PARAMS | ALL)
    with pytest.raises(
        MisconfiguredError, match=f"budget is {MOST_FRAMES + 1}, must be at most {MOST_FRAMES}"
    ):
        label(workspace, desk, MOST_FRAMES + 1)
    assert desk.asked == []


def test_frames_with_an_old_answer_that_is_no_class_are_asked_for_again(tmp_path: Path) -> None:
    rows = fleet_rows(2, 4)
    wrong = [row | {"class_name": "Red", "labelled_time_ns": 1} for row in label_rows(rows[:3])]
    workspace = make_workspace(tmp_path / "ws", rows, wrong, params=PARAMS | ALL)
    result = label(workspace, Desk(rows), 8)
    assert result.answered == 8
    assert label(workspace, Desk(rows), 8).asked == 0


def test_labels_that_came_meanwhile_stop_the_request_before_it_pays_twice(tmp_path: Path) -> None:
    rows = fleet_rows(2, 4)
    workspace = make_workspace(tmp_path / "ws", rows, params=PARAMS | ALL)

    class SlowDesk(Desk):
        def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
            label(workspace_of_another_process, Desk(rows), 3)
            return super().request(payload_sha256s)

    workspace_of_another_process = workspace
    with pytest.raises(StaleSnapshotError):
        label(workspace, SlowDesk(rows), 3)
    assert LakeTable.open(workspace.labels_uri).snapshot().count() == 3


@pytest.mark.parametrize("step", ["label.answered", "label.recorded", "label.appended"])
def test_no_answer_is_ever_without_the_record_of_its_request(tmp_path: Path, step: str) -> None:
    rows = fleet_rows(2, 4)
    workspace = make_workspace(tmp_path / "ws", rows, params=PARAMS | ALL)

    def die(reached: str) -> None:
        if reached == step:
            raise KeyboardInterrupt

    with watched(die), pytest.raises(KeyboardInterrupt):
        label(workspace, Desk(rows), 3)
    label(workspace, Desk(rows), 3)
    answers = LakeTable.open(workspace.labels_uri).snapshot().read().to_pylist()
    assert (
        len({row["payload_sha256"] for row in answers}) == len(answers) == 3 + 3 * (step == "label.appended")
    )
    records = {path.stem for path in (workspace.reports_path / "label_requests").glob("*.json")}
    assert {row["request_id"] for row in answers} <= records
