"""What a stranger packs into a batch costs that batch and bounded memory; every other offset is read."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from kafka.record._crc32c import crc as crc32c
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from connectors.kafka import batches as kafka_batches
from connectors.kafka.admin import ensure_topics
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from devservers.apache_kafka import ApacheKafka
from foundation.errors import RejectedError
from pipelines.ingest.decode import rows_of, verify_and_decode
from pipelines.ingest.elements import LogBatch, LogBatchCoder, OffsetRange
from schemas.enrolment import Enrolment
from schemas.reasons import RejectReason
from schemas.topics import TOPICS, Topic
from schemas.wire import StoredRecord

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
BASE = 7
_LENGTH_AT, _CRC_AT, _ATTRIBUTES_AT, _RECORDS_AT = 8, 17, 21, 61


class _Snappy:
    """What kafka-python asks of a package for snappy, which is not installed here."""

    @staticmethod
    def compress(data: bytes) -> bytes:
        return bytes(pa.Codec("snappy").compress(bytes(data), asbytes=True))


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "kafka.codec.snappy", _Snappy
    )  # for the builders of these tests: the product does not use it
    kafka_batches.install()


def batch(values: Sequence[bytes], codec: str = "none", headers: Sequence[Any] = (("a", b"b"),)) -> bytes:
    """One batch (format 2) that begins at offset BASE."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=CODECS[codec],
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=200_000_000,
    )
    for number, value in enumerate(values):
        assert builder.append(number, 1_000, b"key", value, list(headers))
    made = bytearray(builder.build())
    made[:8] = struct.pack(">q", BASE)
    return bytes(made)


def changed(data: bytes, records: bytes | None = None, codec: int | None = None) -> bytes:
    """The same batch with another body or codec, its length and checksum right: as a stranger would send it."""
    made = bytearray(data[:_RECORDS_AT]) + (data[_RECORDS_AT:] if records is None else records)
    made[_LENGTH_AT : _LENGTH_AT + 4] = struct.pack(">i", len(made) - 12)
    if codec is not None:
        made[_ATTRIBUTES_AT : _ATTRIBUTES_AT + 2] = struct.pack(">h", codec)
    made[_CRC_AT : _CRC_AT + 4] = struct.pack(">I", crc32c(bytes(made[_ATTRIBUTES_AT:])))
    return bytes(made)


def read(data: bytes) -> list[Any]:
    """What a consumer's fetcher gets of a fetched buffer."""
    found: list[Any] = []
    records = MemoryRecords(data)
    while (one := records.next_batch()) is not None:
        assert one.validate_crc()
        found += one
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_what_an_honest_sender_packs_is_read_as_it_was(codec: str) -> None:
    values = [bytes([number]) * 1_000 for number in range(50)]
    found = read(batch(values, codec))
    assert [record.value for record in found] == values
    assert [record.offset for record in found] == list(range(BASE, BASE + 50))
    assert all(record.checksum is None and record.headers == [("a", b"b")] for record in found)


@pytest.mark.parametrize(
    ("codec", "pack"), [("gzip", gzip_encode), ("lz4", lz4_encode), ("zstd", zstd_encode)]
)
def test_a_batch_that_unpacks_a_thousandfold_costs_bounded_memory_and_its_own_offsets(
    codec: str, pack: Any
) -> None:
    plain = batch([bytes(60_000_000)] * 2)
    bomb = changed(plain, pack(plain[_RECORDS_AT:]), CODECS[codec])
    del plain
    after = batch([b"the next"])
    tracemalloc.start()
    found = read(bomb + after)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 6 * kafka_batches.MAX_RECORD_BYTES + 4 * len(bomb)
    first, second, good = found
    assert (first.offset, second.offset) == (BASE, BASE + 1)
    assert f"the bound is {kafka_batches.MAX_RECORD_BYTES}" in first.checksum
    assert (first.value, second.value) == (bomb, None)
    assert good.value == b"the next"


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_of_many_megabytes_is_read_whatever_packed_it_and_never_held_at_once(codec: str) -> None:
    values = [
        hashlib.sha256(b"%d" % number).digest() * 15_000 for number in range(40)
    ]  # 480 kB each, 19 MB in all
    data = batch(values, codec)
    records = MemoryRecords(data)
    tracemalloc.start()
    for number, record in enumerate(records.next_batch()):
        assert (record.offset, record.value, record.checksum) == (BASE + number, values[number], None)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert number == 39
    assert peak_bytes < 6 * kafka_batches.MAX_RECORD_BYTES + 2 * len(data)


