"""By hand: enrol, release, roll out, halt, ask; every refusal is one clear line with its own exit status."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge_agent.models.role_model import RoleModel
from edge_agent.models.settings import ServingSettings
from edge_agent.models.vehicle import read_vehicle
from fleetloop.cli import app
from fleetloop.commands.rollout import HALTED_EXIT
from foundation.clock import SystemClock
from foundation.errors import FleetLoopError, MisconfiguredError, RejectedError
from foundation.events import EventLog
from foundation.files import write_json_atomic
from modelkit.digest import digest_of_json, sha256_hex
from modelkit.embed import read_contract
from rollout.health import VehicleReport
from rollout.reports import FleetReports
from rollout.repository import init_repository
from rollout.service import Advance
from schemas.reasons import ModelState
from schemas.roles import SERVING
from services import release as release_service
from services import rollout as rollout_service
from services.notices import Notified
from tests.fakes.models import FakeBackend, tiny_contract, tiny_model
from tests.modelkit.bundle_rig import write_bundle
from workspace.enrolment_file import load_enrolment
from workspace.layout import CONFIG_NAME, Workspace
from workspace.served_models import served_models, serving_name

V1 = tiny_model(tiny_contract(name="v1"), seed=1)
V2 = tiny_model(tiny_contract(name="v2"), seed=2)


class Desk:
    """A workspace and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "ws"
        self.root.mkdir()
        (self.root / CONFIG_NAME).write_text(
            'name = "bench"\nbootstrap = "127.0.0.1:1"\nnotice_wait_s = 0.1\n'
        )
        self.place = Workspace.open(self.root)
        init_repository(self.place.tuf_path, self.place.keys_path)
        self.v1 = folder / "v1.onnx"
        self.v1.write_bytes(V1)
        self.v2 = folder / "v2.onnx"
        self.v2.write_bytes(V2)

    def run(self, *words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*words, "--workspace", str(self.root)])
        if isinstance(result.exception, FleetLoopError):
            raise result.exception
        assert result.exit_code == code, result.output
        return str(result.stdout)

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code))

    def enrol(self, *names: str) -> None:
        for name in names:
            self.run("enroll", name, "--state", str(self.folder / name), "--model", str(self.v1))

    def release(self) -> None:
        why = ("--override-by", "ana", "--override-why", "bench")
        self.run("release", "create", "--model", str(self.v2), "--id", "r2", *why)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_enrolled_vehicle_can_serve_and_sign(desk: Desk) -> None:
    state = desk.folder / "car-1"
    done = desk.json("enroll", "car-1", "--state", str(state), "--model", str(desk.v1), "--tags", "eu,winter")
    assert done["tags"] == ["eu", "winter"]
    assert read_vehicle(state).tags == ("eu", "winter")
    assert stat.S_IMODE((state / "key.pem").stat().st_mode) == 0o600
    enrolment = load_enrolment(desk.place.enrolment_path)
    assert [key.key_id for key in enrolment.vehicles["car-1"]] == [done["key_id"]]
    serving = RoleModel(SERVING, state, FakeBackend(), ServingSettings(), SystemClock(), EventLog(None))
    assert serving.name == "v1"
    private = (state / "key.pem").read_text().splitlines()[1]
    assert not any(
        private in path.read_text("utf-8", "ignore") for path in desk.root.rglob("*") if path.is_file()
    )


def test_enrolling_twice_changes_nothing(desk: Desk) -> None:
    desk.enrol("car-1")
    before = {path: path.read_bytes() for path in (desk.folder / "car-1").rglob("*") if path.is_file()}
    desk.enrol("car-1")
    assert {path: path.read_bytes() for path in before} == before
    assert len(load_enrolment(desk.place.enrolment_path).keys) == 1


def test_a_state_folder_belongs_to_one_vehicle(desk: Desk) -> None:
    desk.enrol("car-1")
    with pytest.raises(MisconfiguredError, match="state folder of car-1"):
        desk.run("enroll", "car-2", "--state", str(desk.folder / "car-1"), "--model", str(desk.v1))
    with pytest.raises(MisconfiguredError, match="--state is missing"):
        desk.run("enroll", "car-2")
    with pytest.raises(MisconfiguredError, match="is not of the form"):
        desk.run("enroll", "Car 2", "--state", str(desk.folder / "x"), "--model", str(desk.v1))
    with pytest.raises(MisconfiguredError, match="no model serves yet"):
        desk.run("enroll", "car-2", "--state", str(desk.folder / "x"))


