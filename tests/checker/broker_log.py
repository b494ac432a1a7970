"""The broker's log as it is, read with kafka-python and hashed here."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form
from kafka import KafkaConsumer, TopicPartition

from tests.checker.told import Identity, InputError

Schemas = Mapping[bytes, Any]
_POLL_MS = 500


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record of the log: the identity its headers claim, and digests of its value and inline payload."""

    partition: int
    offset: int
    identity: Identity | None
    value_sha256: str | None
    """None of a record without a value, which is not the same as an empty one."""
    payload_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """What the broker retains of one topic: offsets [begin, end) by partition, and the records there."""

    bounds: Mapping[int, tuple[int, int]]
    records: tuple[LogRecord, ...]


def read_schemas(folder: Path) -> Schemas:
    """Ten first bytes of a record -> its Avro schema, from the .avsc files of `folder`."""
    found = {}
    for path in sorted(folder.glob("*.avsc")):
        schema = json.loads(path.read_text("utf-8"))
        mark = bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
        found[b"\xc3\x01" + mark] = fastavro.parse_schema(schema)
    if not found:
        raise InputError(f"{folder} holds no .avsc files")
    return found


def read_log(bootstrap: str, topic: str, schemas: Schemas, *, deadline_s: float = 60.0, **client: Any) -> Log:
    """Every retained record of `topic`, up to the ends as they are at the call. `client`: options of kafka-python.

    Raises:
        InputError: no broker, no topic, or no progress within the deadline.
    """
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=8 * 1024 * 1024,
        client_id="fleetloop-checker",
        **client,
    )
    try:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise InputError(f"the broker {bootstrap} has no topic {topic}")
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        begins = consumer.beginning_offsets(partitions)
        deadline = time.monotonic() + deadline_s
        ends = _fetched_ends(consumer, begins, consumer.end_offsets(partitions), deadline)
        records = list(_records(consumer, begins, ends, schemas, deadline))
    finally:
        consumer.close(autocommit=False)
    return Log({tp.partition: (begins[tp], ends[tp]) for tp in partitions}, tuple(records))


def _fetched_ends(
    consumer: Any, begins: Mapping[Any, int], ends: Mapping[Any, int], deadline: float
) -> dict[Any, int]:
    """One past the last offset, as a fetch tells it.

    What a broker lists as its ends is not enough: the embedded one lists one past the first record of its
    last batch, and all that follows would go unchecked.
    """
    filled = [tp for tp, end in ends.items() if begins[tp] < end]
    consumer.assign(filled)
    for tp in filled:
        consumer.seek(tp, ends[tp] - 1)
    while unknown := [tp for tp in filled if consumer.highwater(tp) is None]:
        if time.monotonic() > deadline:
            raise InputError(f"the broker did not tell in time where its log ends: {unknown}")
        consumer.poll(timeout_ms=_POLL_MS)
    found = {**ends, **{tp: max(ends[tp], int(consumer.highwater(tp))) for tp in filled}}
    consumer.assign([])
    return found


def _records(
    consumer: Any, begins: Mapping[Any, int], ends: Mapping[Any, int], schemas: Schemas, deadline: float
) -> Iterator[LogRecord]:
    waiting = [tp for tp, end in ends.items() if begins[tp] < end]
    consumer.assign(waiting)
    for tp in waiting:
        consumer.seek(tp, begins[tp])
    while waiting:
        if time.monotonic() > deadline:
            left = {f"{tp.topic}/{tp.partition}": (consumer.position(tp), ends[tp]) for tp in waiting}
            raise InputError(f"the log was not read in time; position and end: {left}")
        for tp, batch in consumer.poll(timeout_ms=_POLL_MS).items():
            for record in batch:
                if record.offset < ends[tp]:
                    yield log_record(tp.partition, record.offset, record.headers, record.value, schemas)
        waiting = [tp for tp in waiting if consumer.position(tp) < ends[tp]]


def log_record(partition: int, offset: int, headers: Any, value: bytes | None, schemas: Schemas) -> LogRecord:
    """What the checker keeps of one record."""
    identity = _identity(dict(headers))
    if value is None:
        return LogRecord(partition, offset, identity, None)
    digest = hashlib.sha256(value).hexdigest()
    return LogRecord(partition, offset, identity, digest, _payload(value, schemas))


def _identity(headers: Mapping[str, bytes]) -> Identity | None:
    try:
        return Identity(
            headers["fl_vehicle"].decode("ascii"), headers["fl_epoch"].decode("ascii"), int(headers["fl_seq"])
        )
    except (KeyError, ValueError, AttributeError):
        return None


def _payload(value: bytes, schemas: Schemas) -> str | None:
    """sha256 of the inline payload; None where there is none or the value is no record."""
    schema = schemas.get(value[:10])
    if schema is None:
        return None
    try:
        fields = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
    except (EOFError, IndexError, ValueError, KeyError, TypeError, OverflowError):
        return None
    payload = fields.get("payload")
    return hashlib.sha256(payload).hexdigest() if payload else None
