"""Sign and publish a model that passed its gate or was overridden by a named person; list releases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foundation.clock import SystemClock
from foundation.errors import MisconfiguredError
from foundation.files import read_document
from modelkit.bundle import read_bundle
from rollout.release import NO_GATE, GateReport, publish_release, read_releases, with_override
from rollout.repository import Repository
from rollout.trim import Trimmed, trim_repository
from schemas.documents import Release
from schemas.roles import SERVING
from services.notices import Notified, tell_fleet
from training.evidence import PACKAGE, read_verdict
from training.registry import MODEL_FILE, RECORD_FILE, WEIGHTS_FILE, ModelRecord, register_model
from workspace.layout import Workspace
from workspace.served_models import served_models


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """What to release: a package (the workspace's own by default), or a bare model file with its gate verdict."""

    package: Path | None = None
    """Folder made by `fleetloop package`."""
    model: Path | None = None
    """An ONNX file with its contract, instead of a package; or a folder that holds one and the files beside it."""
    gate: Path | None = None
    """gate.json of the bare file; none: no gate has evaluated it."""
    release_id: str = ""
    """Made of the model's name and digest when empty."""
    override_by: str = ""
    override_why: str = ""
    notes: str = ""
    role: str = SERVING
    """The role of the model on a vehicle."""


@dataclass(frozen=True, slots=True)
class Published:
    """The signed release, whether the fleet was notified, and what the gate's verdict does not cover ("": nothing)."""

    release: Release
    notified: Notified
    note: str = ""


def create_release(place: Workspace, request: ReleaseRequest) -> Published:
    """Sign and publish one model; a packaged one is registered too, so that it can serve and be fine-tuned.

    Raises:
        MisconfiguredError: there is no such model, or the request contradicts itself.
        RejectedError: the gate refused it and nobody overrode that; or see `publish_release`.
        CorruptError: the gate's file says nothing of the kind.
    """
    if request.model is not None and request.package is not None:
        raise MisconfiguredError("--model and --package exclude each other")
    clock = SystemClock()
    folder = (request.package or place.package_path) if request.model is None else None
    source = folder / MODEL_FILE if folder is not None else request.model
    is_bundle = source is not None and folder is None and source.is_dir()
    if source is None or not (is_bundle or source.is_file()):
        raise MisconfiguredError(
            f"there is no model {source}; run `fleetloop package` or name one with --model"
        )
    report = read_gate(folder / "package.json" if folder is not None else request.gate)
    data = b"" if is_bundle else source.read_bytes()
    done = publish_release(
        Repository(place.tuf_path, place.keys_path, clock=clock),
        read_bundle(source) if is_bundle else data,
        report,
        clock,
        release_id=request.release_id,
        role=request.role,
        override=with_override(report, request.override_by, request.override_why, clock),
        notes=request.notes,
    )
    if folder is not None and (folder / RECORD_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
        weights, record = (folder / WEIGHTS_FILE).read_bytes(), ModelRecord.read(folder / RECORD_FILE)
        register_model(place.registry_path, data, weights, record)
    note = _compared_with_another(place, folder, done) if folder is not None else ""
    return Published(done, tell_fleet(place, "release", done.release_id), note)


def _compared_with_another(place: Workspace, package: Path, done: Release) -> str:
    serving = served_models(place).get(SERVING)
    base_digest = read_document(package / "package.json", PACKAGE).base_digest
    if serving is None or not base_digest or serving.digest in (base_digest, done.model_digest):
        return ""
    return (
        f"the gate compared it with the base {base_digest[:12]}, not with {serving.name}, which the fleet is served;"
        " `fleetloop base --serving` and another training would"
    )


def list_releases(place: Workspace) -> tuple[Release, ...]:
    """Return every release, oldest first."""
    return tuple(read_releases(Repository(place.tuf_path, place.keys_path)))


def read_gate(path: Path | None) -> GateReport:
    """Read the gate's verdict from a package.json or a gate.json; without a file there is none.

    Raises:
        CorruptError: the file says nothing of the kind.
        MisconfiguredError: there is no such file.
    """
    if path is None:
        return NO_GATE
    if not path.is_file():
        raise MisconfiguredError(f"there is no {path}; run `fleetloop package`")
    found = read_verdict(path)
    return GateReport(found.passed, found.reason, found.candidate_digest)


def trim_releases(place: Workspace, keep_days: float, *, is_dry_run: bool = False) -> Trimmed:
    """Remove what no vehicle can ask the release repository for any more (see `rollout.trim`)."""
    clock = SystemClock()
    repository = Repository(place.tuf_path, place.keys_path, clock=clock)
    return trim_repository(repository, keep_days * 86_400, clock, is_dry_run=is_dry_run)
