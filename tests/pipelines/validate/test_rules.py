"""Each rule fails on the row that breaks it and on no other, and both judges say so."""

from __future__ import annotations

import random

import polars as pl
import pytest

from pipelines.curate.shards import SHARD_SCHEMA
from pipelines.validate.rules import broken_rules, failing, prepare, rules_for
from schemas.reasons import QuarantineReason

CLASSES = ("green", "red")
RULES = rules_for(CLASSES, 24)
SCHEMA = {
    name: kind
    for name, kind in pl.DataFrame(pl.from_arrow(SHARD_SCHEMA.empty_table())).schema.items()
    if name != "payload"
}


def good_rows(count: int = 20) -> list[dict[str, object]]:
    rows = []
    for number in range(count):
        row: dict[str, object] = dict.fromkeys(SCHEMA)
        row |= {
            "identity": f"car/e/{number}",
            "payload_sha256": f"{number:064x}",
            "class_name": CLASSES[number % 2],
            "class_index": number % 2,
            "split": "test" if number < 5 else "train",
            "drive_id": "d0" if number < 5 else "d1",
            "vehicle_id": "car",
            "epoch": "e",
            "seq": number,
            "sensor_id": "front",
            "capture_time_ns": 10 * number,
            "time_quality": "ok",
            "luma": 90.0,
            "score_entropy": 0.5,
            "score_margin": 1.0,
            "score_least_confidence": 0.0,
            "selection_probability": 1.0,
        }
        rows.append(row)
    return rows


def frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


def broken(rows: list[dict[str, object]]) -> list[list[str]]:
    return broken_rules(failing(prepare(frame(rows)), RULES)).to_list()


BREAKS: list[tuple[dict[str, object], str]] = [
    ({"identity": None}, "identity_present"),
    ({"payload_sha256": None}, "payload_sha256_present"),
    ({"payload_sha256": "A" * 64}, "hash_well_formed"),
    ({"payload_sha256": "a" * 63}, "hash_well_formed"),
    ({"payload_sha256": "a" * 64 + "\n"}, "hash_well_formed"),
    ({"class_name": None}, "class_name_present"),
    ({"class_name": "blue"}, "class_name_known"),
    ({"score_entropy": 1.01}, "score_entropy_in_range"),
    ({"score_margin": -0.01}, "score_margin_in_range"),
    ({"score_least_confidence": float("nan")}, "score_least_confidence_in_range"),
    ({"score_novelty": float("inf")}, "score_novelty_in_range"),
    ({"selection_probability": 1.5}, "selection_probability_in_range"),
    ({"luma": 255.1}, "luma_in_range"),
    ({"capture_time_ns": 90}, "time_rises"),
    ({"capture_time_ns": 5}, "time_rises"),
]


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


@pytest.mark.slow
def test_great_expectations_counts_the_same_failing_rows_on_mutated_batches() -> None:
    from pipelines.validate.expectations import judge_with_expectations

    chooser = random.Random(4)
    for _ in range(25):
        rows = good_rows()
        for _ in range(chooser.randrange(5)):
            rows[chooser.randrange(20)] |= chooser.choice(BREAKS)[0]
        if chooser.random() < 0.3:
            rows[1]["identity"] = rows[2]["identity"]
        prepared = prepare(frame(rows))
        counted = failing(prepared, RULES).sum().row(0, named=True)
        verdicts = judge_with_expectations(prepared, RULES, allowed_ratio=0.0, docs=None)
        assert {verdict.rule: verdict.failing_rows for verdict in verdicts} == counted
        assert all(verdict.success == (verdict.failing_rows == 0) for verdict in verdicts)


def test_every_rule_is_a_reason_of_quarantine_and_every_reason_is_a_rule() -> None:
    names = [rule.name for rule in rules_for(("red",), 24)]
    assert names == list(QuarantineReason), "one member a rule, in the order of the reports"
