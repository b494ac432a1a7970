"""The verdict on one spool after a fault: what had a receipt, what came out, and what the exported ledger says.

Pure, and imports nothing of the product. The sink is a list of what was handed out, in order; the ledger is the JSON
of its export. A key is (epoch, seq).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple

Key = tuple[str, int]
_PLACES = ("delivered", "pending", "in_doubt", "never_accepted")


class Received(NamedTuple):
    """One record at the sink: whose it says it is, sha256 of its value, and the frame that is in it."""

    key: Key
    sha256: str
    frame: str


@dataclass(slots=True)
class Told:
    """What the outside world knows from before the fault."""

    receipts: dict[Key, str] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    durable: set[Key] = field(default_factory=set)
    """Acknowledgements that the spool said are on the disk."""
    offered: set[str] | None = None
    """Frames that were ever offered; None: not known."""


@dataclass(frozen=True, slots=True)
class Excuses:
    """Which places of the ledger excuse that a record with a receipt never came out: place -> keys (None: any)."""

    evicted: Mapping[str, Collection[Key] | None] = field(default_factory=dict)
    in_doubt: bool = True
    lost_acknowledgements: bool = False
    """Whether the file that holds them was damaged: then they may be sent again."""
    forgotten: Collection[Key] = ()
    """Delivered records that a damaged ledger need not know any more."""


def received(key: Key, value: bytes) -> Received:
    """What the sink notes of a record: the hash is the sink's own."""
    frame = re.search(rb"frame-\d+", value)
    return Received(key, sha256(value).hexdigest(), frame[0].decode() if frame else "")


def judge_books(
    told: Told,
    after: Sequence[Received],
    ledger: Mapping[str, Any],
    excuses: Excuses,
    *,
    drained: bool = True,
) -> list[str]:
    """Every broken promise, as `rule: evidence`. `after` came out after the fault, until nothing was left."""
    return [
        *_adds_up(ledger, drained),
        *_is_what_was_accepted(told, after),
        *_came_once(told, after, excuses),
        *_nothing_is_lost(told, after, ledger, excuses),
        *_says_the_truth(told, after, ledger, excuses),
    ]


def places(ledger: Mapping[str, Any]) -> dict[Key, list[str]]:
    """What the ledger says of every number that it knows one by one."""
    found: dict[Key, list[str]] = {}
    for row in ledger["epochs"]:
        ranges = row["ranges"]
        parts = {place: ranges[place] for place in _PLACES}
        parts |= {f"evicted:{reason}": part for reason, part in ranges["evicted"].items()}
        for place, pairs in parts.items():
            for begin, end in pairs:
                for seq in range(begin, end):
                    found.setdefault((row["epoch"], seq), []).append(place)
    return found


def _adds_up(ledger: Mapping[str, Any], drained: bool) -> Iterator[str]:
    for name, row in [("all", ledger), *((row["epoch"], row) for row in ledger["epochs"])]:
        parts = row["delivered"] + row["pending"] + row["in_doubt"] + sum(row["evicted"].values())
        if row["accepted"] != parts:
            yield f"ledger_does_not_balance: {name}: {row['accepted']} is not {parts}"
    if drained and ledger["pending"]:
        yield f"pending_and_not_delivered: {ledger['pending']} records"
    if ledger["problems"]:
        yield f"ledger_has_problems: {ledger['problems'][:2]}"
    for key, where in places(ledger).items():
        if len(where) > 1:
            yield f"ledger_says_two_things: {key}: {where}"


def _is_what_was_accepted(told: Told, after: Sequence[Received]) -> Iterator[str]:
    before = {one.key: one.sha256 for one in told.received}
    for one in after:
        stated = told.receipts.get(one.key) or before.get(one.key)
        if stated is not None and one.sha256 != stated:
            yield f"other_bytes: {one.key}: {one.sha256[:12]}, its receipt {stated[:12]}"
        if told.offered is not None and one.frame not in told.offered:
            yield f"never_offered: {one.key}: {one.frame!r}"


def _came_once(told: Told, after: Sequence[Received], excuses: Excuses) -> Iterator[str]:
    """Again is allowed (under the same name, so that it is marked) until the acknowledgement is durable."""
    seen: set[Key] = set()
    frames = {one.frame: one.key for one in told.received if one.frame}
    for one in after:
        if one.key in seen:
            yield f"came_twice: {one.key} came twice after the fault"
        if one.key in told.durable and not excuses.lost_acknowledgements:
            yield f"came_back: {one.key}, whose acknowledgement was durable"
        if one.frame and frames.setdefault(one.frame, one.key) != one.key:
            yield f"unmarked_twin: {one.frame} came as {frames[one.frame]} and {one.key}"
        seen.add(one.key)


def _nothing_is_lost(
    told: Told, after: Sequence[Received], ledger: Mapping[str, Any], excuses: Excuses
) -> Iterator[str]:
    known = places(ledger)
    here = {one.key for one in after}
    before = {one.key for one in told.received}
    for key in told.receipts:
        where = known.get(key, ["nowhere"])
        if key in before and key in excuses.forgotten:
            continue
        if "nowhere" in where or "never_accepted" in where:
            yield f"accepted_and_unknown: {key} had its receipt and is {where[0]}"
        if key in here or (key in before and where[0] != "nowhere"):
            continue
        place, _, reason = where[0].partition(":")
        if place == "evicted" and reason in excuses.evicted:
            allowed = excuses.evicted[reason]
            if allowed is None or key in allowed:
                continue
        elif place == "in_doubt" and excuses.in_doubt:
            continue
        yield f"accepted_and_lost: {key} had its receipt and is {where[0]}"


def _says_the_truth(
    told: Told, after: Sequence[Received], ledger: Mapping[str, Any], excuses: Excuses
) -> Iterator[str]:
    out = {one.key for one in after} | {one.key for one in told.received}
    known = places(ledger)
    for key, where in known.items():
        if "delivered" in where and key not in out:
            yield f"delivered_and_nowhere: {key}"
        if where[0] == "evicted:quota" and key in out:
            yield f"came_out_and_called_never_sent: {key}"
    for key in told.durable.difference(excuses.forgotten):
        if excuses.lost_acknowledgements:
            return
        where = known.get(key, ["nowhere"])
        if key in told.receipts and where[0] not in ("delivered", "nowhere"):
            yield f"acknowledged_and_called_{where[0]}: {key}"


def judge_frames(
    offered: int, receipts: int, ledger: Mapping[str, Any], events: Collection[str], said: str
) -> list[str]:
    """Every frame that was offered is accepted (and had a receipt) or counted as refused, and a refusal is told.

    `events` are the names of what the agent logged, `said` its last error while it refused.
    """
    broken = []
    refused = sum(ledger["not_accepted"].values())
    if ledger["accepted"] + refused != offered:
        broken.append(
            f"frames_do_not_add_up: {offered} offered, {ledger['accepted']} accepted, {refused} refused"
        )
    if ledger["accepted"] != receipts:
        broken.append(f"accepted_without_receipt: {ledger['accepted']} accepted, {receipts} receipts")
    if refused and ledger["not_accepted"].get("disk_error", 0) != refused:
        broken.append(f"other_reason: {ledger['not_accepted']}, all were refused by the disk")
    if refused and ("disk_error" not in events or not said):
        broken.append(
            f"no_clear_status: {refused} refused, the agent said {said!r} and {sorted(set(events))}"
        )
    return broken
