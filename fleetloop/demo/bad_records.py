"""Send records that must not land beside the good ones: each must be rejected with its reason, and stop nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from connectors.kafka.ports import Acknowledgement
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from foundation.clock import SystemClock
from foundation.errors import FleetLoopError, GuaranteeBrokenError
from schemas.identity import Identity
from schemas.signing import VehicleKey, sign_record
from schemas.wire import TOPICS, WireRecord

SEND_DEADLINE_S = 20.0
FORGED_EPOCH = "f0" * 8


def repeat_records(bootstrap: str, count: int) -> int:
    """Send the first `count` records of the log again, byte for byte, as a faulty gateway would; return how many.

    Their identities and hashes are those of rows that land: ingest must mark each as a resend.
    """
    settings = KafkaSettings(bootstrap=bootstrap, client_id="fleetloop-demo-gateway")
    source = KafkaSource(settings)
    records: list[WireRecord] = []
    try:
        for partition in source.describe(TOPICS.samples).partitions:
            begin, end = source.bounds(TOPICS.samples, partition)
            for batch in source.read(
                TOPICS.samples, partition, begin, min(end, begin + count - len(records))
            ):
                records += [
                    WireRecord(TOPICS.samples, r.key or b"", r.value or b"", r.headers) for r in batch
                ]
    finally:
        source.close()
    _send_all(settings, records)
    return len(records)


def send_bad_records(
    bootstrap: str, vehicle_id: str, key: VehicleKey, other_key: VehicleKey
) -> dict[str, int]:
    """Send one bad record of each kind; return how many ingest must reject, by reason.

    `key` is that of `vehicle_id`; `other_key` is another vehicle's, so what it signs as `vehicle_id` is forged.
    """

    def signed(seq: int, value: bytes, signer: VehicleKey = key, name: str = vehicle_id) -> WireRecord:
        return sign_record(TOPICS.samples, "sample", Identity(name, FORGED_EPOCH, seq), value, signer)

    good_frame = b"\xc3\x01" + bytes(8)
    tampered = signed(3, good_frame + b"as signed")
    records = [
        ("bad_signature", signed(0, good_frame, signer=other_key)),
        ("not_single_object", signed(1, b"this is no Avro at all")),
        ("unknown_schema", signed(2, b"\xc3\x01" + b"\xfe" * 8 + b"body")),
        ("hash_mismatch", replace(tampered, value=good_frame + b"as changed on the way")),
        ("missing_header", replace(signed(4, good_frame), headers=())),
        ("unknown_vehicle", signed(5, good_frame, name="vehicle-nobody-enrolled")),
    ]
    _send_all(
        KafkaSettings(bootstrap=bootstrap, client_id="fleetloop-demo-bad-records"), [r for _, r in records]
    )
    return {reason: 1 for reason, _ in records}


def _send_all(settings: KafkaSettings, records: Sequence[WireRecord]) -> None:
    """Send the records and wait for every acknowledgement."""
    sink = KafkaSink(settings, SystemClock())
    done: list[Acknowledgement | FleetLoopError] = []
    all_done = threading.Event()

    def note(result: Acknowledgement | FleetLoopError) -> None:
        done.append(result)
        if len(done) == len(records):
            all_done.set()

    try:
        for record in records:
            sink.send(record, note)
        if not all_done.wait(SEND_DEADLINE_S) or any(isinstance(d, FleetLoopError) for d in done):
            raise GuaranteeBrokenError(f"the broker did not accept the demo's own records: {done}")
    finally:
        sink.close(5.0)
