"""A quality rule judges each vehicle: one that breaks it is named, and the dataset of the others stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.errors import RejectedError
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import read_rows
from pipelines.validate.stage import Report, validate
from tests.pipelines.curate_lake import arrival, fleet_rows, label_rows, make_workspace, picture
from workspace.layout import Workspace


def backwards(vehicle: str, first: int, frames: int = 9) -> list[dict[str, object]]:
    """Frames of a vehicle whose clock runs backwards and is said to be right."""
    return [
        arrival(
            picture(first + n), vehicle=vehicle, seq=n, drive=f"{vehicle}-1", offset=first + n,
            capture_time_ns=10**6 - n, track_id=None,
        )
        for n in range(frames)
    ]  # fmt: skip


def made(root: Path, rows: list[dict[str, object]]) -> Workspace:
    place = make_workspace(root, rows, label_rows(rows))
    curate(place)
    return place


def test_one_vehicles_backward_clock_fails_nothing_for_the_others_and_is_named_with_its_count(
    tmp_path: Path,
) -> None:
    honest = fleet_rows(12, 4)
    without = made(tmp_path / "without", honest)
    beside = made(tmp_path / "beside", honest + backwards("evil", 3000))
    reports: list[Report] = [validate(each, with_expectations=False) for each in (without, beside)]
    assert [each["success"] for each in reports] == [True, True]
    assert reports[0]["vehicles"] == {"judged": 3, "in_quarantine": []}
    assert reports[1]["vehicles"] == {
        "judged": 4,
        "in_quarantine": [{"vehicle_id": "evil", "rule": "time_rises", "failing_rows": 8, "rows": 9}],
    }
    kept = [read_rows(each.dataset_path) for each in (without, beside)]
    assert kept[1].filter(vehicle_id="evil").height == 1
    assert kept[1].filter(kept[1]["vehicle_id"] != "evil").equals(kept[0])


def test_a_clock_that_jumps_once_and_comes_back_leaves_no_row_in_the_shards_that_breaks_the_order(
    tmp_path: Path,
) -> None:
    times = [1_000, 1_010, 9_000_000, 1_030, 1_040, 1_050]
    jumped = [
        arrival(
            picture(3000 + n),
            vehicle="evil",
            seq=n,
            drive="evil-1",
            offset=3000 + n,
            capture_time_ns=time_ns,
            track_id=None,
        )
        for n, time_ns in enumerate(times)
    ]
    place = made(tmp_path / "ws", fleet_rows(12, 4) + jumped)
    report = validate(place, with_expectations=False)
    assert report["success"], report["failures"]
    assert read_rows(place.dataset_path).filter(vehicle_id="evil")["seq"].sort().to_list() == [0, 1, 2, 4, 5]


def test_a_fleet_of_which_many_vehicles_break_a_rule_does_not_pass(tmp_path: Path) -> None:
    rows = fleet_rows(3, 4) + [row for n in range(2) for row in backwards(f"late-{n}", 3000 + 100 * n)]
    with pytest.raises(
        RejectedError, match=r"vehicles: 2 of 5 are in quarantine, at most 1 may: late-0 \(time_rises: 8 of 9"
    ):
        validate(made(tmp_path / "ws", rows), with_expectations=False)


def test_the_only_vehicle_of_a_fleet_does_not_pass_by_being_named(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="1 of 1 are in quarantine, at most 0 may"):
        validate(made(tmp_path / "ws", backwards("car", 3000)), with_expectations=False)
