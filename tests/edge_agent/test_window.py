"""Every observation leaves the window once, with the role, the incident and the chance of a plain recount."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.selection.decision import Decision, Selection
from edge_agent.window import CaptureWindow, Outcome
from edge_agent.window_tail import TailChange, WindowTail
from foundation.documents import plain
from schemas.reasons import NotAcceptedReason, ValueClass, WindowRole

ARM = 0.1
S = 1_000_000_000


def rule() -> Selection:
    return Selection(Decision("novelty", 0.9, ValueClass.HIGH, 1.0), 1.0, None, by_rule=True)


def chance() -> Selection:
    return Selection(Decision("random", None, ValueClass.NORMAL, ARM), ARM, None)


def nothing() -> Selection:
    return Selection(None, ARM, NotAcceptedReason.NOT_SELECTED)


@dataclass
class Bench:
    """One observation per second, unless `at` says otherwise; windows in seconds."""

    pre: float
    post: float
    budget: int = 1 << 40
    ring_bytes: int = 1 << 40
    hold_s: float = 1e6
    told: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.window = CaptureWindow(
            pre_ns=round(self.pre * S),
            post_ns=round(self.post * S),
            ring_bytes=self.ring_bytes,
            hold_ns=round(self.hold_s * S),
            reserve=self.reserve,
            name_incident=lambda item: f"incident-{item}",
            on_kept=lambda item, _selection: self.told.append(item),
        )

    def reserve(self, _drive: str, amount: int) -> bool:
        if amount > self.budget:
            return False
        self.budget -= amount
        return True

    def offer(self, number, selection, *, at=None, sensor="cam", drive="d", size=10, arrived_s=0.0):
        time_ns = round((number if at is None else at) * S)
        return self.window.offer(
            number, sensor, drive, time_ns, size, selection, arrived_ns=round(arrived_s * S)
        )

    def run(self, selections, *, sensor=lambda n: "cam", drive=lambda n: "d", at=lambda n: n, first=0):
        outcomes = []
        for number, selection in enumerate(selections, start=first):
            outcomes += self.offer(
                number, selection, at=at(number), sensor=sensor(number), drive=drive(number)
            )
        return outcomes + self.window.flush()


def roles(outcomes: list[Outcome[int]]) -> str:
    """One letter each: pre, Trigger, post (o), single, or - when it was not kept."""
    letters = {WindowRole.PRE: "p", WindowRole.TRIGGER: "T", WindowRole.POST: "o"}
    return "".join(
        "-" if o.kept is None else "s" if o.kept.incident is None else letters[o.kept.incident.role]
        for o in outcomes
    )


def tail_after(outcomes: list[Outcome[int]]) -> WindowTail:
    """As the journal has it: some changes one by one, the others added up, all through a snapshot."""
    tail, added = WindowTail(), TailChange()
    for number, outcome in enumerate(outcomes):
        added.add(outcome.change)
        if not number % 3:
            tail.apply(added)
            added = TailChange()
    tail.apply(added)
    tail.apply(TailChange())  # a step of a place alone changes nothing
    again = WindowTail()
    again.apply(tail.whole())
    return again


def incidents(outcomes: list[Outcome[int]]) -> list[str | None]:
    return [o.kept.incident and o.kept.incident.incident_id for o in outcomes if o.kept]


def test_a_trigger_keeps_its_window_once_under_one_incident():
    outcomes = Bench(2, 1.5).run([nothing(), nothing(), nothing(), rule(), nothing(), nothing()])
    assert roles(outcomes) == "-ppTo-"
    assert set(incidents(outcomes)) == {"incident-3"}


def test_windows_that_share_a_frame_are_one_incident_and_others_are_not():
    gap = [nothing()]
    together = Bench(1, 1.5).run([*gap, rule(), *gap, rule(), *gap])
    assert roles(together) == "pToTo"
    assert set(incidents(together)) == {"incident-1"}
    apart = Bench(1, 1.5).run([*gap, rule(), *gap * 2, rule(), *gap])
    assert roles(apart) == "pTopTo"
    assert incidents(apart) == ["incident-1"] * 3 + ["incident-4"] * 3


def test_without_a_window_a_frame_is_single_and_has_no_incident():
    outcomes = Bench(0, 0).run([nothing(), rule(), chance()])
    assert roles(outcomes) == "-ss"
    assert incidents(outcomes) == [None, None]


def test_a_context_frame_of_a_random_trigger_says_the_chance_that_any_neighbour_drew():
    outcomes = Bench(1, 1.5).run([nothing(), chance(), nothing(), nothing()])
    probabilities = [round(o.kept.inclusion_probability, 9) if o.kept else None for o in outcomes]
    two, three = round(1 - 0.9**2, 9), round(1 - 0.9**3, 9)
    assert probabilities == [two, three, three, None]


def test_a_frame_near_a_rule_was_certain_to_be_kept():
    outcomes = Bench(1, 1.5).run([nothing(), chance(), rule(), nothing()])
    assert [o.kept.inclusion_probability for o in outcomes] == [round(1 - 0.9**2, 17), 1.0, 1.0, 1.0]


def test_a_window_never_crosses_a_drive():
    by_drive = Bench(2, 2.5).run([nothing(), rule(), nothing()], drive=lambda n: "a" if n < 1 else "b")
    assert roles(by_drive) == "-To"


def test_a_trigger_on_one_camera_keeps_what_all_other_streams_saw_in_its_window():
    streams = ["front", "can", "front", "rear", "can", "front", "can", "rear"]
    outcomes = Bench(2, 2).run([*[nothing()] * 4, rule(), *[nothing()] * 3], sensor=lambda n: streams[n])
    assert roles(outcomes) == "--ppTo--"
    assert {o.kept.incident.stream for o in outcomes if o.kept} == {"can"}, "the stream that triggered"


def test_the_window_is_half_open_and_its_trigger_is_in_it_in_any_case():
    outcomes = Bench(1, 1).run([nothing(), rule(), nothing(), nothing()], at=lambda n: (0, 1, 1.5, 2)[n])
    assert roles(outcomes) == "pTo-"
    assert roles(Bench(1, 0).run([nothing(), rule(), nothing()])) == "pT-"


def test_a_late_observation_is_kept_by_the_window_that_it_was_seen_in_not_only_by_the_newest():
    """Stream b comes late: meanwhile a second window, which does not overlap the first, was opened by stream a."""
    kinds, at = [rule(), rule(), nothing(), chance()], [0, 6.5, 4.9, 4.95]
    outcomes = Bench(1, 5).run(kinds, at=lambda n: at[n], sensor=lambda n: "aabb"[n])
    assert incidents(outcomes) == ["incident-0", "incident-1", "incident-0", "incident-0"]
    assert [o.kept.inclusion_probability for o in outcomes] == [1.0] * 4


def test_a_restart_remembers_every_window_that_a_late_observation_may_be_in():
    kinds, at = [rule(), rule(), nothing()], [0, 6.5, 4.9]
    whole = Bench(1, 5).run(kinds, at=lambda n: at[n])
    after = Bench(1, 5)
    after.window.restore(tail_after(whole[:2]))
    assert incidents(after.run(kinds[2:], at=lambda n: at[n], first=2)) == ["incident-0"]


def test_a_trigger_that_comes_after_its_window_began_to_leave_is_counted():
    at = [0, 1, 2, 3, 1]
    bench = Bench(1, 5)
    outcomes = bench.run([*[nothing()] * 4, rule()], at=lambda n: at[n], sensor=lambda n: "aaaab"[n])
    assert roles(outcomes) == "--ooT"
    assert bench.window.counts.late_triggers == 1
    in_order = Bench(1, 5)
    in_order.run([nothing(), rule(), nothing(), rule()])
    assert in_order.window.counts.late_triggers == 0


def test_a_drive_that_is_still_held_is_not_forgotten_however_many_others_come():
    drives = ["first", *(f"d{n}" for n in range(20)), "first"]
    outcomes = Bench(2, 2).run([*[nothing()] * 21, rule()], drive=lambda n: drives[n], at=lambda n: 0.05 * n)
    assert (roles(outcomes)[0], roles(outcomes)[-1]) == ("p", "T")


def test_what_is_written_per_observation_does_not_grow_with_the_window():
    outcomes = Bench(300, 300).run([chance()] * 1000)
    sizes = [len(json.dumps(plain(outcome.change))) for outcome in outcomes]
    assert max(sizes[10:]) < 2 * min(sizes[10:])


@pytest.mark.parametrize("streams", [2, 5])
def test_a_stream_that_fell_silent_holds_no_other(streams):
    bench = Bench(2, 0)
    bench.offer(0, nothing(), sensor="dead")
    left = [o.item for n in range(1, 40) for o in bench.offer(n, nothing(), sensor=str(n % streams))]
    assert left == list(range(37)), "the dead stream's too, in its turn"


def test_when_all_streams_fall_silent_the_monotonic_clock_lets_go():
    bench = Bench(5, 5, hold_s=30)
    assert not bench.offer(0, rule(), arrived_s=100.0)
    assert not bench.window.expire(round(129.9 * S))
    assert roles(bench.window.expire(130 * S)) == "T"
    assert bench.window.held == 0


def test_a_stream_whose_clock_is_behind_by_years_takes_part_by_what_it_counts():
    bench = Bench(2, 2.5)
    at = [n if n % 2 == 0 else n - 1e9 for n in range(12)]
    kinds = [rule() if n == 5 else nothing() for n in range(12)]
    outcomes = bench.run(kinds, at=lambda n: at[n], sensor=lambda n: str(n % 2))
    assert [o.item for o in outcomes] == list(range(12))
    assert all(outcomes[n].kept for n in (4, 5, 6))
    assert not any(outcomes[n].kept for n in (0, 1, 9, 10, 11))


def test_a_clock_that_is_set_back_in_the_middle_of_a_window_does_not_end_it():
    outcomes = Bench(2, 2.5).run(
        [nothing()] * 3 + [rule()] + [nothing()] * 4, at=lambda n: n if n < 4 else n - 1e6
    )
    assert roles(outcomes)[:6] == "-ppToo"


def test_a_context_frame_that_the_budget_cannot_pay_is_counted_over_budget():
    outcomes = Bench(1, 1.5, budget=20).run([nothing(), rule(), nothing(), nothing()])
    assert roles(outcomes) == "pT--"
    assert [o.refused_for for o in outcomes[2:]] == [
        NotAcceptedReason.OVER_BUDGET,
        NotAcceptedReason.NOT_SELECTED,
    ]


def test_an_unreadable_neighbour_is_never_context():
    broken = Selection(None, 0.0, NotAcceptedReason.UNREADABLE_IMAGE)
    outcomes = Bench(1, 1.5).run([broken, rule(), broken])
    assert roles(outcomes) == "-T-"
    assert outcomes[0].refused_for is NotAcceptedReason.UNREADABLE_IMAGE


def test_a_ring_beyond_its_bytes_lets_the_oldest_go_and_counts_it():
    bench = Bench(5, 0, ring_bytes=25)
    outcomes = bench.run([nothing(), nothing(), nothing(), rule()])
    assert roles(outcomes) == "-ppT"
    assert bench.window.counts.shortened_windows == 2


kinds = st.lists(
    st.tuples(st.sampled_from("rcnnnn"), st.sampled_from("AB"), st.sampled_from("DDDE"), st.integers(0, 3)),
    max_size=50,
)
MAKE = {"r": rule, "c": chance, "n": nothing}


def times_of(seen) -> list[int]:
    times, now = [], 0
    for *_, step in seen:
        now += step
        times.append(now)
    return times


def played(bench, seen, first=0):
    times = times_of(seen)
    return bench.run(
        [MAKE[kind]() for kind, *_ in seen[first:]],
        sensor=lambda n: seen[n][1],
        drive=lambda n: seen[n][2],
        at=lambda n: times[n],
        first=first,
    )


@given(kinds, st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=300)
def test_each_leaves_once_in_order_with_the_role_incident_and_chance_of_a_plain_recount(seen, pre, post):
    times = times_of(seen)
    bench = Bench(pre, post)
    outcomes = played(bench, seen)
    assert [o.item for o in outcomes] == list(range(len(seen)))
    reach = max(post * S, 1)

    def reaches(k: int, i: int) -> bool:
        """Whether a trigger at k keeps i: half-open by time; without a pre-trigger part what came before is gone."""
        if k == i:
            return True
        if seen[k][2] != seen[i][2] or pre + post == 0 or (pre == 0 and k > i):
            return False
        return (times[k] - pre) * S <= times[i] * S < times[k] * S + reach

    incident: dict[int, int] = {}
    ends: dict[str, tuple[int, int]] = {}
    for k, (kind, _, drive, _) in enumerate(seen):
        if kind not in "rc":
            continue
        first, end = ends.get(drive, (k, 0))
        if drive not in ends or (times[k] - pre) * S >= end:
            first = k
        incident[k] = first
        ends[drive] = (first, max(end, times[k] * S + reach))
    for i, outcome in enumerate(outcomes):
        reaching = [k for k in incident if reaches(k, i)]
        assert (outcome.kept is not None) is bool(reaching)
        assert (outcome.refused_for is None) is bool(reaching)
        if outcome.kept is None:
            continue
        if pre + post == 0:
            assert outcome.kept.incident is None
        else:
            found = outcome.kept.incident
            assert (found.role is WindowRole.TRIGGER) is (i in incident)
            mine = incident[i] if i in incident else incident[reaching[0]]
            assert found.incident_id == f"incident-{mine}"
            assert found.stream == seen[mine][1]
        miss = 1.0
        for k, (kind, *_) in enumerate(seen):
            if reaches(k, i):
                miss *= 1 - (1.0 if kind == "r" else ARM)
        assert abs(outcome.kept.inclusion_probability - (1 - miss)) < 1e-12
    assert sorted(bench.told) == [o.item for o in outcomes if o.kept]


@given(kinds.filter(bool), st.integers(0, 4), st.integers(0, 4), st.data())
@settings(max_examples=200)
def test_a_restart_after_anything_that_left_goes_on_as_if_nothing_had_happened(seen, pre, post, data):
    whole = played(Bench(pre, post), seen)
    cut = data.draw(st.integers(1, len(seen)))
    after = Bench(pre, post)
    after.window.restore(tail_after(whole[:cut]))
    rest = played(after, seen, first=cut)
    assert [(o.item, o.kept, o.refused_for) for o in rest] == [
        (o.item, o.kept, o.refused_for) for o in whole[cut:]
    ]


wild = st.lists(
    st.tuples(st.sampled_from("rcnn"), st.sampled_from("ABC"), st.integers(-(10**9), 10**9)), max_size=40
)


@given(wild, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=200)
def test_whatever_the_clocks_do_each_leaves_once_in_order_and_every_trigger_is_kept(seen, pre, post):
    outcomes = Bench(pre, post).run(
        [MAKE[kind]() for kind, *_ in seen], sensor=lambda n: seen[n][1], at=lambda n: seen[n][2]
    )
    assert [o.item for o in outcomes] == list(range(len(seen)))
    assert all(o.kept for o in outcomes if seen[o.item][0] in "rc")
    assert all(0 < o.kept.inclusion_probability <= 1 for o in outcomes if o.kept)