@pytest.mark.parametrize(
    ("codec", "what"),
    [(codec, "too many headers") for codec in CODECS]
    + [(codec, "too large") for codec in CODECS if codec != "none"],
)
def test_a_record_beyond_a_bound_costs_its_own_offset_and_not_its_neighbours(codec: str, what: str) -> None:
    big = bytes(kafka_batches.MAX_RECORD_BYTES) if what == "too large" else b"x"
    headers = [("", b"")] * (kafka_batches.MAX_HEADERS + 1 if what == "too many headers" else 0)
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], False, -1, -1, -1, 200_000_000)
    builder.append(0, 1_000, b"key", b"before", [])
    builder.append(1, 1_000, b"key", big, headers)
    builder.append(2, 1_000, b"key", b"after", [("a", b"b")] * 2_000)
    data = bytes(builder.build())
    before, beyond, after = read(data)
    assert (before.value, after.value, len(after.headers)) == (b"before", b"after", 2_000)
    assert (beyond.offset, beyond.value) == (1, data)
    assert "the bound is" in beyond.checksum


def test_snappy_in_one_block_is_read_as_the_clients_of_go_pack_it() -> None:
    plain = batch([b"one" * 100, b"two" * 100])
    found = read(changed(plain, _Snappy.compress(plain[_RECORDS_AT:]), CODECS["snappy"]))
    assert [record.value for record in found] == [b"one" * 100, b"two" * 100]


def test_an_unreadable_batch_that_was_kept_can_be_read_again() -> None:
    data = batch([b"one", b"two"], "zstd")
    assert [(record.offset, record.value) for record in kafka_batches.records_of(data)] == [
        (7, b"one"),
        (8, b"two"),
    ]
    for garbage in (b"", b"x" * 70, data[:40]):
        with pytest.raises(RejectedError):
            list(kafka_batches.records_of(garbage))