def test_a_revoked_vehicle_is_in_no_wave(desk: Desk) -> None:
    desk.enrol("car-1", "car-2")
    desk.run("enroll", "car-2", "--revoke")
    desk.release()
    with pytest.raises(MisconfiguredError, match="need 2 vehicles; 1 are eligible"):
        desk.run("rollout", "start", "r2", "--waves", "1,1")
    plan = desk.json("rollout", "start", "r2", "--waves", "rest")
    assert [wave["exact_count"] for wave in plan["waves"]] == [1]


def test_a_release_needs_a_gate_or_an_override(desk: Desk) -> None:
    with pytest.raises(RejectedError, match="no gate evaluated this model"):
        desk.run("release", "create", "--model", str(desk.v2))
    gate = desk.folder / "gate.json"
    write_json_atomic(gate, {"candidate_digest": sha256_hex(V2), "passed": True, "reason": "fine"})
    done = desk.json("release", "create", "--model", str(desk.v2), "--gate", str(gate))
    assert done["gate"] == {"override": None, "passed": True, "reason": "fine"}
    assert [each["release_id"] for each in desk.json("release", "list")["releases"]] == [done["release_id"]]
    write_json_atomic(gate, {"candidate_digest": "0" * 64, "passed": True, "reason": "fine"})
    with pytest.raises(RejectedError, match="the gate evaluated"):
        desk.run("release", "create", "--model", str(desk.v2), "--gate", str(gate), "--id", "x")
    with pytest.raises(MisconfiguredError, match="run `fleetloop package`"):
        desk.run("release", "create")


def test_a_package_is_released_and_registered_and_serves_when_its_rollout_completes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from training.registry import ModelRecord
    from training.weights import pack_weights, weights_digest

    package = desk.root / "models" / "package"
    package.mkdir(parents=True)
    (package / "model.onnx").write_bytes(V2)
    weights = {"layer": np.zeros(2, dtype=np.float32)}
    (package / "weights.npz").write_bytes(pack_weights(weights))
    contract = read_contract(V2)
    assert contract.training_drives_digest == digest_of_json([])
    record = ModelRecord("v2", sha256_hex(V2), weights_digest(weights), {}, (), "", "")
    record.write(package / "model.json")
    write_json_atomic(
        package / "package.json", {"model_digest": sha256_hex(V2), "gate": {"passed": True, "reason": "ok"}}
    )
    desk.enrol("car-1")
    release = desk.json("release", "create")
    desk.run("rollout", "start", release["release_id"])

    def hear(
        _place: Workspace, _reports: FleetReports, _bootstrap: str = "", role: str = "serving"
    ) -> Mapping[str, VehicleReport]:
        now_ns = SystemClock().now_ns()
        report = VehicleReport(
            "car-1",
            now_ns,
            "0" * 16,
            1,
            sha256_hex(V2),
            "v2",
            ModelState.SERVING,
            reports_on_model=2,
            frames=9,
        )
        return {"car-1": report}

    monkeypatch.setattr(rollout_service, "hear", hear)
    done = desk.json("rollout", "watch", "--timeout-s", "5", "--every-s", "0.05")
    assert (done["did"], done["plan"]["state"]) == ("completed", "complete")
    assert (done["serving_updated"], done["why"]) == (True, "")
    assert serving_name(desk.place) == ("v2", sha256_hex(V2))
    registered = desk.place.models_path / "v2" / "model.onnx"
    registered.write_bytes(V1)
    found = CliRunner().invoke(app, ["rollout", "advance", "--json", "--workspace", str(desk.root)])
    assert isinstance(found.exception, RejectedError), "damaged, which is not the same as never registered"
    document = json.loads(found.stdout)
    assert (document["serving_updated"], document["plan"]["state"]) == (False, "complete")
    assert sha256_hex(V1) in document["why"]


