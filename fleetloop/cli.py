"""The `fleetloop` command: a table of commands, each imported when it is called.

Exit status: 0 for success, 2 for a usage error, otherwise the `exit_code` of the error's class (see
`foundation.errors`). With `--json` a command prints exactly one JSON document on standard output; messages go to
standard error.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from fleetloop import __version__
from fleetloop.imports import explain
from fleetloop.terminal import say, show_error, show_traceback
from foundation.errors import FleetLoopError, MisconfiguredError

COMMANDS = {
    "demo": "Run the whole loop on this machine and check its guarantees.",
    "doctor": "Check what is missing on this machine and how to fix it.",
    "init": "Create a workspace: your own git and DVC repository with keys beside it.",
    "keys": "Show the keys that sign releases and rollouts.",
    "enroll": "Enrol a vehicle: its own key, its first model, its trust root.",
    "broker": "Run a broker on this machine, or list and create topics.",
    "agent": "Run the on-vehicle agent, or show its status and ledger.",
    "ingest": "Read the broker's log into the lake, one row per Kafka offset.",
    "deadletter": "List rejected records, and replay them after a fix.",
    "lake": "Show the lake's tables and which versions are held; remove the rest.",
    "reference": "Add labelled pictures of other origin to the lake.",
    "labels": "Import labels of your own: a table of file and class, COCO, KITTI or YOLO.",
    "label": "Select the frames most worth a label and request their labels.",
    "curate": "Make the dataset from the locked lake.",
    "validate": "Validate the dataset with polars and Great Expectations.",
    "dataset": "Lock the lake; commit, list, show and compare dataset versions.",
    "base": "Show or choose the model that the next training starts from.",
    "train": "Fine-tune the base model on the dataset.",
    "model": "Import a model of your own, and show the contract of a model.",
    "quantise": "Make the int8 model and check its parity with the trained one.",
    "evaluate": "Compare both models on the held-out test set and decide on the gate.",
    "package": "Put the model and its evidence into one folder that can be released.",
    "release": "Sign and publish a release.",
    "rollout": "Roll a release out to the fleet in waves, and watch it.",
    "status": "Show a summary of the workspace.",
    "migrate": "Migrate a workspace or a vehicle's state folder from an earlier release.",
}


DISK_EXIT = 74
"""EX_IOERR of sysexits.h: the machine, not the input, is at fault."""


class LazyCommands(TyperGroup):
    """Imports `fleetloop.commands.<name>` when that command is called; `app` in it is the command."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the name of the base class
        """Return the names in the order of the loop."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the name of the base class
        """Return the command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"fleetloop.commands.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.short_help = COMMANDS[cmd_name]
        return command


app = typer.Typer(
    cls=LazyCommands,
    name="fleetloop",
    help="FleetLoop closes the loop between a fleet of vehicles and the model they run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"fleetloop {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """FleetLoop closes the loop between a fleet of vehicles and the model they run."""


def main() -> None:
    """Run the command; a FleetLoopError becomes one line on standard error and the exit status of its class."""
    sys.excepthook = show_traceback
    _leave(_run())


def _run() -> int:
    try:
        app()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except FleetLoopError as error:
        show_error(type(error).__name__, error)
        return error.exit_code
    except ImportError as error:
        told = explain(error)
        if not told:
            raise
        say(f"{MisconfiguredError.__name__}: {told}", err=True)
        return MisconfiguredError.exit_code
    except BrokenPipeError:  # before OSError, whose child it is
        return 1
    except OSError as error:
        told = f"{error.strerror or error}: {error.filename or 'no file is named'}"
        say(f"{type(error).__name__}: {told}", err=True)
        return DISK_EXIT
    return 0


def _leave(status: int) -> None:
    """Exit once all output is written, without tearing down native libraries.

    Why? Their threads sometimes abort a process whose work is done ("terminate called without an active exception",
    seen after `deadletter list` on a busy machine), and a caller would take that for a failure.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    os._exit(status)


if __name__ == "__main__":
    main()
