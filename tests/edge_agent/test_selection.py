from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.selection.budget import BUCKET_S, HOUR_S, BudgetLimits, ByteBudget
from edge_agent.selection.decision import ScoredObservation
from edge_agent.selection.novelty import NoveltyMemory, NoveltySelector
from edge_agent.selection.policy import SelectionPolicy, chance_of_any
from edge_agent.selection.random_arm import RandomArm
from edge_agent.selection.track_limit import TrackLimit
from edge_agent.selection.uncertainty import UncertaintyMeasure, UncertaintySelector
from schemas.reasons import NotAcceptedReason, ValueClass

SECOND_NS = 1_000_000_000


def _scores(entropy: float, novelty: float | None) -> dict[str, float]:
    same = dict.fromkeys((measure.value for measure in UncertaintyMeasure), entropy)
    return same if novelty is None else {**same, "novelty": novelty}


def candidate(
    number: int = 0, *, entropy: float = 0.0, novelty: float | None = None, track: str | None = None
):
    return ScoredObservation(f"f{number}", "d1", track, 1000, _scores(entropy, novelty))


def arm(probability: float, vehicle: str = "car-1", seed: int = 0) -> RandomArm:
    return RandomArm(vehicle, seed, probability, ValueClass.NORMAL)


def policy(*, threshold: float = 0.5, probability: float = 0.1, max_per_track: int | None = None):
    rules = (
        UncertaintySelector(UncertaintyMeasure.ENTROPY, threshold, ValueClass.NORMAL),
        NoveltySelector(0.5, ValueClass.HIGH),
    )
    return SelectionPolicy(rules, arm(probability), TrackLimit(max_per_track))


@pytest.mark.parametrize("measure", list(UncertaintyMeasure))
def test_an_uncertainty_rule_fires_at_its_threshold_and_says_the_score(measure):
    selector = UncertaintySelector(measure, 0.5, ValueClass.NORMAL)
    assert selector.decide(candidate(entropy=0.49)) is None
    decision = selector.decide(candidate(entropy=0.5))
    assert decision is not None
    assert (decision.rule_id, decision.score) == (f"uncertainty.{measure.value}", 0.5)


def test_a_frame_without_a_score_is_never_novel():
    assert NoveltySelector(0.0, ValueClass.HIGH).decide(candidate(novelty=None)) is None


def test_the_novelty_memory_forgets_one_frame_that_was_not_kept_after_all():
    memory = NoveltyMemory(3)
    for number in (1, 2, 2):
        memory.remember(np.array([number, 5 - number], np.float32), "model-a")
    memory.forget((2.0, 3.0), "model-b")
    memory.forget((9.0, 9.0), "model-a")
    assert len(memory) == 3
    memory.forget((2.0, 3.0), "model-a")
    memory.forget((1.0, 4.0), "model-a")
    assert memory.matrix().tolist() == [[2.0, 3.0]]
    assert memory.compared_with(2).nearest_similarity(np.array([2.0, 3.0])) == pytest.approx(1.0)


def test_the_novelty_memory_is_bounded_and_forgets_with_the_model():
    memory = NoveltyMemory(3)
    for number in range(5):
        memory.remember(np.full(2, number, np.float32), "model-a")
    assert memory.matrix()[:, 0].tolist() == [2, 3, 4]
    assert memory.compared_with(2).nearest_similarity(np.ones(2)) is not None
    memory.use_model("model-b")
    assert memory.matrix().shape == (0, 0)


def test_the_random_arm_keeps_its_share_and_repeats_its_answers():
    picked = [n for n in range(20_000) if arm(0.05).decide(candidate(n)) is not None]
    # 20,000 draws at 0.05: standard deviation 30.8, so 5 of them is 154.
    assert abs(len(picked) - 1000) < 154
    assert picked == [n for n in range(20_000) if arm(0.05).decide(candidate(n)) is not None]
    others = {n for n in range(20_000) if arm(0.05, vehicle="car-2").decide(candidate(n)) is not None}
    assert len(others & set(picked)) < 120


def test_a_looped_replay_draws_anew_each_lap():
    first = [arm(0.5).draw(ScoredObservation(f"f{n}", "d", None, 1, {})) for n in range(10)]
    again = [arm(0.5).draw(ScoredObservation(f"f{n}", "d", None, 1, {}, lap=1)) for n in range(10)]
    assert first != again


@given(entropy=st.floats(0, 1), probability=st.floats(0, 1), number=st.integers(0, 10_000))
def test_a_rule_hides_the_random_arm_and_the_arm_never_changes_a_rule(entropy, probability, number):
    selection = policy(probability=probability).select(candidate(number, entropy=entropy), affordable=True)
    if entropy >= 0.5:
        assert selection.trigger is not None
        assert (selection.trigger_probability, selection.by_rule) == (1.0, True)
    else:
        assert selection.trigger_probability == probability
        drawn = arm(probability).draw(candidate(number)) < probability
        assert (selection.trigger is not None) is drawn
        assert (selection.refused_for is None) is drawn


def test_of_two_rules_the_higher_value_class_speaks():
    selection = policy().select(candidate(entropy=0.9, novelty=0.6), affordable=True)
    assert selection.trigger is not None
    assert (selection.trigger.rule_id, selection.trigger.value_class) == ("novelty", ValueClass.HIGH)


