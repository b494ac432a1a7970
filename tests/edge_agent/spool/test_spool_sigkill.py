"""A writer killed with SIGKILL at random moments under load, again and again: every receipt holds."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.key_file import save_key
from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.snapshot import read_ledger
from edge_agent.spool.writer import SpoolWriter
from foundation.clock import SystemClock
from foundation.events import EventLog
from schemas.signing import VehicleKey
from tests.edge_agent.spool.spool_rig import VEHICLE, whereabouts
from tests.waiting import until

KILLS = 12
MAX_RECEIPTS = 400
"""Each kill comes after so many more at most."""
COMMIT_COUNT = 7
"""Of the writer under load."""


@pytest.mark.slow
@pytest.mark.parametrize("quota_bytes", [1_000_000, 200_000_000])
def test_every_receipt_holds_after_sigkill_under_load(quota_bytes: int, tmp_path: Path) -> None:
    folder, receipts = tmp_path / "spool", tmp_path / "receipts"
    key = VehicleKey.generate()
    save_key(key, tmp_path / "key.pem")
    rng = random.Random(quota_bytes)
    clock = SystemClock()
    settings = SpoolSettings(quota_bytes=quota_bytes, segment_bytes=200_000, reserve_bytes=10_000)
    reader = SpoolReader.open(folder, settings, VEHICLE, clock, EventLog(None))
    landed: dict[tuple[str, int], str] = {}
    for _ in range(KILLS):
        (tmp_path / "ready").unlink(missing_ok=True)
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.edge_agent.spool.writer_under_load",
                str(folder),
                str(receipts),
                str(quota_bytes),
            ],
            cwd=Path(__file__).parents[3],
        )
        try:
            until((tmp_path / "ready").exists, "the writer starts")
            wanted = _count(receipts) + rng.randrange(MAX_RECEIPTS)

            def has_come_far(wanted: int = wanted, child: subprocess.Popen[bytes] = child) -> bool:
                assert child.poll() is None, f"the writer ended with {child.returncode}"
                if quota_bytes > 1_000_000 or rng.random() < 0.1:  # a thin link: the quota is reached
                    _deliver(reader, landed, rng)
                return _count(receipts) >= wanted

            until(has_come_far, f"{wanted} receipts", poll_s=0.003)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert read_ledger(folder).balances()
    writer = SpoolWriter.open(folder, settings, VEHICLE, key, clock, EventLog(None))
    while _deliver(reader, landed, None):
        pass
    ledger = read_ledger(folder)
    assert ledger.balances()
    assert ledger.counts.pending == 0
    places = whereabouts(ledger)
    lines = receipts.read_text().splitlines()
    assert len(lines) > KILLS
    for line in lines:
        word, epoch, seq, sha256 = line.split()
        assert word == "RECEIPT"
        place = places[(epoch, int(seq))]
        if place == "delivered":
            assert landed[(epoch, int(seq))] == sha256
        else:
            assert place in ("evicted:quota", "in_doubt")
    # a write that the kill cut in the middle cannot be told from damage: without a receipt it may be called so
    assert ledger.counts.evicted.get("damaged", 0) <= KILLS * COMMIT_COUNT
    assert (ledger.counts.evicted.get("quota", 0) > 0) == (quota_bytes == 1_000_000)
    assert len(ledger.epochs) == KILLS + 1
    writer.close()
    reader.close()


def _deliver(reader: SpoolReader, landed: dict[tuple[str, int], str], rng: random.Random | None) -> int:
    records = reader.lease(300_000)
    for record in records:
        key = (record.identity.epoch, record.identity.seq)
        sha256 = hashlib.sha256(record.wire.value).hexdigest()
        assert landed.setdefault(key, sha256) == sha256
    done = [record.identity for record in records if rng is None or rng.random() < 0.9]
    reader.acknowledge(done)
    reader.release(record.identity for record in records if record.identity not in done)
    return len(records)


def _count(receipts: Path) -> int:
    return receipts.read_bytes().count(b"\n") if receipts.exists() else 0
