"""Deliver's side: it brings what the plans want, and nothing else; what is refused stays refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Never

import pytest

from devservers.static_server import StaticServer
from edge_agent.models import fetch
from edge_agent.models.fetch_journal import MAX_TRIAL_ATTEMPTS
from edge_agent.models.slots import SlotFolder, install_initial
from edge_agent.models.status import read_model_status
from edge_agent.models.trial import TrialResult
from foundation import syscalls
from foundation.errors import CorruptError, MisconfiguredError, RejectedError
from schemas.documents import COMPLETE, HALTED, RUNNING
from schemas.downlink import INDEX, INDEX_1, PLANS_KEY, index_targets
from tests.edge_agent.models.model_bench import EVERYBODY, Bench, FakeTrial
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto

NOBODY = "0" * 64


def test_nothing_is_fetched_before_a_plan_wants_it(bench: Bench) -> None:
    bench.release("r2", 2)
    assert bench.run(bench.fetcher())[-1].outcome == "idle"
    bench.plan("r2", threshold=NOBODY)
    assert bench.run(bench.fetcher())[-1].outcome == "idle"
    assert not (bench.slots.path / "staging").exists()
    bench.plan("r2", threshold=EVERYBODY)
    bench.run(bench.fetcher())
    assert bench.slots.read_candidate() is not None


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"exclude": ("car-1",)}, False),
        ({"include": ("car-1",), "threshold": NOBODY}, True),
        ({"tags": ("winter",)}, False),
        ({"state": COMPLETE}, True),
        ({"state": HALTED}, False),
    ],
)
def test_the_plan_says_who_takes_part(bench: Bench, fields: dict[str, object], taken: bool) -> None:
    bench.release("r2", 2)
    bench.plan("r2", **fields)  # type: ignore[arg-type]
    bench.run(bench.fetcher())
    assert (bench.slots.read_candidate() is not None) == taken


def test_the_newest_plan_that_lets_the_vehicle_in_decides(bench: Bench) -> None:
    bench.release("r2", 2)
    bench.plan("r2", COMPLETE)
    bench.release("r3", 3)
    bench.plan("r3")
    bench.run(bench.fetcher())
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == "r3"
    bench.plan("r3", HALTED)
    bench.run(bench.fetcher())
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == "r2"


def test_models_come_over_http_with_ranges(bench: Bench) -> None:
    data = bench.release("r2", 2)
    bench.plan("r2")
    staged = bench.slots.path / "staging" / f"{bench.releases[0].model_digest}.part"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(data[:1000])
    with StaticServer(bench.repository.path) as server:
        bench.run(bench.fetcher(base_url=server.url))
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert bench.slots.read_slot(candidate.slot.digest) == data


def test_a_server_that_is_not_there_is_normal(bench: Bench) -> None:
    with StaticServer(bench.repository.path) as server:
        url = server.url
    job = bench.fetcher(base_url=url)
    step = job.step()
    assert step.outcome == "failed"
    assert "cannot reach" in step.detail
    assert job.status().last_error
    assert bench.serving().name == "v1"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a model at all", "not_onnx"),
        (tiny_proto(tiny_contract()).SerializeToString(), "no_contract"),
        (tiny_model()[:-40], "not_onnx"),
    ],
)
def test_a_signed_release_that_is_no_acceptable_model_is_refused_once_with_its_reason(
    bench: Bench, data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tests.edge_agent.models.model_bench as model_bench

    monkeypatch.setattr(model_bench, "contract_digest", lambda _data: "0" * 64)
    bench.release("bad", 0, data=data)
    bench.plan("bad")
    job = bench.fetcher()
    done = bench.run(job)
    assert done[-1].outcome == "failed"
    assert bench.slots.read_fetch().refused == {"bad": reason}
    for _ in range(3):
        assert bench.run(job)[-1].outcome == "idle"
    assert bench.trials == []
    status = read_model_status(bench.state)
    assert [(e.event, e.release_id) for e in status.events][-1] == ("refused", "bad")
    assert status.refused == {"bad": reason}


def test_a_release_larger_than_the_vehicle_takes_is_refused_before_it_is_downloaded(bench: Bench) -> None:
    bench.release("r2", 2)
    bench.plan("r2")
    bench.run(bench.fetcher(max_model_bytes=1000))
    assert bench.slots.read_fetch().refused == {"r2": "too_large"}
    assert not (bench.slots.path / "staging").exists()


def test_a_failed_trial_refuses_the_release_and_removes_its_slot(bench: Bench) -> None:
    bench.release("r2", 2)
    bench.plan("r2")
    bench.trial_result = TrialResult(False, "too_slow", "p50 9 s")
    job = bench.fetcher()
    assert bench.run(job)[-1].outcome == "failed"
    bench.run(job)
    assert bench.slots.read_fetch().refused == {"r2": "too_slow"}
    assert [path.stem for path in (bench.slots.path / "slots").iterdir()] == [
        bench.slots.read_factory().digest
    ]


def test_a_trial_that_takes_the_machine_down_is_given_up_after_three_attempts(bench: Bench) -> None:
    bench.release("r2", 2)
    bench.plan("r2")
    for _ in range(3):  # deliver dies while the trial runs
        job = bench.fetcher()
        while job.status().phase != "trial":
            job.step()
    job = bench.fetcher()
    assert bench.run(job)[-1].outcome == "failed"
    assert bench.slots.read_fetch().refused == {"r2": "trial_never_ended"}
    assert len(bench.trials) == 3


def test_a_slot_damaged_on_disk_before_its_trial_is_fetched_again(bench: Bench) -> None:
    data = bench.release("r2", 2)
    bench.plan("r2")
    path = bench.slots.slot_path(bench.releases[0].model_digest)
    path.write_bytes(b"half")
    bench.run(bench.fetcher())
    assert path.read_bytes() == data
    assert bench.slots.read_candidate() is not None


def test_the_slots_of_the_serving_and_the_previous_model_are_never_removed(bench: Bench) -> None:
    digests = []
    for number in range(2, 5):
        bench.release(f"r{number}", number)
        bench.plan(f"r{number}", COMPLETE)
        bench.run(bench.fetcher())
        serving = bench.serving()
        serving.poll()
        digests.append(serving.digest)
        bench.run(bench.fetcher())
    kept = {path.stem for path in (bench.slots.path / "slots").iterdir()}
    assert kept == {bench.slots.read_factory().digest, digests[-1], digests[-2]}


@pytest.mark.parametrize("name", ["fetch.json", "candidate.json"])
def test_damage_to_delivers_own_files_stops_nothing(bench: Bench, name: str) -> None:
    bench.release("r2", 2)
    bench.plan("r2")
    (bench.slots.path / name).write_text("{damaged")
    bench.run(bench.fetcher())
    assert bench.slots.read_candidate() is not None
    serving = bench.serving()
    serving.poll()
    assert serving.name == "r2"


def test_a_release_document_that_disagrees_with_the_signed_target_is_not_fetched(bench: Bench) -> None:
    bench.release("r2", 2)
    bench.releases[0] = replace(bench.releases[0], model_bytes=17)
    bench.release("r3", 3)
    bench.plan("r2")
    step = bench.run(bench.fetcher())[-1]
    assert step.outcome == "failed"
    assert "says 17 bytes" in step.detail


def test_the_first_model_is_installed_once_and_verified(bench: Bench) -> None:
    assert install_initial(bench.state, bench.factory_bytes, bench.clock).name == "v1"
    with pytest.raises(RejectedError, match="already holds the factory model"):
        install_initial(bench.state, tiny_model(tiny_contract(name="v9"), seed=9), bench.clock)
    with pytest.raises(RejectedError) as caught:
        install_initial(bench.state, b"no model", bench.clock)
    assert caught.value.reason == "not_onnx"


def test_a_vehicle_that_was_never_enrolled_says_so(bench: Bench) -> None:
    (bench.state / "vehicle.json").unlink()
    with pytest.raises(MisconfiguredError, match="fleetloop enroll"):
        bench.fetcher()
    with pytest.raises(MisconfiguredError, match="fleetloop enroll"):
        bench.serving()
    (bench.state / "vehicle.json").write_text('{"format": 1, "vehicle_id": "../x"}')
    with pytest.raises(CorruptError, match=r"vehicle_id is .\.\./x"):
        bench.serving()


def test_no_path_gets_in_through_a_digest(bench: Bench) -> None:
    for wrong in ("../../etc/passwd", "A" * 64, "a" * 63, ""):
        with pytest.raises(RejectedError):
            bench.slots.slot_path(wrong)


WRITE_ALL = syscalls.write_all


def no_space(*_arguments: object) -> Never:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def full_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syscalls, "write_all", no_space)
        yield


def test_a_refusal_that_a_full_disk_does_not_take_is_known_told_and_written_later(bench: Bench) -> None:
    bench.trial_result = TrialResult(False, "too_slow", detail="slow")
    bench.release("r2", 2)
    bench.plan("r2")
    job = bench.fetcher()
    assert [job.step().detail for _ in range(2)] == ["fetching release r2", "trial started"]
    with full_disk():
        assert job.step().detail == "release r2 refused: too_slow"
        for _ in range(5):
            bench.clock.advance(1000.0)
            job.step()
    assert bench.trials == [bench.releases[0].model_digest]
    assert bench.events().count("model_refused") == 1
    assert bench.events().count("fetch_state_not_written") == 1
    assert bench.slots.read_fetch().refused == {}
    bench.clock.advance(1000.0)
    job.step()
    known = bench.slots.read_fetch()
    assert (known.refused, known.attempts) == ({"r2": "too_slow"}, {})
    assert [event.event for event in known.events] == ["refused"]


NOT_STARTED = [OSError(errno.EAGAIN, "Resource temporarily unavailable"), MemoryError()]


@pytest.mark.parametrize("error", NOT_STARTED)
@pytest.mark.parametrize("is_disk_full_then", [False, True])
def test_a_trial_that_the_machine_cannot_start_is_no_attempt_of_the_release(
    bench: Bench, error: Exception, is_disk_full_then: bool
) -> None:
    def refuse(*_arguments: object) -> Never:
        if is_disk_full_then:
            patch.setattr(syscalls, "write_all", no_space)
        raise error

    bench.release("r2", 2)
    bench.plan("r2")
    job = bench.fetcher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "_start_trial", refuse)
        for _ in range(4 * MAX_TRIAL_ATTEMPTS):
            patch.setattr(syscalls, "write_all", WRITE_ALL)
            job.step()
            bench.clock.advance(1000.0)
    assert bench.slots.read_fetch().refused == {}
    bench.run(job)
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == "r2"


def test_no_memory_to_verify_a_release_is_waited_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_arguments: object) -> Never:
        raise MemoryError

    bench.release("r2", 2)
    bench.plan("r2")
    job = bench.fetcher()
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "verify_model", exhausted)
        assert "out of memory" in bench.run(job)[-1].detail
    bench.clock.advance(1000.0)
    bench.run(job)
    assert bench.slots.read_candidate() is not None


def test_a_trial_that_passed_is_no_refusal_while_a_full_disk_does_not_take_the_candidate(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poll_once(trial: FakeTrial) -> TrialResult:
        said, trial.result = trial.result, TrialResult(False, "crashed", "a trial speaks once")
        return said

    monkeypatch.setattr(FakeTrial, "poll", poll_once)
    bench.release("r2", 2)
    bench.plan("r2")
    job = bench.fetcher()
    for _ in range(2):
        job.step()
    with full_disk():
        for _ in range(3):
            assert "No space left" in job.step().detail
            bench.clock.advance(1000.0)
    assert job.step().detail == "release r2 is ready"
    assert bench.slots.read_fetch().refused == {}


def test_what_is_not_trusted_ends_nothing_on_a_full_disk(bench: Bench) -> None:
    bench.release("r2", 2)
    bench.plan("r2", model_digest="1" * 64, model_bytes=1)
    job = bench.fetcher()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SlotFolder, "write_fetch", no_space)
        assert "sha256" in job.step().detail
    job.close()
    assert [event.event for event in bench.slots.read_fetch().events] == ["untrusted"]


def publish_with_newer_plan(bench: Bench, **fields: object) -> None:
    """The plans so far, and the last of them once more in a form that this version cannot read."""
    targets = index_targets(PLANS_KEY, bench.plans)
    index = json.loads(targets[INDEX])
    index[PLANS_KEY].append({**index[PLANS_KEY][-1], "plan_id": "newer", **fields})
    bench.repository.publish("rollouts", {INDEX: json.dumps(index).encode(), INDEX_1: targets[INDEX_1]})


NEWER_FORMS = [{"format": 3}, {"must_understand": ["cities"], "cities": ["Bonn"]}, {"waves": "all"}]


@pytest.mark.parametrize("newer", NEWER_FORMS)
def test_a_halt_in_a_form_that_cannot_be_read_is_obeyed(bench: Bench, newer: dict[str, object]) -> None:
    bench.release("r2", 2)
    bench.plan("r2")
    bench.run(bench.fetcher())
    serving = bench.serving()
    serving.poll()
    assert serving.name == "r2"
    publish_with_newer_plan(bench, state=HALTED, **newer)
    bench.run(bench.fetcher())
    serving.poll()
    assert (serving.name, serving.events[-2].event) == ("v1", "withdrawn")
    assert bench.slots.read_candidate() is None


@pytest.mark.parametrize("newer", [*NEWER_FORMS, {"format": 3, "state": HALTED, "release_id": ["r2"]}])
def test_a_plan_that_cannot_be_read_admits_and_withdraws_nobody_and_is_told_once(
    bench: Bench, newer: dict[str, object]
) -> None:
    bench.release("r2", 2)
    bench.plan("r2")
    publish_with_newer_plan(bench, **{"state": RUNNING, **newer})
    job = bench.fetcher()
    for _ in range(3):
        bench.run(job)
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == "r2"
    assert job.status().unreadable_plans == 1
    (told,) = [line for line in bench.log_path.read_text().splitlines() if "plan_unreadable" in line]
    assert json.loads(told)["count"] == 1
    assert "rollout_plan" in json.loads(told)["reason"]
    bench.plan("r2", COMPLETE)
    bench.run(job)
    assert job.status().unreadable_plans == 0