def test_a_full_track_is_left_to_the_random_arm_with_its_own_probability():
    rules = policy(probability=0.0, max_per_track=2)
    for number in range(2):
        assert rules.select(candidate(number, entropy=1, track="t"), affordable=True).by_rule
        rules.track_limit.count("d1", "t")
    refused = rules.select(candidate(2, entropy=1, track="t"), affordable=True)
    assert (refused.trigger, refused.refused_for) == (None, NotAcceptedReason.TRACK_LIMIT)
    certain = SelectionPolicy(rules.rules, arm(1.0), rules.track_limit)
    drawn = certain.select(candidate(2, entropy=1, track="t"), affordable=True)
    assert drawn.trigger is not None
    assert (drawn.trigger.rule_id, drawn.by_rule) == ("random", False)


@given(st.lists(st.sampled_from(["t1", "t2", "t3", None]), max_size=60), st.integers(1, 4))
def test_rules_keep_at_most_n_of_a_track(tracks, limit):
    rules = policy(probability=0.0, max_per_track=limit)
    kept: dict[str | None, int] = {}
    for number, track in enumerate(tracks):
        if rules.select(candidate(number, entropy=1, track=track), affordable=True).trigger:
            rules.track_limit.count("d1", track)
            kept[track] = kept.get(track, 0) + 1
    for track in {t for t in tracks if t is not None}:
        assert kept[track] == min(limit, tracks.count(track))
    assert kept.get(None, 0) == tracks.count(None)


def test_tracks_are_remembered_within_a_bound_and_survive_a_restart():
    limit = TrackLimit(1, remembered=2)
    for track in ("a", "b", "c"):
        limit.count("d", track)
    assert [limit.is_full("d", track) for track in "abc"] == [False, True, True]
    again = TrackLimit(1)
    again.restore(limit.to_rows())
    assert again.is_full("d", "c")


def test_a_frame_that_the_budget_cannot_pay_says_so_and_has_no_chance():
    over = policy().select(candidate(entropy=0.9), affordable=False)
    assert (over.trigger, over.trigger_probability, over.refused_for) == (
        None,
        0.0,
        NotAcceptedReason.OVER_BUDGET,
    )
    dull = policy(probability=0.0).select(candidate(), affordable=False)
    assert dull.refused_for is NotAcceptedReason.NOT_SELECTED


amounts = st.lists(
    st.tuples(st.sampled_from(["d1", "d2"]), st.integers(0, 400), st.integers(0, 1200)), max_size=60
)


@given(amounts, st.integers(0, 900), st.integers(0, 900), st.integers(0, 1500))
def test_no_limit_is_ever_passed(steps, per_drive, per_hour, total):
    budget = ByteBudget(BudgetLimits(per_drive, per_hour, total))
    now_s, spent = 0, []
    for drive, amount, wait_s in steps:
        now_s += wait_s
        if budget.reserve(drive, amount, now_s * SECOND_NS):
            spent.append((now_s, drive, amount))
        assert sum(a for _, d, a in spent if d == drive) <= per_drive
        assert sum(a for t, _, a in spent if t > now_s - HOUR_S) <= per_hour
        assert sum(a for _, _, a in spent) == budget.total_bytes <= total


def test_an_hour_later_the_hour_is_paid_for_again():
    budget = ByteBudget(BudgetLimits(per_hour_bytes=100))
    assert budget.reserve("d", 100, 0)
    assert not budget.reserve("d", 1, HOUR_S * SECOND_NS)
    assert budget.reserve("d", 100, (HOUR_S + BUCKET_S) * SECOND_NS)


def test_bytes_kept_before_a_reboot_count_for_one_hour_more_and_not_for_the_uptime_before_it():
    budget = ByteBudget(BudgetLimits(per_hour_bytes=100))
    budget.spend("d", 60, 10 * 86_400 * SECOND_NS)  # ten days up; a step of that life is read after the start
    assert budget.hour_bytes(60 * SECOND_NS) == 60
    assert not budget.reserve("d", 50, 120 * SECOND_NS)
    assert budget.reserve("d", 100, (120 + HOUR_S + BUCKET_S) * SECOND_NS)


def test_a_restart_keeps_the_budget_and_a_reboot_keeps_the_hour():
    budget = ByteBudget(BudgetLimits(per_hour_bytes=100, per_drive_bytes=300))
    budget.spend("d", 100, 10_000 * SECOND_NS)
    for same_boot, now_s in ((True, 10_001), (False, 5)):
        again = ByteBudget(budget.limits)
        again.restore(budget.to_json(), same_boot=same_boot, monotonic_ns=now_s * SECOND_NS)
        assert not again.can_pay("d", 1, now_s * SECOND_NS)
        assert again.can_pay("d", 1, (now_s + HOUR_S + BUCKET_S) * SECOND_NS)
        assert again.drive_bytes("d") == again.total_bytes == 100


def test_the_chance_of_any_is_that_of_independent_draws():
    assert chance_of_any([0.5, 0.5]) == 0.75
    assert chance_of_any([0.1, 1.0]) == 1.0
    assert chance_of_any([]) == 0.0
