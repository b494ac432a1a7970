"""Which words of the fleet a vehicle may believe, by what it could know of the time: pure, from plain JSON documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

SLACK_NS = 3_600_000_000_000
"""An hour: what a vehicle may not have written down when it lost its power."""


@dataclass(frozen=True, slots=True)
class Word:
    """What the repository said: when it was issued, and when the first of its documents expires (UTC)."""

    issued_ns: int
    expires_ns: int


@dataclass(frozen=True, slots=True)
class Look:
    """One time the vehicle asked. `ran_ns`: for how long it ran, all boots together, until then."""

    word: Word
    wall_ns: int
    ran_ns: int
    has_accepted: bool
    what: str


def read_word(metadata: Path) -> Word:
    """The newest documents of a repository, their JSON only; signatures are not this checker's."""
    expires, issued = [], 0
    timestamp = json.loads((metadata / "timestamp.json").read_text())["signed"]
    snapshot_version = timestamp["meta"]["snapshot.json"]["version"]
    snapshot = json.loads((metadata / f"{snapshot_version}.snapshot.json").read_text())["signed"]
    targets_version = snapshot["meta"]["targets.json"]["version"]
    targets = json.loads((metadata / f"{targets_version}.targets.json").read_text())["signed"]
    for signed in (timestamp, snapshot, targets):
        expires.append(datetime.fromisoformat(signed["expires"].replace("Z", "+00:00")).timestamp())
    issued = int(timestamp["x-fleetloop-issued-s"])
    return Word(issued * 1_000_000_000, round(min(expires) * 1e9))


def freeze_violations(looks: Sequence[Look]) -> list[str]:
    """Expired words that were believed, and good ones that were not.

    What a vehicle knows of the time: never less than when the newest word that it accepted was issued, and what it
    ran since; or what its wall clock shows, when that is more.
    """
    found = []
    known_ns, at_ns = 0, 0
    for look in looks:
        known_ns, at_ns = known_ns + look.ran_ns - at_ns, look.ran_ns
        late_ns = max(look.wall_ns, known_ns) - look.word.expires_ns
        least_ns = max(look.wall_ns, known_ns - SLACK_NS) - look.word.expires_ns
        hours = f"{look.what}: {late_ns / 3.6e12:.1f} h after its end, by clock or by what it knew"
        if look.has_accepted and least_ns > 0:
            found.append(f"frozen_word_believed: {hours}")
        if not look.has_accepted and late_ns < 0:
            found.append(f"good_word_refused: {hours}")
        if look.has_accepted:
            known_ns = max(known_ns, look.word.issued_ns)
    return found
