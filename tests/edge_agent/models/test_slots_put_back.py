"""A release before roles is put back after the migration, then today's: what either knows of the other's models is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_agent.models.slot_documents import ACTIVE, FETCH, ActiveState, FetchState
from foundation.files import write_document
from schemas.records import ModelEvent
from services.migrate import migrate_vehicle
from tests.edge_agent.models.model_bench import Bench

FRAME = np.full((32, 32, 3), 90, dtype=np.uint8)


def blocked_and_put_back(bench: Bench) -> ActiveState:
    """Today's agent blocked a release; then an older one wrote what it found: the factory model. Returns the first state."""
    bench.release("bad", 2)
    bench.plan("bad")
    bench.run(bench.fetcher())
    serving = bench.serving()
    serving.poll()
    serving._act_on("not_finite")  # type: ignore[arg-type]
    before = bench.slots.read_active()
    assert before.blocked == {"bad": "not_finite"}
    event = ModelEvent(bench.clock.now_ns(), before.active.digest, before.active.name, "installed")
    factory = ActiveState(bench.slots.read_factory(), blocked={"worse": "too_slow"}, events=(event,))
    write_document(bench.slots.path / "active.json", ACTIVE, factory)
    return before


def test_what_was_blocked_before_an_older_release_was_put_back_stays_blocked(bench: Bench) -> None:
    before = blocked_and_put_back(bench)
    serving = bench.serving()
    for _ in range(3):
        bench.run(bench.fetcher())
        serving.poll()
        bench.clock.advance(60)
    state = bench.slots.read_active()
    assert serving.name == "v1"
    assert state.blocked == {"bad": "not_finite", "worse": "too_slow"}
    assert (state.swaps, state.rollbacks) == (before.swaps, before.rollbacks)
    assert set(before.events) < set(state.events)


@pytest.mark.parametrize("written_since", [False, True])
def test_a_second_migration_keeps_what_was_blocked_before_and_since(
    bench: Bench, written_since: bool
) -> None:
    blocked_and_put_back(bench)
    if written_since:
        bench.slots.write_active(replace(bench.slots.read_active(), starts=1))
    expected = bench.slots.read_active()
    assert migrate_vehicle(bench.state, bench.clock).is_done
    assert bench.slots.read_active() == expected
    assert expected.blocked == {"bad": "not_finite", "worse": "too_slow"}
    assert bench.slots.file("active.json") == bench.slots.new_file("active.json")
    assert migrate_vehicle(bench.state, bench.clock).steps == ()


def test_what_was_refused_before_an_older_release_was_put_back_stays_refused(bench: Bench) -> None:
    bench.slots.write_fetch(FetchState(refused={"bad": "crashed"}, attempts={"r1": 2, "r2": 1}))
    write_document(
        bench.slots.path / "fetch.json",
        FETCH,
        FetchState(refused={"worse": "too_slow"}, attempts={"r1": 1, "r3": 1}),
    )
    expected = FetchState({"bad": "crashed", "worse": "too_slow"}, {"r1": 2, "r2": 1, "r3": 1})
    assert bench.slots.read_fetch() == expected
    bench.slots.move_old_file("fetch.json")
    assert bench.slots.read_fetch() == expected


def test_a_release_that_an_older_agent_took_again_although_it_was_blocked_gives_way_at_the_start(
    bench: Bench,
) -> None:
    before = blocked_and_put_back(bench)
    digest = next(event.model_digest for event in before.events if event.event == "rolled_back")
    bench.slots.add_slot(bench.release("bad", 2))
    factory = bench.slots.read_factory()
    taken = ActiveState(replace(factory, digest=digest, name="bad", release_id="bad"), previous=factory)
    write_document(bench.slots.path / "active.json", ACTIVE, taken)
    serving = bench.serving()
    assert serving.name == "v1"
    assert bench.slots.read_active().blocked == {"bad": "not_finite"}


@pytest.mark.parametrize("damaged", ["old", "new"])
def test_of_two_files_a_damaged_one_costs_nothing_of_what_the_other_blocked(
    bench: Bench, damaged: str
) -> None:
    blocked_and_put_back(bench)
    path = bench.slots.path / "active.json" if damaged == "old" else bench.slots.new_file("active.json")
    path.write_text("{broken")
    serving = bench.serving()
    serving.predict([FRAME])
    serving.poll()
    bench.slots.move_old_file("active.json")
    known = {"old": {"bad": "not_finite"}, "new": {"worse": "too_slow"}}[damaged]
    assert bench.slots.read_active().blocked == known
    assert path.with_name("active.json.damaged").read_text() == "{broken"


def test_a_candidate_that_is_taken_back_is_taken_back_in_both_places(bench: Bench) -> None:
    bench.release("r1", 2)
    bench.plan("r1")
    bench.run(bench.fetcher())
    new = bench.slots.new_file("candidate.json")
    (bench.slots.path / "candidate.json").write_bytes(new.read_bytes())
    bench.slots.write_candidate(None)
    assert bench.slots.read_candidate() is None
