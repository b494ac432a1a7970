"""Load for a topic: good records, resends, conflicts and poison of every kind, each with what it must become.

The records are made with the product's own signing and codec, as a vehicle would; what each must become is known
because it was made so.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.checker.offered_records import Offered, Place

EPOCH = "00000000000000aa"
TOPIC = "fleetloop.samples"
GOOD = ("v1", "v2", "v3")
LATE_VEHICLE, REVOKED_VEHICLE = "v9", "v8"
OVERSIZE_BYTES = 1_000_001
FIXABLE = ("unknown_vehicle", "revoked_key", "unknown_schema_v1")


@dataclass(slots=True)
class Fleet:
    """Keys, what is enrolled before and after the fix, and the next number of each vehicle."""

    rng: random.Random
    keys: dict[str, Any] = field(default_factory=dict)
    seqs: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for vehicle in (*GOOD, LATE_VEHICLE, REVOKED_VEHICLE):
            self.key(vehicle)

    def key(self, vehicle: str) -> Any:
        from schemas.signing import VehicleKey

        if vehicle not in self.keys:
            self.keys[vehicle] = VehicleKey.generate()
        return self.keys[vehicle]

    def enrolment(self, *, is_fixed: bool = False) -> Any:
        """Before the fix v9 is unknown and v8's key revoked; after it both are trusted."""
        from schemas.signing import EnrolledKey, Enrolment

        found = Enrolment()
        for vehicle in (*GOOD, REVOKED_VEHICLE, *([LATE_VEHICLE] if is_fixed else [])):
            key = self.key(vehicle)
            revoked = 5 if vehicle == REVOKED_VEHICLE and not is_fixed else None
            found = found.with_key(EnrolledKey(vehicle, key.key_id, key.public_b64, 1, revoked))
        return found

    def sample(self, vehicle: str, **fields: Any) -> Any:
        from tests.pipelines.ingest.ingest_lab import a_sample

        seq = self.seqs[vehicle]
        self.seqs[vehicle] += 1
        return a_sample(vehicle, seq, **fields)

    def signed(self, sample: Any, value: bytes | None = None, *, signer: str = "") -> Any:
        from schemas.codec import encode_sample
        from schemas.signing import sign_record
        from schemas.wire import KIND_SAMPLE

        data = encode_sample(sample) if value is None else value
        return sign_record(TOPIC, KIND_SAMPLE, sample.identity, data, self.key(signer or sample.vehicle_id))

    def good(self, vehicle: str = "", **fields: Any) -> Offered:
        sample = self.sample(vehicle or self.rng.choice(GOOD), **fields)
        return offered(self.signed(sample), "landed", identity=str(sample.identity))


def offered(record: Any, outcome: str, *reasons: str, after_fix: str = "", identity: str = "") -> Offered:
    """A wire record as what was offered."""
    return Offered(record.key, record.value, record.headers, outcome, reasons, after_fix, identity)


def resent(record: Offered) -> Offered:
    """The same record once more."""
    if record.outcome == "landed":
        return replace(record, outcome="resent")
    return replace(record, after_fix="resent" if record.after_fix else "")


Maker = Callable[[Fleet], Offered]


def _changed(record: Any, name: str, content: bytes | None) -> Any:
    headers = tuple((n, content if n == name else old) for n, old in record.headers)
    return replace(record, headers=tuple(pair for pair in headers if pair[1] is not None))


def _missing_header(fleet: Fleet) -> Offered:
    record = fleet.signed(fleet.sample("v1"))
    choice = fleet.rng.randrange(4)
    if choice == 0:
        return replace(offered(record, "rejected", "missing_header"), key=None)
    if choice == 1:
        return replace(offered(record, "rejected", "missing_header"), value=None)
    if choice == 2:
        return Offered(b"v1", b"garbage", (), "rejected", ("missing_header",))
    name = fleet.rng.choice(["ce_id", "ce_type", "fl_vehicle", "fl_seq", "fl_signature", "fl_keyid"])
    return offered(_changed(record, name, None), "rejected", "missing_header")


def _malformed_identity(fleet: Fleet) -> Offered:
    record = fleet.signed(fleet.sample("v1"))
    choice = fleet.rng.randrange(3)
    if choice == 0:
        record = replace(record, headers=(*record.headers, record.headers[0]))
    elif choice == 1:
        record = _changed(record, "fl_seq", b"007")
    else:
        record = _changed(record, "fl_vehicle", b"v\xff")
    return offered(record, "rejected", "malformed_identity")


