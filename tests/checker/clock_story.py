"""What a drive with a jumping clock must leave in the log: order and identity as ever, and a flag at every doubtful time.

Pure. Known: of each frame, in the order in which they were offered, what the clock showed and whether it had jumped
in the life of that process; the receipts; the records of the log, decoded here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import fastavro

from tests.checker.broker_log import Schemas

BUILT_NS = 1_767_225_600_000_000_000
"""2026-01-01: no clock that is right shows less."""
JUST_AFTER_NS = 1_000_000_000
"""How far the time of a record may lie from the time that was told of its frame."""
YEAR_NS = 365 * 86_400 * 1_000_000_000
TOO_FAR_NS = 9 * YEAR_NS
JUMP_NS = 3_600_000_000_000
"""Far beyond what lies between the two looks at the clocks of one record, far below any jump of a try."""
"""So far ahead of the truth, a time is flagged even when no jump was seen."""

STEADY_NS = 60_000_000_000
"""So long after a jump, by the monotonic clock, times are doubtful."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One frame at the moment of its capture. `has_jumped`: the wall clock, since this process began."""

    frame_id: str
    wall_ns: int
    true_ns: int
    has_jumped: bool


@dataclass(frozen=True, slots=True)
class Delivered:
    """One record of the log."""

    frame_id: str
    epoch: str
    previous_epoch: str
    seq: int
    capture_time_ns: int
    spool_time_ns: int
    boot_id: str
    monotonic_ns: int
    time_quality: str


def decode(value: bytes, schemas: Schemas) -> dict[str, Any]:
    """The fields of one record, by fastavro. Raises KeyError for a record of no known schema."""
    fields: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(value[10:]), schemas[value[:10]], None)
    return fields


def delivered(values: Sequence[bytes], schemas: Schemas) -> list[Delivered]:
    """Every sample of the log."""
    names = Delivered.__slots__
    return [
        Delivered(**{name: fields[name] for name in names})
        for fields in (decode(value, schemas) for value in values)
    ]


def flag_violations(moments: Mapping[str, Moment], records: Sequence[Delivered]) -> list[str]:
    """Times that are wrong and say ok, and times that are right and say they are not."""
    found = []
    for record in records:
        moment, quality = moments[record.frame_id], record.time_quality
        told = (
            f"{record.frame_id}: {quality}, the clock was {(moment.wall_ns - moment.true_ns) / 1e9:.0f} s off"
        )
        if abs(record.spool_time_ns - moment.wall_ns) > JUST_AFTER_NS:
            found.append(f"time_changed: {told}, spooled at {record.spool_time_ns}")
        if moment.wall_ns < BUILT_NS:
            if quality != "before_build":
                found.append(f"not_flagged: {told}")
        elif moment.wall_ns - moment.true_ns > TOO_FAR_NS or moment.has_jumped:
            if quality == "ok":
                found.append(f"not_flagged: {told}")
        elif quality != "ok":
            found.append(f"flagged_for_nothing: {told}")
    return found


def own_flag_violations(records: Sequence[Delivered]) -> list[str]:
    """The same, from the records alone: a time of no year that can be, or one that does not go with the monotonic
    clock of its process, is flagged.
    """
    found = []
    last: dict[str, Delivered] = {}
    doubted: dict[str, tuple[int, int]] = {}
    for record in sorted(records, key=lambda record: (record.epoch, record.seq)):
        before = last.setdefault(record.epoch, record)
        off_ns, before_ns = (one.spool_time_ns - one.monotonic_ns for one in (record, before))
        if abs(off_ns - before_ns) > JUMP_NS:  # somewhere between the two
            doubted[record.epoch] = (before.monotonic_ns + STEADY_NS, record.monotonic_ns + STEADY_NS)
        surely_ns, perhaps_ns = doubted.get(record.epoch, (0, 0))
        is_impossible = not BUILT_NS <= record.spool_time_ns <= BUILT_NS + TOO_FAR_NS
        last[record.epoch] = record
        if not is_impossible and surely_ns <= record.monotonic_ns < perhaps_ns:
            continue
        is_doubtful = is_impossible or record.monotonic_ns < surely_ns
        if is_doubtful == (record.time_quality == "ok"):
            word = "not_flagged" if is_doubtful else "flagged_for_nothing"
            found.append(
                f"{word}: {record.epoch}/{record.seq} {record.time_quality} at {record.spool_time_ns}"
            )
    return found


def order_violations(order: Sequence[str], records: Sequence[Delivered], epochs: Sequence[str]) -> list[str]:
    """(Epoch, seq) tells the order of capture, whatever the times say; epochs are one chain; no name is given twice."""
    found = []
    names = [(record.epoch, record.seq) for record in records]
    for name in {name for name in names if names.count(name) > 1}:
        found.append(f"landed_twice: {name}")
    place = {epoch: number for number, epoch in enumerate(epochs)}
    for record in records:
        number = place.get(record.epoch, -1)
        before = epochs[number - 1] if number > 0 else ""
        if number < 0 or record.previous_epoch != before:
            found.append(f"epochs_broken: {record.epoch} follows {record.previous_epoch!r}, not {before!r}")
    at = {frame_id: number for number, frame_id in enumerate(order)}
    frames = [
        at[record.frame_id]
        for record in sorted(records, key=lambda record: (place.get(record.epoch, -1), record.seq))
    ]
    if any(second <= first for first, second in pairwise(frames)):
        found.append(f"order_lost: frames by epoch and seq are {frames[:40]}")
    steps: dict[tuple[str, str], int] = {}
    for record in sorted(records, key=lambda record: (place.get(record.epoch, -1), record.seq)):
        life = (record.epoch, record.boot_id)
        if record.monotonic_ns < steps.get(life, 0):
            found.append(f"monotonic_goes_back: {record.epoch}/{record.seq}")
        steps[life] = record.monotonic_ns
    return found


def books_violations(
    receipts: Sequence[tuple[str, int]], records: Sequence[Delivered], ledger: Mapping[str, Any], frames: int
) -> list[str]:
    """Everything accepted arrived, nothing was evicted for its age, and every frame is in the books."""
    found = []
    landed = {(record.epoch, record.seq) for record in records}
    lost = [name for name in receipts if name not in landed]
    if lost:
        found.append(f"accepted_and_lost: {len(lost)}, {lost[:3]}")
    for state in ("pending", "in_doubt", "evicted"):
        if ledger[state]:
            found.append(f"not_delivered: {state} {ledger[state]}")
    counted = ledger["accepted"] + sum(ledger["not_accepted"].values())
    if (ledger["accepted"], counted) != (len(landed), frames):
        found.append(
            f"frames_miscounted: {ledger['accepted']} accepted, {counted} in all;"
            f" {len(landed)} landed of {frames} frames"
        )
    return found


def pace_violations(
    sent: int, life_s: float, interval_s: float, drained_s: float, drain_bound_s: float
) -> list[str]:
    """Telemetry went on at its interval, and the backlog went within its time: neither follows the wall clock."""
    found = []
    if sent < life_s / interval_s / 2:
        found.append(f"telemetry_stalled: {sent} records in {life_s:.0f} s, one in {interval_s:.0f} s is due")
    if sent > 2 * life_s / interval_s + 2:
        found.append(f"telemetry_floods: {sent} records in {life_s:.0f} s, one in {interval_s:.0f} s is due")
    if drained_s > drain_bound_s:
        found.append(
            f"delivery_stalled: {drained_s:.1f} s until all was delivered, the bound is {drain_bound_s} s"
        )
    return found
