"""What the writer's caller wants to be as durable as its records: a state that moves on by steps, one with each record.

A step is written before its record, in the same segment and the same write, and holds if the record is accepted. What was
written only elsewhere up to then goes before it in the same frame: the steps of commits without a record after them (the
ledger has them, but may not have been synced), and those of records of other segments of the same commit. So one segment
that is durable says all that led to its last record. The ledger's snapshot holds the whole state, so that segments may
leave. The spool does not know what a state is: it is a plain JSON value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from edge_agent.spool.ranges import RangeSet

LastAccepted = Callable[[str], int]
"""epoch -> the last number of it that was accepted, -1 for none."""


class Carried(Protocol):
    """The state that a ledger carries. None of these raises: what cannot be read is told and left out."""

    def apply(self, state: object, *, is_accepted: bool) -> bool:
        """Move on by a step; False when it is behind what is known. Not `is_accepted`: its record was refused."""

    def join(self, states: Sequence[object]) -> object:
        """Return one step that leads where these lead, of which no record was accepted."""

    def restore(self, whole: object) -> None:
        """Become what `snapshot` gave."""

    def snapshot(self, *, is_short: bool = False) -> object | None:
        """Return the whole state, None while it is not known. `is_short`: without what a full disk has no room for."""

    def begin(self, last_accepted: LastAccepted) -> dict[str, object] | None:
        """Return the ledger was read to its end. Returns the counts of refused frames, if it knows better than the ledger."""


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
    """Steps that are in the ledger only, and so not durable before it is synced: the next segments take them along."""

    MOST = 64
    """Beyond it they are joined: while the disk takes neither segments nor ledger, memory stays bounded."""

    def __init__(self, carried: Carried | None) -> None:
        self._carried = carried
        self.steps: list[Step] = []

    def keep(self, steps: Iterable[Step], after: int) -> None:
        """Of those kept and `steps`, keep what is after the step `after`, which a durable segment holds."""
        self.steps = [step for step in (*self.steps, *steps) if step.at > after]
        if len(self.steps) > self.MOST and self._carried is not None:
            last = self.steps[-1]
            counts = next((step.counts for step in reversed(self.steps) if step.counts), None)
            state = self._carried.join([step.state for step in self.steps])
            self.steps = [Step(last.at, -1, state, counts)]


def encode_steps(steps: Sequence[Step]) -> bytes:
    """Return the body of a step's frame: the step of its record, behind those that it takes along."""
    return msgspec.json.encode(steps)


def decode_steps(body: bytes) -> list[Step]:
    """Return what `encode_steps` wrote; nothing for anything else, which costs the steps and no more."""
    try:
        return msgspec.json.decode(body, type=list[Step])
    except (msgspec.DecodeError, RecursionError):
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