def _unknown_vehicle(fleet: Fleet) -> Offered:
    sample = fleet.sample(LATE_VEHICLE)
    record = fleet.signed(sample)
    return offered(record, "rejected", "unknown_vehicle", after_fix="landed", identity=str(sample.identity))


def _revoked_key(fleet: Fleet) -> Offered:
    sample = fleet.sample(REVOKED_VEHICLE)
    record = fleet.signed(sample)
    return offered(record, "rejected", "revoked_key", after_fix="landed", identity=str(sample.identity))


def _bad_signature(fleet: Fleet) -> Offered:
    if fleet.rng.random() < 0.5:
        return offered(fleet.signed(fleet.sample("v1"), signer="v2"), "rejected", "bad_signature")
    record = fleet.signed(fleet.sample("v1"))
    signature = bytearray(dict(record.headers)["fl_signature"])
    signature[fleet.rng.randrange(64)] ^= 1 << fleet.rng.randrange(8)
    return offered(_changed(record, "fl_signature", bytes(signature)), "rejected", "bad_signature")


def _hash_mismatch(fleet: Fleet) -> Offered:
    record = fleet.signed(fleet.sample("v2"))
    value = bytearray(record.value)
    value[fleet.rng.randrange(len(value))] ^= 1 << fleet.rng.randrange(8)
    return offered(replace(record, value=bytes(value)), "rejected", "hash_mismatch")


def _identity_mismatch(fleet: Fleet) -> Offered:
    record = fleet.signed(fleet.sample("v1"))
    if fleet.rng.random() < 0.5:
        return replace(offered(record, "rejected", "identity_mismatch"), key=b"v2")
    other = fleet.sample("v1")
    return offered(fleet.signed(other, record.value), "rejected", "identity_mismatch")


def _not_single_object(fleet: Fleet) -> Offered:
    values = (b"", b"{}", fleet.rng.randbytes(300), b"\xc3")
    return offered(
        fleet.signed(fleet.sample("v3"), fleet.rng.choice(values)), "rejected", "not_single_object"
    )


def _unknown_schema(fleet: Fleet) -> Offered:
    value = b"\xc3\x01" + fleet.rng.randbytes(200)
    return offered(fleet.signed(fleet.sample("v3"), value), "rejected", "unknown_schema")


def _unknown_schema_v1(fleet: Fleet) -> Offered:
    """Written with the first schema, which the build that reads first does not have (see `without_schema_1`)."""
    sample = fleet.sample("v2")
    record = fleet.signed(sample, encoded_as_version_1(sample))
    return offered(record, "rejected", "unknown_schema", after_fix="landed", identity=str(sample.identity))


def _truncated(fleet: Fleet) -> Offered:
    sample = fleet.sample("v1")
    value = fleet.signed(sample).value
    cut = fleet.rng.randrange(12, len(value))
    return offered(fleet.signed(sample, value[:cut]), "rejected", "truncated", "invalid_value")


def _invalid_value(fleet: Fleet) -> Offered:
    sample = fleet.sample("v1")
    value = fleet.signed(sample).value
    return offered(fleet.signed(sample, value + fleet.rng.randbytes(3)), "rejected", "invalid_value")


def _payload_hash_mismatch(fleet: Fleet) -> Offered:
    sample = fleet.sample("v1", payload_sha256=fleet.rng.randbytes(32).hex())
    return offered(fleet.signed(sample), "rejected", "payload_hash_mismatch")


def _oversize(fleet: Fleet) -> Offered:
    sample = fleet.sample("v1")
    return offered(fleet.signed(sample, b"z" * OVERSIZE_BYTES), "rejected", "oversize")


POISON: Mapping[str, Maker] = {
    "missing_header": _missing_header,
    "malformed_identity": _malformed_identity,
    "unknown_vehicle": _unknown_vehicle,
    "revoked_key": _revoked_key,
    "bad_signature": _bad_signature,
    "hash_mismatch": _hash_mismatch,
    "identity_mismatch": _identity_mismatch,
    "not_single_object": _not_single_object,
    "unknown_schema": _unknown_schema,
    "unknown_schema_v1": _unknown_schema_v1,
    "truncated": _truncated,
    "invalid_value": _invalid_value,
    "payload_hash_mismatch": _payload_hash_mismatch,
    "oversize": _oversize,
}
"""Every reason that bytes on a topic can cause, but `conflict`, which needs an earlier record: see `conflict_of`."""
OVERSIZE_EVERY = 400
"""Of so many poisoned records one is oversize: a megabyte each would fill the memory of the embedded broker."""


