"""Spool append beside raw write + fsync on the same disk; recovery of a full spool.

    python -m benchmarks.spool_append [--folder DIR] [--seconds 1.5] [--rounds 7] [--record-bytes 50000]

The product side does the whole of `append` (Avro, sha256, Ed25519) in the caller's thread, as the frame loop does,
and hands each commit over to the thread that writes, syncs and journals it. The raw side is one thread that writes
the same number of bytes to one file and syncs it. A third round leaves encoding and signing out, by giving the
spool a record that is signed already. Rounds of the three alternate. Never a timed test.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.port import Measure, Step, paired_ratio
from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import SpoolWriter
from foundation.clock import SystemClock
from foundation.events import EventLog
from schemas import wire
from schemas.identity import Identity
from schemas.records import Sample
from schemas.signing import VehicleKey
from tests.samples import sample_of

VEHICLE = "bench-1"
AIMS = {1: 0.90, 20: 0.70}


class ReadySpool(SpoolWriter):
    """A spool whose records are signed already: what is left is framing, writing, syncing and the ledger."""

    ready: wire.WireRecord | None = None

    def _signed(self, sample: Sample, identity: Identity) -> wire.WireRecord:
        if self.ready is None:
            self.ready = super()._signed(sample, identity)
        return self.ready


def make_sample(record_bytes: int, seed: int = 0) -> Sample:
    """One sample whose wire value has about `record_bytes`, which do not compress."""
    payload = random.Random(seed).randbytes(record_bytes - 600)  # noqa: S311 - the same bytes at every run
    return sample_of(payload, vehicle_id=VEHICLE, drive_id="drive-1")


def raw_rate(folder: Path, record_bytes: int, per_commit: int, seconds: float) -> float:
    """Records a second of write + fsync to one file."""
    data = os.urandom(record_bytes)
    fd = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    try:
        return _rate(
            lambda: [os.write(fd, data) for _ in range(per_commit)],
            lambda: os.fsync(fd),
            lambda: None,
            per_commit,
            seconds,
        )
    finally:
        os.close(fd)
        (folder / "raw").unlink()


def spool_rate(
    folder: Path, kind: type[SpoolWriter], sample: Sample, per_commit: int, seconds: float
) -> float:
    """Records a second that are accepted: the last one's receipt is waited for."""
    settings = SpoolSettings(quota_bytes=20_000_000_000)
    writer = kind.open(
        folder / "spool", settings, VEHICLE, VehicleKey.generate(), SystemClock(), EventLog(None)
    )
    writer.start_committer()
    try:
        rate = _rate(
            lambda: [writer.append(sample) for _ in range(per_commit)],
            writer.hand_over,
            writer.commit,
            per_commit,
            seconds,
        )
        counts = writer.ledger().counts
        if counts.not_accepted or not counts.accepted:
            raise RuntimeError(f"the spool did not accept everything: {counts}")
        return rate
    finally:
        writer.close()
        shutil.rmtree(folder / "spool")


def _rate(
    write: Callable[[], object],
    commit: Callable[[], object],
    finish: Callable[[], object],
    count: int,
    seconds: float,
) -> float:
    begun = time.perf_counter()
    done = 0
    while time.perf_counter() - begun < seconds:
        write()
        commit()
        done += count
    finish()
    return done / (time.perf_counter() - begun)


def measure(
    folder: Path | None, per_commit: int, rounds: int, seconds: float, record_bytes: int, seed: int
) -> Measure:
    """One row: `per_commit` records per commit."""
    raw: list[float] = []
    ours: list[float] = []
    ready: list[float] = []
    sample = make_sample(record_bytes, seed)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for number in range(rounds + 1):  # the first round warms up and does not count
            found = (
                raw_rate(Path(name), record_bytes, per_commit, seconds),
                spool_rate(Path(name), SpoolWriter, sample, per_commit, seconds),
                spool_rate(Path(name), ReadySpool, sample, per_commit, seconds),
            )
            if number:
                for rates, rate in zip((raw, ours, ready), found, strict=True):
                    rates.append(rate)
    ratio, spread = paired_ratio(ours, raw)
    signing_us = _signing_us(sample)
    aim = AIMS[per_commit]
    return Measure(
        step=f"spool append, {record_bytes // 1000} kB, {per_commit} per commit",
        beside="raw write + fsync",
        ratio=ratio,
        aim=f">= {aim:.2f}",
        met=ratio >= aim,
        spread=spread,
        figures={
            "product_records_per_s": statistics.median(ours),
            "raw_records_per_s": statistics.median(raw),
            "signed_already_records_per_s": statistics.median(ready),
            "signed_already_ratio": paired_ratio(ready, raw)[0],
            "encode_and_sign_us_per_record": signing_us,
        },
        note=(
            "encoding and signing run in the caller's thread while the thread that commits writes and syncs; one"
            " core can do no more than 1 / (encode and sign) records per second, whatever the disk does"
        ),
    )


def _signing_us(sample: Sample, count: int = 500) -> float:
    """Microseconds of one core for what `append` does before a record is queued."""
    from schemas import codec, signing

    key, identity = VehicleKey.generate(), Identity(VEHICLE, "0" * 16, 0)
    rounds = []
    for _ in range(5):
        begun = time.thread_time()
        for _ in range(count):
            value = codec.encode_sample(sample)
            signing.sign_record(wire.TOPICS.samples, wire.KIND_SAMPLE, identity, value, key)
        rounds.append((time.thread_time() - begun) / count * 1e6)
    return statistics.median(rounds)


def recovery(folder: Path | None, spool_bytes: int) -> Measure:
    """How soon a full spool can be written to and read from again."""
    sample = make_sample(50_000)
    settings = SpoolSettings(quota_bytes=2 * spool_bytes)
    clock, events, key = SystemClock(), EventLog(None), VehicleKey.generate()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        spool = Path(name) / "spool"
        with SpoolWriter.open(spool, settings, VEHICLE, key, clock, events) as writer:
            for _ in range(spool_bytes // len(sample.payload)):
                writer.append(sample)
                if writer.is_commit_due:
                    writer.commit()
        begun = time.perf_counter()
        writer = SpoolWriter.open(spool, settings, VEHICLE, key, clock, events)
        opened_s = time.perf_counter() - begun
        begun = time.perf_counter()
        reader = SpoolReader.open(spool, settings, VEHICLE, clock, events)
        count = len(reader.lease(1))
        first_s = time.perf_counter() - begun
        while records := reader.lease(4_000_000):
            count += len(records)
        all_s = time.perf_counter() - begun
        reader.close()
        writer.close()
    return Measure(
        step=f"spool recovery, {spool_bytes // 1_000_000} MB",
        beside="one second",
        ratio=None,
        aim="<= 1 s until written to and read from again",
        met=opened_s + first_s <= 1.0,
        spread=None,
        figures={
            "writer_open_s": opened_s,
            "reader_first_record_s": first_s,
            "lease_all_records_s": all_s,
            "records": count,
        },
    )


def run(seed: int, quick: bool) -> Sequence[Measure]:
    """The rows of `make bench`."""
    rounds, seconds = (2, 0.2) if quick else (9, 1.5)
    rows = [measure(None, per_commit, rounds, seconds, 50_000, seed) for per_commit in AIMS]
    return [*rows, recovery(None, 20_000_000 if quick else 500_000_000)]


STEPS = (Step("spool-append", run),)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=None, help="a folder on the disk to measure")
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record-bytes", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    for per_commit in AIMS:
        print(measure(asked.folder, per_commit, asked.rounds, asked.seconds, asked.record_bytes, asked.seed))


if __name__ == "__main__":
    main()
