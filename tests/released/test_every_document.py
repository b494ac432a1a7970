"""Every document that FleetLoop writes has a version, and today's reader takes what any release wrote and tomorrow's will.

DOCUMENTS is the table: who writes a document, what reads it, and one of a released commit as a file below
tests/fixtures/released, or inline where no fixture holds one. A module that writes a file, or a reader of JSON, that is
in no row fails the build.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.lake.lock import LAKE_LOCK
from edge_agent import state_folder, telemetry
from edge_agent.config import load_agent_settings
from edge_agent.models import slots, trust_folder, vehicle
from edge_agent.models.slots import SlotFolder
from edge_agent.models.vehicle import read_vehicle
from foundation.documents import DocumentType
from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError
from foundation.files import read_document
from modelkit.compiled import RECORD
from modelkit.contract import CONTRACT
from pipelines.curate.labelling import LABEL_REQUEST
from pipelines.dataset import cut_commit, manifest, versions
from pipelines.ingest.pipeline import STAGED
from pipelines.validate.stage import VALIDATION
from rollout import fleet, history, reports, service
from schemas.documents import RELEASE, ROLLOUT_PLAN
from schemas.enrolment import Enrolment
from tests.released.released import NAMES, ROOT, copy_of
from training import evidence, registry, rows
from workspace.layout import Workspace
from workspace.model_name import MODEL_NAME
from workspace.params_file import load_classes
from workspace.served_models import SERVED_ROW

TOP = Path(__file__).parents[2]
PRODUCT = (
    *("foundation", "schemas", "connectors", "modelkit", "devservers", "workspace"),
    *("edge_agent", "pipelines", "training", "rollout", "services", "fleetloop"),
)
DIGEST = "d" * 64


@dataclass(frozen=True)
class Row:
    """A document of one `DocumentType`. `written` are modules; `released` is a path in a fixture, or what one holds."""

    kind: DocumentType[Any]
    written: tuple[str, ...]
    released: str | Mapping[str, Any]

    def trees(self) -> list[dict[str, Any]]:
        """One document of each release."""
        if not isinstance(self.released, str):
            return [dict(self.released)]
        found = []
        for name in NAMES:
            path, _, key = (ROOT / name / self.released).as_posix().partition("#")
            text = Path(path).read_text("utf-8")
            tree = json.loads(text.splitlines()[0] if path.endswith(".jsonl") else text)
            part = tree[key] if key else tree
            found.append(part[0] if isinstance(part, list) else part)
        return found


ROWS = reports.ROWS
DOCUMENTS: Mapping[str, Row] = {
    "lake.lock and lake/pins/*.json": Row(
        LAKE_LOCK, ("connectors.lake.lock", "connectors.lake.retention"), "workspace/lake.lock"
    ),
    "registry/serving.json and base.json": Row(
        MODEL_NAME, ("workspace.model_name",), "workspace/registry/serving.json"
    ),
    "registry/served.jsonl, a row": Row(
        SERVED_ROW, ("workspace.served_models",), {"name": "v2", "digest": DIGEST, "role": "serving"}
    ),
    "models/**/*.json of a vehicle: factory": Row(
        slots.FACTORY, ("edge_agent.models.slots",), "vehicle/models/factory.json"
    ),
    "models/**/*.json of a vehicle: active": Row(
        slots.ACTIVE, ("edge_agent.models.slots",), "vehicle/models/active.json"
    ),
    "models/**/*.json of a vehicle: candidate": Row(
        slots.CANDIDATE,
        ("edge_agent.models.slots",),
        {"slot": {"digest": DIGEST, "name": "v2", "release_id": "r2"}, "trial_frames": 3, "format": 1},
    ),
    "models/**/*.json of a vehicle: fetch": Row(
        slots.FETCH, ("edge_agent.models.slots",), {"refused": {"r2": "too_slow"}, "events": [], "format": 1}
    ),
    "models/slots/*/.bundle.json of a vehicle": Row(
        slots.FILES,
        ("edge_agent.models.slots",),
        {
            "files": [{"path": "model.onnx", "kind": "onnx", "length_bytes": 5, "sha256": DIGEST}],
            "format": 1,
        },
    ),
    "vehicle.json": Row(vehicle.VEHICLE, ("edge_agent.models.vehicle",), "vehicle/vehicle.json"),
    "trust/floor.json of a vehicle": Row(
        trust_folder.FLOOR, ("edge_agent.models.trust_folder",), "vehicle/trust/floor.json"
    ),
    "registry/models/*/model.json": Row(
        registry.RECORD, ("training.registry", "training.stages"), "learning/registry/models/v1/model.json"
    ),
    "registry/datasets/v*.json": Row(
        versions.RECORD, ("pipelines.dataset.versions",), "workspace/registry/datasets/v1.json"
    ),
    "registry/rollouts/state.json": Row(
        service.STATES, ("rollout.service",), "workspace/registry/rollouts/state.json"
    ),
    "registry/rollouts/reports.json of the first release": Row(
        reports.REPORTS_1, (), "workspace/registry/rollouts/reports.json"
    ),
    "registry/rollouts/history.jsonl, a row": Row(
        history.HISTORY_ROW, ("rollout.history",), "workspace/registry/rollouts/history.jsonl"
    ),
    "registry/rollouts/reports.jsonl, a mark": Row(
        ROWS["mark"],
        ("rollout.reports",),
        {"vehicle_id": "car-1", "key_id": "k", "start_number": 0, "seq": 1, "epoch": "e"},
    ),
    "registry/rollouts/reports.jsonl, past epochs": Row(
        ROWS["past_epochs"], ("rollout.reports",), {"vehicle_id": "car-1", "key_id": "k", "epochs": ["e"]}
    ),
    "registry/rollouts/reports.jsonl, the place in the topic": Row(
        ROWS["place"], ("rollout.reports",), {"topic_id": "t", "offsets": {"0": 4}}
    ),
    "registry/rollouts/reports.jsonl, a report": Row(
        ROWS["heard"],
        ("rollout.reports",),
        {
            "report": {
                "vehicle_id": "car-1",
                "heard_ns": 1,
                "epoch": "e",
                "seq": 1,
                "model_digest": DIGEST,
                "model_name": "v1",
                "model_state": "serving",
            }
        },
    ),
    "registry/tags.json": Row(fleet.TAGS, ("rollout.fleet",), {"format": 1, "tags": {"car-1": ["eu"]}}),
    "a release in models/index-2.json": Row(
        RELEASE,
        ("schemas.downlink",),
        "tuf/targets/models/3e908383d9f1a9dcfa0e97765093b2f4953f0bc05b6403032a5dec969979875a.index.json#releases",
    ),
    "a plan in rollouts/index-2.json": Row(
        ROLLOUT_PLAN,
        ("schemas.downlink",),
        "tuf/targets/rollouts/956c702f3e761c766b1c7dddf542558826c0486913f294b7656094c8a2846d83.index.json#plans",
    ),
    "the record in a compiled model": Row(
        RECORD,
        ("modelkit.qnn",),
        {
            "format": 1,
            "htp_arch": 75,
            "onnxruntime": "1.31.1",
            "onnxruntime_qnn": "2.7.0",
            "source_digest": "",
            "macs": 408,
        },
    ),
    "the contract in a model": Row(CONTRACT, ("modelkit.contract",), "documents/contract.json"),
    "datasets/current/manifest.json": Row(
        manifest.MANIFEST, ("pipelines.dataset.make",), "workspace/registry/datasets/v1.json#manifest"
    ),
    "datasets/current/manifest.json, for training": Row(
        rows.MANIFEST, ("pipelines.dataset.make",), "workspace/registry/datasets/v1.json#manifest"
    ),
    "reports/validation.json": Row(
        VALIDATION, ("pipelines.validate.stage",), "workspace/reports/validation.json"
    ),
    "reports/training.json": Row(evidence.TRAINING, ("training.stages",), "learning/reports/training.json"),
    "reports/parity.json": Row(evidence.PARITY, ("training.stages",), "learning/reports/parity.json"),
    "reports/evaluation.json": Row(
        evidence.EVALUATION, ("training.judge",), "learning/reports/evaluation.json"
    ),
    "reports/gate.json": Row(evidence.GATE, ("training.judge",), "learning/reports/gate.json"),
    "models/package/package.json": Row(
        evidence.PACKAGE, ("training.stages",), "learning/models/package/package.json"
    ),
    "reports/label_requests/*.json": Row(
        LABEL_REQUEST,
        ("pipelines.curate.labelling",),
        {
            "request_id": "r",
            "candidates": 1,
            "asked": 1,
            "answered": 1,
            "cost": 1.0,
            "payload_bytes": 5,
            "arms": {},
            "classes": {},
            "labels_version": 2,
            "frames": [],
        },
    ),
    ".fleetloop/commit-under-way.json": Row(
        cut_commit.MARKER, ("pipelines.dataset.cut_commit",), {"boot": "b", "dvc_lock": None}
    ),
    "lake/arrivals/_staging/*/manifest.json": Row(
        STAGED, ("pipelines.ingest.pipeline",), {"files": [], "unread": [[0, 5, "gone"]]}
    ),
    "run/*.json of a vehicle": Row(
        state_folder.STATUS,
        ("edge_agent.state_folder", "edge_agent.perceive", "edge_agent.deliver", "edge_agent.daemon"),
        "vehicle/run/perceive.json",
    ),
    "deliver-epoch.json of a vehicle": Row(telemetry.START, ("edge_agent.telemetry",), {"epoch": "1" * 16}),
}

WITHOUT_TYPE: Mapping[str, str] = {
    "workspace.enrolment_file": "registry/vehicles.json: schemas.enrolment reads row by row; a test below",
    "edge_agent.models.trust": "metadata of TUF, which has its own versions",
    "edge_agent.models.frames": "recorded pictures",
    "edge_agent.spool.": "segments and journals: binary frames with a version (tests/edge_agent/spool)",
    "edge_agent.durable_progress": "its state is in the spool's ledger, with a format of its own",
    "edge_agent.key_file": "PEM",
    "rollout.keys": "PEM",
    "rollout.metadata_files": "metadata of TUF, which has its own versions",
    "foundation.row_file": "the file of rows; its rows are above",
    "foundation.files": "the writers themselves",
    "connectors.lake.table": "a Delta table, see tests/released/test_lake_tables.py",
    "pipelines.ingest.write": "Parquet of a Delta table",
    "pipelines.ingest.elements": "what a runner hands from one step to the next",
    "pipelines.curate.": "files of one run in its working folder; a cache whose name holds its version",
    "pipelines.dataset.card": "pages for people",
    "pipelines.validate.safe_docs": "pages for people",
    "pipelines.dataset.dvc": "settings of DVC and git",
    "pipelines.dataset.make": "Parquet of a dataset; its manifest is above",
    "services.init": "the files of a new workspace; fleetloop.toml and params.yaml are tested below",
    "services.migrate_workspace": "copies and templates",
    "services.model_import": "a model",
    "services.own_labels": "answers in the form of the label desk, a table for people",
    "training.initial": "a model",
    "training.plots": "pictures",
    "training.quantise": "a model",
    "training.stages": "models and weights; its documents are above",
    "training.registry": "models and weights; its documents are above",
    "fleetloop.demo.": "what the demo shows; result.json says format 1, and is read by no part of FleetLoop",
    "schemas.documents": "JSON Schema files of this repository, for its developers",
    "devservers.": "folders of a test broker",
}
"""Modules (or, with a dot at the end, packages) that write files which are no document of a `DocumentType`, and why."""

OTHER_READERS: Mapping[str, str] = {
    "foundation.documents": "the parser",
    "connectors.labels.label_tables": "label files of other people, up to 500 MB, with their own messages",
    "edge_agent.models.trial": "what a trial process and its parent say to each other",
    "edge_agent.released_progress": "a frame whose checksum held, of bounded size",
    "edge_agent.spool.": "a frame whose checksum held, of bounded size",
}
"""Modules (or packages) that call json.loads, and why."""
WRITERS = frozenset(
    {"write_document", "write_json_atomic", "write_atomic", "publish_json", "RowFile"}
    | {"write_bytes", "write_text", "write_parquet", "write_table"}
)


def modules() -> dict[str, ast.Module]:
    files = (path for name in PRODUCT for path in (TOP / name).rglob("*.py"))
    return {
        ".".join(path.relative_to(TOP).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
        for path in files
    }


def calls(tree: ast.Module) -> list[tuple[str, str]]:
    """(what is before the dot, name) of each call."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found.append((getattr(node.func.value, "id", ""), node.func.attr))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append(("", node.func.id))
    return found


