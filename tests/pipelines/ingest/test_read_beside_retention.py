"""While a range is read, retention moves and the broker goes: nothing is claimed of offsets that nobody can ask about."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from foundation.errors import OffsetsLostError
from pipelines.ingest.elements import LogBatch, OffsetRange, Unread
from pipelines.ingest.read import read_range
from schemas.wire import StoredRecord
from tests.fakes.kafka import FakeSource
from tests.pipelines.ingest.ingest_lab import _BROKERS, TOPIC, Lab, assert_one_row_per_offset

WANTED = OffsetRange("c", TOPIC, "t", 0, 0, 12, is_lost=False)


class RetentionPasses(FakeSource):
    """Retention passes `BELOW` after the records were read and before the gaps are asked about."""

    BELOW = 4

    def retained_offsets(self, topic: str, partition: int, start: int, end: int) -> set[int]:
        self.broker.delete_records(topic, partition, self.BELOW)
        return super().retained_offsets(topic, partition, start, end)


def open_passing(name: str) -> RetentionPasses:
    return RetentionPasses(_BROKERS[name])


class GoesWithinLoss(FakeSource):
    """Gives a few records, then says that retention took the next ones; then the broker is gone."""

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[StoredRecord]]:
        yield [record for record in next(super().read(topic, partition, start, end)) if record.offset < 4]
        self.broker.is_up = False
        raise OffsetsLostError(topic, partition, 4, 8)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path, range_offsets=12, batch_records=100)
    for seq in range(12):
        made.produce(made.fleet.record("v1", seq), partition=0)
    made.broker.compact(TOPIC, 0, [1, 6])
    made.broker.abort(TOPIC, 0, [2, 7])
    return made


def test_gaps_that_retention_passed_are_an_unknown_loss_and_those_behind_are_still_asked_about(
    lab: Lab,
) -> None:
    (batch,) = read_range(RetentionPasses(lab.broker), WANTED, lab.settings)
    assert isinstance(batch, LogBatch)
    assert [record.offset for record in batch.records] == [0, 3, 4, 5, 8, 9, 10, 11]
    assert (batch.unknown, batch.hidden, batch.destroyed) == (((1, 3),), ((7, 8),), ((6, 7),))


def test_a_gap_that_retention_passed_half_is_cut_there(lab: Lab) -> None:
    source = RetentionPasses(lab.broker)
    source.BELOW = 7
    (batch,) = read_range(source, WANTED, lab.settings)
    assert isinstance(batch, LogBatch)
    assert (batch.unknown, batch.hidden, batch.destroyed) == (((1, 3), (6, 7)), ((7, 8),), ())


def test_an_unknown_loss_is_a_row_and_counted_in_the_report(lab: Lab) -> None:
    report = lab.ingest(open_source=partial(open_passing, lab.name)).once()
    assert [(one.begin, one.end, one.reason) for one in report.lost] == [
        (1, 3, "unknown"),
        (6, 7, "compaction"),
    ]
    assert (report.landed, report.gap_offsets) == (8, 1)
    assert_one_row_per_offset(lab)


def test_a_broker_that_goes_while_a_loss_is_told_leaves_the_rest_unread(lab: Lab) -> None:
    (left,) = read_range(GoesWithinLoss(lab.broker), WANTED, lab.settings)
    assert isinstance(left, Unread)
    assert (left.partition, left.begin) == (0, 0)
