"""Roll out a release to the fleet in waves of exact size: start, advance, watch, halt, and show the state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from foundation.clock import Clock, SystemClock
from foundation.documents import UnreadableRow
from foundation.errors import CorruptError, FleetLoopError
from rollout.fleet import active_vehicles, read_tags
from rollout.health import VehicleReport, VehicleVerdict
from rollout.history import HistoryRow, ModelRun
from rollout.plan_state import LeftOut, PlanState
from rollout.reports import FleetReports
from rollout.repository import Repository
from rollout.service import Advance, RolloutService
from rollout.service import watch as watch_service
from schemas.documents import COMPLETE, RUNNING, HealthGate, RolloutPlan
from schemas.roles import SERVING
from services.fleet import fleet_lock
from services.notices import Notified, tell_fleet
from workspace.enrolment_file import load_enrolment
from workspace.layout import Workspace
from workspace.served_models import ServedModel, serve


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """Which release goes to which vehicles, in which waves, and what counts as healthy."""

    release_id: str
    waves: str = "rest"
    """Exact sizes, such as "1,10,rest"."""
    tags: tuple[str, ...] = ()
    """Only vehicles with all these tags."""
    include: tuple[str, ...] = ()
    """Vehicles of the first wave, whatever their tags."""
    exclude: tuple[str, ...] = ()
    """Vehicles that never take part."""
    health: HealthGate = field(default_factory=HealthGate)


@dataclass(frozen=True, slots=True)
class PlanChanged:
    """A plan that was published by a command, and whether the fleet was notified."""

    plan: RolloutPlan
    notified: Notified


@dataclass(frozen=True, slots=True)
class ServingUpdate:
    """Whether registry/served.jsonl now names the released model for the role; if not, why.

    `trouble` is an error for the caller to raise after reporting the rest: the plan itself is published.
    """

    is_updated: bool
    why: str = ""
    trouble: FleetLoopError | None = None


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """The last decision, the update of the serving record, and one notice per published plan."""

    advance: Advance
    serving: ServingUpdate
    notified: tuple[Notified, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """One plan as published, why it was halted ("" when it was not), and its health verdict (None: not judged).

    If the local state of a plan cannot be read, `halt_reason` says so.
    """

    plan: RolloutPlan
    halt_reason: str
    verdict: str | None
    left_out: tuple[LeftOut, ...] = ()
    """Failing vehicles without which it went on."""


@dataclass(frozen=True, slots=True)
class VehicleStatus:
    """The verdict of the rollout `plan_id` on a vehicle (None, "": in no rollout), and its last report (None: never)."""

    verdict: VehicleVerdict | None
    report: VehicleReport | None
    plan_id: str


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """Every plan of a role, oldest first; every vehicle that reported or was judged, by name.

    Every running plan is judged; if none runs, the newest.
    """

    plans: tuple[PlanStatus, ...]
    vehicles: Mapping[str, VehicleStatus]
    not_believed: Mapping[str, int]
    """Reports that were refused, by reason."""
    lost_offsets: int
    unreadable: tuple[UnreadableRow, ...] = ()
    """Events of the history that cannot be read."""


@dataclass(frozen=True, slots=True)
class FleetHistory:
    """Which vehicle ran which model when, and the signed events that show it."""

    runs: tuple[ModelRun, ...]
    events: tuple[HistoryRow, ...]
    unreadable: tuple[UnreadableRow, ...] = ()
    """Lines of the file that are not an event; they stay in it."""
    left_out: tuple[tuple[str, LeftOut], ...] = ()
    """(plan_id, failing vehicle without which this rollout went on), of every plan whose state can be read."""


def start(place: Workspace, request: RolloutRequest) -> PlanChanged:
    """Cut the fleet into waves of exactly the given sizes and open the first.

    Raises:
        MisconfiguredError: no such release, sizes that do not fit, an unknown vehicle.
        RejectedError: reason `rollout_running`.
    """
    with fleet_lock(place, SystemClock()):
        plan = open_service(place).start(
            request.release_id,
            request.waves,
            active_vehicles(load_enrolment(place.enrolment_path)),
            tags_of=read_tags(place.tags_path),
            tags=request.tags,
            include=request.include,
            exclude=request.exclude,
            health=request.health,
        )
    return PlanChanged(plan, tell_fleet(place, "rollout", f"{plan.plan_id} started"))


def advance(place: Workspace, bootstrap: str = "", role: str = SERVING, plan_id: str = "") -> RolloutStep:
    """Read the fleet's reports and decide once on a rollout of the role: wait, open the next wave, complete, or halt.

    Raises:
        RetryLaterError: no broker answers, so there are no reports and nothing is decided.
        MisconfiguredError: there is no rollout, or several of the role run and none is named.
    """
    service = open_service(place)
    plan = service.current(role, plan_id)
    heard = hear(place, open_reports(place), bootstrap, plan.role)
    done = service.advance(heard, plan.role, plan.plan_id)
    notified = (_tell(place, done, bootstrap),) if done.has_published else ()
    return RolloutStep(done, update_serving(place, done), notified)


def watch(
    place: Workspace,
    *,
    timeout_s: float,
    every_s: float,
    role: str = SERVING,
    plan_id: str = "",
    bootstrap: str = "",
    clock: Clock | None = None,
    on_published: Callable[[Advance, Notified], object] = lambda _step, _notified: None,
) -> RolloutStep:
    """Advance until the rollout completes or halts, or for `timeout_s`; `on_published` is called with every step.

    Raises:
        MisconfiguredError: there is no rollout, or several of the role run and none is named.
    """
    reports = open_reports(place)
    told: list[Notified] = []

    def tell(step: Advance) -> None:
        told.append(_tell(place, step, bootstrap))
        on_published(step, told[-1])

    service = open_service(place)
    watched = service.current(role, plan_id)
    done = watch_service(
        service,
        lambda: hear(place, reports, bootstrap, watched.role),
        clock or SystemClock(),
        timeout_s=timeout_s,
        every_s=every_s,
        role=watched.role,
        plan_id=watched.plan_id,
        on_published=tell,
    )
    return RolloutStep(done, update_serving(place, done), tuple(told))


def halt(place: Workspace, why: str, role: str = SERVING, plan_id: str = "") -> PlanChanged:
    """Halt the rollout of the role: its vehicles go back to the previous model.

    Raises:
        MisconfiguredError: there is no rollout, or several of the role run and none is named.
    """
    plan = open_service(place).halt(why, role, plan_id)
    return PlanChanged(plan, tell_fleet(place, "rollout", f"{plan.plan_id} {plan.state}"))


def status(
    place: Workspace, bootstrap: str = "", *, is_offline: bool = False, role: str = ""
) -> dict[str, RolloutStatus]:
    """Return, per role (serving first), the state of its rollouts and the last report of every vehicle.

    Args:
        is_offline: do not ask the broker.
        role: this one only; "" for serving and every role with a rollout or a report.
    """
    service, reports = open_service(place), open_reports(place)
    if not is_offline:
        hear(place, reports, bootstrap)
    plans = service.plans()
    others = sorted({*(plan.role for plan in plans), *reports.roles} - {SERVING})
    return {
        each: _status_of(service, reports, plans, each) for each in ([role] if role else [SERVING, *others])
    }


def _status_of(
    service: RolloutService, reports: FleetReports, all_plans: Sequence[RolloutPlan], role: str
) -> RolloutStatus:
    plans = [plan for plan in all_plans if plan.role == role]
    newest = reports.newest_of(role)
    states, unreadable = _states_of(service, plans)
    to_judge = [plan for plan in plans if plan.state == RUNNING] or plans[-1:]
    verdicts = {p.plan_id: service.verdict_on(p, newest) for p in to_judge if states[p.plan_id] is not None}
    judged = {each.vehicle_id: (each, name) for name, said in verdicts.items() for each in said.vehicles}
    found = []
    for plan in plans:
        state, said = states[plan.plan_id], verdicts.get(plan.plan_id)
        why = state.halt_reason if state else unreadable.get(plan.plan_id, "")
        left_out = state.left_out if state else ()
        found.append(PlanStatus(plan, why, said.verdict if said else None, left_out))
    vehicles = {}
    for name in sorted({*newest, *judged}):
        verdict, plan_id = judged.get(name, (None, ""))
        vehicles[name] = VehicleStatus(verdict, newest.get(name), plan_id)
    return RolloutStatus(
        tuple(found),
        vehicles,
        dict(reports.not_believed),
        reports.lost_offsets,
        tuple(reports.history.unreadable),
    )


def _states_of(
    service: RolloutService, plans: Iterable[RolloutPlan]
) -> tuple[dict[str, PlanState | None], dict[str, str]]:
    """Return the state of each plan, and the error of those that cannot be read."""
    states: dict[str, PlanState | None] = {}
    unreadable = {}
    for plan in plans:
        try:
            states[plan.plan_id] = service.state_of(plan)
        except CorruptError as error:
            states[plan.plan_id], unreadable[plan.plan_id] = None, str(error)
    return states, unreadable


def history(place: Workspace, bootstrap: str = "", *, is_offline: bool = False) -> FleetHistory:
    """Return which vehicle ran which model when. Offline: without reading new reports from the broker."""
    reports = open_reports(place)
    if not is_offline:
        hear(place, reports, bootstrap)
    held, service = reports.history, open_service(place)
    states, _unreadable = _states_of(service, service.plans())
    left_out = tuple((name, each) for name, state in states.items() if state for each in state.left_out)
    return FleetHistory(tuple(held.runs()), tuple(held.rows), tuple(held.unreadable), left_out)


def open_service(place: Workspace) -> RolloutService:
    """Open the rollouts of a workspace."""
    clock = SystemClock()
    return RolloutService(
        Repository(place.tuf_path, place.keys_path, clock=clock), place.rollouts_path, clock
    )


def open_reports(place: Workspace) -> FleetReports:
    """Open the fleet's reports so far."""
    place.rollouts_path.mkdir(parents=True, exist_ok=True)
    return FleetReports(place.rollouts_path, SystemClock())


