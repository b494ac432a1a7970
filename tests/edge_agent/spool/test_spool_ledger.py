"""The books of the spool: quota, eviction, doubt, removal, and sums that always agree."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from edge_agent.spool.reader import SpooledRecord
from edge_agent.spool.snapshot import read_ledger
from foundation.errors import RejectedError
from schemas.identity import Identity
from schemas.reasons import NotAcceptedReason, ValueClass
from tests.edge_agent.spool.spool_rig import (
    SMALL,
    Faults,
    Spool,
    faults,
    interrupted,
    sample,
    whereabouts,
)


def test_the_quota_takes_the_oldest_segment_of_the_lowest_class_and_says_so(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, quota_bytes=30_000, segment_bytes=5_000))
    spool.put(6, ValueClass.LOW, 700)
    spool.put(6, ValueClass.LOW, 700)
    spool.put(6, ValueClass.HIGH, 700)
    for _ in range(6):
        spool.put(2, ValueClass.NORMAL, 700)
    ledger = spool.ledger()
    assert ledger.balances()
    places = whereabouts(ledger)
    epoch = spool.writer.epoch
    assert places[(epoch, 0)] == "evicted:quota", "the oldest low one"
    assert all(places[(epoch, seq)] == "pending" for seq in range(12, 18)), "a higher class stays"
    assert ledger.segment_bytes <= 30_000 + 5_000
    gone = [seq for (_, seq), place in places.items() if place == "evicted:quota"]
    assert gone == list(range(len(gone)))
    spool.close()


def test_a_full_spool_of_higher_classes_refuses_a_lower_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, quota_bytes=10_000, segment_bytes=5_000))
    spool.put(3, ValueClass.HIGH, 700)
    spool.put(3, ValueClass.HIGH, 700)
    with pytest.raises(RejectedError, match="quota_bytes 10000") as caught:
        for seed in range(10):
            spool.writer.append(sample(700, ValueClass.LOW, seed))
    assert caught.value.reason == NotAcceptedReason.QUOTA_FULL
    assert spool.put(1, ValueClass.CRITICAL, 700)
    spool.close()


def test_what_was_sent_and_not_acknowledged_is_in_doubt_when_evicted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, quota_bytes=10_000, segment_bytes=5_000))
    spool.put(3, ValueClass.LOW, 700)
    leased = spool.reader.lease(1)
    spool.put(3, ValueClass.LOW, 700)
    spool.put(2, ValueClass.HIGH, 700)
    counts = spool.ledger().counts
    assert counts.in_doubt == 1
    assert counts.evicted["quota"] >= 2
    spool.reader.acknowledge(record.identity for record in leased)  # a late word does not change the books
    assert spool.ledger().counts == counts
    assert spool.ledger().balances()
    spool.close()


@dataclass
class Meeting:
    """What the two sides of one spool did."""

    spool: Spool
    handed: list[SpooledRecord] = field(default_factory=list)
    came: list[Identity] = field(default_factory=list)

    def lease(self) -> None:
        self.handed += self.spool.reader.lease(1_000_000)

    def evict(self) -> None:
        """What comes needs the room of an older segment of a lower class."""
        self.came += self.spool.put(2, ValueClass.HIGH, 700)


Side = Callable[[Meeting], None]


def meet(tmp_path: Path, first: Side, then: Side) -> list[Meeting]:
    """`first` is interrupted by `then` at each of its function calls in turn, on a new spool each time."""
    found = []
    for moment in count():
        spool = Spool(tmp_path / f"spool-{moment}", replace(SMALL, quota_bytes=10_000, segment_bytes=5_000))
        spool.put(3, ValueClass.LOW, 700)
        spool.put(3, ValueClass.LOW, 700)
        meeting = Meeting(spool)
        was_reached = interrupted(moment, partial(first, meeting), partial(then, meeting))
        if not was_reached:
            spool.close()
            return found
        found.append(meeting)
        spool.reader.acknowledge(record.identity for record in meeting.handed)
        drained = spool.drain()
        places = whereabouts(spool.ledger())
        sent = [record.identity for record in [*meeting.handed, *drained]]
        assert len(set(sent)) == len(sent), f"call {moment}: sent twice"
        gone = {identity for identity, place in places.items() if place == "evicted:quota"}
        assert not gone & {(one.epoch, one.seq) for one in sent}, (
            f"call {moment}: sent, and told as never sent"
        )
        assert {places[(one.epoch, one.seq)] for one in meeting.came} == {"delivered"}, (
            f"call {moment}: what came meanwhile fell out of the line"
        )
        assert spool.ledger().balances()
        assert spool.ledger().counts.pending == 0
        spool.close()
    raise AssertionError("the interrupted side never ended")


@pytest.mark.parametrize(
    ("first", "then"),
    [(Meeting.evict, Meeting.lease), (Meeting.lease, Meeting.evict)],
    ids=["lease-within-an-eviction", "eviction-within-a-lease"],
)
def test_a_lease_and_an_eviction_that_meet_at_any_call_agree_on_what_was_sent(
    first: Side, then: Side, tmp_path: Path
) -> None:
    with faults(is_syncing=False):
        meetings = meet(tmp_path, first, then)
    assert len(meetings) > 20
    fates = [meeting.spool.ledger().counts for meeting in meetings]
    assert any(counts.evicted.get("quota", 0) >= 3 for counts in fates), "evicted before it was leased"
    assert any(counts.in_doubt >= 3 for counts in fates), "leased before it was evicted"


def test_fully_acknowledged_segments_give_their_bytes_back(spool: Spool) -> None:
    for _ in range(5):
        spool.put(10, size_bytes=900)
    assert len(spool.segment_files()) > 1
    spool.drain()
    spool.clock.advance(2.0)
    spool.writer.commit()
    assert spool.segment_files() == []
    assert spool.ledger().counts.delivered == 50
    assert spool.ledger().balances()


def test_counts_of_refused_frames_survive_restarts(spool: Spool) -> None:
    spool.writer.not_accepted(NotAcceptedReason.NOT_SELECTED, 5, 500)
    spool.put(1)
    spool.writer.not_accepted(NotAcceptedReason.NOT_SELECTED, 2, 100)
    spool.clock.advance(1.0)
    spool.writer.commit()
    spool.restart_writer()
    spool.writer.not_accepted(NotAcceptedReason.OVER_BUDGET)
    spool.writer.close()
    assert spool.ledger().counts.not_accepted == {"not_selected": 7, "over_budget": 1}
    assert spool.ledger().not_accepted_bytes == 600
    spool.open_writer()


def test_the_journals_stay_small_however_long_the_agent_runs(spool: Spool) -> None:
    for step in range(300):
        spool.put(3, size_bytes=10)
        for record in spool.reader.lease(3_000):
            spool.reader.acknowledge([record.identity])
        spool.clock.advance(0.5)
        spool.writer._log._limit_bytes = min(spool.writer._log._limit_bytes, 20_000)
        spool.reader._log._limit_bytes = min(spool.reader._log._limit_bytes, 20_000)
        if step % 50 == 49:
            assert (spool.folder / "ledger.journal").stat().st_size < 40_000
            assert (spool.folder / "delivery.journal").stat().st_size < 40_000
    assert spool.ledger().balances()
    assert spool.ledger().counts.accepted == 900


def test_any_interval_of_numbers_balances(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, quota_bytes=20_000, segment_bytes=4_000))
    for step in range(12):
        spool.put(2, ValueClass(step % 3), 700)
        for record in spool.reader.lease(2_000)[:1]:
            spool.reader.acknowledge([record.identity])
    row = spool.ledger().epochs[0]
    for begin in range(0, 24, 3):
        for end in range(begin + 1, 25):
            counts = row.interval(begin, end)
            assert counts.balances()
            assert counts.accepted == end - begin
    spool.close()


def test_an_account_that_grew_long_keeps_its_sums(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, quota_bytes=20_000, segment_bytes=4_000))
    for step in range(40):
        spool.put(2, ValueClass(step % 3), 600)
        spool.reader.lease(1_000)
    before = spool.ledger().counts
    spool.writer._account.shrink(max_ranges=3)
    assert spool.writer._account.epochs[spool.writer.epoch].range_count <= 12
    spool.writer._log.rewrite()
    assert spool.ledger().counts == before
    assert spool.ledger().balances()
    for _ in range(5):
        spool.restart_writer()
        spool.put(1)
    spool.restart_reader()
    spool.drain()
    spool.writer.close()
    after = spool.open_writer().ledger().counts
    spool.writer._account.shrink(max_ranges=0, max_epochs=2)
    assert spool.writer.ledger().counts == after
    assert len(spool.writer.ledger().epochs) == 2
    assert spool.writer.ledger().balances()
    spool.close()


def test_a_removed_segment_file_is_seen(spool: Spool) -> None:
    spool.put(3)
    spool.segment_files()[0].unlink()
    assert not spool.ledger().balances()
    assert "3 records are not there" in spool.ledger().problems[0]
    spool.restart_writer()
    assert spool.ledger().balances()
    assert spool.ledger().counts.evicted == {"damaged": 3}


def test_a_left_over_segment_whose_removal_is_recorded_is_not_adopted(spool: Spool, hook: Faults) -> None:
    spool.put(3)
    spool.drain()
    hook.fail_next("unlink", 5)
    spool.clock.advance(2.0)
    spool.writer.commit()
    assert len(spool.segment_files()) == 1
    hook.fail["unlink"] = set()
    spool.restart_writer()
    assert spool.segment_files() == []
    assert spool.drain() == []
    assert spool.ledger().counts.delivered == 3


def test_a_spool_that_was_never_opened_has_an_empty_ledger(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "nothing").balances()
    assert read_ledger(tmp_path / "nothing").counts.accepted == 0


def test_what_was_refused_stays_refused_when_the_disk_did_not_even_cut_it_off(
    tmp_path: Path,
) -> None:
    """A failed fsync, then a failed truncate: the record is whole in the file, and the ledger says disk_error."""
    with faults() as hook:
        spool = Spool(tmp_path / "spool")
        spool.put(1)
        spool.writer.append(sample(seed=9))
        hook.fail_next("fsync")
        hook.fail["truncate"] = {hook.counts["truncate"] + 1}
        assert spool.writer.commit() is None
        spool.put(1)
        spool.restart_writer()
        spool.restart_reader()
        assert [record.identity.seq for record in spool.drain()] == [0, 2]
        counts = spool.ledger().counts
        assert (counts.accepted, counts.not_accepted) == (2, {"disk_error": 1})
        assert spool.ledger().balances()
        assert sorted(whereabouts(spool.ledger()).values()) == ["delivered", "delivered"]
        spool.close()


def test_a_record_in_a_segment_that_cannot_be_read_for_now_is_never_called_refused(tmp_path: Path) -> None:
    """After a power loss that took the ledger, and a start at which one segment cannot be opened."""
    with faults() as hook:
        spool = Spool(tmp_path / "spool")
        spool.put(2)
        spool.put(2, ValueClass.HIGH)
        spool.close()
        (spool.folder / "ledger.journal").unlink()
        normal = next(path for path in spool.segment_files() if "normal" in path.name)

        def before(name: str, args: tuple[object, ...]) -> None:
            if name == "open" and args[0] == normal:
                raise OSError(errno.EIO, "Input/output error")

        hook.before = before
        spool.open_writer()
        spool.open_reader()
        hook.before = None
        assert spool.ledger().counts.not_accepted == {}
        spool.restart_writer()
        spool.restart_reader()
        assert len(spool.drain()) == 4
        assert spool.ledger().balances()
        assert spool.ledger().counts.not_accepted == {}
        assert sorted(whereabouts(spool.ledger()).values()) == ["delivered"] * 4
        spool.close()


def test_a_number_beyond_all_bounds_in_a_ledger_is_damage_and_no_crash() -> None:
    from edge_agent.spool.ledger import LedgerKind, LedgerState
    from foundation.errors import CorruptError

    value = {"epoch": "0" * 16, "previous": "", "started_ns": float("inf")}
    with pytest.raises(CorruptError, match="malformed"):
        LedgerState().apply(LedgerKind.EPOCH, value)
