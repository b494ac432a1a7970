"""`fleetloop release`: sign and publish a model that passed its gate, or that a named person let pass."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.notify import tell_fleet
from foundation.clock import SystemClock
from foundation.errors import CorruptError, MisconfiguredError

if TYPE_CHECKING:
    from rollout.release import GateReport

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Sign and publish a release; list what was released."
)

_WORKSPACE = typer.Option(Path(), "--workspace", help="Folder made by `fleetloop init`.")
_PACKAGE = typer.Option(
    None,
    "--package",
    help="Folder made by `fleetloop package`; models/package of the workspace by default.",
)
_MODEL = typer.Option(None, "--model", help="An ONNX file with its contract, instead of a package.")
_GATE = typer.Option(None, "--gate", help="gate.json that judged the file of --model.")
_AS_JSON = typer.Option(False, "--json", help="One JSON document on standard output.")


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
    workspace: Path = _WORKSPACE,
    as_json: bool = _AS_JSON,
) -> None:
    """Sign and publish one model. A refused gate needs an override that names who and why."""
    from rollout.release import publish_release, with_override
    from rollout.repository import Repository
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    if model is not None and package is not None:
        raise MisconfiguredError("--model and --package exclude each other")
    clock = SystemClock()
    folder = (package or place.root / "models" / "package") if model is None else None
    source = folder / "model.onnx" if folder is not None else model
    if source is None or not source.is_file():
        raise MisconfiguredError(
            f"there is no model {source}; run `fleetloop package` or name one with --model"
        )
    report = read_gate(folder / "package.json" if folder is not None else gate)
    data = source.read_bytes()
    done = publish_release(
        Repository(place.tuf_path, place.keys_path, clock=clock),
        data,
        report,
        clock,
        release_id=release_id,
        override=with_override(report, override_by, override_why, clock),
        notes=notes,
    )
    if folder is not None:
        _register(place.registry_path, folder, data)
    document = dataclasses.asdict(done) | {"notified": tell_fleet(place, "release", done.release_id)}
    if as_json:
        print(json.dumps(document, sort_keys=True, indent=2))
        return
    typer.echo(
        f"release {done.release_id}: {done.model_name}, {done.model_bytes} bytes, sha256 {done.model_digest}"
    )
    if done.gate.override is not None:
        typer.echo(f"the gate refused it; {done.gate.override.by} let it pass: {done.gate.override.why}")


@app.command("list")
def list_releases(workspace: Path = _WORKSPACE, as_json: bool = _AS_JSON) -> None:
    """List every release, oldest first."""
    from rollout.release import read_releases
    from rollout.repository import Repository
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    releases = read_releases(Repository(place.tuf_path, place.keys_path))
    if as_json:
        rows = [dataclasses.asdict(each) for each in releases]
        print(json.dumps({"releases": rows}, sort_keys=True, indent=2))
        return
    table = Table(title="releases", title_justify="left")
    for heading in ("release", "model", "bytes", "sha256", "gate"):
        table.add_column(heading)
    for each in releases:
        override = each.gate.override
        word = "passed" if each.gate.passed else f"overridden by {override.by if override else '?'}"
        table.add_row(each.release_id, each.model_name, str(each.model_bytes), each.model_digest[:16], word)
    Console().print(table)


def read_gate(path: Path | None) -> GateReport:
    """The gate's word in a package.json or a gate.json; without a file no gate judged the model.

    Raises:
        CorruptError: the file says nothing of the kind.
        MisconfiguredError: there is no such file.
    """
    from foundation.files import read_json
    from rollout.release import NO_GATE, GateReport

    if path is None:
        return NO_GATE
    if not path.is_file():
        raise MisconfiguredError(f"there is no {path}; run `fleetloop package`")
    match read_json(path):
        case {"model_digest": str(digest), "gate": {"passed": bool(passed), "reason": str(reason)}}:
            return GateReport(passed, reason, digest)
        case {"candidate_digest": str(digest), "passed": bool(passed), "reason": str(reason)}:
            return GateReport(passed, reason, digest)
    raise CorruptError("says neither which model was judged nor whether it passed", path=path)


def _register(registry: Path, folder: Path, model: bytes) -> None:
    """Keep the released model with its weights and record, so that it can become the serving model and a
    base.
    """
    from training.registry import RECORD_FILE, WEIGHTS_FILE, ModelRecord, register_model

    if (folder / RECORD_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
        register_model(
            registry, model, (folder / WEIGHTS_FILE).read_bytes(), ModelRecord.read(folder / RECORD_FILE)
        )
