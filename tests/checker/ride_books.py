"""What one ride with a bad uplink must show: every frame handled, memory kept, the backlog gone afterwards.

Pure, and of nothing but numbers: sampled from /proc, counted in the receipts file, told by the exported ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_GROWTH_BYTES = 64_000_000
LEAST_RATE_RATIO = 0.5
"""Of the frame rate before the disturbance. Half, because the machine is shared with others."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One of them, from its beginning until the uplink was as before and the backlog of then was delivered."""

    name: str
    rate_before_hz: float
    rate_during_hz: float
    backlog: int
    """Records that were accepted and not delivered when the uplink came back."""
    drained_s: float | None
    """How long that backlog took; None: it was not delivered within the patience of the test."""


@dataclass(frozen=True, slots=True)
class Ride:
    """The whole of it, after a clean stop."""

    frames_seen: int
    receipts: int
    accepted: int
    not_accepted: Mapping[str, int]
    perceive_restarts: int
    growth_bytes: Mapping[str, int]
    """By process: the largest resident size minus the steady one before the first disturbance."""


def disturbance_violations(told: Disturbance) -> list[str]:
    """What one disturbance broke, in words; empty when it broke nothing."""
    found = []
    if told.rate_during_hz < LEAST_RATE_RATIO * told.rate_before_hz:
        found.append(f"frames_missed: {told.rate_during_hz:.1f} Hz, {told.rate_before_hz:.1f} Hz before")
    if told.drained_s is None:
        found.append(f"backlog_stays: {told.backlog} records were not delivered after the uplink came back")
    return found


def ride_violations(ride: Ride) -> list[str]:
    """What the ride as a whole broke, in words."""
    found = []
    refused = sum(ride.not_accepted.values())
    if ride.not_accepted:
        found.append(f"frames_refused: {dict(ride.not_accepted)}; there was room and nothing to refuse")
    if ride.frames_seen != ride.accepted + refused:
        found.append(f"frames_missed: {ride.frames_seen} seen, {ride.accepted} accepted, {refused} refused")
    if ride.receipts != ride.accepted:
        found.append(f"receipts_differ: {ride.receipts} receipts, {ride.accepted} accepted")
    if ride.perceive_restarts:
        found.append(f"perceive_died: {ride.perceive_restarts} times")
    for process, grown in ride.growth_bytes.items():
        if grown > MAX_GROWTH_BYTES:
            found.append(
                f"memory_grew: {process} by {grown / 1e6:.0f} MB (bound {MAX_GROWTH_BYTES / 1e6:.0f} MB)"
            )
    return found
