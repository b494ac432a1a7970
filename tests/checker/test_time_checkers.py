"""The checkers of jumping clocks and frozen words report each violation they know, and nothing of a sound drive."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.checker.clock_story import (
    BUILT_NS,
    JUMP_NS,
    TOO_FAR_NS,
    Delivered,
    Moment,
    books_violations,
    flag_violations,
    order_violations,
    own_flag_violations,
    pace_violations,
)
from tests.checker.freeze_story import SLACK_NS, Look, Word, freeze_violations, read_word

A, B = "a" * 16, "b" * 16
S = 1_000_000_000
NOW_NS = BUILT_NS + 30 * 86_400 * S
HOUR_NS = 3_600 * S


def record(seq: int, epoch: str = A, **changes: Any) -> Delivered:
    """Sample `seq`, one a second; the second epoch follows the first."""
    at = seq + (10 if epoch == B else 0)
    sound = Delivered(
        f"frame-{at}",
        epoch,
        A if epoch == B else "",
        seq,
        NOW_NS + at * S,
        NOW_NS + at * S,
        "boot",
        at * S,
        "ok",
    )
    return replace(sound, **changes)


def moments(records: list[Delivered], off_ns: int = 0, *, has_jumped: bool = False) -> dict[str, Moment]:
    return {
        one.frame_id: Moment(one.frame_id, one.spool_time_ns, one.spool_time_ns - off_ns, has_jumped)
        for one in records
    }


def words(violations: list[str]) -> list[str]:
    return [one.partition(":")[0] for one in violations]


SOUND = [record(0), record(1), record(0, B), record(1, B)]
ORDER = [one.frame_id for one in SOUND]


def test_a_sound_drive_is_reported_by_none() -> None:
    assert flag_violations(moments(SOUND), SOUND) == []
    assert own_flag_violations(SOUND) == []
    assert order_violations(ORDER, SOUND, [A, B]) == []
    names = [(one.epoch, one.seq) for one in SOUND]
    ledger = {"accepted": 4, "not_accepted": {"x": 1}, "pending": 0, "in_doubt": 0, "evicted": {}}
    assert books_violations(names, SOUND, ledger, 5) == []
    assert pace_violations(10, 100, 10, 1.0, 5.0) == []


@pytest.mark.parametrize(
    ("changes", "off_ns", "has_jumped", "word"),
    [
        ({}, TOO_FAR_NS + 1, False, "not_flagged"),
        ({}, 0, True, "not_flagged"),
        ({"spool_time_ns": 5 * S}, 0, False, "not_flagged"),
        ({"spool_time_ns": 5 * S, "time_quality": "jumped"}, 0, False, "not_flagged"),
        ({"time_quality": "jumped"}, 0, False, "flagged_for_nothing"),
    ],
)
def test_a_doubtful_time_that_says_ok_and_a_right_one_that_does_not(
    changes: dict[str, Any], off_ns: int, has_jumped: bool, word: str
) -> None:
    one = record(0, **changes)
    assert words(flag_violations(moments([one], off_ns, has_jumped=has_jumped), [one])) == [word]


def test_a_flag_that_fits_and_a_time_that_was_changed() -> None:
    early = record(0, spool_time_ns=5 * S, time_quality="before_build")
    assert flag_violations(moments([early]), [early]) == []
    one = record(0)
    later = replace(one, spool_time_ns=one.spool_time_ns + 2 * S)
    assert words(flag_violations(moments([one]), [later])) == ["time_changed"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"spool_time_ns": 5 * S, "monotonic_ns": 5 * S}, "not_flagged"),
        ({"spool_time_ns": BUILT_NS + TOO_FAR_NS + S}, "not_flagged"),
        ({"spool_time_ns": NOW_NS + 2 * JUMP_NS}, "not_flagged"),
        ({"time_quality": "jumped"}, "flagged_for_nothing"),
    ],
)
def test_the_records_alone_tell_a_flag_that_is_missing_or_too_many(
    changes: dict[str, Any], word: str
) -> None:
    assert words(own_flag_violations([record(0), record(1, **changes)])) == [word]


@pytest.mark.parametrize(
    ("records", "epochs", "expected"),
    [
        ([*SOUND, SOUND[-1]], [A, B], {"landed_twice", "order_lost"}),
        ([record(0), record(0, B, previous_epoch="")], [A, B], {"epochs_broken"}),
        ([record(0), record(0, "c" * 16, frame_id="frame-1")], [A], {"epochs_broken", "order_lost"}),
        ([record(0, frame_id="frame-1"), record(1, frame_id="frame-0")], [A, B], {"order_lost"}),
        ([record(0, monotonic_ns=5 * S), record(1)], [A, B], {"monotonic_goes_back"}),
    ],
)
def test_order_and_names(records: list[Delivered], epochs: list[str], expected: set[str]) -> None:
    assert set(words(order_violations(ORDER, records, epochs))) == expected


@pytest.mark.parametrize(
    ("receipts", "changes", "frames", "word"),
    [
        ([(A, 0), (A, 9)], {}, 2, "accepted_and_lost"),
        ([(A, 0)], {"pending": 1}, 2, "not_delivered"),
        ([(A, 0)], {"in_doubt": 1}, 2, "not_delivered"),
        ([(A, 0)], {"evicted": {"age": 1}}, 2, "not_delivered"),
        ([(A, 0)], {"accepted": 2, "not_accepted": {}}, 2, "frames_miscounted"),
        ([(A, 0)], {}, 3, "frames_miscounted"),
    ],
)
def test_books(receipts: list[tuple[str, int]], changes: dict[str, Any], frames: int, word: str) -> None:
    ledger = {"accepted": 1, "not_accepted": {"x": 1}, "pending": 0, "in_doubt": 0, "evicted": {}} | changes
    assert words(books_violations(receipts, [record(0)], ledger, frames)) == [word]


@pytest.mark.parametrize(
    ("sent", "drained_s", "word"),
    [(4, 1.0, "telemetry_stalled"), (23, 1.0, "telemetry_floods"), (10, 5.1, "delivery_stalled")],
)
def test_pace(sent: int, drained_s: float, word: str) -> None:
    assert words(pace_violations(sent, 100.0, 10.0, drained_s, 5.0)) == [word]


def look(wall_ns: int, ran_ns: int, has_accepted: bool, word: Word | None = None) -> Look:
    return Look(word or Word(NOW_NS, NOW_NS + 24 * HOUR_NS), wall_ns, ran_ns, has_accepted, "look")


def test_words_that_were_good_and_believed_or_old_and_refused() -> None:
    assert freeze_violations([look(NOW_NS, 0, True), look(NOW_NS + 25 * HOUR_NS, 25 * HOUR_NS, False)]) == []
    assert freeze_violations([look(0, 0, True)]) == [], "a clock at 1970 that knows nothing believes"


@pytest.mark.parametrize(
    ("looks", "word"),
    [
        ([look(NOW_NS + 25 * HOUR_NS, 0, True)], "frozen_word_believed"),
        ([look(NOW_NS, 0, False)], "good_word_refused"),
        ([look(NOW_NS, 0, True), look(0, 26 * HOUR_NS, True)], "frozen_word_believed"),
        (
            [look(0, 0, True, Word(NOW_NS + 48 * HOUR_NS, NOW_NS + 72 * HOUR_NS)), look(0, 0, True)],
            "frozen_word_believed",
        ),
    ],
)
def test_a_frozen_word_that_was_believed_and_a_good_one_that_was_not(looks: list[Look], word: str) -> None:
    assert words(freeze_violations(looks)) == [word]


def test_the_hour_that_a_power_loss_may_have_cost_is_excused() -> None:
    begin = look(NOW_NS, 0, True)
    assert freeze_violations([begin, look(0, 24 * HOUR_NS + SLACK_NS, True)]) == []


def test_the_end_of_a_word_is_that_of_the_first_document_to_expire(tmp_path: Path) -> None:
    def write(name: str, expires: str, **more: object) -> None:
        (tmp_path / name).write_text(json.dumps({"signed": {"expires": expires, **more}}))

    meta = {"snapshot.json": {"version": 3}}
    write("timestamp.json", "2026-03-02T00:00:00Z", meta=meta, **{"x-fleetloop-issued-s": 1_772_000_000})
    write("3.snapshot.json", "2026-03-01T00:00:00Z", meta={"targets.json": {"version": 2}})
    write("2.targets.json", "2026-06-01T00:00:00Z")
    assert read_word(tmp_path) == Word(1_772_000_000 * S, 1_772_323_200 * S)