HOSTILE = {
    "snappy that is none": (lambda body: body, 2),
    "a snappy block that claims four gigabytes": (lambda body: b"\xff\xff\xff\xff\x0f" + body, 2),
    "snappy that is cut between its blocks": (lambda body: snappy_encode(body)[:-9], 2),
    "a codec that does not exist": (lambda body: body, 7),
    "gzip that is none": (lambda body: body, 1),
    "gzip that is cut": (lambda body: gzip_encode(body)[:-9], 1),
    "lz4 that is cut": (lambda body: lz4_encode(body)[:-9], 3),
    "zstd that is none": (lambda body: b"\x28\xb5\x2f\xfd" + body, 4),
    "a body that ends inside a record": (lambda body: body[:-3], None),
    "a header whose name is no UTF-8": (lambda body: body.replace(b"name-of-a-header", b"\xff" * 16), None),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_batch_that_cannot_be_read_is_an_unreadable_record_an_offset(what: str) -> None:
    pack, codec = HOSTILE[what]
    plain = batch([b"one" * 100, b"two" * 100], headers=[("name-of-a-header", b"b")])
    hostile = changed(plain, pack(plain[_RECORDS_AT:]), codec)
    found = read(hostile + batch([b"the next"]))
    assert [record.offset for record in found] == [BASE, BASE + 1, BASE][: len(found)]
    assert found[-1].value == b"the next"
    unread = [record for record in found if record.checksum is not None]
    assert unread
    assert all(f"batch at offset {BASE} cannot be read" in record.checksum for record in unread)
    assert unread[0].value == hostile


@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4),
    codec=st.sampled_from(sorted(CODECS)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_body_says_each_offset_is_told_once(flips: list[tuple[int, int]], codec: str) -> None:
    data = bytearray(batch([b"one" * 20, b"two" * 20, b"three"], codec))
    for place, mask in flips:
        data[_RECORDS_AT + place % (len(data) - _RECORDS_AT)] ^= mask
    found = read(changed(bytes(data)) + batch([b"the next"]))
    offsets = [record.offset for record in found[:-1]]
    assert offsets == sorted(set(offsets))
    assert set(offsets) <= {BASE, BASE + 1, BASE + 2}
    assert found[-1].value == b"the next"


def _record(time_delta: bytes, header_value: bytes = b"b", cut: int = 0) -> bytes:
    """One record as a sender may write it, its length told as if nothing were cut from its end."""
    body = (
        b"\x00"
        + time_delta
        + b"\x00"
        + b"\x06key"
        + b"\x02v"
        + b"\x02"
        + b"\x02a"
        + bytes([2 * len(header_value)])
        + header_value
    )
    return bytes([2 * len(body) & 127 | 128, 2 * len(body) >> 7]) + body[: len(body) - cut]


def test_a_time_beyond_64_bits_is_an_unreadable_record_and_no_end_of_the_run() -> None:
    hostile = changed(batch([b"v"]), _record(b"\x80" * 9 + b"\x02"))
    (found,) = read(hostile)
    assert "is not a signed 64-bit number" in found.checksum
    record = StoredRecord(0, found.offset, found.timestamp, None, found.value, (), found.checksum)
    source = OffsetRange("cluster", TOPICS.samples, "id", 0, BASE, BASE + 1, False)
    kept = LogBatchCoder().decode(LogBatchCoder().encode(LogBatch(source, BASE, BASE + 1, (record,), False)))
    assert rows_of(kept, Enrolment({}), 1).num_rows == 1


def test_a_header_value_that_is_cut_is_not_read_as_a_shorter_one() -> None:
    whole = changed(batch([b"v"]), _record(b"\x00", b"x" * 40))
    assert read(whole)[0].headers == [("a", b"x" * 40)]
    (found,) = read(changed(batch([b"v"]), _record(b"\x00", b"x" * 40, cut=30)))
    assert "cannot be read" in (found.checksum or "")


def test_a_lack_of_memory_makes_no_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(codec: int, packed: bytes) -> Iterator[bytes]:
        raise MemoryError

    monkeypatch.setattr(kafka_batches, "pieces", lacking)
    with pytest.raises(MemoryError):
        read(batch([b"v" * 100], "zstd"))


def test_a_wrong_checksum_stays_an_error_of_the_fetch() -> None:
    data = bytearray(batch([b"one"]))
    data[-2] ^= 1
    (one,) = [MemoryRecords(bytes(data)).next_batch()]
    assert not one.validate_crc()


def test_an_unreadable_record_is_a_dead_letter_with_its_bytes_also_after_a_stop_between_steps() -> None:
    why = "the batch at offset 7 cannot be read: CorruptRecordError: x"
    record = StoredRecord(0, 7, 1_000, None, b"packed", (), why)
    source = OffsetRange("cluster", TOPICS.samples, "id", 0, 7, 8, False)
    kept = LogBatchCoder().decode(LogBatchCoder().encode(LogBatch(source, 7, 8, (record,), False)))
    accepted, (rejection,) = verify_and_decode(kept.records, Enrolment({}))
    assert accepted == []
    assert (rejection.reason, rejection.detail) == (RejectReason.UNREADABLE_BATCH, why)
    assert rejection.record.value == b"packed"


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_on_a_real_broker_no_sender_can_stop_a_reader(apache_kafka: ApacheKafka) -> None:
    client = KafkaSettings(bootstrap=apache_kafka.bootstrap, progress_deadline_s=20.0)
    place = TopicPartition("of.this.test.alone", 0)
    ensure_topics(client, [Topic(place.topic, 1, 3600)])
    for codec in ("gzip", "zstd"):
        producer = KafkaProducer(
            bootstrap_servers=apache_kafka.bootstrap, max_request_size=200_000_000,
            batch_size=100_000, compression_type=codec,
        )  # fmt: skip
        producer.send(place.topic, value=bytes(30_000_000), key=b"k", partition=0).get(timeout=60)
        producer.close(timeout=5)
    honest = KafkaProducer(bootstrap_servers=apache_kafka.bootstrap)
    honest.send(place.topic, value=b"whole", key=b"k", partition=0).get(timeout=20)
    honest.close(timeout=5)
    source = KafkaSource(client)
    _, end = source.bounds(place.topic, 0)
    records = [record for part in source.read(place.topic, 0, 0, end) for record in part]
    source.close()
    assert [record.offset for record in records] == [0, 1, 2]
    assert ["the bound is" in record.unreadable for record in records] == [True, True, False]
    assert (records[2].value, records[2].unreadable) == (b"whole", "")
    assert all(record.value for record in records)


def test_the_client_still_has_what_is_replaced() -> None:
    """A new version of kafka-python that reads batches in another way must be looked at again."""
    consumer_of = KafkaConsumer.__module__
    assert consumer_of.startswith("kafka.")
    assert MemoryRecords(batch([b"x"])).next_batch().__class__ is kafka_batches.BoundedBatch
