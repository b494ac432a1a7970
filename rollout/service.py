"""Roll out a release wave by wave, opening a wave only if the previous one is healthy.

The signed plan (target `rollouts/index-2.json`) is authoritative for what is open; `state.json` holds what vehicles need
not know: later waves, their members by name, and when each was opened. The state is written before the plan that needs
it; if a crash leaves the plan ahead of the state, the next call updates the state. The opened waves bound the number of
exposed vehicles: a vehicle that enrols later is excluded from a running plan before it can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from foundation.clock import Clock
from foundation.documents import build, plain
from foundation.errors import CorruptError, MisconfiguredError, RejectedError, RetryLaterError
from foundation.files import read_document, write_document
from foundation.service_manager import READY, notify, wait_alive
from rollout.health import VehicleReport, WaveVerdict, judge_waves
from rollout.plan import EVERYBODY, cut_waves, eligible, parse_sizes
from rollout.plan_state import STATES, LeftOut, PlanState, PlanStates
from rollout.release import find_release, read_releases
from rollout.repository import Repository
from schemas.documents import (
    COMPLETE,
    HALTED,
    ROLLOUT_PLAN,
    RUNNING,
    HealthGate,
    Release,
    RolloutPlan,
    read_index,
)
from schemas.downlink import PLANS_KEY, index_targets
from schemas.roles import SERVING


@dataclass(frozen=True, slots=True)
class Advance:
    """The result of one evaluation: `did` is waited, opened, completed, halted or nothing."""

    plan: RolloutPlan
    did: str
    wave: WaveVerdict | None
    reason: str = ""

    @property
    def has_published(self) -> bool:
        """Whether a new plan was published."""
        return self.did in ("opened", "completed", "halted")


class RolloutService:
    """The rollouts of a fleet. Several may run at once unless they concern the same role of the same vehicle."""

    def __init__(self, repository: Repository, folder: Path, clock: Clock) -> None:
        self._repository = repository
        self._path = folder / "state.json"
        self._clock = clock

    def start(
        self,
        release_id: str,
        sizes: str | Sequence[int],
        vehicles: Collection[str],
        *,
        tags_of: Mapping[str, Collection[str]] | None = None,
        tags: Sequence[str] = (),
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        health: HealthGate | None = None,
    ) -> RolloutPlan:
        """Cut the waves, publish the plan with its first wave open, and return it.

        Args:
            sizes: wave sizes, or text such as "1,10,rest".
            vehicles: all enrolled vehicles whose key is not revoked.

        Raises:
            MisconfiguredError: no such release, sizes that do not fit, an unknown vehicle.
            RejectedError: reason `rollout_running`; names the running rollout of the same role that covers one of these
                vehicles, or will when it completes: halt or complete it first.
            CorruptError: the state of a running rollout of the role cannot be read: halt it first.
        """
        release = find_release(self._repository, release_id)
        names = eligible(vehicles, tags_of or {}, tags=tags, include=include, exclude=exclude)
        counts = parse_sizes(sizes, len(names)) if isinstance(sizes, str) else list(sizes)
        waves = cut_waves(release.release_id, names, counts, include)
        started: list[RolloutPlan] = []

        def build() -> Mapping[str, bytes]:
            plans = self.plans()
            self._refuse_overlap(plans, release.role, names, vehicles, tags_of or {})
            number = sum(plan.release_id == release_id for plan in plans) + 1
            finished = [p.release_id for p in plans if p.state == COMPLETE and p.role == release.role]
            plan = RolloutPlan(
                plan_id=f"{release_id[:90]}.{number}",
                release_id=release_id,
                state=RUNNING,
                waves=(waves[0].wave,),
                tags=tuple(sorted(tags)),
                include=tuple(sorted(include)),
                exclude=tuple(sorted(exclude)),
                health=health or HealthGate(),
                previous_release_id=finished[-1] if finished else None,
                role=release.role,
                model_digest=release.model_digest,
                model_bytes=release.model_bytes,
                is_bundle=bool(release.files),
            )
            now_ns = self._clock.now_ns()
            state = PlanState(plan.plan_id, tuple(waves), (now_ns,), sum(counts) == len(names), plan.exclude)
            self._save(state)
            started.append(plan)
            return index_targets(PLANS_KEY, [*plans, plan])

        self._repository.transact("rollouts", build)
        return started[0]

    def advance(
        self, reports: Mapping[str, VehicleReport], role: str = SERVING, plan_id: str = ""
    ) -> Advance:
        """Evaluate once: halt if too many fail, open the next wave or complete if the rest is healthy, otherwise wait.

        Args:
            reports: the newest report about `role` by vehicle.
            role, plan_id: as in `current`.

        Raises:
            MisconfiguredError: there is no rollout, several run and none is named, or its local state is lost (halt it
                and start again).
        """
        plan = self.current(role, plan_id)
        if plan.state != RUNNING:
            return Advance(plan, "nothing", None, f"rollout {plan.plan_id} is {plan.state}")
        verdict = self.verdict_on(plan, reports)
        if verdict.verdict == "breached":
            reason = _why_halted(verdict)
            return Advance(self.halt(reason, role, plan.plan_id), "halted", verdict, reason)
        if verdict.verdict == "waiting":
            return Advance(plan, "waited", verdict)
        state = self._leave_out(self._state_of(plan), verdict)
        if len(plan.waves) < len(state.waves):
            opened = replace(plan, waves=(*plan.waves, state.waves[len(plan.waves)].wave))
            return Advance(self._publish(plan, opened), "opened", verdict)
        return Advance(self._publish(plan, self._completed(plan, state)), "completed", verdict)

    def verdict_on(self, plan: RolloutPlan, reports: Mapping[str, VehicleReport]) -> WaveVerdict:
        """Return the verdict on all vehicles that the plan exposes so far."""
        state = self._caught_up(plan)
        waves = {
            planned.wave.number: (opened_ns, planned.members)
            for planned, opened_ns in zip(state.waves, state.opened_ns, strict=False)
        }
        return judge_waves(self.release_of(plan), plan.health, waves, reports, self._clock.now_ns())

    def halt(self, reason: str, role: str = SERVING, plan_id: str = "") -> RolloutPlan:
        """Halt the current rollout of a role, whose vehicles return to the previous model. Idempotent.

        Raises:
            MisconfiguredError: there is no rollout, or several run and none is named.
        """
        plan = self.current(role, plan_id)
        if plan.state == HALTED:
            return plan
        with suppress(CorruptError):  # an unreadable state must not prevent halting
            if (state := self.state_of(plan)) is not None:
                self._save(replace(state, halt_reason=reason))
        return self._publish(plan, plan.with_state(HALTED))

    def hold_out(self, vehicle_id: str) -> bool:
        """Exclude a vehicle that enrols now from the running plans, whose waves were cut without it.

        Returns whether a plan was changed.
        """
        held = [False]

        def build() -> Mapping[str, bytes]:
            plans = self.plans()
            if not any(plan.state == RUNNING and vehicle_id not in plan.exclude for plan in plans):
                return {}
            held[0] = True
            held_out = [
                replace(plan, exclude=tuple(sorted({*plan.exclude, vehicle_id})))
                if plan.state == RUNNING and vehicle_id not in plan.include
                else plan
                for plan in plans
            ]
            return index_targets(PLANS_KEY, held_out)

        if any(plan.state == RUNNING for plan in self.plans()):
            self._repository.transact("rollouts", build)
        return held[0]

    # Reading.

    def plans(self) -> list[RolloutPlan]:
        """Return all published plans, oldest first; those of version 1 with the model of their release."""
        data = self._repository.read_index("rollouts")
        if data is None:
            return []
        rows = read_index(data, PLANS_KEY, ROLLOUT_PLAN)
        if rows.unreadable:  # the list is published again, so it must be complete
            raise CorruptError(f"plan {rows.unreadable[0].index} of the index: {rows.unreadable[0].why}")
        if all(plan.model_digest is not None for plan in rows.read):
            return list(rows.read)
        releases = {release.release_id: release for release in read_releases(self._repository)}
        return [_naming_its_model(plan, releases.get(plan.release_id)) for plan in rows.read]

    def current(self, role: str = SERVING, plan_id: str = "") -> RolloutPlan:
        """Return the plan `plan_id`; without an id, the running plan of `role`, or else its newest.

        Raises:
            MisconfiguredError: there is no such plan, or several of the role run and none is named.
        """
        plans = self.plans()
        if plan_id:
            found = [plan for plan in plans if plan.plan_id == plan_id]
        else:
            found = [plan for plan in plans if plan.role == role]
            running = [plan for plan in found if plan.state == RUNNING]
            if len(running) > 1:
                names = ", ".join(plan.plan_id for plan in running)
                raise MisconfiguredError(
                    f"{len(running)} rollouts of the role {role} run: {names}; name one with --plan"
                )
            found = running or found
        if not found:
            raise MisconfiguredError(
                f"there is no rollout {plan_id or f'of the role {role}'}; "
                "start one with `fleetloop rollout start RELEASE`"
            )
        return found[-1]

    def release_of(self, plan: RolloutPlan) -> Release:
        """Return the release of a plan."""
        return find_release(self._repository, plan.release_id)

    def state_of(self, plan: RolloutPlan) -> PlanState | None:
        """Return the local state of a plan; None for a plan that was started elsewhere.

        Raises:
            CorruptError: the state of this plan cannot be read.
        """
        row = read_document(self._path, STATES).plans.get(plan.plan_id) if self._path.exists() else None
        if row is None:
            return None
        return build(PlanState, row, f"plans.{plan.plan_id}", family=partial(CorruptError, path=self._path))

    # Writing.

    def _publish(self, old: RolloutPlan, new: RolloutPlan) -> RolloutPlan:
        done = [new]

        def build() -> Mapping[str, bytes]:
            plans = self.plans()
            now = next(plan for plan in plans if plan.plan_id == old.plan_id)
            if now.state != RUNNING and old.state == RUNNING:  # it was halted in the meantime, which stays
                done[0] = now
                return {}
            if new.state == RUNNING:
                done[0] = replace(new, exclude=now.exclude)
            now_plans = [done[0] if plan.plan_id == old.plan_id else plan for plan in plans]
            return index_targets(PLANS_KEY, now_plans)

        self._repository.transact("rollouts", build)
        if done[0].state == RUNNING:
            self._caught_up(done[0])
        return done[0]

    def _refuse_overlap(
        self,
        plans: Sequence[RolloutPlan],
        role: str,
        names: Collection[str],
        vehicles: Collection[str],
        tags_of: Mapping[str, Collection[str]],
    ) -> None:
        for plan in plans:
            if plan.state != RUNNING or plan.role != role:
                continue
            state = self.state_of(plan)  # completion ends the exclusion of later vehicles, so they count too
            exclude = state.exclude if state is not None and state.covers_all else plan.exclude
            include = [name for name in plan.include if name in vehicles]
            held = eligible(vehicles, tags_of, tags=plan.tags, include=include, exclude=exclude)
            both = sorted(set(held) & set(names))
            if both:
                raise RejectedError(
                    f"rollout {plan.plan_id} is running in the role {role} and covers {len(both)} of these "
                    f"vehicles, now or when it completes, such as {both[0]}; complete or halt it first",
                    reason="rollout_running",
                )

    def _leave_out(self, state: PlanState, verdict: WaveVerdict) -> PlanState:
        """Record, before the plan goes on, the failing vehicles without which it does."""
        known = {(each.vehicle_id, each.outcome) for each in state.left_out}
        now_ns = self._clock.now_ns()
        news = tuple(
            LeftOut(each.vehicle_id, each.wave, each.outcome, each.reason, now_ns)
            for each in verdict.breaches
            if (each.vehicle_id, each.outcome) not in known
        )
        if news:
            state = replace(state, left_out=(*state.left_out, *news))
            self._save(state)
        return state

    def _completed(self, plan: RolloutPlan, state: PlanState) -> RolloutPlan:
        done = plan.with_state(COMPLETE)
        if not state.covers_all:
            return done
        last = replace(plan.waves[-1], threshold_hex=EVERYBODY)
        return replace(done, waves=(*plan.waves[:-1], last), exclude=state.exclude)

    def _caught_up(self, plan: RolloutPlan) -> PlanState:
        """Return the state of a plan, with an opening time for each open wave."""
        state = self._state_of(plan)
        missing = len(plan.waves) - len(state.opened_ns)
        if missing > 0:
            state = replace(state, opened_ns=(*state.opened_ns, *[self._clock.now_ns()] * missing))
            self._save(state)
        return state

    def _state_of(self, plan: RolloutPlan) -> PlanState:
        state = self.state_of(plan)
        if state is None:
            raise MisconfiguredError(
                f"{self._path} has no state of rollout {plan.plan_id}: halt it and start again"
            )
        return state

    def _save(self, state: PlanState) -> None:
        """Store the state of one plan; the states of others, unreadable ones included, stay unchanged."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        held = read_document(self._path, STATES).plans if self._path.exists() else {}
        write_document(self._path, STATES, PlanStates({**held, state.plan_id: plain(state)}))