def test_a_model_that_was_released_from_a_bare_file_serves_the_fleet_but_not_the_registry(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.enrol("car-1")
    desk.release()
    desk.run("rollout", "start", "r2")
    report = VehicleReport(
        "car-1",
        SystemClock().now_ns(),
        "0" * 16,
        1,
        sha256_hex(V2),
        "v2",
        ModelState.SERVING,
        reports_on_model=2,
    )
    monkeypatch.setattr(
        rollout_service, "hear", lambda *_: {"car-1": replace(report, heard_ns=SystemClock().now_ns())}
    )
    done = desk.json("rollout", "watch", "--timeout-s", "5", "--every-s", "0.05")
    assert (done["plan"]["state"], done["serving_updated"]) == ("complete", False)
    assert "bare file" in done["why"]
    assert served_models(desk.place) == {}


def test_a_breach_halts_with_its_own_exit_status_and_says_who_and_why(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.enrol("car-1", "car-2", "car-3")
    desk.release()
    desk.run("rollout", "start", "r2", "--waves", "1,2")
    service = rollout_service.open_service(desk.place)
    state = service.state_of(service.current())
    assert state is not None
    (canary,) = state.waves[0].members
    report = VehicleReport(
        canary, SystemClock().now_ns(), "0" * 16, 1, sha256_hex(V1), "v1", ModelState.SERVING
    )

    monkeypatch.setattr(rollout_service, "hear", lambda *_: {canary: report})
    assert desk.json("rollout", "advance")["did"] == "waited"
    assert desk.json("rollout", "watch", "--timeout-s", "0", code=75)["did"] == "waited"
    bad = replace(report, ends={"r2": ("rolled_back", "not_finite")}, rollbacks=1)
    monkeypatch.setattr(rollout_service, "hear", lambda *_: {canary: bad})
    done = desk.json("rollout", "advance", code=HALTED_EXIT)
    assert (done["did"], done["plan"]["state"]) == ("halted", "halted")
    assert done["reason"] == f"{canary} rolled_back: not_finite"
    status = desk.json("rollout", "status", "--offline")
    assert status["plans"][0]["halt_reason"] == done["reason"]
    assert canary in desk.run("rollout", "status", "--offline")


def test_who_was_left_out_of_a_large_rollout_is_named_in_status_and_history(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"car-{number}" for number in range(236)]
    monkeypatch.setattr(rollout_service, "active_vehicles", lambda _enrolment: names)
    desk.release()
    desk.enrol("car-0")
    desk.run("rollout", "start", "r2")
    well = VehicleReport(
        "car-0", SystemClock().now_ns(), "0" * 16, 1, sha256_hex(V2), "v2", ModelState.SERVING, 3, 100
    )
    heard = {name: replace(well, vehicle_id=name) for name in names}
    heard["car-7"] = replace(heard["car-7"], ends={"r2": ("refused", "too_slow")})
    monkeypatch.setattr(rollout_service, "hear", lambda *_: heard)
    assert desk.json("rollout", "advance")["did"] == "completed"
    (plan,) = desk.json("rollout", "status", "--offline")["plans"]
    assert [(who["vehicle_id"], who["outcome"], who["reason"]) for who in plan["left_out"]] == [
        ("car-7", "refused", "too_slow")
    ]
    assert "went on without car-7" in desk.run("rollout", "status", "--offline")
    ((plan_id, who),) = desk.json("rollout", "history", "--offline")["left_out"]
    assert (plan_id, who["vehicle_id"], who["reason"]) == ("r2.1", "car-7", "too_slow")
    assert "car-7" in desk.run("rollout", "history", "--offline")


def test_a_rollout_is_halted_by_hand_and_history_is_one_document(desk: Desk) -> None:
    desk.enrol("car-1")
    desk.release()
    desk.run("rollout", "start", "r2")
    assert desk.json("rollout", "halt", "--why", "rain")["state"] == "halted"
    assert desk.json("rollout", "history", "--offline") == {
        "events": [],
        "runs": [],
        "unreadable": [],
        "left_out": [],
    }
    desk.place.rollouts_path.mkdir(exist_ok=True)
    (desk.place.rollouts_path / "history.jsonl").write_text("torn\n")
    assert "line 1 is not JSON" in desk.json("rollout", "history", "--offline")["unreadable"][0]["why"]
    shown = CliRunner().invoke(app, ["rollout", "history", "--offline", "--workspace", str(desk.root)])
    assert "not read: " in shown.stderr


def test_late_enrolment_is_held_out_of_a_running_rollout(desk: Desk) -> None:
    desk.enrol("car-1", "car-2")
    desk.release()
    desk.run("rollout", "start", "r2", "--waves", "1,1")
    desk.enrol("car-3")
    assert desk.json("rollout", "status", "--offline")["plans"][0]["exclude"] == ["car-3"]


def test_keys_are_listed_without_private_parts_and_replaced(desk: Desk) -> None:
    keys = desk.json("keys", "list")["keys"]
    assert {key["role"] for key in keys} == {"root", "targets", "snapshot", "timestamp", "models", "rollouts"}
    assert all(key["trusted"] and key["mode"] == "0600" for key in keys)
    assert "PRIVATE" not in desk.run("keys", "list")
    replaced = desk.json("keys", "rotate", "models")["key_id"]
    trusted = [
        k["key_id"] for k in desk.json("keys", "list")["keys"] if k["role"] == "models" and k["trusted"]
    ]
    assert trusted == [replaced]
    # Two of the models key: one that names both keys, then one that names the new one.
    assert desk.json("keys", "rotate", "root")["root_version"] == 4
    assert "timestamp" in desk.json("keys", "refresh")["signed"]


def test_a_publication_stands_without_a_broker_and_says_that_nobody_was_told(desk: Desk) -> None:
    desk.enrol("car-1")
    why = ("--override-by", "ana", "--override-why", "bench")
    words = ("release", "create", "--model", str(desk.v2), "--id", "r2", *why)
    began_s = time.monotonic()
    result = CliRunner().invoke(app, [*words, "--json", "--workspace", str(desk.root)])
    assert time.monotonic() - began_s < 5.0
    assert result.exit_code == 0
    assert json.loads(result.stdout)["notified"] is False
    assert "no notice was sent" in result.stderr
    assert desk.json("rollout", "start", "r2")["notified"] is False
    assert desk.json("rollout", "halt", "--why", "rain")["notified"] is False


def test_every_publication_tells_the_fleet_once_and_a_decision_to_wait_tells_nobody(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []

    def tell(_place: Workspace, kind: str, detail: str, *, bootstrap: str = "") -> Notified:
        told.append((kind, detail))
        return Notified(True)

    for module in (release_service, rollout_service):
        monkeypatch.setattr(module, "tell_fleet", tell)
    monkeypatch.setattr(
        rollout_service, "hear", lambda place, reports, bootstrap, role: reports.newest_of(role)
    )
    desk.enrol("car-1")
    desk.release()
    assert desk.json("rollout", "start", "r2")["notified"] is True
    assert desk.json("rollout", "advance")["notified"] is None
    assert desk.json("rollout", "halt")["notified"] is True
    assert told == [("release", "r2"), ("rollout", "r2.1 started"), ("rollout", "r2.1 halted")]


def test_a_shadow_release_rolls_beside_a_serving_one_and_each_role_is_asked_for_by_name(desk: Desk) -> None:
    desk.enrol("car-1")
    desk.release()
    why = ("--override-by", "ana", "--override-why", "bench")
    made = desk.json("release", "create", "--model", str(desk.v2), "--id", "s1", "--role", "shadow", *why)
    assert made["role"] == "shadow"
    desk.run("rollout", "start", "r2")
    desk.run("rollout", "start", "s1")
    serving = desk.json("rollout", "status", "--offline")
    shadow = desk.json("rollout", "status", "--offline", "--role", "shadow")
    assert [plan["plan_id"] for plan in serving["plans"]] == ["r2.1"]
    assert [plan["plan_id"] for plan in shadow["plans"]] == ["s1.1"]
    assert shadow["vehicles"]["car-1"]["outcome"] == "waiting"
    assert desk.json("rollout", "halt", "--role", "shadow")["plan_id"] == "s1.1"
    assert desk.json("rollout", "halt", "--plan", "r2.1")["plan_id"] == "r2.1"


def test_status_judges_every_running_rollout_and_a_halt_says_which_it_means(desk: Desk) -> None:
    desk.enrol("car-1", "car-2")
    desk.release()
    why = ("--override-by", "ana", "--override-why", "bench")
    desk.run("release", "create", "--model", str(desk.v1), "--id", "r3", *why)
    desk.run("rollout", "start", "r2", "--exclude", "car-2")
    desk.run("rollout", "start", "r3", "--exclude", "car-1")
    status = desk.json("rollout", "status", "--offline")
    assert [(plan["plan_id"], plan["verdict"]) for plan in status["plans"]] == [
        ("r2.1", "waiting"),
        ("r3.1", "waiting"),
    ]
    judged = {name: (row["plan_id"], row["outcome"]) for name, row in status["vehicles"].items()}
    assert judged == {"car-1": ("r2.1", "waiting"), "car-2": ("r3.1", "waiting")}
    for verb in ("halt", "advance", "watch"):
        with pytest.raises(MisconfiguredError, match=r"run: r2\.1, r3\.1; name one with --plan"):
            desk.run("rollout", verb)
    assert desk.json("rollout", "halt", "--plan", "r3.1")["plan_id"] == "r3.1"
    status = desk.json("rollout", "status", "--offline")
    assert [plan["verdict"] for plan in status["plans"]] == ["waiting", None]


def test_a_completed_rollout_of_another_role_is_recorded_in_that_role_once(desk: Desk) -> None:
    desk.enrol("car-1")
    why = ("--override-by", "ana", "--override-why", "bench")
    desk.run("release", "create", "--model", str(desk.v2), "--id", "s1", "--role", "shadow", *why)
    desk.run("rollout", "start", "s1")
    (plan,) = rollout_service.open_service(desk.place).plans()
    done = Advance(plan.with_state("complete"), "completed", None)
    for _ in range(2):
        assert rollout_service.update_serving(desk.place, done).is_updated
    (row,) = served_models(desk.place).values()
    assert (row.role, row.name, row.digest) == ("shadow", "v2", sha256_hex(V2))
    assert (row.release_id, row.plan_id) == ("s1", "s1.1")
    assert len(desk.place.served_path.read_text().splitlines()) == 1
    status = desk.json("status")
    assert status["serving"] == {}
    assert status["other_roles"]["shadow"]["model"] == {"name": "v2", "digest": sha256_hex(V2)}
    assert status["rollouts"] == ["s1.1: running (shadow)"]


def test_a_folder_of_several_files_is_released_as_one_model(desk: Desk) -> None:
    bundle = write_bundle(desk.folder / "made")
    why = ("--override-by", "ana", "--override-why", "bench")
    done = desk.json("release", "create", "--model", str(bundle.folder), "--id", "b1", *why)
    assert [file["path"] for file in done["files"]] == ["model.onnx", "model.onnx.data", "tokenizer.json"]
    assert done["model_digest"] == bundle.digest
    desk.enrol("car-1")
    desk.run("rollout", "start", "b1")
    (plan,) = rollout_service.open_service(desk.place).plans()
    assert (plan.is_bundle, plan.model_digest) == (True, bundle.digest)
    (desk.folder / "made" / "link").symlink_to("/etc/passwd")
    with pytest.raises(RejectedError, match="link is a link"):
        desk.run("release", "create", "--model", str(bundle.folder), "--id", "b2", *why)


def test_the_status_of_rollouts_shows_every_role(desk: Desk) -> None:
    desk.enrol("car-1")
    desk.release()
    why = ("--override-by", "ana", "--override-why", "bench")
    desk.run("release", "create", "--model", str(desk.v2), "--id", "s1", "--role", "shadow", *why)
    desk.run("rollout", "start", "r2")
    desk.run("rollout", "start", "s1")
    found = desk.json("rollout", "status", "--offline")
    assert [plan["plan_id"] for plan in found["plans"]] == ["r2.1"]
    assert [plan["plan_id"] for plan in found["other_roles"]["shadow"]["plans"]] == ["s1.1"]
    assert found["other_roles"]["shadow"]["vehicles"]["car-1"]["outcome"] == "waiting"
    shown = desk.run("rollout", "status", "--offline")
    assert "r2.1  serving  running" in shown and "s1.1  shadow  running" in shown
    only = desk.json("rollout", "status", "--offline", "--role", "shadow")
    assert ([plan["plan_id"] for plan in only["plans"]], only["other_roles"]) == (["s1.1"], {})
