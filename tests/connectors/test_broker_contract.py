"""One contract, three brokers: the fake, the embedded broker and Apache Kafka keep the same promises."""

from __future__ import annotations

import pytest

from connectors.kafka.ports import Acknowledgement
from foundation.errors import (
    BackPressureError,
    MisconfiguredError,
    OffsetsLostError,
    RejectedError,
    RetryLaterError,
)
from schemas.topics import MAX_RECORD_BYTES
from tests.connectors.worlds import Outcomes, World, read_all, record


def send_all(world: World, topic: str, values: list[bytes], key: bytes = b"v-1") -> Outcomes:
    outcomes, sink = Outcomes(), world.sink()
    for value in values:
        each = record(topic, value, key)
        sink.send(each, outcomes.of(each))
    outcomes.wait(len(values))
    sink.close(10)
    return outcomes


def test_what_was_acknowledged_is_in_the_log_at_that_offset_byte_for_byte(world: World) -> None:
    topic = world.topic(partitions=3)
    values = [bytes([number]) * (1 + number * 37) for number in range(120)]
    outcomes, sink = Outcomes(), world.sink()
    for number, value in enumerate(values):
        each = record(topic, value, b"v-%d" % (number % 7))
        sink.send(each, outcomes.of(each))
    outcomes.wait(len(values))
    sink.close(10)
    source = world.source()
    stored = {(each.partition, each.offset): each for each in read_all(source, topic)}
    source.close()
    assert len(stored) == len(values)
    for value, (acknowledgement,) in outcomes.by_value.items():
        assert isinstance(acknowledgement, Acknowledgement)
        found = stored[(acknowledgement.partition, acknowledgement.offset)]
        assert found.value == value
        assert found.headers == (("fl_seq", b"7"), ("raw", b"\x00\xff"))
        assert found.timestamp_ms > 1_600_000_000_000


def test_records_of_one_key_stay_in_the_order_they_were_sent(world: World) -> None:
    topic = world.topic(partitions=3)
    values = [b"%05d" % number for number in range(300)]
    send_all(world, topic, values)
    source = world.source()
    assert [each.value for each in read_all(source, topic)] == values
    source.close()


def test_nothing_is_in_flight_after_the_last_acknowledgement(world: World) -> None:
    topic, outcomes, sink = world.topic(), Outcomes(), world.sink()
    each = record(topic, b"x" * 1000)
    sink.send(each, outcomes.of(each))
    outcomes.wait(1)
    assert sink.in_flight_bytes == 0
    assert sink.last_error == ""
    sink.close(10)
    with pytest.raises(RetryLaterError, match="closed"):
        sink.send(each, outcomes.of(each))
    assert len(outcomes.all) == 1


def test_an_oversize_record_is_rejected_before_anything_is_queued(world: World) -> None:
    topic, outcomes, sink = world.topic(), Outcomes(), world.sink()
    with pytest.raises(RejectedError, match=r"1000001 bytes .* 1000000 bytes") as caught:
        sink.send(record(topic, b"x" * (MAX_RECORD_BYTES + 1)), outcomes.of(record(topic, b"")))
    assert caught.value.reason == "oversize"
    largest = record(topic, b"x" * MAX_RECORD_BYTES)
    sink.send(largest, outcomes.of(largest))
    outcomes.wait(1)
    assert outcomes.acknowledged
    sink.close(10)


def test_the_cap_on_bytes_in_flight_holds_and_refuses_without_queueing(world: World) -> None:
    topic, outcomes = world.topic(), Outcomes()
    sink = world.sink(max_in_flight_bytes=1_000_000)
    if world.settings is None:
        sink.is_held = True  # type: ignore[attr-defined]
    refused, accepted = 0, 0
    for _ in range(40):
        each = record(topic, b"x" * 100_000)
        try:
            sink.send(each, outcomes.of(each))
            accepted += 1
        except BackPressureError as error:
            refused += 1
            assert error.cap_bytes == 1_000_000 < error.in_flight_bytes
        assert sink.in_flight_bytes <= 1_000_000
    assert refused > 0
    if world.settings is None:
        sink.pump()  # type: ignore[attr-defined]
    outcomes.wait(accepted)
    sink.close(10)
    source = world.source()
    assert len(read_all(source, topic)) == accepted == len(outcomes.all)
    source.close()


