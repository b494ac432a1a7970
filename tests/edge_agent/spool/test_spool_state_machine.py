"""Whatever happens in whatever order: what was accepted is delivered intact or explained, and nothing comes back.

The model is a dictionary in memory: what receipts promised, what was acknowledged. Crashes lose memory, not
files.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.spool.reader import SpooledRecord
from edge_agent.spool.settings import SpoolSettings
from foundation.errors import RejectedError
from schemas.reasons import ValueClass
from tests.edge_agent.spool.spool_rig import Faults, Spool, sample, sha, whereabouts

classes = st.sampled_from(list(ValueClass))


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.faults = Faults(is_syncing=False)  # crashes here are of processes, not of power
        self.faults.install()
        self.accepted: dict[tuple[str, int], str] = {}
        self.waiting: dict[int, str] = {}
        self.acknowledged: set[tuple[str, int]] = set()
        self.leased: dict[tuple[str, int], SpooledRecord] = {}
        self.refused = self.refused_journalled = 0
        self.flips = 0
        self.count = 0

    @initialize(
        quota_bytes=st.sampled_from([15_000, 60_000, 10_000_000]),
        segment_bytes=st.sampled_from([3_000, 12_000]),
    )
    def start(self, quota_bytes: int, segment_bytes: int) -> None:
        self.quota_bytes, self.segment_bytes = quota_bytes, segment_bytes
        self.spool = Spool(
            self.root / "spool",
            SpoolSettings(
                quota_bytes=quota_bytes,
                segment_bytes=segment_bytes,
                reserve_bytes=2_000,
                disk_error_hold_s=0.0,
            ),
        )

    @rule(value_class=classes, size_bytes=st.sampled_from([1, 300, 2_000]))
    def append(self, value_class: ValueClass, size_bytes: int) -> None:
        self.count += 1
        before = self.spool.writer.on_commit
        self.spool.writer.on_commit = lambda receipt: self._committed()
        try:
            identity = self.spool.writer.append(sample(size_bytes, value_class, self.count))
        except RejectedError as error:
            assert error.reason == "quota_full", error
            return
        finally:
            self.spool.writer.on_commit = before
        self.waiting[identity.seq] = ""

    @rule()
    def commit(self) -> None:
        receipt = self.spool.writer.commit()
        assert (receipt is None) == (not self.waiting)
        self._committed()

    def _committed(self) -> None:
        epoch = self.spool.writer.epoch
        self.accepted |= {(epoch, seq): "" for seq in self.waiting}
        self.waiting = {}

    @precondition(lambda self: self.waiting)
    @rule(call=st.sampled_from(["fsync", "write", "open"]), code=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def commit_on_a_failing_disk(self, call: str, code: int) -> None:
        self.faults.fail_next(call, 30, code)
        receipt = self.spool.writer.commit()
        self.faults.fail[call] = set()
        if call == "open" and receipt is not None:  # every segment was open already
            epoch = self.spool.writer.epoch
            done = {(epoch, seq) for seq in self.waiting} & set(whereabouts(self.spool.writer.ledger()))
            assert len(done) == receipt.count
            self.accepted |= dict.fromkeys(done, "")
            self.refused += len(self.waiting) - len(done)
        else:
            assert receipt is None, "a record counted although its segment could not be synced"
            self.refused += len(self.waiting)
        self.waiting = {}

    @rule(max_bytes=st.sampled_from([1, 1_500, 100_000]))
    def lease(self, max_bytes: int) -> None:
        records = self.spool.reader.lease(max_bytes)
        ranks = [record.value_class for record in records]
        assert ranks == sorted(ranks, reverse=True), "the highest value class goes first"
        for record in records:
            key = (record.identity.epoch, record.identity.seq)
            assert key in self.accepted, f"{key} was handed out and never accepted"
            assert key not in self.acknowledged, f"{key} came back after its acknowledgement"
            assert key not in self.leased, f"{key} is handed out twice"
            assert self.accepted[key] in ("", sha(record)), "the bytes of a record changed"
            self.accepted[key] = sha(record)
            self.leased[key] = record

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        keys = data.draw(st.sets(st.sampled_from(sorted(self.leased)), min_size=1))
        self.spool.reader.acknowledge(self.leased.pop(key).identity for key in sorted(keys))
        self.acknowledged |= keys

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        keys = data.draw(st.sets(st.sampled_from(sorted(self.leased)), min_size=1))
        self.spool.reader.release(self.leased.pop(key).identity for key in sorted(keys))

    @rule()
    def sync(self) -> None:
        assert self.spool.reader.sync()

    @rule()
    def kill_writer(self) -> None:
        self.waiting = {}
        if self.spool.writer._log.is_broken:  # no file could be told: only accepted records survive that
            self.refused = self.refused_journalled
        self.spool.restart_writer()

    @rule()
    def kill_reader(self) -> None:
        self.leased = {}
        self.spool.restart_reader()

    @rule()
    def stop_and_start_both(self) -> None:
        self.spool.writer.close()
        self._committed()
        self.spool.reader.close()
        self.leased = {}
        self.spool.open_reader()
        self.spool.open_writer()

    @rule(seconds=st.sampled_from([0.3, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.spool.clock.advance(seconds)
        if self.spool.writer.is_commit_due:
            self.spool.writer.commit()
            self._committed()

    @precondition(lambda self: self.flips < 3)
    @rule(data=st.data())
    def flip_a_bit(self, data: st.DataObject) -> None:
        files = [path for path in self.spool.segment_files() if path.stat().st_size]
        if not files:
            return
        path = data.draw(st.sampled_from(files))
        place = data.draw(st.integers(0, path.stat().st_size * 8 - 1))
        content = bytearray(path.read_bytes())
        content[place // 8] ^= 1 << (place % 8)
        with path.open("r+b") as file:
            file.write(content)
        self.flips += 1

    @invariant()
    def the_ledger_balances_and_explains_everything(self) -> None:
        if not hasattr(self, "spool"):
            return
        if not self.spool.writer._log.is_broken:
            self.refused_journalled = self.refused
        for ledger in (self.spool.ledger(), self.spool.writer.ledger(), self.spool.reader.ledger()):
            assert ledger.balances(), ledger.to_json()
            places = whereabouts(ledger)
            assert set(places) == set(self.accepted), (
                "the ledger and the receipts disagree about what was accepted"
            )
            assert ledger.counts.accepted == len(self.accepted)
            for key in self.acknowledged:
                assert places[key] in ("delivered", "in_doubt", "evicted:damaged"), (key, places[key])
            damaged = ledger.counts.evicted.get("damaged", 0)
            assert damaged <= self.flips, (
                f"{damaged} records counted as damaged after {self.flips} flipped bits"
            )
            for row in ledger.epochs:
                gaps = set(range(row.next_seq)) - {seq for epoch, seq in places if epoch == row.epoch}
                assert gaps == set(row.never_accepted), "a gap in seq is not explained"
        assert self.spool.ledger().segment_bytes <= self.quota_bytes + self.segment_bytes + 20_000

    def teardown(self) -> None:
        try:
            if hasattr(self, "spool"):
                self.spool.restart_reader()
                self.spool.writer.close()
                self._committed()
                self.spool.open_writer()
                drained = {(r.identity.epoch, r.identity.seq): sha(r) for r in self.spool.drain()}
                places = whereabouts(self.spool.ledger())
                assert not drained.keys() & self.acknowledged
                for key in self.accepted:
                    if key not in self.acknowledged and key not in drained:
                        assert places[key].startswith(("evicted", "in_doubt")), (
                            f"{key} vanished: {places[key]}"
                        )
                assert self.spool.ledger().counts.pending == 0
                assert self.spool.ledger().counts.not_accepted.get("disk_error", 0) == self.refused
                self.spool.close()
        finally:
            self.faults.remove()
            shutil.rmtree(self.root)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
