"""Each rule fails on the row that breaks it and on no other, and both judges say so."""

from __future__ import annotations

import random

import polars as pl
import pytest

from modelkit.tasks import TASKS
from pipelines.curate.rules import broken_rules, failing, failing_counts, prepare, rules_for
from schemas.reasons import QuarantineReason
from tests.checker.row_rules import failing_rows
from tests.pipelines.mutated_batches import (
    BREAKS,
    CLASSES,
    MAX_BITS,
    RULES,
    distances_frame,
    frame,
    good_rows,
    mutated,
)


def broken(rows: list[dict[str, object]]) -> list[list[str]]:
    return broken_rules(failing(prepare(frame(rows)), RULES)).to_list()


def test_good_rows_break_no_rule() -> None:
    assert broken(good_rows()) == [[]] * 20


@pytest.mark.parametrize(("change", "rule"), BREAKS)
def test_a_row_that_breaks_one_rule_fails_that_rule_and_no_other(
    change: dict[str, object], rule: str
) -> None:
    rows = good_rows()
    rows[10] |= change
    verdicts = broken(rows)
    assert verdicts[10] == [rule]
    assert not any(verdicts[:10] + verdicts[11:])


def test_rows_that_share_an_identity_all_fail() -> None:
    rows = good_rows()
    rows[3]["identity"] = rows[9]["identity"]
    assert [number for number, names in enumerate(broken(rows)) if names] == [3, 9]


def test_a_drive_in_two_splits_fails_with_all_its_rows() -> None:
    rows = good_rows()
    rows[6]["drive_id"] = "d0"
    assert [names for names in broken(rows) if names] == [["drive_splits_in_range"]] * 6


def test_an_unknown_split_is_named() -> None:
    rows = good_rows()
    rows[7] |= {"split": "holdout", "drive_id": "d9"}
    assert broken(rows)[7] == ["split_known"]


def test_a_near_duplicate_of_test_in_training_fails_and_in_test_does_not() -> None:
    distances = pl.DataFrame({"payload_sha256": [f"{1:064x}", f"{8:064x}"], "test_distance_bits": [3.0, 3.0]})
    verdicts = broken_rules(failing(prepare(frame(good_rows()), distances), RULES)).to_list()
    assert [number for number, names in enumerate(verdicts) if names] == [8]


def test_a_clock_that_is_not_believed_breaks_no_order_and_another_drive_begins_anew() -> None:
    rows = good_rows()
    rows[10] |= {"capture_time_ns": -5, "time_quality": "before_build"}
    rows[5]["capture_time_ns"] = 50
    assert broken(rows) == [[]] * 20


def test_the_fast_rules_count_what_the_checker_counts_on_mutated_batches() -> None:
    for number in range(300):
        rows, near = mutated(random.Random(number))
        prepared = prepare(frame(rows), distances_frame(near))
        known = failing_rows(rows, CLASSES, near, MAX_BITS)
        assert failing_counts(prepared.lazy(), RULES) == known, number
        assert failing(prepared, RULES).sum().row(0, named=True) == known, number


@pytest.mark.slow
def test_great_expectations_counts_the_same_failing_rows_on_mutated_batches() -> None:
    from pipelines.validate.expectations import judge_with_expectations

    for number in range(10):  # the fault validation-parity counts 1,000
        rows, near = mutated(random.Random(number))
        prepared = prepare(frame(rows), distances_frame(near))
        counted = failing_counts(prepared.lazy(), RULES)
        verdicts = judge_with_expectations(prepared, RULES, allowed_ratio=0.0, docs=None)
        assert {verdict.rule: verdict.failing_rows for verdict in verdicts} == counted
        assert all(verdict.success == (verdict.failing_rows == 0) for verdict in verdicts)


def test_every_rule_is_a_reason_of_quarantine_and_every_reason_is_a_rule() -> None:
    by_task = [
        [rule.name for rule in rules_for(task, ("red",), 24)] for task in TASKS.values() if task.learns
    ]
    of_vehicles = {
        QuarantineReason.VEHICLE_IN_QUARANTINE
    }  # decided over all rows of a vehicle, no rule of a row
    assert {name for names in by_task for name in names} == set(QuarantineReason) - of_vehicles
    order = list(QuarantineReason)
    assert all(names == sorted(names, key=order.index) for names in by_task), "in the order of the reports"
