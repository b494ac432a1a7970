"""After a simulated power loss at any system call, everything that had a receipt is there, whole, or
explained."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.writer import Receipt
from foundation.errors import RejectedError
from schemas.identity import Identity
from schemas.reasons import ValueClass
from tests.edge_agent.spool.power_loss import PowerLossDisk
from tests.edge_agent.spool.spool_rig import Faults, Spool, sample, sha, whereabouts

SEEDS = range(int(os.environ.get("FLEETLOOP_POWER_LOSSES", "30")))


class PowerCut(BaseException):
    """Raised in a system call: from here on nothing reaches the disk."""


def drive(spool: Spool, rng: random.Random, seen: Seen) -> None:
    """A busy minute: commits of mixed classes, uploads, syncs, both sides restarted, the quota reached."""
    given: list[Identity] = []

    def on_commit(receipt: Receipt) -> None:
        seen.accepted |= {(one.epoch, one.seq) for one in given if one.seq <= receipt.last_seq}

    for step in range(40):
        spool.writer.on_commit = on_commit
        for _ in range(rng.randint(1, 4)):
            value_class = rng.choice(list(ValueClass))
            one = sample(rng.choice([10, 600, 3_000]), value_class, rng.randint(0, 10**9))
            try:
                given.append(spool.writer.append(one))
            except RejectedError as error:
                assert error.reason == "quota_full"
        spool.writer.commit()
        for record in spool.reader.lease(rng.choice([1, 4_000])):
            key = (record.identity.epoch, record.identity.seq)
            seen.sent[key] = sha(record)
            if rng.random() < 0.7:
                spool.reader.acknowledge([record.identity])
                seen.acknowledged.add(key)
        if rng.random() < 0.3 and spool.reader.sync():
            seen.synced = set(seen.acknowledged)
        if step == 20:
            given.clear()
            spool.restart_writer()
            spool.restart_reader()
        spool.clock.advance(rng.choice([0.1, 1.5]))


class Seen:
    def __init__(self) -> None:
        self.accepted: set[tuple[str, int]] = set()
        self.sent: dict[tuple[str, int], str] = {}
        self.acknowledged: set[tuple[str, int]] = set()
        self.synced: set[tuple[str, int]] = set()


def check_after(folder: Path, settings: SpoolSettings, seen: Seen) -> None:
    spool = Spool(folder, settings)
    ledger = spool.ledger()
    assert ledger.balances(), ledger.to_json()
    drained = {(r.identity.epoch, r.identity.seq): sha(r) for r in spool.drain()}
    places = whereabouts(spool.ledger())
    assert spool.ledger().balances()
    for key in seen.accepted:
        assert key in places, f"{key} had its receipt and the ledger does not know it"
        if key in drained:
            assert key not in seen.synced, f"{key} came back although its acknowledgement was durable"
            assert seen.sent.get(key, drained[key]) == drained[key], "sent twice with different bytes"
        elif key in seen.acknowledged:
            assert places[key] in ("delivered", "in_doubt"), (key, places[key])
        elif key in seen.sent:
            assert places[key] == "in_doubt", f"{key} may have landed, the ledger says {places[key]}"
        else:
            assert places[key] == "evicted:quota", f"{key} had its receipt and is {places[key]}"
    spool.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_receipt_is_broken_by_a_power_loss_at_any_system_call(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    settings = SpoolSettings(
        quota_bytes=rng.choice([60_000, 10_000_000]),
        segment_bytes=12_000,
        reserve_bytes=1_000,
        counts_sync_s=2.0,
    )
    seen = Seen()
    hook = Faults()
    disk = PowerLossDisk(tmp_path / "spool")
    left = rng.randint(5, 400)

    def before(name: str, args: tuple[object, ...]) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise PowerCut
        disk.watch(name, args)

    hook.before = before
    hook.install()
    try:
        spool = Spool(tmp_path / "spool", settings)
        drive(spool, rng, seen)
        spool.close()
    except PowerCut:
        pass
    finally:
        hook.remove()
    if not (tmp_path / "spool").exists():
        return
    for state in range(5):
        disk.lose_power(tmp_path / f"after{state}", rng)
        check_after(tmp_path / f"after{state}", settings, seen)
    disk.close()
