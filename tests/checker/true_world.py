"""A small true world, in which everything that may become of a record happens once, for tests to lie in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from tests.checker.broker_log import Log, LogRecord
from tests.checker.lake_files import Row
from tests.checker.told import Account, Identity, account
from tests.checker.verdict import Evidence, judge

EPOCH = "00000000000000aa"
TOPIC_ID = "topic-1"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def named(seq: int, vehicle: str = "car-1") -> Identity:
    return Identity(vehicle, EPOCH, seq)


def ledger(vehicle: str = "car-1", **ranges: Any) -> dict[str, Any]:
    """An exported ledger of one epoch, that balances."""
    parts = {name: ranges.get(name, []) for name in ("delivered", "pending", "in_doubt", "never_accepted")}
    parts["evicted"] = ranges.get("evicted", {})
    size = {
        name: sum(end - begin for begin, end in parts[name]) for name in ("delivered", "pending", "in_doubt")
    }
    evicted = {reason: sum(end - begin for begin, end in pairs) for reason, pairs in parts["evicted"].items()}
    counts = {**size, "evicted": evicted, "accepted": sum(size.values()) + sum(evicted.values())}
    every = [pair for name in size for pair in parts[name]] + parts["never_accepted"]
    every += [pair for pairs in parts["evicted"].values() for pair in pairs]
    row = {
        "epoch": EPOCH,
        "next_seq": max(end for _, end in every),
        "detail_from": ranges.get("detail_from", 0),
        **counts,
        "ranges": parts,
    }
    return {**counts, "epochs": [row]}


@dataclass
class World:
    """One vehicle: seq 0 to 3 landed, 2 was resent, 4 pending, 5 evicted, 6 in doubt, 7 never accepted.

    A record of another vehicle was rejected.
    """

    records: list[LogRecord] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    receipts: list[tuple[Identity, str]] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    bounds: dict[int, tuple[int, int]] = field(default_factory=lambda: {0: (0, 6), 1: (0, 0)})
    offered: set[str] | None = None

    def evidence(self) -> Evidence:
        return Evidence(
            Log(self.bounds, tuple(self.records)),
            self.rows,
            self.receipts,
            self.accounts,
            TOPIC_ID,
            self.offered,
        )

    def judged(self) -> dict[str, Any]:
        return judge(self.evidence())

    def broken(self) -> set[str]:
        verdict = self.judged()
        assert verdict["held"] == (not verdict["violations"])
        return set(verdict["violations"])


def row_of(record: LogRecord, outcome: str = "landed", **changes: Any) -> Row:
    row = Row(
        TOPIC_ID,
        record.partition,
        record.offset,
        outcome,
        record.identity,
        record.value_sha256,
        offset_end=record.offset + 1,
    )
    if outcome == "landed":
        row = replace(
            row, payload_sha256=record.payload_sha256, payload_digest=record.payload_sha256, payload_uri=""
        )
    if outcome == "rejected":
        row = replace(row, identity=None, raw_value_digest=record.value_sha256)
    return replace(row, **changes)


def true_world() -> World:
    world = World()
    for offset, seq in enumerate((0, 1, 2, 2, 3)):
        world.records.append(
            LogRecord(0, offset, named(seq), digest(f"value {seq}"), digest(f"payload {seq}"))
        )
    world.records.append(LogRecord(0, 5, named(0, "car-2"), digest("rubbish"), digest("payload x")))
    for record in world.records[:3] + world.records[4:5]:
        world.rows.append(row_of(record))
    world.rows.append(row_of(world.records[3], "resent", resend_of=f"{TOPIC_ID}/0/2"))
    world.rows.append(row_of(world.records[5], "rejected"))
    world.receipts = [(named(seq), digest(f"value {seq}")) for seq in range(7)]
    world.accounts = {
        "car-1": account(
            "car-1",
            ledger(
                delivered=[[0, 4]],
                pending=[[4, 5]],
                evicted={"quota": [[5, 6]]},
                in_doubt=[[6, 7]],
                never_accepted=[[7, 8]],
            ),
        )
    }
    world.offered = {digest(f"payload {seq}") for seq in range(8)}
    return world
