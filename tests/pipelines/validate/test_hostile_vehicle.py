"""A quality rule judges each vehicle: one that breaks it is named, and the dataset of the others stands."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from foundation.errors import MisconfiguredError, RejectedError
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import read_manifest, read_rows
from pipelines.validate.stage import Report, validate
from tests.pipelines.curate_lake import PARAMS, arrival, fleet_rows, label_rows, make_workspace, picture
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


def made(root: Path, rows: list[dict[str, object]], **quarantine: object) -> Workspace:
    changed = PARAMS | {"curate": {**PARAMS["curate"], "quarantine": quarantine}}  # type: ignore[dict-item]
    place = make_workspace(root, rows, label_rows(rows), params=changed)
    curate(place)
    return place


def jumped() -> list[dict[str, object]]:
    """Frames of a vehicle whose clock jumps once and comes back."""
    times = [1_000, 1_010, 9_000_000, 1_030, 1_040, 1_050]
    return [
        arrival(
            picture(3000 + n), vehicle="evil", seq=n, drive="evil-1", offset=3000 + n, capture_time_ns=time_ns,
            track_id=None,
        )
        for n, time_ns in enumerate(times)
    ]  # fmt: skip


def test_one_vehicles_backward_clock_fails_nothing_for_the_others_and_is_named_with_its_count(
    tmp_path: Path,
) -> None:
    honest = fleet_rows(12, 4)
    without = made(tmp_path / "without", honest)
    beside = made(tmp_path / "beside", honest + backwards("evil", 3000))
    reports: list[Report] = [validate(each, with_expectations=False) for each in (without, beside)]
    assert [each["success"] for each in reports] == [True, True]
    assert reports[0]["vehicles"] == {"judged": 3, "in_quarantine": [], "not_trained_on": {}, "lifted": {}}
    assert reports[1]["vehicles"] == {
        "judged": 4,
        "in_quarantine": [{"vehicle_id": "evil", "rule": "time_rises", "failing_rows": 8, "rows": 9}],
        "not_trained_on": {"evil": 9},
        "lifted": {},
    }
    kept = [read_rows(each.dataset_path) for each in (without, beside)]
    assert kept[1].equals(kept[0])


def test_no_row_of_a_vehicle_in_quarantine_is_trained_on_and_each_is_counted_with_the_reason(
    tmp_path: Path,
) -> None:
    place = made(tmp_path / "ws", fleet_rows(12, 4) + jumped())
    assert read_rows(place.dataset_path).filter(vehicle_id="evil").is_empty()
    rows = pl.read_parquet(place.dataset_path / "quarantine.parquet").filter(vehicle_id="evil").sort("seq")
    assert [list(each) for each in rows["rules"]] == [
        ["vehicle_in_quarantine"] if seq != 3 else ["time_rises", "vehicle_in_quarantine"] for seq in range(6)
    ]
    manifest = read_manifest(place.dataset_path)
    assert manifest["vehicles_in_quarantine"] == {"evil": {"time_rises": 1, "vehicle_in_quarantine": 6}}
    assert validate(place, with_expectations=False)["success"]


def test_a_quarantine_that_was_lifted_by_name_and_reason_leaves_out_the_failing_rows_alone(
    tmp_path: Path,
) -> None:
    lifted = {"evil": "its clock was replaced"}
    place = made(tmp_path / "ws", fleet_rows(12, 4) + jumped(), lifted=lifted)
    report = validate(place, with_expectations=False)
    assert report["success"], report["failures"]
    assert report["vehicles"]["lifted"] == lifted
    assert read_rows(place.dataset_path).filter(vehicle_id="evil")["seq"].sort().to_list() == [0, 1, 2, 4, 5]
    made_from = read_manifest(place.dataset_path)["made_from"]["parameters"]["curate"]
    assert made_from["quarantine"]["lifted"] == lifted


def test_a_quarantine_is_not_lifted_without_a_reason(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match=r"quarantine\.lifted\.evil is ' '; it must say why"):
        made(tmp_path / "ws", fleet_rows(3, 4), lifted={"evil": " "})


def test_a_labelled_frame_of_a_vehicle_in_quarantine_keeps_no_later_frame_of_another_out(
    tmp_path: Path,
) -> None:
    """Each hostile frame came first, is labelled, and is near an honest one; half of them are in test drives."""
    honest = [row | {"ingest_time_ns": 10**6} for row in fleet_rows(12, 4)]
    first = [
        arrival(
            picture(n, light=1.02), vehicle="evil", seq=n, drive=f"evil-{n // 12}", offset=3000 + n,
            ingest_time_ns=1, capture_time_ns=10**6 - n, track_id=None,
        )
        for n in range(48)
    ]  # fmt: skip
    alone, beside = made(tmp_path / "alone", honest), made(tmp_path / "beside", honest + first)
    lifted = made(tmp_path / "lifted", honest + first, lifted={"evil": "to compare"})
    assert read_rows(beside.dataset_path).equals(read_rows(alone.dataset_path))
    assert validate(beside, with_expectations=False)["success"]
    others = read_rows(lifted.dataset_path).filter(pl.col("vehicle_id") != "evil")
    assert others.height < read_rows(alone.dataset_path).height


def test_a_fleet_of_which_many_vehicles_break_a_rule_does_not_pass(tmp_path: Path) -> None:
    rows = fleet_rows(3, 4) + [row for n in range(2) for row in backwards(f"late-{n}", 3000 + 100 * n)]
    with pytest.raises(
        RejectedError, match=r"vehicles: 2 of 5 are in quarantine, at most 1 may: late-0 \(time_rises: 8 of 9"
    ):
        validate(made(tmp_path / "ws", rows), with_expectations=False)


def test_the_only_vehicle_of_a_fleet_does_not_pass_by_being_named(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="1 of 1 are in quarantine, at most 0 may"):
        validate(made(tmp_path / "ws", backwards("car", 3000)), with_expectations=False)
