"""Leave the git repository of a workspace clean after a command, or say why it is not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from foundation.errors import FleetLoopError
from foundation.files import FileLock
from pipelines.dataset.dvc import DvcRepository
from pipelines.dataset.record import commit_written
from workspace.layout import Workspace

WAIT_S = 2.0
"""How long to wait for another writer; what is left then is committed by the next command."""
MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Recorded:
    """Whether git has nothing left to commit; if it has, why ("" in a stage that DVC runs: its caller commits)."""

    is_clean: bool
    why: str = ""


def uncommitted(place: Workspace) -> list[str] | None:
    """Return the changed and untracked paths of the workspace; None where git cannot say."""
    try:
        return DvcRepository(place).changes() if (place.root / ".git").exists() else None
    except FleetLoopError:
        return None


def record_changes(place: Workspace, message: str, also: Sequence[str] = ()) -> Recorded:
    """Commit what FleetLoop wrote (registry, locks, reports, and the paths `also`) under `message`; never fails.

    Other edits of the user (params.yaml, dvc.yaml, fleetloop.toml, anything else) are named and left.
    """
    if "DVC_STAGE" in os.environ:
        return Recorded(False)
    if not (place.root / ".git").exists():
        return Recorded(False, f"{place.root} is not a git repository")
    repository = DvcRepository(place)
    try:
        place.private_path.mkdir(exist_ok=True)
        with FileLock(place.private_path / "dvc.lock", wait_s=min(WAIT_S, place.settings.lock_wait_s)):
            commit_written(repository, message, also)
            left = repository.changes()
    except FleetLoopError as error:
        return Recorded(False, str(error))
    if not left:
        return Recorded(True)
    named = ", ".join(left[:MAX_NAMED]) + (
        f" and {len(left) - MAX_NAMED} more" if len(left) > MAX_NAMED else ""
    )
    return Recorded(False, f"not FleetLoop's to commit: {named}")