def is_listed(module: str, listed: Mapping[str, str]) -> bool:
    return any(module == name or (name.endswith(".") and module.startswith(name)) for name in listed)


def test_every_module_that_writes_a_file_is_in_the_table() -> None:
    written = {module for row in DOCUMENTS.values() for module in row.written}
    found = {name for name, tree in modules().items() if any(word in WRITERS for _, word in calls(tree))}
    assert [name for name in sorted(found) if name not in written and not is_listed(name, WITHOUT_TYPE)] == []


def test_json_is_read_by_the_one_parser() -> None:
    found = {
        name for name, tree in modules().items() if {("json", "loads"), ("json", "load")} & set(calls(tree))
    }
    assert [name for name in sorted(found) if not is_listed(name, OTHER_READERS)] == []


def test_every_type_of_document_is_in_the_table() -> None:
    known = {id(row.kind) for row in DOCUMENTS.values()}
    for module in (*(sys_modules()),):
        for name, value in vars(module).items():
            if isinstance(value, DocumentType):
                assert id(value) in known, f"{module.__name__}.{name} is in no row of DOCUMENTS"


def sys_modules() -> list[Any]:
    import importlib

    makes = [
        name
        for name, tree in modules().items()
        if any(word == "DocumentType" or before == "DocumentType" for before, word in calls(tree))
    ]
    listed = {key: value for key, value in WITHOUT_TYPE.items() if key.startswith("edge_agent.")}
    return [importlib.import_module(name) for name in makes if not is_listed(name, listed)]


