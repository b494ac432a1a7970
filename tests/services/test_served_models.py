"""What the fleet is served is a row per change and role: none is lost, doubled or spoilt by another."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation import syscalls
from foundation.clock import ManualClock
from foundation.errors import MisconfiguredError, RetryLaterError
from foundation.files import FileLock
from services.status import workspace_status
from workspace.layout import Workspace, WorkspaceSettings
from workspace.model_name import ModelName, write_model_name
from workspace.served_models import (
    ServedModel,
    move_old_record,
    serve,
    served_models,
    serving_name,
    unreadable_rows,
)

A, B = "a" * 64, "b" * 64


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path / "ws", WorkspaceSettings())
    place.registry_path.mkdir(parents=True)
    return place


def lines(place: Workspace) -> int:
    return len(place.served_path.read_bytes().splitlines())


def test_the_newest_row_of_each_role_counts_and_a_rollout_counts_once(place: Workspace) -> None:
    with pytest.raises(MisconfiguredError, match="no model serves yet"):
        serving_name(place)
    clock = ManualClock(5)
    first = ServedModel("v1", A, plan_id="r1.1")
    assert serve(place, first, clock)
    assert serve(place, ServedModel("s1", A, role="shadow", plan_id="s1.1"), clock)
    assert serve(place, ServedModel("v2", B, plan_id="r2.1"), clock)
    assert not serve(place, first, clock), "told again, it takes nothing back"
    found = served_models(place)
    assert {role: row.name for role, row in found.items()} == {"serving": "v2", "shadow": "s1"}
    assert found["serving"].time_ns == 5
    assert (serving_name(place), lines(place)) == (("v2", B), 3)


def test_one_row_that_cannot_be_read_spoils_no_other_and_is_told(place: Workspace) -> None:
    serve(place, ServedModel("v1", A))
    with place.served_path.open("ab") as file:
        file.write(b'{"name": "v9", "digest": 5}\n')
    serve(place, ServedModel("s1", B, role="shadow"))
    assert sorted(served_models(place)) == ["serving", "shadow"]
    (row,) = unreadable_rows(place)
    assert "served.jsonl: line 2: served model.digest is 5" in row.why
    assert workspace_status(place).trouble == (row.why,)


def test_what_an_earlier_release_wrote_counts_until_a_row_says_more_and_is_moved_once(
    place: Workspace,
) -> None:
    write_model_name(place.old_serving_path, ModelName("v1", A))
    assert serving_name(place) == ("v1", A)
    move_old_record(place)
    move_old_record(place)
    assert (serving_name(place), lines(place)) == (("v1", A), 1)
    serve(place, ServedModel("v2", B, plan_id="r2.1"))
    write_model_name(place.old_serving_path, ModelName("v1", A))  # killed before it was removed
    assert serving_name(place) == ("v2", B)
    move_old_record(place)
    assert (serving_name(place), lines(place)) == (("v2", B), 2)


def test_what_an_earlier_release_wrote_is_not_moved_while_a_rollout_is_written(place: Workspace) -> None:
    place = Workspace(place.root, WorkspaceSettings(lock_wait_s=0))
    write_model_name(place.old_serving_path, ModelName("v1", A))
    place.private_path.mkdir()
    with FileLock(place.private_path / "served.lock"), pytest.raises(RetryLaterError, match=r"served\.lock"):
        move_old_record(place)
    assert (serving_name(place), place.served_path.exists()) == (("v1", A), False)


def test_a_full_disk_leaves_what_was_served(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(place, ServedModel("v1", A))
    before = place.served_path.read_bytes()

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "fsync", full)
        with pytest.raises(RetryLaterError, match="No space left"):
            serve(place, ServedModel("v2", B))
    assert place.served_path.read_bytes() == before
