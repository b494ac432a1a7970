"""The steps that bring a workspace of an earlier release to today's form: launcher, base, stages, serving record, git, lake.

The order matters: dvc.yaml is replaced once what its stages need is there. A file that a person edited is reported, never
replaced. Old versions of a lake table stay as they are; the newest one gains the columns that it lacks, null in old rows.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from connectors.lake.lock import LAKE_LOCK, read_lake_lock
from connectors.lake.schema import TABLES
from connectors.lake.table import LakeTable
from foundation.clock import SystemClock
from foundation.documents import DocumentType
from foundation.errors import CorruptError
from foundation.files import FileLock, read_document, write_atomic
from pipelines.curate.labelling import LABEL_REQUEST
from pipelines.curate.params import load_params
from pipelines.dataset.cut_commit import MARKER
from pipelines.dataset.manifest import MANIFEST
from pipelines.dataset.record import PATHS
from pipelines.dataset.versions import list_versions
from pipelines.ingest.staging import commit_lock
from pipelines.validate.stage import VALIDATION
from rollout.fleet import TAGS
from rollout.release import read_releases
from rollout.reports import FleetReports
from rollout.repository import Repository
from rollout.service import RolloutService
from schemas.predictions import CLASSIFICATION
from services.init import GIT_IGNORE, LAUNCHER, SALT_BYTES, template
from services.migrate import Finding, Migration, Step, run, unreadable
from services.record import Recorded, record_changes, uncommitted
from training.evidence import EVALUATION, GATE, PACKAGE, PARITY, TRAINING
from training.registry import RECORD, base_name
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace
from workspace.params_file import read_params
from workspace.served_models import move_old_record, served_models, unreadable_rows

RELEASED_STAGES: Final = frozenset({"30955b8a957d4ec3194d2ffe544ad0b2af7c23e359cb03f5d7c87a02438fe13a"})
"""sha256 of every dvc.yaml that a release gave to its workspaces: such a file was edited by nobody."""


DOCUMENTS: Final[Mapping[str, DocumentType[Any]]] = {
    "lake/pins/*.json": LAKE_LOCK,
    "registry/tags.json": TAGS,
    "registry/models/*/model.json": RECORD,
    "datasets/current/manifest.json": MANIFEST,
    "models/candidate/model.json": RECORD,
    "models/package/model.json": RECORD,
    "models/package/package.json": PACKAGE,
    "reports/validation.json": VALIDATION,
    "reports/training.json": TRAINING,
    "reports/parity.json": PARITY,
    "reports/evaluation.json": EVALUATION,
    "reports/gate.json": GATE,
    "reports/label_requests/*.json": LABEL_REQUEST,
    ".fleetloop/commit-under-way.json": MARKER,
}
"""Documents that have no reader of their own above, by their place in a workspace."""


def migrate_workspace(place: Workspace, *, is_dry_run: bool = False) -> tuple[Migration, Recorded | None]:
    """Look at every document of a workspace and bring it to today's form; commit what is FleetLoop's or was clean before.

    Raises:
        RetryLaterError: another writer holds the workspace or the lake; what was done stays done.
    """
    if is_dry_run:
        return run(workspace_steps(place), _unreadable(place), is_dry_run=True), None
    with _no_other_writer(place):
        edited = uncommitted(place)
        done = run(workspace_steps(place), _unreadable(place), is_dry_run=False)
    if not done.is_done or not done.steps:
        return done, None
    clean = [
        step.name
        for step in {each.name: each for each in done.steps}.values()
        if step.name in PATHS and edited is not None and step.name not in edited
    ]
    return done, record_changes(place, "Migrate the workspace", clean)


def workspace_steps(place: Workspace) -> list[Step]:
    """In the order in which they are safe."""
    root = place.root
    return [
        _missing_file(root / LAUNCHER, LAUNCHER, lambda: template(LAUNCHER).encode()),
        _missing_file(
            place.base_path,
            "registry/base.json",
            lambda: place.old_serving_path.read_bytes() if place.old_serving_path.is_file() else b"",
        ),
        _task_parameter(root / "params.yaml"),
        _draw_salt(root / "params.yaml"),
        _stages(root / "dvc.yaml"),
        _serving_record(place),
        _git_ignore(root / ".gitignore"),
        *(_columns(place, name, schema) for name, schema in TABLES.items()),
    ]


def _missing_file(path: Path, name: str, content: Callable[[], bytes]) -> Step:
    def pending() -> str:
        return "" if path.exists() or not content() else "is written: earlier releases had none"

    return Step(name, pending, lambda: write_atomic(path, content()))


def _task_parameter(path: Path) -> Step:
    def is_missing() -> bool:
        return path.is_file() and "task" not in read_params(path)

    def added() -> bytes:
        """Return the file with the line at its end; empty where it would then say anything else."""
        import yaml

        held = path.read_bytes().decode()
        gap = "" if held.endswith("\n") else "\n"
        text = f"{held}{gap}\ntask: {CLASSIFICATION}\n"
        try:
            is_same = yaml.safe_load(text) == {**yaml.safe_load(held), "task": CLASSIFICATION}
        except yaml.YAMLError:
            is_same = False
        return text.encode() if is_same else b""

    def pending() -> str:
        return f"gains task: {CLASSIFICATION}, which the stages name" if is_missing() and added() else ""

    def by_hand() -> str:
        needed = f"needs the key task with the value {CLASSIFICATION}, which the stages name: no line can be added at its end"
        return needed if is_missing() and not added() else ""

    return Step("params.yaml", pending, lambda: write_atomic(path, added()), by_hand)


def _draw_salt(path: Path) -> Step:
    """Random draws get a secret salt; the split keeps the one that it has, so that no drive moves."""

    def is_missing() -> bool:
        label = read_params(path).get("label") if path.is_file() else {}
        return path.is_file() and (label is None or (isinstance(label, Mapping) and "salt" not in label))

    def added(salt: str) -> bytes:
        """Return the file with the line in its section; empty where it would then say anything else."""
        import yaml

        held = path.read_bytes().decode()
        line = f'  salt: "{salt}" # a secret of this workspace: nobody else knows what is drawn by chance\n'
        text, count = re.subn(
            r"^label:[ \t]*(#.*)?\n", lambda found: found[0] + line, held, count=1, flags=re.MULTILINE
        )
        if not count:
            text = f"{held}{'' if held.endswith(chr(10)) else chr(10)}\nlabel:\n{line}"
        try:
            was, now = yaml.safe_load(held), yaml.safe_load(text)
            is_same = now == {**was, "label": {**(was.get("label") or {}), "salt": salt}}
        except yaml.YAMLError:
            is_same = False
        return text.encode() if is_same else b""

    def pending() -> str:
        return (
            "label gains a secret salt: no vehicle can choose what is drawn by chance"
            if is_missing() and added("0")
            else ""
        )

    def by_hand() -> str:
        is_left = is_missing() and not added("0")
        return (
            "needs label.salt, a secret random text: no line can be added to its section" if is_left else ""
        )

    def apply() -> None:
        write_atomic(path, added(secrets.token_hex(SALT_BYTES)))

    return Step("params.yaml", pending, apply, by_hand)


def _serving_record(place: Workspace) -> Step:
    def pending() -> str:
        stages = place.root / "dvc.yaml"
        data = stages.read_bytes() if stages.is_file() else b""
        is_edited = data != template("dvc.yaml").encode() and not _is_released(data)
        is_needed = is_edited and b"registry/serving.json" in data
        is_there = place.old_serving_path.is_file() and not is_needed
        return "becomes the first row of registry/served.jsonl" if is_there else ""

    return Step("registry/serving.json", pending, lambda: move_old_record(place))


def _stages(path: Path) -> Step:
    def held() -> bytes | None:
        data = path.read_bytes() if path.is_file() else None
        return None if data == template("dvc.yaml").encode() else data

    def pending() -> str:
        data = held()
        is_ours = data is not None and _is_released(data)
        return "is replaced by today's stages, which run once more" if is_ours else ""

    def by_hand() -> str:
        is_edited = held() is not None and not pending()
        return (
            "was edited: compare it with the dvc.yaml of a new workspace (`fleetloop init`)"
            if is_edited
            else ""
        )

    return Step("dvc.yaml", pending, lambda: write_atomic(path, template("dvc.yaml").encode()), by_hand)


def _is_released(stages: bytes) -> bool:
    return hashlib.sha256(stages).hexdigest() in RELEASED_STAGES


def _git_ignore(path: Path) -> Step:
    def held() -> bytes:
        return path.read_bytes() if path.is_file() else b""

    def missing() -> list[str]:
        lines = held().splitlines()
        wanted = (line for line in GIT_IGNORE.splitlines() if not line.startswith("#"))
        return [line for line in wanted if line.encode() not in lines]

    def pending() -> str:
        return f"gains {', '.join(missing())}" if missing() else ""

    def apply() -> None:
        gap = b"\n" if held() and not held().endswith(b"\n") else b""
        write_atomic(path, held() + gap + ("\n".join(missing()) + "\n").encode())

    return Step(".gitignore", pending, apply)


def _columns(place: Workspace, name: str, schema: pa.Schema) -> Step:
    folder = place.lake_path / name

    def missing() -> list[str]:
        if not (folder / "_delta_log").is_dir():
            return []
        held = set(LakeTable.open(folder).snapshot().dataset().schema.names)
        return [column for column in schema.names if column not in held]

    def pending() -> str:
        return f"gains the columns {', '.join(missing())}, null in its rows" if missing() else ""

    def apply() -> None:
        table = LakeTable.open(folder)
        with commit_lock(table, place.settings.lock_wait_s, SystemClock()):
            LakeTable.create(folder, schema)

    return Step(f"lake/{name}", pending, apply)


@contextmanager
def _no_other_writer(place: Workspace) -> Iterator[None]:
    place.private_path.mkdir(exist_ok=True)
    with FileLock(place.private_path / "dvc.lock", wait_s=place.settings.lock_wait_s):
        yield


def _unreadable(place: Workspace) -> tuple[Finding, ...]:
    clock = SystemClock()
    readers: list[tuple[str, Callable[[], object]]] = [
        ("params.yaml", lambda: load_params(place.params_path)),
        ("registry/vehicles.json", lambda: _all_keys(place)),
        ("registry/datasets", lambda: list_versions(place)),
    ]
    if place.lake_lock_path.is_file():
        readers.append(("lake.lock", lambda: read_lake_lock(place.lake_lock_path)))
    readers.append(("registry/served.jsonl", lambda: _all_served(place)))
    if place.base_path.is_file():
        readers.append(("registry/base.json", partial(base_name, place.registry_path)))
    held = [name for name in TABLES if (place.lake_path / name / "_delta_log").is_dir()]
    readers += [(f"lake/{name}", partial(LakeTable.open, place.lake_path / name)) for name in held]
    if (place.tuf_path / "metadata").is_dir():
        repository = Repository(place.tuf_path, place.keys_path, clock=clock)
        service = RolloutService(repository, place.rollouts_path, clock)
        readers += [
            ("registry/tuf: releases", lambda: read_releases(repository)),
            ("registry/tuf: rollouts", lambda: [service.state_of(plan) for plan in service.plans()]),
        ]
    if place.rollouts_path.is_dir():
        readers.append(("registry/rollouts", lambda: _all_events(place)))
    readers += [
        (path.relative_to(place.root).as_posix(), partial(read_document, path, kind))
        for pattern, kind in DOCUMENTS.items()
        for path in sorted(place.root.glob(pattern))
    ]
    return unreadable(readers)


def _all_events(place: Workspace) -> None:
    for row in FleetReports(place.rollouts_path, SystemClock()).history.unreadable:
        raise CorruptError(row.why)


def _all_served(place: Workspace) -> None:
    served_models(place)
    for row in unreadable_rows(place):
        raise CorruptError(row.why)


def _all_keys(place: Workspace) -> None:
    for row in load_enrolment(place.enrolment_path).unreadable:
        raise CorruptError(f"row {row.index}: {row.why}", path=place.enrolment_path)