def hear(
    place: Workspace, reports: FleetReports, bootstrap: str = "", role: str = SERVING
) -> Mapping[str, VehicleReport]:
    """Read new telemetry; return the newest report per vehicle. Raises RetryLaterError without a broker."""
    from connectors.kafka.source import KafkaSource

    source = KafkaSource(place.kafka(bootstrap))
    try:
        reports.listen(source, load_enrolment(place.enrolment_path))
    finally:
        source.close()
    return reports.newest_of(role)


def update_serving(place: Workspace, done: Advance) -> ServingUpdate:
    """Record the model of a completed rollout as the fleet's model in its role.

    In the role serving it must be in the registry, because vehicles are enrolled with it. One released from a bare file
    is not: expected, and reported. Any other error that keeps the row from being written is `trouble`.
    """
    from training.registry import load_model, why_not_registered

    if done.plan.state != COMPLETE:
        return ServingUpdate(False, f"the rollout is {done.plan.state}")
    try:
        release = open_service(place).release_of(done.plan)
        if release.role == SERVING:
            why = why_not_registered(place.registry_path, release.model_name, release.model_digest)
            if why:
                return ServingUpdate(False, why)
            load_model(place.registry_path, release.model_name, release.model_digest)
        row = ServedModel(
            release.model_name, release.model_digest, release.role, release.release_id, done.plan.plan_id
        )
        serve(place, row)
    except FleetLoopError as error:
        return ServingUpdate(False, str(error), error)
    return ServingUpdate(True)


def _tell(place: Workspace, done: Advance, bootstrap: str) -> Notified:
    return tell_fleet(place, "rollout", f"{done.plan.plan_id} {done.did}", bootstrap=bootstrap)
