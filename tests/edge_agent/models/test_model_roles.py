"""A model beside the serving one comes, answers and goes by itself; nothing that it does reaches the serving model."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.models.model_set import ModelSet
from edge_agent.models.slots import SlotFolder
from edge_agent.models.status import read_other_roles
from foundation import syscalls
from foundation.errors import MisconfiguredError, RejectedError
from modelkit.tasks.task import Raw
from schemas.documents import COMPLETE, HALTED
from schemas.reasons import ModelState
from schemas.records import Health
from schemas.roles import MAX_ROLES
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.test_slots_serving import FRAME, PickyBackend, answer

OTHERS = ("shadow",)
Rule = Callable[[NDArray[np.float32]], Raw]


def said_by(models: ModelSet) -> dict[str, str]:
    """Role -> name of the model that answered a frame."""
    return {served.role: served.model_name for served in models.predict([FRAME])}


def shadowed(bench: Bench, release_id: str = "s1", seed: int = 9) -> None:
    """A shadow release that went all the way to being the role's candidate."""
    bench.release(release_id, seed, role="shadow")
    bench.plan(release_id, role="shadow")
    bench.run(bench.fetcher())
    candidate = SlotFolder(bench.state, "shadow").read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == release_id


def is_grey(batch: NDArray[np.float32]) -> bool:
    return abs(float(batch.mean())) < 0.05


def nan_unless_grey(batch: NDArray[np.float32]) -> Raw:
    return answer(batch, 1.0 if is_grey(batch) else float("nan"))


def raises(error: Exception) -> Rule:
    def rule(batch: NDArray[np.float32]) -> Raw:
        if is_grey(batch):
            return answer(batch)  # it passes the look at grey before it is taken
        raise error

    return rule


def test_a_role_without_a_model_is_absent(bench: Bench) -> None:
    assert said_by(bench.models()) == {"serving": "v1"}
    assert read_other_roles(bench.state, {}, OTHERS) == ()


def test_a_shadow_model_answers_beside_the_serving_one_and_says_so_in_telemetry(bench: Bench) -> None:
    shadowed(bench)
    models = bench.models()
    models.poll()
    for _ in range(6):
        assert said_by(models) == {"serving": "v1", "shadow": "s1"}
    assert bench.slots.read_active().active.release_id == ""
    (said,) = models.recorded(models.predict([FRAME])[1:])
    assert (said.role, said.model_name) == ("shadow", "s1")
    assert models.other_roles()["shadow"]["model"] == {
        "name": "s1",
        "digest": bench.releases[0].model_digest,
        "state": "shadow",
        "release_id": "s1",
    }
    (report,) = read_other_roles(bench.state, models.other_roles(), OTHERS)
    assert (report.role, report.release_id, report.model_state) == ("shadow", "s1", ModelState.SHADOW)
    assert report.frames == 7
    assert {event.event for event in report.model_events} == {"trial_passed", "activated", "confirmed"}
    assert said_by(bench.models()) == {"serving": "v1", "shadow": "s1"}  # after a restart too


def test_a_role_whose_file_is_damaged_is_told_in_telemetry_not_left_out(bench: Bench) -> None:
    shadowed(bench)
    (bench.state / "models" / "roles" / "shadow" / "active.json").write_text("{")
    (report,) = read_other_roles(bench.state, {}, OTHERS)
    assert (report.role, report.model_digest) == ("shadow", "")
    assert "active.json" in report.health.last_error


def test_what_another_version_published_of_a_roles_health_is_read_as_far_as_it_is_known(bench: Bench) -> None:
    shadowed(bench)
    said = {"shadow": {"frames": 3, "health": {"error_count": "many", "of_tomorrow": 2}}}
    (report,) = read_other_roles(bench.state, said, OTHERS)
    assert (report.frames, report.health) == (3, Health())
    said["shadow"]["health"] = {"error_count": 1, "of_tomorrow": 2}
    (report,) = read_other_roles(bench.state, said, OTHERS)
    assert report.health == Health(error_count=1), "a key of another version is skipped"


def test_an_answer_that_no_record_may_hold_costs_no_sample_and_is_counted(bench: Bench) -> None:
    shadowed(bench)
    models = bench.models()
    models.poll()
    (shadow,) = models.predict([FRAME])[1:]
    assert models.recorded([replace(shadow, model_name="x" * 10_000), shadow])[0].model_name == "s1"
    assert models.other_roles()["shadow"]["unrecorded"] == 1


