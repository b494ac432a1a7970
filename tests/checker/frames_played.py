"""What a recording that was played round and round must leave: every frame of every lap accepted or counted, once.

Pure. Known: which frames the recording has (some of them no pictures), what the log has of them, and the exported
ledger after the last lap was played to its end and the spool was drained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from tests.checker.broker_log import LogRecord
from tests.checker.told import Identity


@dataclass(frozen=True, slots=True)
class Recording:
    """One lap: sha256 of each picture, and how many frames are none."""

    pictures: Set[str]
    broken: int


@dataclass(frozen=True, slots=True)
class Books:
    """What came of the frames: laps as the broken frames tell them, pictures accepted, refused by reason."""

    laps: int
    accepted: int
    not_accepted: Mapping[str, int]

    @property
    def frames(self) -> int:
        return self.accepted + sum(self.not_accepted.values())


def books(recording: Recording, records: Iterable[LogRecord], ledger: Mapping[str, Any]) -> Books:
    """Count the identities of the pictures in the log; resends count once."""
    identities = {
        record.identity
        for record in records
        if record.identity is not None and record.payload_sha256 in recording.pictures
    }
    refused = {str(reason): int(count) for reason, count in ledger["not_accepted"].items()}
    return Books(refused.get("unreadable_image", 0) // recording.broken, len(identities), refused)


def frames_violations(
    recording: Recording, records: Iterable[LogRecord], ledger: Mapping[str, Any]
) -> list[str]:
    """Every way in which frames were lost, taken twice or counted wrongly, in words."""
    kept = list(records)
    told = books(recording, kept, ledger)
    found = []
    broken = told.not_accepted.get("unreadable_image", 0)
    if broken % recording.broken:
        found.append(f"refused_miscounted: {broken} frames without a picture, {recording.broken} a lap")
    frames = told.laps * (len(recording.pictures) + recording.broken)
    if told.frames != frames:
        found.append(
            f"frames_miscounted: {told.accepted} accepted + {dict(told.not_accepted)} are {told.frames},"
            f" {told.laps} laps are {frames}"
        )
    takes: dict[str, set[Identity]] = defaultdict(set)
    for record in kept:
        if record.identity is not None and record.payload_sha256 in recording.pictures:
            takes[record.payload_sha256 or ""].add(record.identity)
    for digest, identities in takes.items():
        if len(identities) > told.laps:
            found.append(f"captured_again: {digest[:12]} {len(identities)} times in {told.laps} laps")
    return found + epoch_violations(ledger)


def epoch_violations(ledger: Mapping[str, Any]) -> list[str]:
    """Epochs are one chain: each says which one was before it."""
    found, before = [], ""
    for epoch in ledger["epochs"]:
        if epoch["previous_epoch"] != before:
            found.append(
                f"epochs_broken: {epoch['epoch']} follows {epoch['previous_epoch']!r}, not {before!r}"
            )
        before = epoch["epoch"]
    return found
