"""Who is blamed for an end of the process or an unreadable slot: never a model that did nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from edge_agent.models.model_set import ModelSet
from edge_agent.models.trial import TrialResult
from modelkit.runtime import RuntimeOptions
from modelkit.verify import VerifiedModel
from schemas.roles import SERVING
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.models import FakeBackend, FakeModel

FRAME = np.full((32, 32, 3), 90, dtype=np.uint8)


class CrashedError(BaseException):
    """Stands for SIGSEGV: nothing after it runs."""


class Deadly(FakeBackend):
    """Ends the process while it loads the model of a name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def load(self, model: VerifiedModel, options: RuntimeOptions) -> FakeModel:
        if model.contract.name == self.name:
            raise CrashedError
        return super().load(model, options)


def serve(bench: Bench, release_id: str, seed: int, role: str = SERVING, frames: int = 6) -> ModelSet:
    """Bring a release into its role; six frames confirm it."""
    bench.release(release_id, seed, role=role)
    bench.plan(release_id, role=role)
    bench.run(bench.fetcher())
    models = bench.models()
    models.poll()
    for _ in range(frames):
        models.predict([FRAME])
    return models


def unreadable(patch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    real = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self == path:
            raise OSError(number, "not now")
        return real(self)

    patch.setattr(Path, "read_bytes", read_bytes)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_slot_that_cannot_be_read_at_one_start_blocks_no_release(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    digest = serve(bench, "r1", 2).serving.digest
    with monkeypatch.context() as patch:
        unreadable(patch, bench.slots.slot_path(digest), number)
        assert bench.models().serving.name == "v1"
    bench.run(bench.fetcher())
    models = bench.models()
    models.poll()
    assert (models.serving.release_id, bench.slots.read_active().blocked) == ("r1", {})


@pytest.mark.parametrize("damage", ["missing", "rotten"])
def test_a_slot_that_is_lost_or_rotten_at_a_start_is_fetched_again_and_its_release_serves(
    bench: Bench, damage: str
) -> None:
    path = bench.slots.slot_path(serve(bench, "r1", 2).serving.digest)
    path.unlink() if damage == "missing" else path.write_bytes(b"rotten" + path.read_bytes()[6:])
    assert bench.models().serving.name == "v1"
    models = bench.models()
    for _ in range(2):  # found damaged as the candidate, then fetched again
        bench.run(bench.fetcher())
        models.poll()
    assert (models.serving.release_id, bench.slots.read_active().blocked) == ("r1", {})


def test_the_slot_of_a_candidate_that_rotted_after_its_trial_is_fetched_again(bench: Bench) -> None:
    bench.release("r1", 2)
    bench.plan("r1")
    fetcher = bench.fetcher()
    bench.run(fetcher)
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    path = bench.slots.slot_path(candidate.slot.digest)
    path.write_bytes(b"rotten" + path.read_bytes()[6:])
    models = bench.models()
    models.poll()
    assert models.serving.name == "v1"
    bench.run(fetcher)
    models.poll()
    assert models.serving.release_id == "r1"


def test_a_lack_of_file_descriptors_costs_no_candidate_its_slot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.release("r1", 2)
    bench.plan("r1")
    bench.run(bench.fetcher())
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    models = bench.models()
    with monkeypatch.context() as patch:
        unreadable(patch, bench.slots.slot_path(candidate.slot.digest), errno.EMFILE)
        models.poll()
    assert models.serving.name == "v1"
    models.poll()
    assert models.serving.release_id == "r1"


def test_a_trial_that_could_not_read_the_slot_refuses_nothing(bench: Bench) -> None:
    bench.release("r1", 2)
    bench.plan("r1")
    fetcher = bench.fetcher()
    passed, bench.trial_result = bench.trial_result, TrialResult(False, "wrong_hash", "cannot be read")
    for _ in range(6):
        assert bench.run(fetcher)[-1].outcome == "failed"
        bench.clock.advance(400)
    assert bench.slots.read_fetch().refused == {}
    bench.trial_result = passed
    bench.run(fetcher)
    candidate = bench.slots.read_candidate()
    assert candidate is not None
    assert candidate.slot.release_id == "r1"


def test_orderly_stops_on_probation_count_against_no_model(bench: Bench) -> None:
    serve(bench, "r1", 2, frames=2)
    for _ in range(8):
        models = bench.models()
        models.predict([FRAME])
        models.end_in_order()
    assert (bench.models().serving.release_id, bench.slots.read_active().blocked) == ("r1", {})


def test_orderly_stops_between_crashes_on_probation_do_not_hide_the_crashes(bench: Bench) -> None:
    serve(bench, "r1", 2, frames=2)
    for _ in range(4):
        bench.models(has_crashed=True).end_in_order()
        bench.models().end_in_order()
    assert bench.slots.read_active().blocked == {"r1": "crashed_on_probation"}


@pytest.mark.parametrize("confirming", [2, 6])
def test_a_candidate_that_crashes_perceive_while_it_loads_is_refused_and_no_other_model(
    bench: Bench, confirming: int
) -> None:
    serve(bench, "r1", 2, frames=confirming)
    bench.release("r2", 5)
    bench.plan("r1", "halted")
    bench.plan("r1", "complete")
    bench.plan("r2")
    bench.run(bench.fetcher())
    models = bench.models(Deadly("r2"))
    with pytest.raises(CrashedError):
        models.poll()
    before = bench.slots.read_active().starts
    models = bench.models(Deadly("r2"), has_crashed=True)
    assert models.is_suspect
    models.poll()
    state = bench.slots.read_active()
    assert state.active.release_id == "r1"
    assert {key: reason.partition(":")[0] for key, reason in state.blocked.items()} == {"r2": "crashed"}
    assert (state.starts, state.loading) == (before, None)
    bench.run(bench.fetcher())
    assert bench.slots.read_candidate() is None


def test_a_shadow_candidate_that_crashes_perceive_while_it_loads_costs_the_serving_model_nothing(
    bench: Bench,
) -> None:
    serve(bench, "r1", 2, frames=2)
    bench.release("s1", 5, role="shadow")
    bench.plan("s1", role="shadow")
    bench.run(bench.fetcher())
    models = bench.models(Deadly("s1"))
    before = bench.slots.read_active().starts
    with pytest.raises(CrashedError):
        models.poll()
    models = bench.models(Deadly("s1"), has_crashed=True)
    models.poll()
    assert (models.serving.release_id, bench.slots.read_active().starts) == ("r1", before)
    assert models.other_roles()["shadow"]["model"] is None


def test_a_candidate_in_whose_loads_perceive_is_ended_again_and_again_is_refused(bench: Bench) -> None:
    serve(bench, "r1", 2)
    bench.release("r2", 5)
    bench.plan("r2")
    bench.run(bench.fetcher())
    ends = 0
    for _ in range(10):  # by SIGKILL for want of memory, say: no fault signal
        try:
            bench.models(Deadly("r2")).poll()
        except CrashedError:
            ends += 1
    state = bench.slots.read_active()
    assert ends == 4
    assert (state.active.release_id, list(state.blocked)) == ("r1", ["r2"])


def test_a_candidate_during_whose_load_the_power_failed_once_is_taken_afterwards(bench: Bench) -> None:
    bench.release("r2", 5)
    bench.plan("r2")
    bench.run(bench.fetcher())
    with pytest.raises(CrashedError):
        bench.models(Deadly("r2")).poll()
    models = bench.models()
    models.poll()
    assert models.serving.release_id == "r2"
    assert bench.models(has_crashed=True).serving.release_id == "r2"