def _why_halted(verdict: WaveVerdict) -> str:
    first, others = verdict.breaches[0], len(verdict.breaches) - 1
    told = f"{first.vehicle_id} {first.outcome}: {first.reason}"
    return f"{told} (and {others} more of {len(verdict.vehicles)} vehicles)" if others else told


Listen = Callable[[], Mapping[str, VehicleReport]]


def watch(
    service: RolloutService,
    listen: Listen,
    clock: Clock,
    *,
    timeout_s: float,
    every_s: float,
    role: str = SERVING,
    plan_id: str = "",
    on_published: Callable[[Advance], object] = lambda _done: None,
) -> Advance:
    """Read reports and advance until the rollout completes or halts, or until `timeout_s` is over.

    `on_published` is called after each published plan. Without a broker no decision is made. The service manager gets a sign
    of life with each round and while this waits. Raises MisconfiguredError if
    several rollouts of the role run and none is named; one that starts later does not matter.
    """
    notify(READY)
    plan_id = service.current(role, plan_id).plan_id
    deadline_ns = clock.monotonic_ns() + round(timeout_s * 1e9)
    while True:
        try:
            done = service.advance(listen(), role, plan_id)
            if done.has_published:
                on_published(done)
        except RetryLaterError as error:
            done = Advance(service.current(role, plan_id), "nothing", None, f"no reports: {error}")
        if done.plan.state != RUNNING or clock.monotonic_ns() >= deadline_ns:
            return done
        wait_alive(clock.sleep, every_s)


def _naming_its_model(plan: RolloutPlan, release: Release | None) -> RolloutPlan:
    """Return the plan with the model that vehicles compare; unchanged if it has one or its release is not known."""
    if plan.model_digest is not None or release is None:
        return plan
    return replace(plan, model_digest=release.model_digest, model_bytes=release.model_bytes)
