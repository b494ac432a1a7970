"""Bring what an earlier release wrote to the form of today: look first, then change one document after another.

Every document has a reader for each released version, so nothing has to be migrated before it can be read; a migration
writes what today's code would have written, so that old forms do not stay for ever. It is resumable without a record of
its own: what is left to do is seen from the documents, each step replaces one of them atomically, and their order keeps the
whole usable between any two. Nothing is changed while a document cannot be read.

A vehicle's state folder has no document that needs to be rewritten yet: its own processes read every released form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from foundation.clock import Clock
from foundation.errors import FleetLoopError


@dataclass(frozen=True, slots=True)
class Step:
    """One document. `pending` says what would be done ("" for nothing), `by_hand` what only a person can do."""

    name: str
    pending: Callable[[], str]
    apply: Callable[[], None]
    by_hand: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A document by its path below the folder, and what there is to say about it."""

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Migration:
    """What was done (or would be, in a dry run), what is left to a person, and what cannot be read.

    With anything unreadable, nothing was done: `steps` is what would be.
    """

    steps: tuple[Finding, ...]
    by_hand: tuple[Finding, ...] = ()
    unreadable: tuple[Finding, ...] = ()
    is_dry_run: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the steps were carried out."""
        return not self.is_dry_run and not self.unreadable


def unreadable(readers: Iterable[tuple[str, Callable[[], object]]]) -> tuple[Finding, ...]:
    """The documents that today's readers refuse, and why."""
    found = []
    for name, read in readers:
        try:
            read()
        except FleetLoopError as error:
            found.append(Finding(name, str(error)))
    return tuple(found)


def run(steps: Iterable[Step], broken: tuple[Finding, ...], *, is_dry_run: bool) -> Migration:
    """Carry out what is pending, in order, unless it is a dry run or something cannot be read.

    Raises whatever a step raises; the steps before it stay done, and the next run goes on there.
    """
    done, by_hand = [], []
    for step in steps:
        if words := step.by_hand():
            by_hand.append(Finding(step.name, words))
        if words := step.pending():
            if not is_dry_run and not broken:
                step.apply()
            done.append(Finding(step.name, words))
    return Migration(tuple(done), tuple(by_hand), broken, is_dry_run)


def migrate_vehicle(state_folder: Path, clock: Clock, *, is_dry_run: bool = False) -> Migration:
    """Read every document of a vehicle's state folder; nothing in it needs to be rewritten yet."""
    from edge_agent.models.slots import SlotFolder
    from edge_agent.models.trust import SavedTrust
    from edge_agent.models.trust_folder import TrustFolder
    from edge_agent.models.vehicle import read_vehicle
    from edge_agent.spool.snapshot import read_ledger
    from edge_agent.state_folder import StateFolder

    state, slots = StateFolder(state_folder), SlotFolder(state_folder)
    readers: list[tuple[str, Callable[[], object]]] = [
        ("vehicle.json", lambda: read_vehicle(state_folder)),
        ("models/factory.json", slots.read_factory),
        ("models/active.json", slots.read_active),
        ("models/candidate.json", slots.read_candidate),
        ("models/fetch.json", slots.read_fetch),
        ("spool", lambda: read_ledger(state.spool)),
    ]
    if (state.trust / "targets").is_dir():
        readers.append(("trust", lambda: SavedTrust.load(TrustFolder(state_folder), clock, fresh=False)))
    return run((), unreadable(readers), is_dry_run=is_dry_run)
