"""`fleetloop status` says what the workspace's own files say, from the first day on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.lake.table import LakeTable
from fleetloop.cli import app
from foundation.errors import MisconfiguredError
from schemas.enrolment import EnrolledKey, Enrolment
from schemas.signing import VehicleKey
from services.init import make_workspace
from tests.pipelines.curate_lake import arrival, fleet_rows, label_rows, picture
from tests.pipelines.curate_lake import make_workspace as make_lake
from workspace.enrolment_file import save_enrolment
from workspace.layout import Workspace
from workspace.served_models import ServedModel, serve


def said(root: Path) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["status", "--json", "--workspace", str(root)])
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def shown(root: Path) -> str:
    done = CliRunner().invoke(app, ["status", "--workspace", str(root)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.stdout


def key(vehicle: str) -> EnrolledKey:
    made = VehicleKey.generate()
    return EnrolledKey(vehicle, made.key_id, made.public_b64, 1)


@pytest.mark.slow
def test_a_fresh_workspace_has_nothing_yet_and_says_so(tmp_path: Path) -> None:
    place = make_workspace(tmp_path / "ws", classes=("green", "red"))
    assert said(place.root) == {
        "workspace": str(place.root),
        "broker": place.settings.bootstrap,
        "vehicles": {},
        "lake": {},
        "dataset": {},
        "serving": {},
        "base": {},
        "releases": [],
        "rollouts": [],
        "models_by_vehicle": {},
        "other_roles": {},
    }
    assert place.settings.bootstrap in shown(place.root)
    assert shown(place.root).count("-") >= 6


def test_tables_are_counted_and_arrivals_by_outcome(tmp_path: Path) -> None:
    rows = fleet_rows(2, 4)
    bad: dict[str, Any] = {"outcome": "rejected", "reason": "bad_signature"}
    rows += [arrival(picture(n), seq=n, offset=n, **bad) for n in (100, 101)]
    rows.append(arrival(picture(0), seq=0, offset=200, outcome="resent", resend_of="t/0/0"))
    rows.append(arrival(picture(100), seq=100, offset=100, origin="replay", supersedes="t/0/100"))
    place = make_lake(tmp_path / "ws", rows, label_rows(rows[:8], every=2))
    version = LakeTable.open(place.lake_path / "arrivals").snapshot().version
    lake = said(place.root)["lake"]
    assert lake["arrivals"] == {"version": version, "rows": 12, "landed": 8, "rejected": 2, "resent": 1}, (
        "outcomes are of offsets of the log: a replay is no second offset"
    )
    assert lake["labels"]["rows"] == 4
    assert "landed 8" in shown(place.root)


def test_vehicles_and_the_serving_model_come_from_the_registry(tmp_path: Path) -> None:
    place: Workspace = make_lake(tmp_path / "ws", fleet_rows(1, 1), [])
    place.registry_path.mkdir(exist_ok=True)
    serve(place, ServedModel("v3", "a" * 64))
    two = Enrolment().with_key(key("car-1")).with_key(key("car-2"))
    save_enrolment(two.with_revoked("car-2", 5).with_key(key("car-3")), place.enrolment_path)
    found = said(place.root)
    assert found["vehicles"] == {"enrolled": 2, "revoked": 1}
    assert found["serving"] == {"name": "v3", "digest": "a" * 64}


def test_a_folder_that_is_no_workspace_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["status", "--workspace", str(tmp_path)])
    assert isinstance(done.exception, MisconfiguredError)
    assert str(tmp_path) in str(done.exception)
