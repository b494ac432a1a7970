"""`fleetloop release`: sign and publish a model that passed its gate, or that a named person let pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import typer

from fleetloop.options import HERE, AsJson, Place, record, say_notice
from fleetloop.terminal import print_json, say, show_table

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Sign and publish a release; list what was released."
)

_PACKAGE = typer.Option(
    None,
    "--package",
    help="Folder made by `fleetloop package`; models/package of the workspace by default.",
)
_MODEL = typer.Option(
    None,
    "--model",
    help="An ONNX file with its contract, or a folder of one and the files beside it, instead of a package.",
)
_GATE = typer.Option(None, "--gate", help="gate.json that judged the file of --model.")


@app.callback()
def release() -> None:
    """Sign and publish a release; list what was released."""


@app.command()
def create(
    package: Path | None = _PACKAGE,
    model: Path | None = _MODEL,
    gate: Path | None = _GATE,
    release_id: str = typer.Option(
        "", "--id", help="Name of the release; made of name and digest by default."
    ),
    override_by: str = typer.Option("", "--override-by", help="Who lets a refused model pass."),
    override_why: str = typer.Option("", "--override-why", help="Why."),
    notes: str = typer.Option("", "--notes", help="Words for whoever reads the release."),
    role: str = typer.Option(
        "serving", "--role", help="What it is for on a vehicle, such as serving or shadow."
    ),
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Sign and publish one model. A refused gate needs an override that names who and why."""
    from services.release import ReleaseRequest, create_release

    request = ReleaseRequest(package, model, gate, release_id, override_by, override_why, notes, role)
    published = create_release(place, request)
    say_notice(published.notified)
    if published.note:
        say(published.note, err=True)
    done = published.release
    record(place, f"Release {done.release_id}")
    if as_json:
        document = dataclasses.asdict(done) | {"notified": published.notified.is_sent}
        print_json(document)
        return
    say(f"release {done.release_id}: {done.model_name}, {done.model_bytes} bytes, sha256 {done.model_digest}")
    if done.gate.override is not None:
        say(f"the gate refused it; {done.gate.override.by} let it pass: {done.gate.override.why}")


@app.command("list")
def list_(place: Place = HERE, as_json: AsJson = False) -> None:
    """List every release, oldest first."""
    from services.release import list_releases

    releases = list_releases(place)
    if as_json:
        print_json({"releases": [dataclasses.asdict(each) for each in releases]})
        return
    rows = []
    for each in releases:
        override = each.gate.override
        word = "passed" if each.gate.passed else f"overridden by {override.by if override else '?'}"
        rows.append(
            (each.release_id, each.role, each.model_name, each.model_bytes, each.model_digest[:16], word)
        )
    show_table("releases", ("release", "role", "model", "bytes", "sha256", "gate"), rows)


@app.command()
def trim(
    keep_days: float = typer.Option(
        30.0,
        "--keep-days",
        min=1.0,
        max=36_500.0,
        help="Keep every state that was published within this time.",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be removed, and remove nothing."),
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Remove documents and targets of the release repository that no vehicle can ask for any more.

    Every root, the present state, and every release and plan that it lists stay.
    """
    from services.release import trim_releases

    done = trim_releases(place, keep_days, is_dry_run=dry_run)
    if not dry_run:
        record(place, "Trim the release repository")
    if as_json:
        print_json({"dry_run": dry_run, "paths": done.paths, "bytes": done.size_bytes})
        return
    say(
        f"{len(done.paths):,} files, {done.size_bytes:,} bytes {'would be removed' if dry_run else 'removed'}"
    )
