from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.capture import CaptureRing, Outcome, StreamTail
from edge_agent.selection.decision import Decision, Selection
from schemas.reasons import NotAcceptedReason, ValueClass, WindowRole

ARM = 0.1


def rule() -> Selection:
    return Selection(Decision("novelty", 0.9, ValueClass.HIGH, 1.0), 1.0, None, by_rule=True)


def chance() -> Selection:
    return Selection(Decision("random", None, ValueClass.NORMAL, ARM), ARM, None)


def nothing() -> Selection:
    return Selection(None, ARM, NotAcceptedReason.NOT_SELECTED)


@dataclass
class Bench:
    pre: int
    post: int
    budget: int = 1 << 40
    ring_bytes: int = 1 << 40
    told: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.ring = CaptureRing(
            pre_frames=self.pre,
            post_frames=self.post,
            ring_bytes=self.ring_bytes,
            reserve=self.reserve,
            name_incident=lambda item: f"incident-{item}",
            on_kept=lambda item, _selection: self.told.append(item),
        )

    def reserve(self, _drive: str, amount: int) -> bool:
        if amount > self.budget:
            return False
        self.budget -= amount
        return True

    def run(self, selections, *, sensor=lambda n: "cam", drive=lambda n: "d", size=10, first=0):
        outcomes = []
        for number, selection in enumerate(selections, start=first):
            outcomes += self.ring.offer(number, sensor(number), drive(number), size, selection)
        return outcomes + self.ring.flush()


def roles(outcomes: list[Outcome[int]]) -> str:
    """One letter a frame: pre, Trigger, post (o), single, or - when it was not kept."""
    letters = {WindowRole.PRE: "p", WindowRole.TRIGGER: "T", WindowRole.POST: "o", WindowRole.SINGLE: "s"}
    return "".join(letters[o.kept.window_role] if o.kept else "-" for o in outcomes)


def test_a_trigger_keeps_its_window_once_under_one_incident():
    outcomes = Bench(2, 1).run([nothing(), nothing(), nothing(), rule(), nothing(), nothing()])
    assert roles(outcomes) == "-ppTo-"
    assert {o.kept.incident_id for o in outcomes if o.kept} == {"incident-3"}


def test_windows_that_share_a_frame_are_one_incident_and_others_are_not():
    gap = [nothing()]
    together = Bench(1, 1).run([*gap, rule(), *gap, rule(), *gap])
    assert roles(together) == "pToTo"
    assert {o.kept.incident_id for o in together} == {"incident-1"}
    apart = Bench(1, 1).run([*gap, rule(), *gap * 2, rule(), *gap])
    assert roles(apart) == "pTopTo"
    assert [o.kept.incident_id for o in apart] == ["incident-1"] * 3 + ["incident-4"] * 3


def test_without_a_window_a_frame_is_single_and_has_no_incident():
    outcomes = Bench(0, 0).run([nothing(), rule(), chance()])
    assert roles(outcomes) == "-ss"
    assert [o.kept.incident_id for o in outcomes if o.kept] == [None, None]


def test_a_context_frame_of_a_random_trigger_says_the_chance_that_any_neighbour_drew():
    outcomes = Bench(1, 1).run([nothing(), chance(), nothing(), nothing()])
    probabilities = [round(o.kept.inclusion_probability, 9) if o.kept else None for o in outcomes]
    two, three = round(1 - 0.9**2, 9), round(1 - 0.9**3, 9)
    assert probabilities == [two, three, three, None]


def test_a_frame_near_a_rule_was_certain_to_be_kept():
    outcomes = Bench(1, 1).run([nothing(), chance(), rule(), nothing()])
    assert [o.kept.inclusion_probability for o in outcomes] == [round(1 - 0.9**2, 17), 1.0, 1.0, 1.0]


def test_windows_never_cross_a_drive_or_a_sensor():
    by_drive = Bench(2, 2).run([nothing(), rule(), nothing()], drive=lambda n: "a" if n < 1 else "b")
    assert roles(by_drive) == "-To"
    by_sensor = Bench(1, 1).run(
        [nothing(), nothing(), rule(), nothing(), nothing()], sensor=lambda n: str(n % 2)
    )
    assert roles(by_sensor) == "p-T-o"


