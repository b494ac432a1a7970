"""Bring what an earlier release wrote to the form of today: look first, then change one document after another.

Every document has a reader for each released version, so nothing has to be migrated before it can be read; a migration
writes what today's code would have written, so that old forms do not stay for ever. It is resumable without a record of
its own: what is left to do is seen from the documents, each step replaces one of them atomically, and their order keeps the
whole usable between any two. Nothing is changed while a document cannot be read.

In a vehicle's state folder the files of the role serving move beside those of the other roles, while the agent is stopped.
An agent of a release before roles that is put back afterwards finds the factory model and serves it. The next
migration unites what it wrote with what was there. Perceive takes the
place in each source over into its spool at its first start.

A document that changed only by keys is not rewritten: a missing version is version 1 for ever, and each is written anew by
whoever changes it next. To add a step, write a function that gives a `Step`: `pending` reads the document and says in words
what would be done, "" once it is done; `apply` replaces it by one atomic change. Put it behind those whose result it needs:
of a state folder into `vehicle_steps`, of a workspace into `services.migrate_workspace.workspace_steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.state_folder import StateFolder
from foundation.clock import Clock
from foundation.errors import FleetLoopError
from foundation.files import FileLock, read_document

if TYPE_CHECKING:
    from edge_agent.models.slots import SlotFolder


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
    """Return the documents that today's readers refuse, and why."""
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


def vehicle_steps(state_folder: Path) -> list[Step]:
    """Return the migration steps of a vehicle's state folder, in a safe order."""
    from edge_agent.models.slots import ROLE_FILES, SlotFolder

    return [_moved(SlotFolder(state_folder), name) for name in ROLE_FILES]


def migrate_vehicle(state_folder: Path, clock: Clock, *, is_dry_run: bool = False) -> Migration:
    """Read every document of a vehicle's state folder, and move those that lie elsewhere today.

    Raises:
        RetryLaterError: the agent runs; what was done stays done.
    """
    from edge_agent.durable_progress import check_progress
    from edge_agent.models.slots import SlotFolder
    from edge_agent.models.trust import SavedTrust
    from edge_agent.models.trust_folder import TrustFolder
    from edge_agent.models.vehicle import read_vehicle
    from edge_agent.spool.snapshot import read_ledger
    from edge_agent.telemetry import START

    state, slots = StateFolder(state_folder), SlotFolder(state_folder)
    readers: list[tuple[str, Callable[[], object]]] = [
        ("vehicle.json", lambda: read_vehicle(state_folder)),
        ("models/factory.json", slots.read_factory),
        *(
            (str(each.file(f"{word}.json").relative_to(state_folder)), getattr(each, f"read_{word}"))
            for each in (slots, *(SlotFolder(state_folder, role) for role in slots.other_roles()))
            for word in ("active", "candidate", "fetch")
        ),
        ("spool", lambda: read_ledger(state.spool)),
        ("progress", lambda: check_progress(state.spool, state.released_progress_path, clock)),
    ]
    if (state.trust / "targets").is_dir():
        readers.append(("trust", lambda: SavedTrust.load(TrustFolder(state_folder), clock, fresh=False)))
    if state.deliver_epochs_path.is_file():
        readers.append(
            (state.deliver_epochs_path.name, lambda: read_document(state.deliver_epochs_path, START))
        )
    with ExitStack() as stack:
        if not is_dry_run:
            state.run.mkdir(exist_ok=True)
            for process in ("perceive", "deliver"):
                stack.enter_context(FileLock(state.lock_path(process), clock=clock))
        return run(vehicle_steps(state_folder), unreadable(readers), is_dry_run=is_dry_run)


def _moved(slots: SlotFolder, name: str) -> Step:
    old, new = slots.old_file(name), slots.new_file(name)

    def pending() -> str:
        return f"moves to {new.relative_to(slots.path.parent)}" if old is not None and old.exists() else ""

    return Step(f"models/{name}", pending, lambda: slots.move_old_file(name))
