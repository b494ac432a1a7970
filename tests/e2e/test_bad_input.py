"""Bad input, all of it at once, stops neither an agent nor ingest: each is counted under its reason or told in
one clear line. (Each kind for itself is held by the tests of the part that meets it.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.ports import Acknowledgement
from connectors.kafka.settings import KafkaSettings
from connectors.kafka.sink import KafkaSink
from connectors.kafka.source import KafkaSource
from devservers.embedded_broker import EmbeddedBroker
from edge_agent.state_folder import read_status
from schemas.codec import decode_sample, encode_sample
from schemas.identity import Identity
from schemas.reasons import TimeQuality
from schemas.records import Sample
from schemas.signing import VehicleKey, sign_record
from schemas.topics import MAX_RECORD_BYTES
from schemas.wire import KIND_SAMPLE, TOPICS, WireRecord
from tests.conditions import needs_embedded_broker
from tests.e2e.field import Vehicle, check, ingest, run_program, workspace
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.e2e,
    needs_embedded_broker,
]
FRAMES = 60
QUOTA_BYTES = 300_000
FORGED_EPOCH = "f0" * 8


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker that is down, and whose address is known."""
    broker = EmbeddedBroker()
    broker.start()
    broker.stop()
    yield broker
    broker.stop()


def spoil(vehicle: Vehicle) -> None:
    """Put into the recording what is no picture, what is a torn one, and what is too big to be sent."""
    drive = vehicle.root / "recording" / "drive-1"
    whole = (drive / "00010.png").read_bytes()
    (drive / "00010.png").write_bytes(b"no picture at all")
    (drive / "00011.png").write_bytes(whole[: len(whole) // 2])
    (drive / "00012.png").write_bytes(b"")
    (drive / "00013.png").unlink()
    (drive / "00013.png").symlink_to(drive / "gone.png")
    (drive / "00014.png").write_bytes((drive / "00015.png").read_bytes() + bytes(MAX_RECORD_BYTES))


def bad_records(sample: Sample, key: VehicleKey) -> dict[str, WireRecord]:
    """A record for each reason for which ingest must reject it."""
    good = encode_sample(sample)

    def signed(seq: int, value: bytes, signer: VehicleKey = key, name: str = sample.vehicle_id) -> WireRecord:
        return sign_record(TOPICS.samples, KIND_SAMPLE, Identity(name, FORGED_EPOCH, seq), value, signer)

    def named(seq: int) -> bytes:
        return encode_sample(replace(sample, epoch=FORGED_EPOCH, seq=seq))

    return {
        "bad_signature": signed(0, named(0), signer=VehicleKey.generate()),
        "unknown_vehicle": signed(1, good, name="car-nobody"),
        "unknown_schema": signed(2, b"\xc3\x01" + b"\xfe" * 8 + named(2)[10:]),
        "truncated": signed(3, named(3)[:-40]),
        "not_single_object": signed(4, b"no Avro at all"),
        "hash_mismatch": replace(signed(5, named(5)), value=named(6)),
        "identity_mismatch": signed(7, named(8)),
        "missing_header": replace(signed(9, named(9)), headers=()),
    }


def send(bootstrap: str, records: list[WireRecord]) -> None:
    outcomes: list[object] = []
    sink = KafkaSink(KafkaSettings(bootstrap=bootstrap))
    for record in records:
        sink.send(record, outcomes.append)
    sink.close(30.0)
    assert [type(outcome) for outcome in outcomes] == [Acknowledgement] * len(records), outcomes


def one_landed_sample(bootstrap: str) -> Sample:
    source = KafkaSource(KafkaSettings(bootstrap=bootstrap))
    try:
        for partition in source.describe(TOPICS.samples).partitions:
            begin, end = source.bounds(TOPICS.samples, partition)
            for batch in source.read(TOPICS.samples, partition, begin, end):
                return decode_sample(batch[0].value or b"")
    finally:
        source.close()
    raise AssertionError("nothing arrived")


def test_bad_frames_a_full_spool_a_dead_broker_and_forged_records_are_counted_and_stop_nothing(
    tmp_path: Path, broker: EmbeddedBroker
) -> None:
    spool = f"quota_bytes = {QUOTA_BYTES}\nsegment_bytes = 30000\nreserve_bytes = 4096\ncommit_count = 3"
    pace = "max_in_flight_bytes = 50000"
    vehicle = Vehicle(
        tmp_path / "car", "car-1", broker.bootstrap, FRAMES, rate_hz=40.0, spool=spool, pace=pace
    )
    spoil(vehicle)
    place = workspace(tmp_path / "workspace", broker.bootstrap, [vehicle])
    try:
        vehicle.start("--until-source-ends")
        until(lambda: vehicle.status()["frames_seen"] == FRAMES - 1, "the recording ends without a broker")
        waiting = vehicle.status()
        (left_out,) = (n for why, n in waiting["source_notes"].items() if why.startswith("left out"))
        assert left_out == 1, "a link is no frame, and is counted"
        assert waiting["broker"]["connected"] is False
        assert waiting["broker"]["last_error"]
        assert vehicle.process is not None
        assert vehicle.process.poll() is None, "the agent waits for its broker"
        broker.start()
        ensure_topics(broker.bootstrap)
        assert vehicle.end() == 0
    finally:
        vehicle.clean_up()
    ledger = vehicle.export_ledger()
    assert ledger["not_accepted"] == {"unreadable_image": 3, "oversize": 1}
    assert ledger["accepted"] == FRAMES - 5
    lost = ledger["evicted"]["quota"]
    assert lost > 0, "the quota was reached"
    assert ledger["delivered"] + ledger["in_doubt"] == ledger["accepted"] - lost > 0

    sample = one_landed_sample(broker.bootstrap)
    bad = bad_records(sample, vehicle.key)
    in_1970 = replace(
        sample,
        epoch=FORGED_EPOCH,
        seq=100,
        capture_time_ns=60 * 10**9,
        spool_time_ns=61 * 10**9,
        time_quality=TimeQuality.BEFORE_BUILD,
    )
    last = sign_record(TOPICS.samples, KIND_SAMPLE, in_1970.identity, encode_sample(in_1970), vehicle.key)
    send(broker.bootstrap, [*bad.values(), last])
    report = ingest(place)
    assert report["rejected"] == dict.fromkeys(bad, 1)
    may_have_landed = ledger["accepted"] - lost + 1  # and one behind the bad ones, with a clock in 1970
    assert ledger["delivered"] < report["landed"] <= may_have_landed
    status, verdict = check(broker.bootstrap, place, vehicle.told())
    assert set(verdict["violations"]) == {"landed_and_never_accepted"}, "only the one that this test sent"
    assert verdict["violations"]["landed_and_never_accepted"]["count"] == 1
    assert status == 1


def test_an_empty_drive_is_counted_and_the_agent_ends_well(tmp_path: Path, broker: EmbeddedBroker) -> None:
    broker.start()
    ensure_topics(broker.bootstrap)
    vehicle = Vehicle(tmp_path / "car", "car-1", broker.bootstrap, 0)
    try:
        vehicle.start("--until-source-ends")
        assert vehicle.end() == 0
    finally:
        vehicle.clean_up()
    ledger = vehicle.export_ledger()
    assert (ledger["accepted"], ledger["not_accepted"]) == (0, {"empty_drive": 1})


def test_a_missing_source_is_told_stops_nothing_and_is_played_when_it_comes(tmp_path: Path) -> None:
    vehicle = Vehicle(tmp_path / "car", "car-1", "127.0.0.1:9", 3)
    vehicle.config.write_text(vehicle.config.read_text().replace('path = "recording"', 'path = "nowhere"'))

    def told() -> str:
        return str(read_status(vehicle.state.status_path("perceive")).get("source_error", ""))

    try:
        vehicle.start()
        until(lambda: "nowhere" in told() and "must exist" in told(), "the status names the missing folder")
        assert vehicle.child("deliver") is not None
        (vehicle.root / "recording").rename(vehicle.root / "nowhere")
        until(lambda: vehicle.receipts() == 3, "the source that came is played")
        until(lambda: not told(), "the status forgets a fault that is over")
        assert vehicle.stop() == 0
    finally:
        vehicle.clean_up()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rate_hz = 0.0", "rate_hz = -3.5"), ("source.rate_hz", "-3.5", "[0, 1000]")),
        (("rate_hz = 0.0", "rate_herz = 3.5"), ("source.rate_herz", "no such key", "rate_hz")),
    ],
)
def test_a_wrong_setting_ends_the_agent_with_one_line_that_names_it(
    tmp_path: Path, change: tuple[str, str], said: tuple[str, ...]
) -> None:
    vehicle = Vehicle(tmp_path / "car", "car-1", "127.0.0.1:9", 1)
    vehicle.config.write_text(vehicle.config.read_text().replace(*change))
    done = run_program("fleetloop", "agent", "run", "--config", str(vehicle.config))
    assert done.returncode == 78, done.stderr
    assert all(word in done.stderr for word in said), done.stderr
    assert "Traceback" not in done.stderr