@pytest.mark.parametrize(
    "rule",
    [
        raises(RuntimeError("no")),
        raises(MemoryError()),
        raises(KeyError("x")),
        nan_unless_grey,
    ],
)
def test_whatever_a_shadow_model_does_the_serving_model_answers_every_frame(bench: Bench, rule: Rule) -> None:
    shadowed(bench)
    models = bench.models(PickyBackend(s1=rule))
    models.poll()
    for _ in range(10):
        assert said_by(models) == {"serving": "v1"}
    assert models.serving.rollbacks == 0
    (report,) = read_other_roles(bench.state, {}, OTHERS)
    assert (report.model_digest, report.model_state, report.rollbacks) == ("", ModelState.ROLLED_BACK, 1)
    bench.run(bench.fetcher())
    models.poll()
    assert said_by(models) == {"serving": "v1"}  # blocked for good
    assert SlotFolder(bench.state, "shadow").read_candidate() is None


def test_a_halted_shadow_plan_takes_the_shadow_model_and_no_other(bench: Bench) -> None:
    shadowed(bench)
    bench.release("r2", 2)
    bench.plan("r2")
    bench.run(bench.fetcher())
    models = bench.models()
    models.poll()
    assert said_by(models) == {"serving": "r2", "shadow": "s1"}
    bench.plan("s1", HALTED, role="shadow")
    bench.run(bench.fetcher())
    models.poll()
    assert said_by(models) == {"serving": "r2"}


def test_a_halted_serving_plan_leaves_the_shadow_model(bench: Bench) -> None:
    shadowed(bench)
    bench.release("r2", 2)
    bench.plan("r2")
    bench.run(bench.fetcher())
    models = bench.models()
    models.poll()
    bench.plan("r2", HALTED)
    bench.run(bench.fetcher())
    models.poll()
    assert said_by(models) == {"serving": "v1", "shadow": "s1"}


def test_a_process_that_keeps_crashing_loses_the_shadow_model_before_the_serving_one(bench: Bench) -> None:
    shadowed(bench)
    bench.release("r2", 2)
    bench.plan("r2", COMPLETE)
    bench.run(bench.fetcher())
    models = bench.models()
    models.poll()
    for _ in range(6):
        models.predict([FRAME])
    seen = [said_by(bench.models(has_crashed=True)) for _ in range(9)]
    assert all(said["serving"] == "r2" for said in seen[:4])
    assert "shadow" not in seen[3]
    assert seen[-1] == {"serving": "v1"}  # it was not the shadow model: then the serving one is to blame


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_crashes_of_a_shadow_model_never_count_against_the_serving_one(
    bench: Bench, is_confirmed: bool
) -> None:
    bench.release("r2", 2)
    bench.plan("r2")
    bench.run(bench.fetcher())
    models = bench.models()
    models.poll()
    for _ in range(6 if is_confirmed else 0):
        models.predict([FRAME])
    shadowed(bench)
    models.poll()
    for _ in range(4):
        models = bench.models(has_crashed=True)
        active = bench.slots.read_active()
        assert (active.confirmed, active.starts, active.blocked) == (is_confirmed, 0, {})
    assert said_by(models) == {"serving": "r2"}  # the shadow model went with the last crash
    bench.models(has_crashed=True)
    assert bench.slots.read_active().starts == 1  # nobody else is left to blame


@pytest.mark.parametrize("name", ["active.json", "candidate.json", "fetch.json"])
def test_a_damaged_file_of_a_role_costs_that_role_only(bench: Bench, name: str) -> None:
    shadowed(bench)
    models = bench.models()
    models.poll()
    (bench.state / "models" / "roles" / "shadow" / name).write_bytes(b"{")
    again = bench.models()
    again.poll()
    assert said_by(again)["serving"] == "v1"
    bench.release("r2", 2)
    bench.plan("r2")
    for _ in range(3):
        bench.run(bench.fetcher())
    again.poll()
    assert said_by(again)["serving"] == "r2"


def test_slots_of_a_role_are_kept_while_it_needs_them(bench: Bench) -> None:
    shadowed(bench)
    bench.run(bench.fetcher())
    digest = bench.releases[0].model_digest
    assert bench.slots.slot_path(digest).exists()
    models = bench.models()
    models.poll()
    bench.run(bench.fetcher())
    assert bench.slots.slot_path(digest).exists()
    bench.plan("s1", HALTED, role="shadow")
    bench.run(bench.fetcher())
    models.poll()
    bench.run(bench.fetcher())
    assert not bench.slots.slot_path(digest).exists()


def test_a_release_for_a_role_that_this_vehicle_does_not_run_is_left_alone(bench: Bench) -> None:
    bench.release("d1", 4, role="depth")
    bench.plan("d1", role="depth")
    steps = bench.run(bench.fetcher())
    assert steps[-1].outcome == "idle"
    assert bench.trials == []


