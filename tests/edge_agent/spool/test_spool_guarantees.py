"""Each promise of the spool, one at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.spool.index import SegmentIndex
from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.segment import list_segments
from edge_agent.spool.snapshot import read_ledger
from edge_agent.spool.writer import Receipt, SpoolWriter
from foundation.errors import (
    CorruptError,
    FleetLoopError,
    MisconfiguredError,
    RejectedError,
    RetryLaterError,
)
from schemas import codec, wire
from schemas.enrolment import EnrolledKey, Enrolment
from schemas.reasons import NotAcceptedReason, ValueClass
from schemas.signing import verify
from tests.edge_agent.spool.spool_rig import (
    KEY,
    SMALL,
    VEHICLE,
    Faults,
    Spool,
    faults,
    sample,
    sha,
    whereabouts,
)


def test_a_record_goes_out_as_the_very_bytes_that_were_encoded_and_signed(spool: Spool) -> None:
    (identity,) = spool.put()
    (record,) = spool.reader.lease(10_000)
    enrolled = EnrolledKey(VEHICLE, KEY.key_id, KEY.public_b64, 0, None)
    assert verify(
        record.wire.headers,
        record.wire.key,
        record.wire.value,
        wire.KIND_SAMPLE,
        Enrolment({VEHICLE: (enrolled,)}),
    ) == (identity)
    decoded = codec.decode_sample(record.wire.value)
    assert (decoded.vehicle_id, decoded.epoch, decoded.seq) == (VEHICLE, spool.writer.epoch, 0)
    assert decoded.payload == sample().payload
    assert decoded.spool_time_ns == spool.clock.now_ns()
    assert record.wire.topic == wire.TOPICS.samples


def test_nothing_is_visible_before_its_fsync_returned(spool: Spool, hook: Faults) -> None:
    other = read_ledger
    seen: list[int] = []

    def before(name: str, args: tuple[object, ...]) -> None:
        if name == "fsync":
            seen.append(other(spool.folder).counts.accepted)

    spool.writer.append(sample())
    hook.before = before
    spool.writer.commit()
    hook.before = None
    assert seen
    assert set(seen) == {0}
    assert spool.ledger().counts.accepted == 1


def test_a_receipt_is_printed_after_the_fsync_never_before(tmp_path: Path, hook: Faults) -> None:
    receipts = tmp_path / "receipts"
    spool = Spool(tmp_path / "spool", replace(SMALL, receipt_path=str(receipts)))
    first = spool.writer.append(sample(value_class=ValueClass.LOW))
    second = spool.writer.append(sample(value_class=ValueClass.HIGH))
    printed_at_fsync: dict[str, bytes] = {}

    def look(name: str, args: tuple[object, ...]) -> None:
        if name == "fsync":
            printed_at_fsync[str(Path(f"/proc/self/fd/{args[0]}").readlink())] = receipts.read_bytes()

    hook.before = look
    spool.writer.commit()
    hook.before = None
    segments = {str(path) for path in spool.segment_files()}
    assert len(segments) == 2
    assert segments <= set(printed_at_fsync), "each segment itself is synced, not only its folder"
    assert set(printed_at_fsync.values()) == {b""}
    records = {record.identity: sha(record) for record in spool.reader.lease(10_000)}
    assert receipts.read_text().splitlines() == [
        f"RECEIPT {one.epoch} {one.seq} {records[one]}" for one in (first, second)
    ]
    spool.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["fsync", "write", "open"])
def test_a_batch_whose_disk_call_failed_is_not_accepted_and_never_comes_back(
    call: str, code: int, spool: Spool, hook: Faults, tmp_path: Path
) -> None:
    spool.put(2, ValueClass.HIGH)
    segment = spool.segment_files()[0].name
    lost = spool.writer.append(
        sample(value_class=ValueClass.LOW if call == "open" else ValueClass.HIGH, seed=7)
    )
    hook.fail_next(call, 1, code)
    assert spool.writer.commit() is None
    assert os.strerror(code) in spool.writer.last_error
    ledger = spool.ledger()
    assert ledger.counts.not_accepted == {"disk_error": 1}
    assert list(ledger.epochs[0].never_accepted) == [lost.seq]
    after = spool.put(1, ValueClass.HIGH)
    assert after[0].seq == lost.seq + 1, "a number is never used twice"
    if call != "open":
        assert len(spool.segment_files()) == 2, "a closed segment is not written again"
        assert spool.segment_files()[0].name == segment
    spool.restart_writer()
    assert [record.identity.seq for record in spool.drain()] == [0, 1, after[0].seq]
    assert spool.ledger().balances()
    assert spool.writer.last_error == ""


def test_a_failed_fsync_is_not_tried_again_on_the_same_file(spool: Spool, hook: Faults) -> None:
    spool.put(1)
    synced: list[str] = []

    def before(name: str, args: tuple[int, ...]) -> None:
        if name == "fsync":
            synced.append(str(Path(f"/proc/self/fd/{args[0]}").readlink()))

    hook.before = before
    spool.writer.append(sample())
    hook.fail_next("fsync")
    spool.writer.commit()
    spool.put(3)
    assert str(spool.segment_files()[0]) not in synced
    assert str(spool.segment_files()[1]) in synced


def test_after_a_disk_error_nothing_is_taken_for_a_while(tmp_path: Path, hook: Faults) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, disk_error_hold_s=1.0))
    spool.writer.append(sample())
    hook.fail_next("write", 1, errno.ENOSPC)
    assert spool.writer.commit() is None
    with pytest.raises(RejectedError, match="No space left") as caught:
        spool.writer.append(sample())
    assert caught.value.reason == NotAcceptedReason.DISK_ERROR
    spool.clock.advance(1.1)
    assert spool.put(1)
    spool.close()


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "unlink", "truncate", "open"])
def test_every_call_may_fail_in_turn_and_the_books_still_balance(call: str, tmp_path: Path) -> None:
    settings = replace(SMALL, quota_bytes=25_000, segment_bytes=6_000)
    for nth in range(1, 40):
        folder = tmp_path / f"{call}-{nth}"
        with faults(is_syncing=False) as hook:
            spool = Spool(folder, settings)
            hook.fail_next(call)
            hook.fail[call] = {hook.counts[call] + nth}
            accepted: set[tuple[str, int]] = set()
            sent: dict[tuple[str, int], str] = {}
            for step in range(12):
                given = [
                    spool.writer.append(sample(300, rank, step))
                    for rank in (ValueClass.CRITICAL, ValueClass.CRITICAL, ValueClass.CRITICAL)
                ]
                receipt = spool.writer.commit()
                if receipt is not None:
                    accepted |= {(one.epoch, one.seq) for one in given}
                for record in spool.reader.lease(1_500):
                    sent[(record.identity.epoch, record.identity.seq)] = sha(record)
                    spool.reader.acknowledge([record.identity])
                spool.clock.advance(1.1)
            spool.kill_writer()
            try:
                spool.open_writer()
            except FleetLoopError:
                spool.open_writer()  # the supervisor starts it again
            sent |= {(r.identity.epoch, r.identity.seq): sha(r) for r in spool.drain()}
            ledger = spool.ledger()
            assert ledger.balances(), (call, nth, ledger.to_json())
            places = whereabouts(ledger)
            assert accepted <= set(places), (call, nth)
            for key, place in places.items():
                assert key in sent or place.startswith("evicted:quota"), (call, nth, key, place)
            spool.close()


def test_acknowledged_records_never_come_back(spool: Spool) -> None:
    spool.put(10)
    first = spool.reader.lease(1)
    spool.reader.acknowledge(record.identity for record in first)
    assert spool.reader.sync()
    spool.restart_reader()
    spool.restart_writer()
    assert {record.identity.seq for record in spool.drain()} == set(range(1, 10))
    assert spool.reader.resent == 0


def test_a_resend_is_counted(spool: Spool) -> None:
    spool.put(3)
    assert len(spool.reader.lease(10_000)) == 3
    spool.restart_reader()
    assert len(spool.drain()) == 3
    assert spool.reader.resent == 3


def test_every_start_is_an_epoch_that_names_the_one_before(spool: Spool) -> None:
    epochs = [spool.writer.epoch]
    assert spool.writer.previous_epoch == ""
    for _ in range(4):
        spool.put(2)
        spool.restart_writer()
        assert spool.writer.previous_epoch == epochs[-1]
        epochs.append(spool.writer.epoch)
    assert len(set(epochs)) == 5
    assert [row.epoch for row in spool.ledger().epochs] == epochs
    drained = [(record.identity.epoch, record.identity.seq) for record in spool.drain()]
    assert drained == [(epoch, seq) for epoch in epochs[:4] for seq in (0, 1)], "older epochs first"


def test_an_oversize_or_invalid_sample_names_its_bound_and_costs_no_number(spool: Spool) -> None:
    with pytest.raises(RejectedError, match="at most 1000000") as oversize:
        spool.writer.append(sample(1_000_001))
    assert oversize.value.reason == NotAcceptedReason.OVERSIZE
    with pytest.raises(RejectedError, match="selection_probability") as invalid:
        spool.writer.append(replace(sample(), selection_probability=0.0))
    assert invalid.value.reason == NotAcceptedReason.ENCODE_ERROR
    assert spool.put()[0].seq == 0


def test_commits_come_by_count_and_by_time(spool: Spool) -> None:
    for seed in range(4):
        spool.writer.append(sample(seed=seed))
        assert not spool.writer.is_commit_due
    spool.writer.append(sample(seed=5))
    assert spool.writer.is_commit_due
    receipt = spool.writer.commit()
    assert receipt is not None
    assert (receipt.first_seq, receipt.last_seq, receipt.count) == (0, 4, 5)
    spool.writer.append(sample())
    assert not spool.writer.is_commit_due
    spool.clock.advance(0.25)
    assert spool.writer.is_commit_due
    late = spool.writer.commit()
    assert late is not None
    assert late.count == 1


def test_a_second_writer_or_reader_is_refused(spool: Spool) -> None:
    with pytest.raises(RetryLaterError, match=str(os.getpid())):
        SpoolWriter.open(spool.folder, SMALL, VEHICLE, KEY, spool.clock, spool.events)
    with pytest.raises(RetryLaterError, match=str(os.getpid())):
        SpoolReader.open(spool.folder, SMALL, VEHICLE, spool.clock, spool.events)


def test_settings_that_make_no_sense_are_named(tmp_path: Path, spool: Spool) -> None:
    with pytest.raises(MisconfiguredError, match="segment_bytes 20000 is above quota_bytes 10000"):
        SpoolWriter.open(
            tmp_path, replace(SMALL, quota_bytes=10_000), VEHICLE, KEY, spool.clock, spool.events
        )
    with pytest.raises(MisconfiguredError, match="Car 1"):
        SpoolWriter.open(tmp_path, SMALL, "Car 1", KEY, spool.clock, spool.events)


def test_the_names_of_segments_say_what_they_hold(spool: Spool) -> None:
    spool.put(1, ValueClass.CRITICAL)
    spool.put(1, ValueClass.LOW)
    (spool.folder / "segments" / "notes.txt").write_text("not ours")
    assert [path.name for path in spool.segment_files()][:2] == [
        "0-low-000000000002.segment",
        "3-critical-000000000001.segment",
    ]
    assert sorted(list_segments(spool.folder / "segments")) == [1, 2]


def test_the_payload_hash_of_a_receipt_is_of_the_wire_value(spool: Spool) -> None:
    spool.put(1)
    (record,) = spool.reader.lease(1)
    assert sha(record) == hashlib.sha256(record.wire.value).hexdigest()


def test_records_may_be_appended_while_another_thread_commits(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", replace(SMALL, quota_bytes=60_000, segment_bytes=10_000))
    stop = threading.Event()
    receipts: list[Receipt] = []
    spool.writer.on_commit = receipts.append

    def commit() -> None:
        while not stop.is_set():
            spool.writer.commit()

    committer = threading.Thread(target=commit)
    committer.start()
    given = [spool.writer.append(sample(200, ValueClass(seed // 100), seed)) for seed in range(400)]
    stop.set()
    committer.join()
    spool.writer.commit()
    assert [one.seq for one in given] == list(range(400))
    assert sum(receipt.count for receipt in receipts) == 400
    assert spool.ledger().balances()
    assert set(whereabouts(spool.ledger())) == {(one.epoch, one.seq) for one in given}
    spool.close()


def test_a_segment_that_cannot_be_opened_for_now_is_not_called_damaged(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.put(2)

    def refuse(self: SegmentIndex) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(SegmentIndex, "open", refuse)
        assert spool.reader.lease(10_000) == []
        assert "Too many open files" in spool.reader.last_error
    assert len(spool.drain()) == 2
    assert spool.ledger().counts.evicted == {}


def test_a_segment_that_cannot_be_opened_to_be_indexed_is_looked_at_again_without_a_restart(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.put(2)

    def refuse(self: SegmentIndex) -> None:
        raise CorruptError("cannot be opened: Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(SegmentIndex, "extend", refuse)
        assert spool.reader.lease(10_000) == []
        assert "Too many open files" in spool.reader.last_error
    assert len(spool.drain()) == 2
    assert spool.ledger().counts.evicted == {}
    assert spool.ledger().counts.pending == 0
