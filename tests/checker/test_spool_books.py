"""The books notice every way in which a spool may break its word, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.checker.spool_books import Excuses, Key, Received, Told, judge_books, judge_frames, received

E = "e" * 16


def one(seq: int, value: str = "") -> Received:
    return received((E, seq), (value or f"... frame-{seq} ...").encode())


def told(count: int = 4, *, before: int = 0, durable: int = 0) -> Told:
    """`count` receipts; the first `before` came out before the fault, the first `durable` acknowledged for good."""
    return Told(
        receipts={(E, seq): one(seq).sha256 for seq in range(count)},
        received=[one(seq) for seq in range(before)],
        durable={(E, seq) for seq in range(durable)},
        offered={f"frame-{seq}" for seq in range(count)},
    )


def ledger(count: int = 4, **places: list[int]) -> dict[str, Any]:
    """An export in which every number is delivered unless it is said otherwise (evicted_quota, in_doubt, ...)."""
    elsewhere = {seq for seqs in places.values() for seq in seqs}
    ranges: dict[str, Any] = {
        name: [[seq, seq + 1] for seq in places.get(name, [])]
        for name in ("pending", "in_doubt", "never_accepted")
    }
    ranges["delivered"] = [[seq, seq + 1] for seq in range(count) if seq not in elsewhere]
    evicted = {
        name.removeprefix("evicted_"): seqs for name, seqs in places.items() if name.startswith("evicted_")
    }
    ranges["evicted"] = {reason: [[seq, seq + 1] for seq in seqs] for reason, seqs in evicted.items()}
    sums = {name: len(ranges[name]) for name in ("delivered", "pending", "in_doubt")}
    sums |= {"evicted": {reason: len(seqs) for reason, seqs in evicted.items()}}  # type: ignore[dict-item]
    accepted = count - len(places.get("never_accepted", []))
    row = {"epoch": E, "accepted": accepted, "ranges": ranges, **sums}
    return {"accepted": accepted, **sums, "problems": [], "epochs": [row], "not_accepted": {}}


def rules(broken: list[str]) -> set[str]:
    return {line.split(":")[0] for line in broken}


def test_all_that_was_accepted_came_out_and_nothing_is_said() -> None:
    assert judge_books(told(), [one(seq) for seq in range(4)], ledger(), Excuses()) == []


def test_what_came_before_and_is_acknowledged_need_not_come_again() -> None:
    assert judge_books(told(before=2, durable=2), [one(2), one(3)], ledger(), Excuses()) == []


def test_what_came_before_and_was_not_acknowledged_may_come_again_under_its_name() -> None:
    assert judge_books(told(before=2), [one(seq) for seq in range(4)], ledger(), Excuses()) == []


@pytest.mark.parametrize(
    ("rule", "seen", "places"),
    [
        ("accepted_and_lost", [0, 1, 2], {"evicted_damaged": [3]}),
        ("accepted_and_unknown", [0, 1, 2], {"never_accepted": [3]}),
        ("delivered_and_nowhere", [0, 1, 2], {}),
        ("pending_and_not_delivered", [0, 1, 2], {"pending": [3]}),
        ("came_twice", [0, 1, 2, 3, 3], {}),
        ("came_out_and_called_never_sent", [0, 1, 2, 3], {"evicted_quota": [3]}),
    ],
)
def test_a_record_that_went_astray_is_named(rule: str, seen: list[int], places: dict[str, list[int]]) -> None:
    broken = judge_books(
        told(), [one(seq) for seq in seen], ledger(**places), Excuses(evicted={"quota": None})
    )
    assert rule in rules(broken)


def test_an_eviction_is_excused_only_for_its_reason_and_its_records() -> None:
    def lost(excuses: dict[str, set[Key] | None]) -> list[str]:
        return judge_books(
            told(), [one(seq) for seq in range(3)], ledger(evicted_damaged=[3]), Excuses(evicted=excuses)
        )

    assert lost({"damaged": {(E, 3)}}) == []
    assert lost({"damaged": None}) == []
    assert rules(lost({"damaged": {(E, 2)}})) == {"accepted_and_lost"}
    assert rules(lost({"quota": None})) == {"accepted_and_lost"}


def test_doubt_is_excused_only_where_it_may_be() -> None:
    came = [one(seq) for seq in range(3)]
    assert judge_books(told(), came, ledger(in_doubt=[3]), Excuses()) == []
    broken = judge_books(told(), came, ledger(in_doubt=[3]), Excuses(in_doubt=False))
    assert rules(broken) == {"accepted_and_lost"}


def test_other_bytes_a_twin_and_an_invented_record_are_named() -> None:
    came = [one(0), one(1), one(2)]
    assert "other_bytes" in rules(
        judge_books(told(), [*came, one(3, "frame-3 changed")], ledger(), Excuses())
    )
    twin = [*came, one(3), one(4, "again frame-0")]
    assert "unmarked_twin" in rules(judge_books(told(), twin, ledger(5), Excuses()))
    assert "never_offered" in rules(judge_books(told(), [*came, one(3), one(9)], ledger(10), Excuses()))


def test_a_durable_acknowledgement_that_comes_back_is_named_unless_its_file_was_damaged() -> None:
    came = [one(seq) for seq in range(4)]
    assert "came_back" in rules(judge_books(told(before=1, durable=1), came, ledger(), Excuses()))
    excused = Excuses(lost_acknowledgements=True)
    assert judge_books(told(before=1, durable=1), came, ledger(), excused) == []


def test_a_ledger_that_does_not_add_up_or_says_two_things_is_named() -> None:
    came = [one(seq) for seq in range(4)]
    wrong = ledger()
    wrong["accepted"] = 5
    assert rules(judge_books(told(), came, wrong, Excuses())) == {"ledger_does_not_balance"}
    double = ledger()
    double["epochs"][0]["ranges"]["in_doubt"] = [[0, 1]]
    assert "ledger_says_two_things" in rules(judge_books(told(), came, double, Excuses()))
    problem = ledger()
    problem["problems"] = ["segment 1 is missing"]
    assert rules(judge_books(told(), came, problem, Excuses())) == {"ledger_has_problems"}


def test_every_frame_is_accepted_or_refused_by_the_disk_and_the_agent_says_so() -> None:
    held = ledger() | {"not_accepted": {"disk_error": 2}}
    assert judge_frames(6, 4, held, ["disk_error"], "No space left on device") == []
    assert rules(judge_frames(7, 4, held, ["disk_error"], "full")) == {"frames_do_not_add_up"}
    assert rules(judge_frames(6, 3, held, ["disk_error"], "full")) == {"accepted_without_receipt"}
    assert rules(judge_frames(6, 4, held, [], "full")) == {"no_clear_status"}
    assert rules(judge_frames(6, 4, held, ["disk_error"], "")) == {"no_clear_status"}
    other = ledger() | {"not_accepted": {"quota_full": 2}}
    assert rules(judge_frames(6, 4, other, ["disk_error"], "full")) == {"other_reason"}
