"""`fleetloop migrate`: migrate a workspace or a vehicle's state folder from an earlier release."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fleetloop.options import AsJson
from fleetloop.terminal import print_json, say
from foundation.clock import SystemClock
from foundation.errors import CorruptError, MisconfiguredError

app = typer.Typer(add_completion=False)


@app.command()
def migrate(
    workspace: Annotated[Path | None, typer.Option("--workspace", help="The workspace's folder.")] = None,
    state: Annotated[Path | None, typer.Option("--state", help="A vehicle's state folder.")] = None,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Migrate a workspace or a vehicle's state folder from an earlier release; after a crash, run it again."""
    from services.migrate import migrate_vehicle

    if workspace is not None and state is not None:
        raise MisconfiguredError("name a workspace or a state folder, not both")
    recorded = None
    if state is not None:
        if not state.is_dir():
            raise MisconfiguredError(f"there is no state folder {state}")
        done = migrate_vehicle(state, SystemClock(), is_dry_run=is_dry_run)
    else:
        from services.migrate_workspace import migrate_workspace
        from workspace.layout import Workspace

        done, recorded = migrate_workspace(Workspace.open(workspace or Path()), is_dry_run=is_dry_run)
    if as_json:
        print_json({**asdict(done), "git": recorded and asdict(recorded)})
    else:
        for each in done.steps:
            say(f"{'done' if done.is_done else 'to do'}: {each.name} {each.what}")
        for each in done.by_hand:
            say(f"by hand: {each.name} {each.what}")
        if not (done.steps or done.by_hand or done.unreadable):
            say("nothing to migrate")
        if recorded is not None and recorded.why:
            say(f"git: {recorded.why}")
    if done.unreadable:
        words = "; ".join(f"{each.name}: {each.what}" for each in done.unreadable)
        raise CorruptError(f"nothing was changed, because this cannot be read: {words}")