@pytest.mark.parametrize("seed", range(6))
def test_two_roles_that_roll_at_once_never_take_each_others_models(tmp_path: Path, seed: int) -> None:
    """Releases, halts, restarts and failing models in any order; each frame has an answer of the role serving."""
    rng = random.Random(seed)
    bench = Bench(tmp_path)
    bad = {f"shadow-{number}": raises(RuntimeError("no")) for number in (1, 3)}
    refused = {"serving-4": raises(RejectedError("no", reason="run_failed"))}
    backend = PickyBackend(**bad, **refused)
    fetcher, models = bench.fetcher(), bench.models(backend)
    plans: list[tuple[str, str]] = []
    for tick in range(25):
        action = rng.choice(["release", "halt", "fetch", "fetch", "restart", "drive"])
        if action == "release" and len(plans) < 6:
            role, number = rng.choice(["serving", "shadow"]), len(plans)
            plans.append((f"{role}-{number}", role))
            bench.release(plans[-1][0], number + 10, role=role)
            bench.plan(plans[-1][0], role=role)
        elif action == "halt" and plans:
            name, role = rng.choice(plans)
            bench.plan(name, HALTED, role=role)
        elif action == "fetch":
            bench.run(fetcher)
        elif action == "restart":
            fetcher.close()
            fetcher, models = bench.fetcher(), bench.models(backend)
        models.poll()
        said = said_by(models)
        assert said["serving"] == "v1" or said["serving"].startswith("serving-"), f"seed {seed}, tick {tick}"
        assert said.get("shadow", "shadow-").startswith("shadow-"), f"seed {seed}, tick {tick}"


def test_a_shadow_model_that_can_never_run_here_is_refused_with_its_reason(bench: Bench) -> None:
    shadowed(bench)
    models = bench.models(PickyBackend(s1=RejectedError("3 nodes on the CPU", reason="cpu_fallback")))
    models.poll()
    assert said_by(models) == {"serving": "v1"}
    (report,) = read_other_roles(bench.state, {}, OTHERS)
    assert report.model_state is ModelState.REFUSED
    assert report.model_events[0].reason == "cpu_fallback: 3 nodes on the CPU"


PASSING = [MemoryError(), MisconfiguredError("onnxruntime is not installed")]


@pytest.mark.parametrize("error", [*PASSING, RejectedError("no", reason="load_failed"), KeyError("x")])
def test_a_shadow_candidate_that_fails_to_load_is_asked_again_after_the_wait_for_refused_ones(
    bench: Bench, error: Exception
) -> None:
    shadowed(bench)
    backend = PickyBackend(s1=error)
    models = bench.models(backend, refused_wait_s=30.0)
    for _ in range(60):
        models.poll()
        bench.clock.advance(1.0)
    assert bench.events().count("swap_refused") == 2
    assert SlotFolder(bench.state, "shadow").read_active().blocked == {}
    backend.rules.clear()
    models.poll()
    assert said_by(models) == {"serving": "v1", "shadow": "s1"}


@pytest.mark.parametrize("error", PASSING)
def test_a_shadow_model_that_the_machine_cannot_load_at_a_start_may_come_back(
    bench: Bench, error: Exception
) -> None:
    shadowed(bench)
    bench.models().poll()
    backend = PickyBackend(s1=error)
    models = bench.models(backend)
    assert said_by(models) == {"serving": "v1"}
    backend.rules.clear()
    bench.run(bench.fetcher())
    models.poll()
    assert said_by(models) == {"serving": "v1", "shadow": "s1"}


def test_a_disk_that_refuses_the_lock_file_is_kept_from_the_frame_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *arguments: int) -> int:
        if str(path).endswith(".lock"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments)  # type: ignore[arg-type]

    shadowed(bench)
    models, real = bench.models(), syscalls.open
    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "open", refuse)
        models.poll()
    assert bench.events()[-1] == "swap_postponed"
    models.poll()
    assert said_by(models) == {"serving": "v1", "shadow": "s1"}


def test_a_role_that_is_no_longer_configured_is_reported_last_and_without_a_model(bench: Bench) -> None:
    shadowed(bench)
    models = bench.models()
    models.poll()
    models.predict([FRAME])
    for number in range(20):
        SlotFolder(bench.state, f"old-{number}").write_active(SlotFolder(bench.state, "shadow").read_active())
    first, second, *others = read_other_roles(bench.state, models.other_roles(), OTHERS)
    assert (first.role, first.release_id, first.frames) == ("shadow", "s1", 1)
    assert (second.model_digest, second.model_state, second.swaps) == ("", ModelState.ROLLED_BACK, 1)
    assert len(others) == MAX_ROLES - 3
