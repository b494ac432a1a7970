"""Services answer with typed, frozen values, and have no terminal."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from enum import Enum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import services
from foundation.clock import SystemClock
from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError, RejectedError, RetryLaterError
from foundation.files import write_json_atomic
from modelkit.digest import sha256_hex
from rollout.repository import init_repository
from schemas.reasons import Split
from services import keys, release, rollout
from services.drives import drives_of_file, drives_of_lake
from services.enrol import enrol_vehicle, revoke_vehicle
from services.fleet import list_fleet
from services.init import make_workspace
from services.status import workspace_status
from tests.fakes.models import tiny_contract, tiny_model
from tests.pipelines.curate_lake import fleet_rows, label_rows
from tests.pipelines.curate_lake import make_workspace as make_lake
from workspace.layout import CONFIG_NAME, Workspace
from workspace.served_models import ServedModel, serve

ROOT = Path(__file__).parents[2]
MODULES = [
    importlib.import_module(f"services.{found.name}") for found in pkgutil.iter_modules(services.__path__)
]
V1, V2 = (tiny_model(tiny_contract(name=name), seed=seed) for name, seed in (("v1", 1), ("v2", 2)))
FORCED = {"override_by": "ana", "override_why": "bench"}


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    root = tmp_path / "ws"
    root.mkdir()
    (root / CONFIG_NAME).write_text('bootstrap = "127.0.0.1:1"\nnotice_wait_s = 0.05\n')
    made = Workspace.open(root)
    init_repository(made.tuf_path, made.keys_path)
    for name, data in (("v1", V1), ("v2", V2)):
        (tmp_path / f"{name}.onnx").write_bytes(data)
    return made


def enrol(place: Workspace, *names: str, tags: tuple[str, ...] = ()) -> None:
    for name in names:
        state = place.root.parent / name
        enrol_vehicle(place, name, state, tags, SystemClock(), model_path=place.root.parent / "v1.onnx")


def released(place: Workspace) -> release.Published:
    request = release.ReleaseRequest(model=place.root.parent / "v2.onnx", release_id="r2", **FORCED)
    return release.create_release(place, request)


def test_every_result_is_a_frozen_value() -> None:
    found = [
        member
        for module in MODULES
        for name, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and not name.startswith("_")
        and not issubclass(member, Enum | Exception)
    ]
    assert len(found) > 20
    for each in found:
        assert dataclasses.is_dataclass(each) and each.__dataclass_params__.frozen, each  # type: ignore[attr-defined]


def test_no_service_prints_reads_a_terminal_or_ends_the_process() -> None:
    for path in (ROOT / "services").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "input", "exit"), f"{path}:{node.lineno}"
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "sys"
            ):
                assert node.attr not in ("stdout", "stderr", "stdin", "argv", "exit"), f"{path}:{node.lineno}"


def test_the_fleet_is_who_was_enrolled_with_keys_and_tags_and_who_is_revoked(place: Workspace) -> None:
    assert list_fleet(place) == ()
    enrol(place, "car-1", tags=("eu",))
    enrol(place, "car-2")
    revoke_vehicle(place, "car-2", SystemClock())
    one, two = list_fleet(place)
    assert (one.vehicle_id, one.is_active, one.tags, len(one.key_ids)) == ("car-1", True, ("eu",), 1)
    assert (two.vehicle_id, two.is_active) == ("car-2", False)
    with pytest.raises(MisconfiguredError, match="car-9"):
        revoke_vehicle(place, "car-9", SystemClock())


def test_a_release_is_returned_as_it_was_signed_and_says_why_nobody_was_told(place: Workspace) -> None:
    done = released(place)
    assert (done.release.release_id, done.release.model_digest) == ("r2", sha256_hex(V2))
    assert not done.notified.is_sent and done.notified.problem
    assert [each.release_id for each in release.list_releases(place)] == ["r2"]
    both = release.ReleaseRequest(model=place.root.parent / "v2.onnx", package=place.package_path)
    with pytest.raises(MisconfiguredError, match="exclude each other"):
        release.create_release(place, both)
    write_json_atomic(place.root / "gate.json", {"passed": True})
    with pytest.raises(CorruptError, match="candidate_digest is missing"):
        release.read_gate(place.root / "gate.json")


def test_a_gate_that_compared_with_another_model_than_the_fleet_is_served_is_told(place: Workspace) -> None:
    place.package_path.mkdir(parents=True)
    (place.package_path / "model.onnx").write_bytes(V2)
    evidence = {
        "model_digest": sha256_hex(V2),
        "base_digest": sha256_hex(V1),
        "gate": {"passed": True, "reason": ""},
    }
    write_json_atomic(place.package_path / "package.json", evidence)
    for serving, is_told in ((V1, False), (b"another", True), (V2, False)):
        serve(place, ServedModel("now", sha256_hex(serving)))
        note = release.create_release(place, release.ReleaseRequest()).note
        assert ("the fleet is served" in note) is is_told


def test_a_rollout_is_asked_and_told_in_typed_values(place: Workspace) -> None:
    enrol(place, "car-1", "car-2", "car-3")
    released(place)
    request = rollout.RolloutRequest("r2", "1,2", include=("car-2",))
    plan = rollout.start(place, request).plan
    assert (plan.state, plan.waves[0].exact_count, plan.include) == ("running", 1, ("car-2",))
    with pytest.raises(RejectedError) as refused:
        rollout.start(place, request)
    assert refused.value.reason == "rollout_running"
    found = rollout.status(place, is_offline=True)["serving"]
    assert [each.plan for each in found.plans] == [plan]
    waiting = found.vehicles["car-2"]
    assert waiting.report is None and waiting.verdict is not None and waiting.verdict.wave == 1
    assert set(found.vehicles) == {"car-2"}, "who is in no open wave is not exposed"
    with pytest.raises(RetryLaterError):
        rollout.advance(place)
    assert rollout.halt(place, "rain").plan.state == "halted"
    assert rollout.status(place, is_offline=True)["serving"].plans[0].halt_reason == "rain"
    assert rollout.history(place, is_offline=True) == rollout.FleetHistory((), ())


def test_keys_are_told_without_a_private_part_and_replaced(place: Workspace) -> None:
    before = {key.role: key for key in keys.list_keys(place)}
    assert all(key.is_trusted and key.mode == "0600" for key in before.values())
    done = keys.rotate_key(place, "models")
    trusted = {key.key_id for key in keys.list_keys(place) if key.role == "models" and key.is_trusted}
    assert trusted == {done.key_id} and done.key_id != before["models"].key_id
    assert keys.rotate_key(place, "root").root_version == 4  # a root before and after the key of models
    assert "timestamp" in keys.refresh(place)


def test_a_root_of_two_of_three_keys_is_replaced_by_two_of_them_and_stays_two_of_three(
    tmp_path: Path,
) -> None:
    place = make_workspace(tmp_path / "two", root_threshold=2, root_keys=3)
    assert make_workspace(tmp_path / "two") == place, "who asks for nothing gets what is there"
    files = [key.path for key in keys.list_keys(place) if key.role == "root"]
    Path(files[0]).unlink()
    assert keys.rotate_key(place, "root").root_version == 2
    assert sum(key.is_trusted for key in keys.list_keys(place) if key.role == "root") == 3
    for key in keys.list_keys(place):
        if key.role == "root" and key.is_trusted:
            Path(key.path).unlink()
            break
    assert keys.rotate_key(place, "root").root_version == 3, "two of the three new keys are enough again"
    for key in [key for key in keys.list_keys(place) if key.role == "root" and key.is_trusted][:2]:
        Path(key.path).unlink()
    with pytest.raises(MisconfiguredError, match=r"needs 2 signature\(s\); .* holds 1"):
        keys.rotate_key(place, "root")
    for asked in ({"root_threshold": 1}, {"root_keys": 2}):
        with pytest.raises(MisconfiguredError, match="threshold of 2 of 3 keys already"):
            make_workspace(tmp_path / "two", **asked)


def test_a_root_threshold_that_no_number_of_keys_reaches_is_refused_with_its_bound(tmp_path: Path) -> None:
    for threshold, count in ((0, None), (3, 2), (17, None)):
        with pytest.raises(MisconfiguredError, match="1 <= threshold <= keys <= 16"):
            make_workspace(tmp_path / "ws", root_threshold=threshold, root_keys=count)


def test_the_status_of_a_workspace_is_empty_until_there_is_something_to_say(place: Workspace) -> None:
    nothing = workspace_status(place)
    assert (nothing.enrolled, nothing.dataset, nothing.serving, nothing.releases) == (0, None, None, ())
    assert (dict(nothing.lake), nothing.rollouts, dict(nothing.models_by_vehicle)) == ({}, (), {})
    enrol(place, "car-1")
    released(place)
    serve(place, ServedModel("v1", "a" * 64))
    found = workspace_status(place)
    assert (found.enrolled, found.revoked, found.releases) == (1, 0, ("r2",))
    assert found.serving is not None and found.serving.name == "v1"


def test_every_drive_of_the_lake_and_of_a_file_is_told_with_its_split(tmp_path: Path) -> None:
    rows = fleet_rows(6, 4)
    place = make_lake(tmp_path / "ws", rows, label_rows(rows))
    found = drives_of_lake(place)
    assert {each.drive_id for each in found} == {str(row["drive_id"]) for row in rows}
    assert sum(each.rows for each in found) == len(rows)
    assert [each.drive_id for each in found] == sorted(each.drive_id for each in found)
    file = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"drive_id": [found[0].drive_id, "mine", None]}), file)
    of_file = {each.drive_id: each for each in drives_of_file(place, file)}
    assert of_file[found[0].drive_id].split is found[0].split, (
        "one drive is in one split wherever it is asked for"
    )
    assert set(of_file) == {found[0].drive_id, "mine"} and of_file["mine"].split in Split
    pq.write_table(pa.table({"other": [1]}), file)
    with pytest.raises(MisconfiguredError, match="drive_id"):
        drives_of_file(place, file)


def test_an_error_of_a_service_is_of_a_family_that_every_surface_knows(place: Workspace) -> None:
    with pytest.raises(FleetLoopError) as caught:
        rollout.halt(place, "no rollout yet")
    assert caught.value.exit_code == MisconfiguredError.exit_code