def conflict_of(fleet: Fleet, first: Offered) -> Offered:
    """The identity of `first`, signed by its vehicle, with other bytes."""
    vehicle, epoch, seq = first.identity.split("/")
    from tests.pipelines.ingest.ingest_lab import a_sample

    sample = a_sample(vehicle, int(seq), epoch=epoch, frame_id=f"other-{fleet.rng.randrange(10**9)}")
    return offered(fleet.signed(sample), "rejected", "conflict", identity=first.identity)


def poisoned(fleet: Fleet, records: int, ratio: float) -> Iterator[Offered]:
    """`records` records, of which exactly round(records * ratio) are poison, every kind in turn, in an order by chance."""
    bad = set(fleet.rng.sample(range(1, records), round(records * ratio)))
    kinds = [name for name in POISON if name != "oversize"] + ["conflict"]
    first: Offered | None = None
    made = 0
    for number in range(records):
        if number not in bad:
            record = fleet.good()
            first = first or record
            yield record
            continue
        kind = "oversize" if made % OVERSIZE_EVERY == OVERSIZE_EVERY // 2 else kinds[made % len(kinds)]
        made += 1
        yield conflict_of(fleet, first) if kind == "conflict" and first else POISON[kind](fleet)


def spread(records: Iterator[Offered] | Sequence[Offered], partitions: int) -> list[list[Offered]]:
    """Each record in a partition; records of one vehicle stay in one, as Kafka's own partitioner keeps them."""
    found: list[list[Offered]] = [[] for _ in range(partitions)]
    for number, record in enumerate(records):
        vehicle = record.identity.split("/")[0] if record.identity else ""
        found[(sum(vehicle.encode()) if vehicle else number) % partitions].append(record)
    return found


def places(log: Sequence[Sequence[Offered]], begins: Sequence[int] | None = None) -> dict[Place, Offered]:
    """Where each record is, when partition by partition all were appended in order from `begins` on."""
    starts = begins or [0] * len(log)
    return {
        (partition, starts[partition] + index): record
        for partition, records in enumerate(log)
        for index, record in enumerate(records)
    }


def produce(
    bootstrap: str, topic: str, log: Sequence[Sequence[Offered]], begins: Sequence[int] | None = None
) -> int:
    """Append with kafka-python, byte for byte, each in its partition. Raises RuntimeError when an offset is another."""
    from kafka import KafkaProducer

    producer = KafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_request_size=8_000_000, linger_ms=5, batch_size=262_144,
        api_version=(4, 3), max_block_ms=60_000, max_in_flight_requests_per_connection=1,
    )  # fmt: skip
    last = []
    for partition, records in enumerate(log):
        for index, record in enumerate(records):
            done = producer.send(
                topic, value=record.value, key=record.key, headers=list(record.headers), partition=partition
            )
            if index == len(records) - 1:
                last.append((done, partition, (begins[partition] if begins else 0) + index))
    producer.flush(120)
    for done, partition, expected in last:
        offset = done.get(60).offset
        if offset != expected:
            raise RuntimeError(f"the last record of partition {partition} is at {offset}, not at {expected}")
    producer.close()
    return sum(map(len, log))


def encoded_as_version_1(sample: Any) -> bytes:
    """The bytes that the first version of the schema would have written."""
    import io

    from fastavro import schemaless_reader, schemaless_writer

    from schemas.codec import encode_sample
    from schemas.registry import HEADER_BYTES, newest, schemas

    first = next(each for each in schemas().values() if (each.name, each.version) == ("sample", 1))
    stream = io.BytesIO(encode_sample(sample)[HEADER_BYTES:])
    fields = schemaless_reader(stream, newest("sample").parsed, None)
    out = io.BytesIO()
    out.write(first.header)
    schemaless_writer(out, first.parsed, fields)
    return out.getvalue()


def without_schema_1() -> None:
    """Make this process a build that never heard of the first version of the sample's schema."""
    from schemas import codec
    from schemas.registry import schemas

    known = {header: each for header, each in schemas().items() if (each.name, each.version) != ("sample", 1)}
    codec.schemas = lambda: known  # type: ignore[assignment]
