"""Guarantee 6 on the vehicle: the old model serves until the new one may, and again when the new one misbehaves."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_agent.look import Viewer
from edge_agent.models.slots import SlotFolder
from edge_agent.prediction_log import PredictionLog
from edge_agent.selection.novelty import NoveltyMemory
from foundation import syscalls
from foundation.errors import CorruptError, RejectedError
from foundation.events import EventLog
from modelkit.runtime import LoadedModel, RuntimeOptions
from modelkit.tasks.task import Raw
from modelkit.verify import VerifiedModel
from schemas.documents import COMPLETE, HALTED
from schemas.reasons import ModelState, NotAcceptedReason
from tests.edge_agent.agent_bench import make_frame
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.models import FakeBackend, raw_outputs

FRAME = np.full((32, 32, 3), 90, dtype=np.uint8)
DARK = np.zeros((32, 32, 3), dtype=np.uint8)
SWAP_STEPS = ("candidate-read", "verified", "loaded", "plan-read", "persisted", "swapped")


class KilledError(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class PickyBackend(FakeBackend):
    """Gives each model its own behaviour, by name."""

    def __init__(self, **rules: object) -> None:
        super().__init__()
        self.rules = rules

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> LoadedModel:
        backend = FakeBackend()
        rule = self.rules.get(model.contract.name)
        if isinstance(rule, Exception):
            raise rule
        if rule is not None:
            backend.rule = rule  # type: ignore[assignment]
        return backend.load(model, options)  # type: ignore[return-value]


def answer(batch: NDArray[np.float32], value: float = 1.0) -> Raw:
    rows = batch.shape[0]
    return raw_outputs(np.full((rows, 3), value, np.float32), np.full((rows, 8), value, np.float32))


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def nan_when_dark(batch: NDArray[np.float32]) -> Raw:
    return answer(batch, float("nan") if batch.mean() < -1.5 else 1.0)


def offered(bench: Bench, release_id: str = "r2", seed: int = 2) -> str:
    """A release that went all the way to being the candidate. Returns its digest."""
    bench.release(release_id, seed)
    bench.plan(release_id)
    bench.run(bench.fetcher())
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == release_id
    return candidate.slot.digest


def test_the_factory_model_serves_before_any_release(bench: Bench) -> None:
    serving = bench.serving()
    assert serving.name == "v1"
    assert serving.state is ModelState.SERVING
    assert serving.poll() is None
    assert serving.predict([FRAME]).predictions[0].is_finite
    assert [event.event for event in serving.events] == ["installed"]


def test_a_candidate_takes_over_between_two_frames_and_is_confirmed_after_probation(bench: Bench) -> None:
    digest = offered(bench)
    serving = bench.serving()
    assert serving.name == "v1"
    event = serving.poll()
    assert event is not None
    assert event.event == "activated"
    assert (serving.digest, serving.name, serving.state, serving.swaps) == (digest, "r2", ModelState.TRIAL, 1)
    told = [serving.predict([FRAME]).event for _ in range(5)]
    assert [each.event for each in told if each] == ["confirmed"]
    assert serving.state is ModelState.SERVING
    assert bench.serving().digest == digest


@pytest.mark.parametrize("step", SWAP_STEPS)
def test_a_crash_at_any_step_of_a_swap_leaves_a_serving_model(bench: Bench, step: str) -> None:
    digest = offered(bench)

    def kill(at: str) -> None:
        if at == step and armed:
            raise KilledError(step)

    armed = False
    serving = bench.serving(on_step=kill)
    armed = True
    with pytest.raises(KilledError):
        serving.poll()
    again = bench.serving()
    assert again.name == ("r2" if step in ("persisted", "swapped") else "v1")
    assert again.predict([FRAME]).predictions[0].is_finite
    again.poll()
    assert again.digest == digest
    assert again.swaps == 1


@pytest.mark.parametrize("failing", ["write_all", "fsync", "rename"])
def test_a_disk_error_while_persisting_leaves_the_old_model_serving(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    offered(bench)
    serving = bench.serving()

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(syscalls, failing, fail)
        assert serving.poll() is None
        assert serving.name == "v1"
        assert serving.predict([FRAME]).model_name == "v1"
    assert serving.poll() is not None
    assert serving.name == "r2"


def test_one_output_that_is_not_finite_rolls_back_and_the_old_model_answers_that_very_frame(
    bench: Bench,
) -> None:
    offered(bench)
    backend = PickyBackend(r2=nan_when_dark)
    serving = bench.serving(backend)
    serving.poll()
    assert serving.predict([FRAME]).model_name == "r2"
    served = serving.predict([DARK])
    assert served.model_name == "v1"
    assert served.predictions[0].is_finite
    assert served.event is not None
    assert (served.event.event, served.event.reason, served.event.release_id) == (
        "rolled_back",
        "not_finite",
        "r2",
    )
    assert (serving.rollbacks, serving.health().nan_count) == (1, 1)


def test_a_confirmed_model_that_turns_bad_is_rolled_back_too(bench: Bench) -> None:
    offered(bench)
    serving = bench.serving(PickyBackend(r2=nan_when_dark))
    serving.poll()
    for _ in range(8):
        serving.predict([FRAME])
    assert serving.state is ModelState.SERVING
    assert serving.predict([DARK]).model_name == "v1"


def test_a_blocked_release_never_returns_to_this_vehicle(bench: Bench) -> None:
    offered(bench)
    serving = bench.serving(PickyBackend(r2=nan_when_dark))
    serving.poll()
    serving.predict([DARK])
    fetcher = bench.fetcher()
    for _ in range(3):
        bench.run(fetcher)
        assert serving.poll() is None
        serving = bench.serving(PickyBackend(r2=nan_when_dark))
        assert serving.name == "v1"
    assert len(bench.trials) == 1
    assert bench.slots.read_active().blocked == {"r2": "not_finite"}
    assert not any(
        path.stem != bench.slots.read_factory().digest for path in (bench.slots.path / "slots").iterdir()
    )


def test_too_many_failed_inferences_roll_back(bench: Bench) -> None:
    offered(bench)
    calls = 0

    def flaky(batch: NDArray[np.float32]) -> Raw:
        nonlocal calls
        calls += 1
        if calls % 2 == 0 and calls > 1:
            raise RejectedError("kernel failed", reason="run_failed")
        return answer(batch)

    serving = bench.serving(PickyBackend(r2=flaky))
    serving.poll()
    names = []
    for _ in range(8):
        try:
            names.append(serving.predict([FRAME]).model_name)
        except RejectedError:
            names.append("no answer")
    assert names[-1] == "v1"
    assert serving.events[-2].reason == "error_ratio"


def fails_when_dark(batch: NDArray[np.float32]) -> Raw:
    """An error that neither the runtime nor a task is known to raise."""
    if batch.mean() < -1.5:
        raise AssertionError("an assertion inside a library")
    return answer(batch)


def test_an_error_of_any_kind_counts_as_the_models_and_rolls_it_back(bench: Bench) -> None:
    offered(bench)
    serving = bench.serving(PickyBackend(r2=fails_when_dark), probation_frames=100)
    serving.poll()
    assert serving.predict([FRAME]).model_name == "r2"
    assert [serving.predict([DARK]).model_name for _ in range(3)] == ["v1"] * 3
    assert (serving.name, serving.health().error_count) == ("v1", 3)
    assert serving.events[-2].reason == "error_ratio"
    assert bench.slots.read_active().blocked == {"r2": "error_ratio"}


def test_a_candidate_that_fails_on_grey_with_an_error_of_any_kind_never_takes_over(bench: Bench) -> None:
    def always(_batch: NDArray[np.float32]) -> Raw:
        raise AssertionError("an assertion inside a library")

    offered(bench)
    serving = bench.serving(PickyBackend(r2=always))
    assert serving.poll() is None
    assert serving.predict([FRAME]).model_name == "v1"
    assert "swap_refused" in bench.events()


def test_a_vehicle_without_memory_for_a_candidate_drives_on_with_the_model_that_it_has(bench: Bench) -> None:
    offered(bench)
    backend = PickyBackend(r2=MemoryError())
    serving = bench.serving(backend)
    assert serving.poll() is None
    assert serving.predict([FRAME]).model_name == "v1"
    assert "swap_refused" in bench.events()
    backend.rules.clear()
    assert serving.poll() is not None
    assert serving.predict([FRAME]).model_name == "r2"


def test_no_memory_at_a_start_gives_the_model_back_without_blocking_its_release(bench: Bench) -> None:
    offered(bench)
    bench.serving().poll()
    backend = PickyBackend(r2=MemoryError())
    serving = bench.serving(backend)
    assert (serving.name, bench.slots.read_active().blocked) == ("v1", {})


def test_a_frame_at_which_the_only_model_fails_is_a_model_error_and_perceive_goes_on(bench: Bench) -> None:
    models = bench.models(PickyBackend(v1=fails_when_dark))
    events = EventLog(bench.log_path, bench.clock, "perceive")
    viewer = Viewer(models, NoveltyMemory(10), PredictionLog(None), bench.clock, events)
    frames = [make_frame(0, payload=encoded(DARK)), make_frame(1, payload=encoded(FRAME))]
    looked = [viewer.look(frame, lap=0) for frame in frames]
    assert [each.failed_for for each in looked] == [NotAcceptedReason.MODEL_ERROR, None]


def test_a_slow_model_is_rolled_back(bench: Bench) -> None:
    offered(bench)

    def slow(batch: NDArray[np.float32]) -> Raw:
        bench.clock.advance(0.8)
        return answer(batch)

    serving = bench.serving(PickyBackend(r2=slow), probation_frames=100)
    serving.poll()
    for _ in range(4):
        serving.predict([FRAME])
    assert serving.name == "v1"
    assert serving.events[-2].reason == "too_slow"


def test_a_model_that_kills_the_process_on_probation_is_rolled_back_at_a_later_start(bench: Bench) -> None:
    digest = offered(bench)
    bench.serving().poll()
    names = [bench.serving().name for _ in range(4)]  # four starts, none reaches the end of probation
    assert names == ["r2", "r2", "r2", "v1"]
    state = bench.slots.read_active()
    assert state.blocked == {"r2": "crashed_on_probation"}
    assert [(e.event, e.model_digest == digest) for e in state.events[-2:]] == [
        ("rolled_back", True),
        ("activated", False),
    ]


def test_a_halted_plan_withdraws_the_release_without_blocking_it(bench: Bench) -> None:
    digest = offered(bench)
    serving = bench.serving()
    serving.poll()
    bench.plan("r2", HALTED)
    fetcher = bench.fetcher()
    bench.run(fetcher)
    event = serving.poll()
    assert event is not None
    assert (event.event, event.reason) == ("withdrawn", "plan_halted")
    assert serving.name == "v1"
    assert bench.slots.read_active().blocked == {}
    bench.plan("r2", COMPLETE)
    bench.run(fetcher)
    assert serving.poll() is not None
    assert serving.digest == digest


def test_a_halt_seen_after_the_trial_stops_the_swap(bench: Bench) -> None:
    """The plan is read again just before the swap: the candidate is ready, the plan no longer wants it."""
    offered(bench)
    candidate = bench.slots.read_candidate()
    bench.plan("r2", HALTED)
    bench.run(bench.fetcher())
    bench.slots.write_candidate(candidate)  # as if deliver had been slow to take it back
    serving = bench.serving()
    assert serving.poll() is None
    assert serving.name == "v1"


def test_a_halt_that_arrives_while_the_candidate_is_loaded_stops_the_swap(bench: Bench) -> None:
    offered(bench)

    def halted_meanwhile(step: str) -> None:
        if step == "loaded" and bench.plans[-1].state != HALTED:
            bench.plan("r2", HALTED)
            bench.run(bench.fetcher())

    serving = bench.serving(on_step=halted_meanwhile)
    assert serving.poll() is None
    assert serving.name == "v1"
    assert bench.plans[-1].state == HALTED


def test_a_halt_is_obeyed_even_when_its_metadata_has_expired(bench: Bench) -> None:
    offered(bench)
    serving = bench.serving()
    serving.poll()
    bench.plan("r2", HALTED)
    bench.run(bench.fetcher())
    bench.clock.advance(400 * 86_400)
    event = serving.poll()
    assert event is not None
    assert event.event == "withdrawn"


def test_a_candidate_is_not_activated_on_a_word_that_has_expired(bench: Bench) -> None:
    offered(bench)
    bench.clock.advance(8 * 86_400)
    serving = bench.serving()
    assert serving.poll() is None
    assert serving.name == "v1"
    assert "swap_refused" in bench.events()


def test_a_forged_candidate_file_activates_nothing(bench: Bench) -> None:
    """Whoever can write candidate.json still cannot make an unsigned model serve."""
    from dataclasses import replace

    from tests.fakes.models import tiny_contract, tiny_model

    offered(bench)
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    evil = tiny_model(tiny_contract(name="evil"), seed=66)
    digest = bench.slots.add_slot(evil)
    for slot in (
        replace(candidate.slot, digest=digest),
        replace(candidate.slot, digest=digest, release_id="r9"),
    ):
        bench.slots.write_candidate(replace(candidate, slot=slot))
        serving = bench.serving()
        assert serving.poll() is None
        assert serving.name == "v1"


def test_a_damaged_slot_is_not_served_the_previous_model_is(bench: Bench) -> None:
    digest = offered(bench)
    serving = bench.serving()
    serving.poll()
    path = bench.slots.slot_path(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert bench.serving().name == "v1"


def test_a_damaged_active_file_falls_back_to_the_factory_model_and_is_kept(bench: Bench) -> None:
    path = bench.slots.file("active.json")
    path.write_text("{broken")
    serving = bench.serving()
    assert serving.name == "v1"
    assert path.with_name("active.json.damaged").read_text() == "{broken"
    serving.poll()
    assert SlotFolder(bench.state).read_active().active.name == "v1"


def test_a_vehicle_without_any_usable_model_says_so(bench: Bench) -> None:
    bench.slots.slot_path(bench.slots.read_factory().digest).unlink()
    with pytest.raises(CorruptError, match="no model can serve"):
        bench.serving()


def test_a_candidate_that_cannot_be_loaded_leaves_the_old_model(bench: Bench) -> None:
    offered(bench)
    serving = bench.serving(PickyBackend(r2=RejectedError("no such kernel", reason="load_failed")))
    assert serving.poll() is None
    assert serving.name == "v1"
    assert serving.predict([FRAME]).model_name == "v1"


def test_the_factory_model_with_bad_output_is_reported_not_replaced_by_nothing(bench: Bench) -> None:
    serving = bench.serving(PickyBackend(v1=nan_when_dark))
    for _ in range(3):
        assert not serving.predict([DARK]).predictions[0].is_finite
    assert serving.health().nan_count == 3
    assert bench.events().count("no_way_back") == 1


def test_a_model_on_probation_that_fails_at_a_picture_leaves_it_to_the_previous_one(bench: Bench) -> None:
    def fails_in_the_dark(batch: NDArray[np.float32]) -> Raw:
        if batch.mean() < -1.5:
            raise RejectedError("no such row", reason="run_failed")
        return answer(batch)

    offered(bench)
    serving = bench.serving(PickyBackend(r2=fails_in_the_dark))
    serving.poll()
    assert serving.predict([FRAME]).model_name == "r2"
    served = serving.predict([DARK])
    assert (served.model_name, served.predictions[0].is_finite) == ("v1", True)
    assert serving.health().error_count == 1


def test_a_confirmed_model_that_crashes_the_process_again_and_again_gives_way(bench: Bench) -> None:
    offered(bench)
    serving = bench.serving()
    serving.poll()
    for _ in range(5):
        serving.predict([FRAME])
    assert serving.state is ModelState.SERVING
    for _ in range(3):
        assert bench.serving(has_crashed=True).name == "r2"
    assert bench.serving(has_crashed=True).name == "v1"
    assert "r2" in bench.slots.read_active().blocked


def test_crashes_that_do_not_come_in_a_row_and_those_of_the_factory_model_cost_no_model(bench: Bench) -> None:
    for _ in range(10):
        assert bench.serving(has_crashed=True).name == "v1"
    offered(bench)
    serving = bench.serving()
    serving.poll()
    for _ in range(8):
        for _ in range(5):
            serving.predict([FRAME])
        serving = bench.serving(has_crashed=True)
        assert serving.name == "r2"
    for _ in range(10):
        assert bench.serving().name == "r2"