every = pytest.mark.parametrize("row", DOCUMENTS.values(), ids=list(DOCUMENTS))


@every
def test_what_a_release_wrote_is_read(row: Row) -> None:
    for tree in row.trees():
        document = row.kind.of(tree)
        assert document == row.kind.of(row.kind.tree(tree) if row.kind.absent else tree)


@every
def test_a_key_of_tomorrow_is_skipped_unless_it_must_be_understood(row: Row) -> None:
    for tree in row.trees():
        later = {**tree, "colour": {"of": ["tomorrow"]}}
        if not is_free(row.kind):
            assert without(row.kind.of(later), "colour") == without(row.kind.of(tree), "colour")
        with pytest.raises(FleetLoopError, match="colour"):
            row.kind.of({**later, "must_understand": ["colour"]})


def is_free(kind: DocumentType[Any]) -> bool:
    """Whether a key may be anything, so that none is unknown."""
    return kind is state_folder.STATUS


def without(document: Any, key: str) -> Any:
    return {k: v for k, v in document.items() if k != key} if isinstance(document, dict) else document


@every
def test_a_version_that_is_not_known_is_refused_by_file_value_and_bound(row: Row, tmp_path: Path) -> None:
    for tree in row.trees():
        path = tmp_path / "document.json"
        path.write_text(json.dumps({**tree, row.kind.version_key: 99}))
        with pytest.raises(
            CorruptError, match=rf"document\.json: .*{row.kind.version_key} is 99; it must be .*1"
        ):
            read_document(path, row.kind)


