"""Spool append beside raw write + fsync on the same disk, in the same run; recovery time of a full spool;
memory.

    python benchmarks/spool_append.py [--folder DIR] [--seconds 3] [--rounds 5] [--record-bytes 50000]
    [--json]

Rounds alternate between the two, so that a disk that slows down slows both. Figures are medians with the
spread (least and most). The raw side writes the same number of bytes to one file. What FleetLoop does on
top: Avro encoding, sha256 and Ed25519 signature, two CRCs, the ledger's commit frame, segments. Never a
timed test.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from foundation.clock import SystemClock
from foundation.events import EventLog
from schemas.records import Sample
from schemas.signing import VehicleKey

VEHICLE = "bench-1"


def make_sample(record_bytes: int) -> Sample:
    """One sample whose wire value has about `record_bytes`."""
    payload = bytes(range(256)) * (record_bytes // 256 - 2)
    return Sample(
        vehicle_id=VEHICLE,
        epoch="0" * 16,
        previous_epoch="",
        seq=0,
        drive_id="drive-1",
        sensor_id="front",
        capture_time_ns=1,
        capture_time_uncertainty_ns=0,
        monotonic_ns=1,
        boot_id="boot",
        spool_time_ns=1,
        frame_id="frame-1",
        model_name="model",
        model_digest="0" * 64,
        predicted_class="red",
        probabilities=(0.5, 0.3, 0.2),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        payload_bytes=len(payload),
        payload=payload,
    )


def raw_rate(folder: Path, record_bytes: int, per_commit: int, seconds: float) -> float:
    """Records a second of write + fsync to one file."""
    data = os.urandom(record_bytes)
    fd = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    try:
        return _rate(
            lambda: [os.write(fd, data) for _ in range(per_commit)], lambda: os.fsync(fd), per_commit, seconds
        )
    finally:
        os.close(fd)
        (folder / "raw").unlink()


def spool_rate(folder: Path, sample: Sample, per_commit: int, seconds: float) -> float:
    """Records a second of append + commit, in one thread."""
    settings = SpoolSettings(quota_bytes=20_000_000_000)
    clock = SystemClock()
    writer = SpoolWriter.open(
        folder / "spool", settings, VEHICLE, VehicleKey.generate(), clock, EventLog(None)
    )
    try:
        return _rate(
            lambda: [writer.append(sample) for _ in range(per_commit)], writer.commit, per_commit, seconds
        )
    finally:
        writer.close()
        shutil.rmtree(folder / "spool")


def _rate(write: Callable[[], object], commit: Callable[[], object], count: int, seconds: float) -> float:
    begun = time.perf_counter()
    done = 0
    while (spent := time.perf_counter() - begun) < seconds:
        write()
        commit()
        done += count
    return done / spent


def without_disk(sample: Sample, count: int = 2_000) -> dict[str, float]:
    """Microseconds a record of what is done before any disk is touched."""
    from edge_agent.spool.segment import encode_record
    from schemas import codec, signing, wire
    from schemas.identity import Identity
    from schemas.reasons import ValueClass

    key = VehicleKey.generate()
    identity = Identity(VEHICLE, "0" * 16, 0)
    value = codec.encode_sample(sample)
    sealed = signing.seal(wire.TOPICS.samples, wire.KIND_SAMPLE, identity, value, key)
    parts = {
        "encode": lambda: codec.encode_sample(sample),
        "sha256 and sign": lambda: signing.seal(wire.TOPICS.samples, wire.KIND_SAMPLE, identity, value, key),
        "frame": lambda: encode_record("0" * 16, 0, ValueClass.NORMAL, sealed),
    }
    spent = {}
    for name, part in parts.items():
        begun = time.perf_counter()
        for _ in range(count):
            part()
        spent[name] = (time.perf_counter() - begun) / count * 1e6
    return spent


def recovery(folder: Path, sample: Sample, spool_bytes: int) -> dict[str, float]:
    """Seconds until a full spool can be written to and read from again, and the memory that its index
    costs."""
    settings = SpoolSettings(quota_bytes=2 * spool_bytes)
    clock, events, key = SystemClock(), EventLog(None), VehicleKey.generate()
    writer = SpoolWriter.open(folder / "spool", settings, VEHICLE, key, clock, events)
    for _ in range(spool_bytes // len(sample.payload)):
        writer.append(sample)
        writer.maybe_commit()
    writer.close()
    begun = time.perf_counter()
    writer = SpoolWriter.open(folder / "spool", settings, VEHICLE, key, clock, events)
    writer_s = time.perf_counter() - begun
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    reader = SpoolReader.open(folder / "spool", settings, VEHICLE, clock, events)
    first = reader.lease(1)
    reader_s = time.perf_counter() - begun
    assert first
    begun = time.perf_counter()
    count = 1
    while records := reader.lease(4_000_000):
        count += len(records)
    leased_s = time.perf_counter() - begun
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    reader.close()
    writer.close()
    shutil.rmtree(folder / "spool")
    return {
        "records": count,
        "writer_open_s": writer_s,
        "reader_first_record_s": reader_s,
        "lease_all_records_s": leased_s,
        "reader_memory_mb": grown_kb / 1000,
    }


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk to measure")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record-bytes", type=int, default=50_000)
    parser.add_argument("--spool-bytes", type=int, default=500_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sample = make_sample(arguments.record_bytes)
    result: dict[str, object] = {"record_bytes": arguments.record_bytes}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for per_commit in (1, 20):
            raw, ours = [], []
            for _ in range(arguments.rounds):
                raw.append(raw_rate(folder, arguments.record_bytes, per_commit, arguments.seconds))
                ours.append(spool_rate(folder, sample, per_commit, arguments.seconds))
            result[f"{per_commit}_a_commit"] = {
                "raw_per_s": statistics.median(raw),
                "raw_spread": [min(raw), max(raw)],
                "spool_per_s": statistics.median(ours),
                "spool_spread": [min(ours), max(ours)],
                "ratio": statistics.median(ours) / statistics.median(raw),
            }
        result["microseconds_without_disk"] = without_disk(sample)
        result["recovery"] = recovery(folder, sample, arguments.spool_bytes)
    print(json.dumps(result, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
