"""A workspace of every released commit becomes today's, whenever the migration is killed; a dry run changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.lake.lock import locked_snapshot, read_lake_lock
from connectors.lake.schema import TABLES
from connectors.lake.table import LakeTable
from edge_agent.models.slots import SlotFolder
from edge_agent.state_folder import StateFolder
from fleetloop.cli import app
from foundation import syscalls
from foundation.clock import ManualClock
from foundation.errors import CorruptError, RetryLaterError
from foundation.files import FileLock
from pipelines.curate.params import load_params
from services.init import SALT_BYTES, template
from services.migrate import migrate_vehicle
from services.migrate_workspace import migrate_workspace
from tests.released.released import NAMES, copy_of
from training.registry import base_name
from workspace.layout import Workspace
from workspace.params_file import read_params
from workspace.served_models import serving_name

pytestmark = pytest.mark.parametrize("release", NAMES)


class KilledError(BaseException):
    """The process ends here."""


def killed_at(change: int, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> bool:
    """Whether the call was killed at that change of a file, counted from 0."""
    left = [change]

    def dying(change_file: Callable[..., object]) -> Callable[..., object]:
        def counted(*given: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise KilledError
            return change_file(*given)

        return counted

    with monkeypatch.context() as faults:
        for name in ("fsync", "rename", "unlink"):
            faults.setattr(syscalls, name, dying(getattr(syscalls, name)))
        try:
            call()
        except KilledError:
            return True
    return False


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def released(release: str, folder: Path) -> Workspace:
    root = copy_of(release, "workspace", folder)
    (root / "gitignore").rename(root / ".gitignore")
    return Workspace.open(root)


def assert_todays(place: Workspace) -> None:
    assert (place.root / "dvc.yaml").read_text() == template("dvc.yaml")
    assert (place.root / "launch").read_text() == template("launch")
    assert read_params(place.params_path)["task"] == "classification", "the stages name it"
    assert base_name(place.registry_path) == serving_name(place)
    assert not place.old_serving_path.exists()
    assert len(place.served_path.read_text().splitlines()) == 1
    lock = read_lake_lock(place.lake_lock_path)
    for name, schema in TABLES.items():
        table = LakeTable.open(place.lake_path / name)
        old, new = locked_snapshot(lock, name, table).read(), table.snapshot().read()
        assert set(new.column_names) == set(schema.names)
        assert new.select(old.column_names).sort_by("payload_sha256") == old.sort_by("payload_sha256")
    assert not migrate_workspace(place, is_dry_run=True)[0].steps


def test_a_dry_run_says_everything_and_changes_nothing(release: str, tmp_path: Path) -> None:
    place = released(release, tmp_path)
    before = contents(place.root)
    found, recorded = migrate_workspace(place, is_dry_run=True)
    assert {"launch", "registry/base.json", "dvc.yaml"} <= {step.name for step in found.steps}
    assert (found.by_hand, found.unreadable, recorded) == ((), (), None)
    assert contents(place.root) == before


def test_a_released_workspace_becomes_todays(release: str, tmp_path: Path) -> None:
    place = released(release, tmp_path)
    done, _ = migrate_workspace(place)
    assert done.is_done
    assert_todays(place)
    assert migrate_workspace(place)[0].steps == (), "the second time there is nothing to do"


@pytest.mark.slow
def test_killed_at_any_change_of_a_file_it_goes_on_to_the_same_end(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, is_done = 0, False
    while not is_done:
        folder = tmp_path / str(at)
        place = released(release, folder)
        is_done = not killed_at(at, monkeypatch, partial(migrate_workspace, place))
        assert migrate_workspace(place, is_dry_run=True)[0].unreadable == (), f"killed at change {at}"
        migrate_workspace(place)
        assert_todays(place)
        shutil.rmtree(folder)
        at += 1
    assert at > 10, "there were changes to be killed at"


def test_stages_that_a_person_edited_are_told_and_left(release: str, tmp_path: Path) -> None:
    place = released(release, tmp_path)
    edited = (place.root / "dvc.yaml").read_text() + "# mine\n"
    (place.root / "dvc.yaml").write_text(edited)
    done, _ = migrate_workspace(place)
    assert [each.name for each in done.by_hand] == ["dvc.yaml"]
    assert (place.root / "dvc.yaml").read_text() == edited
    assert place.old_serving_path.exists(), "a stage of theirs may depend on it"
    assert serving_name(place)[0] == "v2"


def test_a_workspace_from_before_keeps_its_split_and_draws_by_a_secret_of_its_own(
    release: str, tmp_path: Path
) -> None:
    place = released(release, tmp_path)
    before = load_params(place.params_path)
    migrate_workspace(place)
    after = load_params(place.params_path)
    assert after.split == before.split
    assert (before.label.salt, len(after.label.salt)) == ("", 2 * SALT_BYTES)
    assert replace(after.label, salt="") == before.label
    again, _ = migrate_workspace(place)
    assert not again.steps
    assert load_params(place.params_path) == after


@pytest.mark.parametrize(
    "text", ['{"classes": ["red", "green"]}\n', "classes: [red]\n...\n", "classes: [red]\nnote: |+\n  kept\n"]
)
def test_parameters_that_a_line_would_spoil_or_change_are_told_and_left(
    release: str, tmp_path: Path, text: str
) -> None:
    place = released(release, tmp_path)
    place.params_path.write_text(text)
    done, _ = migrate_workspace(place)
    found, draws = done.by_hand
    assert "needs label.salt" in draws.what
    assert found.name == "params.yaml" and "needs the key task" in found.what
    assert place.params_path.read_text() == text


def test_an_ignore_file_in_another_encoding_keeps_its_lines(release: str, tmp_path: Path) -> None:
    place = released(release, tmp_path)
    path = place.root / ".gitignore"
    path.write_bytes(b"# caf\xe9\r\nmine")
    assert migrate_workspace(place)[0].is_done
    assert path.read_bytes().startswith(b"# caf\xe9\r\nmine\n")
    assert migrate_workspace(place, is_dry_run=True)[0].steps == ()


def git(place: Workspace, *arguments: str) -> str:
    who = ("-c", "user.name=ann", "-c", "user.email=ann@example.org")
    return subprocess.check_output(["git", *who, *arguments], cwd=place.root, text=True)


@pytest.mark.parametrize("edited", ["", "dvc.yaml", "params.yaml"])
def test_git_has_what_was_migrated_and_no_edit_that_a_person_had_not_committed(
    release: str, tmp_path: Path, edited: str
) -> None:
    place = released(release, tmp_path)
    git(place, "init", "--quiet")
    git(place, "config", "user.name", "ann")
    git(place, "config", "user.email", "ann@example.org")
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message", "as released")
    if edited:
        with (place.root / edited).open("a") as file:
            file.write("# mine\n")
    done, recorded = migrate_workspace(place)
    assert done.is_done and recorded is not None
    assert (recorded.is_clean, edited in recorded.why) == (not edited, True)
    committed = set(git(place, "show", "--name-only", "--format=").split())
    changed = {step.name for step in done.steps} & {"launch", "params.yaml", "dvc.yaml", ".gitignore"}
    assert changed and changed - {edited} <= committed and edited not in committed


def test_nothing_is_changed_while_a_document_cannot_be_read(release: str, tmp_path: Path) -> None:
    place = released(release, tmp_path)
    (place.registry_path / "rollouts" / "reports.json").write_text('{"format": 99}')
    before = contents(place.root)
    done, recorded = migrate_workspace(place)
    assert [each.name for each in done.unreadable] == ["registry/rollouts"]
    assert "99" in done.unreadable[0].what
    assert (done.is_done, recorded) == (False, None)
    after = contents(place.root)
    assert {name: data for name, data in after.items() if not name.startswith(".fleetloop/")} == before


MOVED = ("active.json", "candidate.json", "fetch.json")


def roles(state: Path) -> dict[str, bytes]:
    folder = state / "models" / "roles" / "serving"
    return contents(folder) if folder.is_dir() else {}


def serves(state: Path) -> tuple[str, str, tuple[str, ...]]:
    """What a start of perceive finds: the active model, the candidate, and what deliver refused."""
    slots = SlotFolder(state)
    candidate = slots.read_candidate()
    return (
        slots.read_active().active.name,
        candidate.slot.release_id if candidate else "",
        tuple(slots.read_fetch().refused),
    )


def test_a_released_vehicles_files_of_the_role_serving_move_beside_those_of_other_roles(
    release: str, tmp_path: Path
) -> None:
    state = copy_of(release, "vehicle", tmp_path)
    before, old = contents(state), serves(state)
    dry = migrate_vehicle(state, ManualClock(), is_dry_run=True)
    assert contents(state) == before
    done = migrate_vehicle(state, ManualClock())
    assert (done.steps, done.unreadable) == (dry.steps, ())
    held = {name: before[f"models/{name}"] for name in MOVED if f"models/{name}" in before}
    assert [step.name for step in done.steps] == [
        f"models/{name}" for name in ("fetch.json", "candidate.json", "active.json") if name in held
    ]
    assert roles(state) == held
    assert serves(state) == old
    assert migrate_vehicle(state, ManualClock()).steps == ()
    (state / "models" / "roles" / "serving" / "active.json").write_text('{"format": 1')
    (found,) = migrate_vehicle(state, ManualClock()).unreadable
    assert found.name == "models/roles/serving/active.json"
    assert "not JSON" in found.what


def test_a_vehicles_files_move_whole_whenever_the_migration_is_killed(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, was_killed = 0, True
    while was_killed:
        state = copy_of(release, "vehicle", tmp_path / str(at))
        old = serves(state)
        was_killed = killed_at(at, monkeypatch, partial(migrate_vehicle, state, ManualClock()))
        assert serves(state) == old, f"killed at change {at}"
        migrate_vehicle(state, ManualClock())
        assert serves(state) == old
        assert not any((state / "models" / name).exists() for name in MOVED)
        at += 1
    assert at > 5, "there were changes to be killed at"


def test_a_running_agent_keeps_its_files(release: str, tmp_path: Path) -> None:
    state = copy_of(release, "vehicle", tmp_path)
    (state / "run").mkdir(exist_ok=True)
    before = contents(state / "models")
    with FileLock(state / "run" / "perceive.lock"), pytest.raises(RetryLaterError, match=r"perceive\.lock"):
        migrate_vehicle(state, ManualClock())
    assert contents(state / "models") == before


def test_a_start_that_cannot_be_read_keeps_a_vehicles_files_where_they_are(
    release: str, tmp_path: Path
) -> None:
    state = copy_of(release, "vehicle", tmp_path)
    StateFolder(state).deliver_epochs_path.write_text('{"epoch": "1", "must_understand": ["fence"]}')
    before = contents(state / "models")
    (found,) = migrate_vehicle(state, ManualClock()).unreadable
    assert "fence" in found.what
    assert contents(state / "models") == before


def test_a_report_or_a_record_that_cannot_be_read_is_named(release: str, tmp_path: Path) -> None:
    place = released(release, tmp_path)
    for name in ("reports/gate.json", "registry/tags.json", "registry/models/v1/model.json"):
        (place.root / name).write_text('{"format": 9}')
    path = place.rollouts_path / "history.jsonl"
    path.write_text("torn\n" + path.read_text())
    found = {each.name: each.what for each in migrate_workspace(place, is_dry_run=True)[0].unreadable}
    assert set(found) == {
        *("reports/gate.json", "registry/tags.json", "registry/models/v1/model.json", "registry/rollouts"),
    }
    assert "line 1" in found.pop("registry/rollouts")
    assert all("format is 9; it must be" in what for what in found.values())


def test_the_command_says_what_it_does(release: str, tmp_path: Path) -> None:
    place = released(release, tmp_path)
    state = copy_of(release, "vehicle", tmp_path)
    words = ["migrate", "--workspace", str(place.root), "--json"]
    first = json.loads(CliRunner().invoke(app, [*words, "--dry-run"], catch_exceptions=False).stdout)
    second = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert (first["steps"], first["is_dry_run"]) == (second["steps"], True)
    said = CliRunner().invoke(app, ["migrate", "--state", str(state)], catch_exceptions=False)
    assert "done: models/active.json moves to models/roles/serving/active.json" in said.stdout
    said = CliRunner().invoke(app, ["migrate", "--state", str(state)], catch_exceptions=False)
    assert said.stdout == "nothing to migrate\n"
    (state / "vehicle.json").write_text("{")
    failed = CliRunner().invoke(app, ["migrate", "--state", str(state)])
    assert isinstance(failed.exception, CorruptError)
    assert "vehicle.json" in str(failed.exception)