@every
def test_a_file_that_is_too_large_is_refused_before_it_is_read(row: Row, tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    with path.open("wb") as file:
        file.truncate(row.kind.max_bytes + 1)
    with pytest.raises(CorruptError, match=rf"{row.kind.max_bytes + 1} bytes; at most {row.kind.max_bytes}"):
        read_document(path, row.kind)


@every
def test_a_value_of_another_type_is_refused_by_its_place(row: Row) -> None:
    for tree in row.trees():
        refused = []
        for key in tree.keys() - {row.kind.version_key}:
            try:
                row.kind.of({**tree, key: [{}]})
            except FleetLoopError as error:
                assert key in str(error)
                refused.append(key)
        assert refused or is_free(row.kind), "something of it is read"


@pytest.mark.parametrize("release", NAMES)
def test_one_row_that_cannot_be_read_spoils_no_other(release: str, tmp_path: Path) -> None:
    """In the enrolment and in the history; of rollouts and indices see tests/rollout and tests/schemas."""
    registry_path = copy_of(release, "workspace", tmp_path) / "registry"
    document = json.loads((registry_path / "vehicles.json").read_text())
    row = {"key_id": "tomorrow", "must_understand": ["curve"], "curve": "p256"}
    enrolment = Enrolment.from_json(json.dumps({**document, "keys": [row, *document["keys"]]}))
    assert sorted(enrolment.vehicles) == ["car-0", "car-1", "car-2"]
    assert row in json.loads(enrolment.to_json())["keys"], "and it stays in the file"
    path = registry_path / "rollouts" / "history.jsonl"
    path.write_text('{"event": 5}\n' + path.read_text() + "no JSON\n")
    held = history.History(path)
    assert ([each.index for each in held.unreadable], len(held.rows)) == ([0, 5], 4)


Settings = tuple[str, Callable[[Path], object]]
SETTINGS: tuple[Settings, ...] = (
    ("documents/agent.toml", load_agent_settings),
    ("workspace/fleetloop.toml", lambda path: Workspace.open(path.parent).settings),
    ("workspace/params.yaml", load_classes),
)


@pytest.mark.parametrize("release", NAMES)
@pytest.mark.parametrize(("name", "read"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_settings_may_say_their_version(
    name: str, read: Callable[[Path], object], release: str, tmp_path: Path
) -> None:
    text, path = (ROOT / release / name).read_text(), tmp_path / Path(name).name
    path.write_text(text)
    before = read(path)
    sign = ": " if path.suffix == ".yaml" else " = "
    path.write_text(f"format{sign}1\n{text}")
    assert read(path) == before
    path.write_text(f"format{sign}2\n{text}")
    with pytest.raises(MisconfiguredError, match=rf"{path.name}.*format is 2; it must be .*1"):
        read(path)


@pytest.mark.parametrize("release", NAMES)
def test_a_vehicles_own_documents_say_their_version(release: str, tmp_path: Path) -> None:
    state = copy_of(release, "vehicle", tmp_path)
    slots = SlotFolder(state)
    readers: Mapping[str, Callable[[], object]] = {
        "vehicle.json": lambda: read_vehicle(state),
        "models/factory.json": slots.read_factory,
        "models/active.json": slots.read_active,
        "models/candidate.json": slots.read_candidate,
    }
    for name, read in readers.items():
        read()
        tree = json.loads((state / name).read_text())
        (state / name).write_text(json.dumps({**tree, "format": 99}))
        with pytest.raises(CorruptError, match=name.rpartition("/")[2].replace(".", r"\.")):
            read()
