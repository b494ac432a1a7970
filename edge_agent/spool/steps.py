"""State of the writer's caller that is as durable as its records: it advances by steps, one with each record.

A step is written before its record, in the same segment and the same write, and is valid if the record is accepted.
Steps that were so far written only elsewhere go before it in the same frame: those of commits without a record after
them (the ledger has them, but may not have been synced), and those of records of other segments of the same commit. So
one durable segment contains all steps up to its last record. The ledger's snapshot holds the whole state, so that
segments may be removed. To the spool a state is a plain JSON value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from edge_agent.spool.ranges import RangeSet

LastAccepted = Callable[[str], int]
"""epoch -> its last accepted number, -1 for none."""


class Carried(Protocol):
    """The state that a ledger carries. No method raises: what cannot be read is reported and left out."""

    def apply(self, state: object, *, is_accepted: bool) -> bool:
        """Advance by a step; return False when it is older than the state. Not `is_accepted`: its record was refused."""

    def join(self, states: Sequence[object]) -> object:
        """Merge steps, of which no record was accepted, into one."""

    def restore(self, whole: object) -> None:
        """Restore the state that `snapshot` returned."""

    def snapshot(self, *, is_short: bool = False) -> object | None:
        """Return the whole state, None while it is unknown. `is_short`: without what does not fit on a full disk."""

    def begin(self, last_accepted: LastAccepted) -> dict[str, object] | None:
        """Start, after the ledger was read. Returns the counts of refused frames, if they are newer than the ledger's."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One step of the carried state. Written as a list; what a later version adds comes at the end, with a default.

    `at` counts the steps of an epoch, `seq` is that of its record (-1 without one), `counts` says how many frames were
    refused up to it, as a ledger has it (None: as in the step before).
    """

    at: int
    seq: int
    state: object | None
    counts: dict[str, object] | None


class LooseSteps:
    """Steps that are only in the ledger, and so not durable before it is synced: the next segments include them."""

    MOST = 64
    """More steps are merged, so that memory stays bounded while the disk accepts neither segments nor ledger."""

    def __init__(self, carried: Carried | None) -> None:
        self._carried = carried
        self.steps: list[Step] = []

    def keep(self, steps: Iterable[Step], after: int) -> None:
        """Keep the steps after the step `after`, which a durable segment holds, and add `steps`."""
        self.steps = [step for step in (*self.steps, *steps) if step.at > after]
        if len(self.steps) > self.MOST and self._carried is not None:
            last = self.steps[-1]
            counts = next((step.counts for step in reversed(self.steps) if step.counts), None)
            state = self._carried.join([step.state for step in self.steps])
            self.steps = [Step(last.at, -1, state, counts)]


def encode_steps(steps: Sequence[Step]) -> bytes:
    """Return the body of a step's frame: earlier steps first, then that of its record."""
    return msgspec.json.encode(steps)


def decode_steps(body: bytes) -> list[Step]:
    """Return what `encode_steps` wrote; an empty list for anything else, which loses the steps and nothing more."""
    try:
        return msgspec.json.decode(body, type=list[Step])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []


def for_ledger(steps: Iterable[Step], gaps: RangeSet) -> dict[str, object]:
    """Return the keys of a commit frame: the states, each with whether its record (if any) is accepted, and the newest counts."""
    found: dict[str, object] = {}
    states = []
    for step in steps:
        if step.state is not None:
            states.append([int(step.seq < 0 or step.seq not in gaps), step.state])
        if step.counts is not None:
            found["counts"] = step.counts
    return {**found, "steps": states} if states else found