def test_a_context_frame_that_the_budget_cannot_pay_is_counted_over_budget():
    outcomes = Bench(1, 1, budget=20).run([nothing(), rule(), nothing(), nothing()])
    assert roles(outcomes) == "pT--"
    assert [o.refused_for for o in outcomes[2:]] == [
        NotAcceptedReason.OVER_BUDGET,
        NotAcceptedReason.NOT_SELECTED,
    ]


def test_an_unreadable_neighbour_is_never_context():
    broken = Selection(None, 0.0, NotAcceptedReason.UNREADABLE_IMAGE)
    outcomes = Bench(1, 1).run([broken, rule(), broken])
    assert roles(outcomes) == "-T-"
    assert outcomes[0].refused_for is NotAcceptedReason.UNREADABLE_IMAGE


def test_a_ring_beyond_its_bytes_lets_the_oldest_go_and_counts_it():
    bench = Bench(5, 0, ring_bytes=25)
    outcomes = bench.run([nothing(), nothing(), nothing(), rule()])
    assert roles(outcomes) == "-ppT"
    assert bench.ring.counts.shortened_windows == 2


streams = st.lists(
    st.tuples(st.sampled_from("rcnnnn"), st.sampled_from("AB"), st.sampled_from([0, 0, 0, 0, 1])), max_size=60
)


@given(streams, st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=300)
def test_every_frame_leaves_once_in_order_with_the_role_incident_and_chance_of_a_plain_recount(
    frames, pre, post
):
    make = {"r": rule, "c": chance, "n": nothing}
    drive, drives = 0, []
    for _, _, step in frames:
        drive += step
        drives.append(str(drive))
    bench = Bench(pre, post)
    outcomes = bench.run(
        [make[kind]() for kind, _, _ in frames],
        sensor=lambda n: frames[n][1],
        drive=lambda n: drives[n],
    )
    assert [o.item for o in outcomes] == list(range(len(frames)))
    for key in {(frames[n][1], drives[n]) for n in range(len(frames))}:
        mine = [n for n in range(len(frames)) if (frames[n][1], drives[n]) == key]
        triggers = [i for i, n in enumerate(mine) if frames[n][0] in "rc"]
        incident: dict[int, int] = {}
        for before, i in zip([None, *triggers], triggers, strict=False):
            joined = before is not None and i - pre <= before + post
            incident[i] = incident[before] if joined else i
        for i, n in enumerate(mine):
            reaching = [j for j in triggers if j - pre <= i <= j + post]
            kept = outcomes[n].kept
            assert (kept is not None) is bool(reaching)
            assert (outcomes[n].refused_for is None) is bool(reaching)
            if kept is None:
                continue
            if pre + post == 0:
                assert (kept.window_role, kept.incident_id) == (WindowRole.SINGLE, None)
            else:
                expected = "trigger" if i in triggers else "post" if any(j < i for j in reaching) else "pre"
                assert kept.window_role.value == expected
                assert kept.incident_id == f"incident-{mine[incident[reaching[0]]]}"
            window = range(max(0, i - post), min(len(mine), i + pre + 1))
            miss = 1.0
            for j in window:
                miss *= 1 - (1.0 if frames[mine[j]][0] == "r" else ARM)
            assert abs(kept.inclusion_probability - (1 - miss)) < 1e-12
    assert sorted(bench.told) == [o.item for o in outcomes if o.kept]


@given(streams.filter(bool), st.integers(0, 4), st.integers(0, 4), st.data())
@settings(max_examples=200)
def test_a_restart_after_any_frame_that_left_continues_as_if_nothing_had_happened(frames, pre, post, data):
    make = {"r": rule, "c": chance, "n": nothing}
    selections = [make[kind]() for kind, _, _ in frames]
    names = {"sensor": lambda n: frames[n][1], "drive": lambda n: "d"}
    whole = Bench(pre, post).run(selections, **names)
    cut = data.draw(st.integers(1, len(frames)))
    tails: dict[str, StreamTail] = {outcome.tail.sensor_id: outcome.tail for outcome in whole[:cut]}
    after = Bench(pre, post)
    after.ring.restore(list(tails.values()))
    rest = after.run(selections[cut:], first=cut, **names)
    assert [(o.item, o.kept, o.refused_for) for o in rest] == [
        (o.item, o.kept, o.refused_for) for o in whole[cut:]
    ]