def test_a_topic_that_is_not_there_is_told_by_name(world: World) -> None:
    source = world.source()
    with pytest.raises(RejectedError, match="nowhere-to-be-found") as caught:
        source.describe("nowhere-to-be-found")
    assert caught.value.reason == "no_such_topic"
    topic = world.topic(partitions=2)
    with pytest.raises(RejectedError, match="no partition 9") as caught:
        source.bounds(topic, 9)
    assert caught.value.reason == "no_such_partition"
    source.close()


def test_a_topic_made_anew_has_another_id_and_the_cluster_stays_the_same(world: World) -> None:
    topic, source = world.topic(), world.source()
    before = source.describe(topic)
    assert source.describe(topic) == before
    world.delete(topic)
    world.create(topic)
    after = source.describe(topic)
    assert after.topic_id != before.topic_id
    assert after.cluster_id == before.cluster_id
    source.close()


def test_a_range_is_read_exactly_and_in_order(world: World) -> None:
    topic = world.topic()
    for begin in range(0, 60, 20):  # three batches, so that a range cuts through them
        send_all(world, topic, [b"%d" % number for number in range(begin, begin + 20)])
    source = world.source()
    assert source.bounds(topic, 0) == (0, 60)
    for start, end in ((0, 60), (7, 8), (19, 41), (59, 60), (30, 30)):
        read = [each for batch in source.read(topic, 0, start, end) for each in batch]
        assert [each.offset for each in read] == list(range(start, end))
        assert [each.value for each in read] == [b"%d" % number for number in range(start, end)]
    source.close()


def test_an_end_above_the_log_is_an_error_and_never_waits_for_ever(world: World) -> None:
    topic = world.topic()
    send_all(world, topic, [b"only"])
    source = world.source(**({} if world.settings is None else {"progress_deadline_s": 2.0}))
    with pytest.raises(RetryLaterError, match="end"):
        list(source.read(topic, 0, 0, 5))
    source.close()


def test_offsets_that_retention_took_are_named(world: World) -> None:
    if world.kind == "embedded":
        pytest.skip("the embedded broker does not delete records")
    topic = world.topic()
    send_all(world, topic, [b"%d" % number for number in range(50)])
    world.retire(topic, 0, 20)
    source = world.source()
    assert source.bounds(topic, 0) == (20, 50)
    with pytest.raises(OffsetsLostError) as caught:
        list(source.read(topic, 0, 5, 50))
    assert (caught.value.topic, caught.value.partition) == (topic, 0)
    assert (caught.value.lost_begin, caught.value.lost_end) == (5, 20)
    assert [each.offset for batch in source.read(topic, 0, 20, 50) for each in batch] == list(range(20, 50))
    source.close()


def test_a_missing_topic_costs_no_record_and_stops_no_other_topic(world: World) -> None:
    if world.kind == "embedded":
        pytest.skip("the embedded broker makes any topic that a producer names")
    topic, outcomes, sink = world.topic(), Outcomes(), world.sink()
    lost, kept = record("nowhere-to-be-found", b"lost"), record(topic, b"kept")
    sink.send(lost, outcomes.of(lost))
    sink.send(kept, outcomes.of(kept))
    outcomes.wait(2)
    (error,) = outcomes.by_value[b"lost"]
    assert isinstance(error, RetryLaterError)
    assert "nowhere-to-be-found" in str(error)
    assert isinstance(outcomes.by_value[b"kept"][0], Acknowledgement)
    sink.close(10)


def test_an_illegal_topic_name_is_a_setting_to_mend(world: World) -> None:
    if world.settings is None:
        pytest.skip("the fake has no rule for names")
    outcomes, sink = Outcomes(), world.sink()
    each = record("bad topic", b"x")
    sink.send(each, outcomes.of(each))
    outcomes.wait(1)
    assert isinstance(outcomes.all[0], MisconfiguredError)
    assert "bad topic" in str(outcomes.all[0])
    sink.close(10)
