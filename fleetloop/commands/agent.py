"""`fleetloop agent`: run the on-vehicle agent, and show its status, ledger and settings."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from fleetloop.terminal import print_json, say, show_pairs, show_table
from foundation.errors import MisconfiguredError
from foundation.private import private_umask

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Run the on-vehicle agent, or show its status and ledger.",
)

CONFIG = typer.Option(None, "--config", help="The agent's settings (TOML).")
NEEDED_CONFIG = typer.Option(..., "--config", help="The agent's settings (TOML).")
STATE = typer.Option(None, "--state", help="The vehicle's state folder, instead of --config.")
AS_JSON = typer.Option(False, "--json", help="One JSON document on standard output.")


@app.command()
def run(
    config: Path = NEEDED_CONFIG,
    until_source_ends: bool = typer.Option(
        False, "--until-source-ends", help="End when the source has ended and the spool is delivered."
    ),
    show_config: bool = typer.Option(
        False, "--print-config", help="Print the effective settings, secrets masked, and exit."
    ),
) -> None:
    """Run the agent of one vehicle until SIGTERM (exit status 0 after a clean stop)."""
    if show_config:
        _print_config(config)
        return
    from edge_agent.daemon import run_agent

    private_umask()
    raise typer.Exit(run_agent(config, until_source_ends=until_source_ends))


@app.command("config")
def config_command(config: Path = NEEDED_CONFIG) -> None:
    """Check the settings and print the effective ones, secrets masked."""
    _print_config(config)


@app.command()
def status(config: Path | None = CONFIG, state: Path | None = STATE, as_json: bool = AS_JSON) -> None:
    """Show the agent's status, whether or not it runs."""
    from edge_agent.status import build_status

    document = build_status(_state_folder(config, state))
    if as_json:
        print_json(document)
        return
    rows = [
        (key, json.dumps(value) if isinstance(value, dict | list) else str(value))
        for key, value in document.items()
    ]
    show_pairs(f"agent {document['vehicle_id']}", rows)


@app.command()
def ledger(config: Path | None = CONFIG, state: Path | None = STATE, as_json: bool = AS_JSON) -> None:
    """Show what became of every accepted sample. Exit status 70 when the ledger does not balance."""
    from edge_agent.spool.snapshot import read_ledger
    from edge_agent.state_folder import StateFolder
    from foundation.errors import GuaranteeBrokenError

    found = read_ledger(StateFolder(_state_folder(config, state)).spool)
    if as_json:
        print_json(found.to_json())
    else:
        total = found.counts
        rows = [
            (name, each.accepted, each.delivered, each.pending, each.in_doubt, json.dumps(dict(each.evicted)))
            for name, each in [*((row.epoch, row.counts()) for row in found.epochs), ("all", total)]
        ]
        headings = ("epoch", "accepted", "delivered", "pending", "in doubt", "evicted")
        show_table("ledger: accepted = delivered + pending + in doubt + evicted", headings, rows)
        say(f"not accepted: {json.dumps(dict(total.not_accepted))}")
    if not found.balances():
        raise GuaranteeBrokenError(
            f"the ledger does not balance: {'; '.join(found.problems) or found.counts}"
        )


def _print_config(config: Path) -> None:
    from edge_agent.config import load_agent_settings
    from foundation.settings import print_config

    for line in print_config(load_agent_settings(config)).splitlines():
        say(line)


def _state_folder(config: Path | None, state: Path | None) -> Path:
    if state is not None and config is None:
        return state
    if config is None or state is not None:
        raise MisconfiguredError("give one of --config FILE and --state FOLDER")
    from edge_agent.config import load_agent_settings

    return load_agent_settings(config).state_folder
