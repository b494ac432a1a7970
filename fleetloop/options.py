"""Options that several commands share, each defined once."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from fleetloop.terminal import say
from foundation.errors import MisconfiguredError
from workspace.layout import Workspace

if TYPE_CHECKING:
    from services.notices import Notified

Choice = TypeVar("Choice", bound=StrEnum)

Place = Annotated[
    Workspace,
    typer.Option(
        "--workspace", parser=Workspace.open, metavar="FOLDER", help="Folder made by `fleetloop init`."
    ),
]
MaybePlace = Annotated[
    Workspace | None,
    typer.Option("--workspace", parser=Workspace.open, metavar="FOLDER", help="A workspace, for its broker."),
]
HERE: Final[Any] = "."
"""The default of `Place`: the working folder."""
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Bootstrap = Annotated[
    str, typer.Option("--bootstrap", help="HOST:PORT of the broker, instead of the workspace's.")
]

RunnerName = Annotated[str, typer.Option("--runner", help="Beam runner: direct, prism or portable.")]
Workers = Annotated[int, typer.Option("--workers", min=1, max=256, help="Workers of the runner `direct`.")]
Processes = Annotated[
    bool, typer.Option("--processes", help="Workers of `direct` as processes, not threads.")
]
JobEndpoint = Annotated[
    str, typer.Option("--job-endpoint", help="HOST:PORT of the job server, for `portable`.")
]
PrismPath = Annotated[str, typer.Option("--prism-path", help="The Prism program, for `prism`.")]


def words(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def say_notice(notified: Notified) -> None:
    """Report on standard error that the broker did not accept a notice."""
    if notified.problem:
        say(f"no notice was sent, the vehicles check at their own interval: {notified.problem}", err=True)


def record(place: Workspace, message: str) -> None:
    """Commit what a command wrote to the workspace's git; report on standard error why git is not clean, if so."""
    from services.record import record_changes

    done = record_changes(place, message)
    if done.why:
        say(f"git of the workspace is not clean: {done.why}", err=True)


def choice(kind: type[Choice], text: str, option: str) -> Choice:
    """Return the member of an enumeration that an option names. Raises MisconfiguredError, which lists them."""
    try:
        return kind(text)
    except ValueError as error:
        allowed = ", ".join(each.value for each in kind)
        raise MisconfiguredError(f"{option} is {text[:40]!r}; it must be one of {allowed}") from error
