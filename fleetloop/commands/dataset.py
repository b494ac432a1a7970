"""`fleetloop dataset`: lock the lake, re-run what changed, and commit, list, show and compare versions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetloop.options import HERE, AsJson, Place, record
from fleetloop.terminal import print_json, say, show_table
from fleetloop.terminal import show as show_line

if TYPE_CHECKING:
    from services.dataset import Version

SPLITS = ("train", "validation", "test")
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Lock the lake; commit, list, show and compare dataset versions.",
)


@app.command()
def lock(place: Place = HERE, as_json: AsJson = False) -> None:
    """Write lake.lock from the newest version of every table: the next dataset is made from these."""
    from connectors.lake.lock import lock_json
    from services import dataset as service

    done = service.lock(place)
    record(place, "Lock the lake")
    if as_json:
        print_json({**lock_json(done.tables), "changed": done.is_changed})
        return
    for name, table in done.tables.items():
        show_line("{name} version [bold]{version}[/]", name=name, version=table.version)
    word = "Wrote" if done.is_changed else "No change in"
    show_line("[green]{word}[/] {path}", word=word, path=place.lake_lock_path)


@app.command()
def repro(
    stages: Annotated[
        list[str] | None, typer.Argument(help="Stages of dvc.yaml; all of them when none is named.")
    ] = None,
    place: Place = HERE,
) -> None:
    """Re-run the stages whose inputs changed, and no others."""
    from services import dataset as service

    try:
        service.repro(place, stages or (), on_line=lambda line: say(line, err=True))
    finally:
        record(place, f"Run {', '.join(stages) if stages else 'the stages'} again")


@app.command()
def drives(
    file: Annotated[
        Path | None,
        typer.Argument(help="Parquet file with drive_id, or folder of pictures; the lake by default."),
    ] = None,
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Show the split of each drive, for the lake or for a file before it is added or trained on."""
    from services.drives import drives_of_file, drives_of_lake

    found = drives_of_lake(place) if file is None else drives_of_file(place, file)
    if as_json:
        rows = [{"drive_id": each.drive_id, "split": each.split, "rows": each.rows} for each in found]
        print_json({"drives": rows})
        return
    shown = [(each.drive_id, each.split, each.rows) for each in found]
    show_table(f"{len(found):,} drives", ("drive", "split", "rows"), shown)


@app.command()
def commit(
    message: str = typer.Option(..., "-m", "--message", help="What is new in this version."),
    push: bool = typer.Option(True, help="Push the files to the DVC remote."),
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Commit datasets/current as the next version (DVC, git, a tag), with all outputs of the stages so far.

    The same digest makes no new version: run it again after training to record and push the model too.
    """
    from services import dataset as service

    done = service.commit(place, message, is_pushed=push)
    record(place, f"After dataset {done.version.id}")
    version, stages = done.version, dict(done.stages)
    if as_json:
        names = {"id": version.id, "digest": version.digest, "parent": version.parent}
        print_json({**names, "is_new": done.is_new, "is_pushed": push, "stages": stages})
        return
    word = "Committed" if done.is_new else "No change since"
    show_line(
        "[green]{word}[/] [bold]{id}[/]  {rows:,} rows  digest {digest}",
        word=word,
        id=version.id,
        rows=version.manifest["rows"],
        digest=version.digest,
    )
    for name, state in stages.items():
        say(f"  {name}: {state if state != 'recorded' or not push else 'recorded and pushed'}")


@app.command(name="list")
def list_(place: Place = HERE, as_json: AsJson = False) -> None:
    """List the dataset versions, oldest first."""
    from services.dataset import list_versions

    versions = list_versions(place)
    if as_json:
        print_json([_summary(version) for version in versions])
        return
    rows = []
    for version in versions:
        manifest, names = version.manifest, (version.id, version.digest[:12], version.parent, version.message)
        rows.append((*names, manifest["rows"], *(manifest["splits"][split]["rows"] for split in SPLITS)))
    show_table("Dataset versions", ("version", "digest", "parent", "message", "rows", *SPLITS), rows)


@app.command()
def show(
    version: str = typer.Argument("latest", help="vN, or latest."),
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Show one version: its counts, splits, classes, and what it was made from."""
    from fleetloop.commands.curate import show_what_became
    from services.dataset import find_version

    found = find_version(place, version)
    if as_json:
        print_json(asdict(found))
        return
    show_line("[bold]{id}[/] {message}", id=found.id, message=found.message)
    say(f"digest {found.digest}")
    say(f"parent {found.parent or '(none)'}")
    show_what_became(found.manifest)
    splits = found.manifest["splits"]
    rows = [
        (name, *(splits[split]["classes"][name] for split in SPLITS)) for name in found.manifest["classes"]
    ]
    show_table("Classes by split", ("class", *SPLITS), rows)


@app.command()
def diff(
    before: str = typer.Argument(..., help="vN, latest, or current for datasets/current."),
    after: str = typer.Argument(..., help="vN, latest, or current."),
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: rows added, removed, given another label, and how the classes changed."""
    from services import dataset as service

    found = service.diff(place, before, after)
    if as_json:
        print_json({"before": before, "after": after, **asdict(found)})
        return
    counts = {"rows": (found.before_rows, found.after_rows), **found.splits, **found.classes}
    rows = [(name, a, b, f"{b - a:+,}") for name, (a, b) in counts.items()]
    show_table(f"{before} -> {after}", ("what", before, after, "change"), rows)
    say(f"{found.added:,} added, {found.removed:,} removed, {found.relabelled:,} relabelled")
    say(f"{found.unchanged:,} unchanged")
    if found.moved:
        show_line("[red]{moved:,} rows moved to another split[/]", moved=found.moved)


@app.command()
def checkout(
    version: Annotated[str, typer.Argument(help="vN, or latest.")],
    into: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    place: Place = HERE,
) -> None:
    """Fetch the files of a version from the DVC remote into a folder, and check their digest."""
    from services.dataset import checkout_version

    folder = checkout_version(place, version, into)
    show_line("[green]Version {version}[/] is in {folder}", version=version, folder=folder)


def _summary(version: Version) -> dict[str, Any]:
    return {
        "id": version.id,
        "digest": version.digest,
        "parent": version.parent,
        "message": version.message,
        "rows": version.manifest["rows"],
        "splits": {name: split["rows"] for name, split in version.manifest["splits"].items()},
    }
