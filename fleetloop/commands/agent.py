"""`fleetloop agent`: run the on-vehicle agent, and show its status, ledger and settings."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.options import print_json
from foundation.errors import MisconfiguredError

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
    table = Table(title=f"agent {document['vehicle_id']}", title_justify="left", show_header=False)
    for key, value in document.items():
        shown = json.dumps(value) if isinstance(value, dict | list) else str(value)
        table.add_row(key, shown)
    Console().print(table)


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
        table = Table(
            title="ledger: accepted = delivered + pending + in doubt + evicted", title_justify="left"
        )
        for heading in ("epoch", "accepted", "delivered", "pending", "in doubt", "evicted"):
            table.add_column(heading, justify="left" if heading == "epoch" else "right")
        for row in found.epochs:
            counts = row.counts()
            cells = (counts.accepted, counts.delivered, counts.pending, counts.in_doubt)
            table.add_row(row.epoch, *map(str, cells), json.dumps(dict(counts.evicted)))
        total = found.counts
        cells = (total.accepted, total.delivered, total.pending, total.in_doubt)
        table.add_row("all", *map(str, cells), json.dumps(dict(total.evicted)), style="bold")
        console = Console()
        console.print(table)
        console.print(f"not accepted: {json.dumps(dict(total.not_accepted))}")
    if not found.balances():
        raise GuaranteeBrokenError(
            f"the ledger does not balance: {'; '.join(found.problems) or found.counts}"
        )


def _print_config(config: Path) -> None:
    from edge_agent.config import load_agent_settings
    from foundation.settings import print_config

    print(print_config(load_agent_settings(config)), end="")


def _state_folder(config: Path | None, state: Path | None) -> Path:
    if state is not None and config is None:
        return state
    if config is None or state is not None:
        raise MisconfiguredError("give one of --config FILE and --state FOLDER")
    from edge_agent.config import load_agent_settings

    return load_agent_settings(config).state_folder
