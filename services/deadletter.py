"""List rejected records, and replay them after a fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from connectors.lake.table import LakeTable
from foundation.clock import SystemClock
from foundation.errors import MisconfiguredError
from pipelines.ingest import deadletter
from pipelines.ingest.deadletter import ReplayReport
from pipelines.ingest.settings import IngestSettings
from schemas.reasons import RejectReason
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Rejected records that no replay superseded: their count, the count per reason, and the first by offset.

    A letter has the columns `pipelines.ingest.deadletter.LISTED` and `value_bytes`.
    """

    count: int
    by_reason: Mapping[str, int]
    letters: tuple[Mapping[str, Any], ...]


def list_letters(place: Workspace, reason: str = "", limit: int = 100) -> DeadLetters:
    """Return the open dead letters of one reason, or of all; `limit` bounds the letters, never the counts.

    Raises MisconfiguredError when there is no such reason or no lake.
    """
    found = deadletter.dead_letters(_arrivals(place).snapshot(), _reason(reason))
    counts = dict(sorted(Counter(found.column("reason").to_pylist()).items()))
    return DeadLetters(found.num_rows, counts, tuple(found.slice(0, limit).to_pylist()))


def replay(place: Workspace, reason: str = "") -> ReplayReport:
    """Verify rejected records again; those that pass now land once and refer to the rejection that they supersede.

    Without a reason those beyond a vehicle's quota (over_quota) are left as they are.

    Raises:
        MisconfiguredError: there is no such reason, or no lake.
        RetryLaterError: other writers committed first at every attempt.
    """
    return deadletter.replay(
        _arrivals(place),
        load_enrolment(place.enrolment_path),
        IngestSettings(commit_wait_s=place.settings.lock_wait_s, blobs=place.settings.blobs),
        SystemClock(),
        _reason(reason),
    )


def _arrivals(place: Workspace) -> LakeTable:
    return LakeTable.open(place.arrivals_uri)


def _reason(word: str) -> RejectReason | None:
    if not word:
        return None
    if word not in RejectReason.__members__.values():
        raise MisconfiguredError(f"there is no reason {word!r}; it is one of {', '.join(RejectReason)}")
    return RejectReason(word)
