"""`fleetloop rollout`: bring a release to the fleet in waves of exact size, and watch its health."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from fleetloop.notify import tell_fleet
from fleetloop.options import AsJson, Bootstrap, WorkspacePath
from foundation.clock import SystemClock
from foundation.errors import FleetLoopError
from schemas.documents import COMPLETE, HALTED, RUNNING

if TYPE_CHECKING:
    from rollout.health import VehicleReport, WaveVerdict
    from rollout.reports import FleetReports
    from rollout.service import Advance, RolloutService
    from workspace.layout import Workspace

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Bring a release to the fleet in waves, and watch it."
)

HALTED_EXIT = 3
WAITING_EXIT = 75


@app.callback()
def rollout() -> None:
    """Bring a release to the fleet in waves, and watch it."""


@app.command()
def start(
    release_id: str = typer.Argument(..., metavar="RELEASE"),
    waves: str = typer.Option("rest", "--waves", help="Exact sizes, for example 1,10,rest."),
    tags: str = typer.Option("", "--tags", help="Only vehicles with all these tags."),
    include: str = typer.Option("", "--include", help="Vehicles of the first wave, whatever their tags."),
    exclude: str = typer.Option("", "--exclude", help="Vehicles that never take part."),
    min_reports: int = typer.Option(
        1, "--min-reports", min=1, help="Healthy reports a vehicle, before the next wave."
    ),
    max_error_ratio: float = typer.Option(0.0, "--max-error-ratio", min=0.0, max=1.0),
    max_nan_count: int = typer.Option(0, "--max-nan-count", min=0),
    report_within_s: float = typer.Option(
        3600.0, "--report-within-s", min=1.0, help="Silence beyond this is a breach."
    ),
    workspace: WorkspacePath = Path(),
    as_json: AsJson = False,
) -> None:
    """Cut the fleet into waves of exactly the given sizes and open the first."""
    from fleetloop.commands.enroll import TAGS_NAME, fleet_lock
    from rollout.fleet import active_vehicles, read_tags
    from schemas.documents import HealthGate
    from schemas.enrolment import Enrolment
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    with fleet_lock(place, SystemClock()):
        plan = open_service(place).start(
            release_id,
            waves,
            active_vehicles(Enrolment.load(place.enrolment_path)),
            tags_of=read_tags(place.registry_path / TAGS_NAME),
            tags=_words(tags),
            include=_words(include),
            exclude=_words(exclude),
            health=HealthGate(min_reports, max_error_ratio, max_nan_count, report_within_s),
        )
    document = dataclasses.asdict(plan) | {
        "notified": tell_fleet(place, "rollout", f"{plan.plan_id} started")
    }
    if as_json:
        print(json.dumps(document, sort_keys=True, indent=2))
        return
    typer.echo(f"rollout {plan.plan_id} is running: wave 1 of {plan.waves[0].exact_count} vehicle(s) is open")


@app.command()
def advance(workspace: WorkspacePath = Path(), bootstrap: Bootstrap = "", as_json: AsJson = False) -> None:
    """Hear the fleet and decide once: wait, open the next wave, complete, or halt (exit status 3)."""
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    service, reports = open_service(place), open_reports(place)
    done = service.advance(hear(place, reports, bootstrap))
    notified = _tell(place, done, bootstrap) if done.has_published else None
    _finish(place, done, as_json, notified)


@app.command()
def watch(
    timeout_s: float = typer.Option(600.0, "--timeout-s", min=0.0, help="How long to watch."),
    every_s: float = typer.Option(2.0, "--every-s", min=0.05, max=3600.0, help="Between two decisions."),
    workspace: WorkspacePath = Path(),
    bootstrap: Bootstrap = "",
    as_json: AsJson = False,
) -> None:
    """Advance until it completes (exit status 0), halts (3), or the time is over (75)."""
    from rollout.service import watch as watch_service
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    reports = open_reports(place)
    told: list[bool] = []
    done = watch_service(
        open_service(place),
        lambda: hear(place, reports, bootstrap),
        SystemClock(),
        timeout_s=timeout_s,
        every_s=every_s,
        on_published=lambda step: told.append(_tell(place, step, bootstrap)),
    )
    _finish(place, done, as_json, all(told) if told else None, is_last_word=True)


@app.command()
def halt(
    why: str = typer.Option("halted by hand", "--why", help="For the record."),
    workspace: WorkspacePath = Path(),
    as_json: AsJson = False,
) -> None:
    """Stop the newest rollout: its vehicles go back to the model before."""
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    plan = open_service(place).halt(why)
    notified = tell_fleet(place, "rollout", f"{plan.plan_id} {plan.state}")
    if as_json:
        print(json.dumps(dataclasses.asdict(plan) | {"notified": notified}, sort_keys=True, indent=2))
        return
    typer.echo(f"rollout {plan.plan_id} is {plan.state}: {why}")


@app.command()
def status(
    workspace: WorkspacePath = Path(),
    bootstrap: Bootstrap = "",
    offline: bool = typer.Option(False, "--offline", help="Say what is known without asking the broker."),
    as_json: AsJson = False,
) -> None:
    """Say how the newest rollout stands, vehicle by vehicle, and what every vehicle last said."""
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    service, reports = open_service(place), open_reports(place)
    if not offline:
        hear(place, reports, bootstrap)
    document = describe(service, reports)
    if as_json:
        print(json.dumps(document, sort_keys=True, indent=2))
        return
    console = Console()
    for plan in document["plans"]:
        sizes = ", ".join(f"{wave['number']}: {wave['exact_count']}" for wave in plan["waves"])
        console.print(f"{plan['plan_id']}  {plan['state']}  open waves {sizes}  {plan['halt_reason']}")
    table = Table(title="vehicles", title_justify="left")
    for heading in ("vehicle", "wave", "outcome", "model", "state", "swaps", "rollbacks", "reason"):
        table.add_column(heading)
    for name, row in document["vehicles"].items():
        cells = (
            row[key]
            for key in ("wave", "outcome", "model_name", "model_state", "swaps", "rollbacks", "reason")
        )
        table.add_row(name, *("" if cell is None else str(cell) for cell in cells))
    console.print(table)


@app.command()
def history(
    workspace: WorkspacePath = Path(),
    bootstrap: Bootstrap = "",
    offline: bool = typer.Option(False, "--offline", help="Say what is known without asking the broker."),
    events: bool = typer.Option(False, "--events", help="Every event, not only which model served when."),
    as_json: AsJson = False,
) -> None:
    """Say which vehicle ran which model when, as the vehicles said it, signed."""
    from workspace.layout import Workspace

    place = Workspace.open(workspace)
    reports = open_reports(place)
    if not offline:
        hear(place, reports, bootstrap)
    runs, rows = reports.history.runs(), reports.history.rows
    if as_json:
        document = {
            "runs": [dataclasses.asdict(run) for run in runs],
            "events": [dataclasses.asdict(r) for r in rows],
        }
        print(json.dumps(document, sort_keys=True, indent=2))
        return
    table = Table(title="which vehicle ran which model when (vehicles' clocks)", title_justify="left")
    if events:
        for heading in ("vehicle", "time", "event", "model", "release", "reason"):
            table.add_column(heading)
        for row in rows:
            table.add_row(
                row.vehicle_id, _time(row.time_ns), row.event, row.model_name, row.release_id, row.reason
            )
    else:
        for heading in ("vehicle", "model", "sha256", "release", "from", "to", "ended by"):
            table.add_column(heading)
        for run in runs:
            until = "now" if run.end_ns is None else _time(run.end_ns)
            begun = _time(run.start_ns)
            table.add_row(
                run.vehicle_id,
                run.model_name,
                run.model_digest[:12],
                run.release_id,
                begun,
                until,
                run.ended_by,
            )
    Console().print(table)


def open_service(place: Workspace) -> RolloutService:
    """The rollouts of a workspace."""
    from fleetloop.commands.enroll import rollouts_folder
    from rollout.repository import Repository
    from rollout.service import RolloutService

    clock = SystemClock()
    return RolloutService(
        Repository(place.tuf_path, place.keys_path, clock=clock), rollouts_folder(place), clock
    )


def open_reports(place: Workspace) -> FleetReports:
    """What the fleet said so far."""
    from fleetloop.commands.enroll import rollouts_folder
    from rollout.reports import FleetReports

    folder = rollouts_folder(place)
    folder.mkdir(parents=True, exist_ok=True)
    return FleetReports(folder, SystemClock())


def hear(place: Workspace, reports: FleetReports, bootstrap: str = "") -> Mapping[str, VehicleReport]:
    """Read the telemetry that is new. Raises RetryLaterError without a broker: deaf, nobody decides."""
    from connectors.kafka.source import KafkaSource
    from schemas.enrolment import Enrolment

    source = KafkaSource(place.kafka(bootstrap))
    try:
        reports.listen(source, Enrolment.load(place.enrolment_path))
    finally:
        source.close()
    return reports.newest


def describe(service: RolloutService, reports: FleetReports) -> dict[str, Any]:
    """The JSON document of `rollout status`."""
    plans = service.plans()
    verdict = _verdict(service, reports)
    judged = {each.vehicle_id: each for each in verdict.vehicles} if verdict is not None else {}
    vehicles: dict[str, dict[str, object]] = {}
    for name in sorted({*reports.newest, *judged}):
        report, found = reports.newest.get(name), judged.get(name)
        vehicles[name] = {
            "wave": found.wave if found else None,
            "outcome": found.outcome if found else None,
            "reason": found.reason if found else "",
            "model_name": report.model_name if report else None,
            "model_digest": report.model_digest if report else None,
            "model_state": report.model_state if report else None,
            "swaps": report.swaps if report else None,
            "rollbacks": report.rollbacks if report else None,
            "heard_ns": report.heard_ns if report else None,
            "ends": {key: list(value) for key, value in ((report.ends or {}) if report else {}).items()},
        }
    return {
        "plans": [
            dataclasses.asdict(plan) | {"halt_reason": state.halt_reason if state else ""}
            for plan, state in ((plan, service.state_of(plan)) for plan in plans)
        ],
        "verdict": verdict.verdict if verdict else None,
        "vehicles": vehicles,
        "not_believed": dict(reports.not_believed),
        "lost_offsets": reports.lost_offsets,
    }


def _verdict(service: RolloutService, reports: FleetReports) -> WaveVerdict | None:
    plans = service.plans()
    if not plans or service.state_of(plans[-1]) is None:
        return None
    return service.judge(plans[-1], reports.newest)


def _tell(place: Workspace, done: Advance, bootstrap: str) -> bool:
    return tell_fleet(place, "rollout", f"{done.plan.plan_id} {done.did}", bootstrap=bootstrap)


def _finish(
    place: Workspace, done: Advance, as_json: bool, notified: bool | None, *, is_last_word: bool = False
) -> None:
    serving = _serve(place, done)
    vehicles = [dataclasses.asdict(each) for each in done.wave.vehicles] if done.wave else []
    if as_json:
        document = {
            "did": done.did,
            "reason": done.reason,
            "plan": dataclasses.asdict(done.plan),
            "vehicles": vehicles,
            "notified": notified,
            "serving_updated": serving.is_updated,
            "why": serving.why,
        }
        print(json.dumps(document, sort_keys=True, indent=2))
    else:
        if done.plan.state == COMPLETE and not serving.is_updated:
            typer.echo(f"the serving model of the registry stays: {serving.why}", err=True)
        typer.echo(f"rollout {done.plan.plan_id} {done.did}: {done.plan.state} {done.reason}".rstrip())
        for each in vehicles:
            typer.echo(f"  {each['vehicle_id']}  wave {each['wave']}  {each['outcome']}  {each['reason']}")
    if serving.trouble is not None:
        raise serving.trouble
    if done.plan.state == HALTED:
        raise typer.Exit(HALTED_EXIT)
    if is_last_word and done.plan.state == RUNNING:
        raise typer.Exit(WAITING_EXIT)


@dataclasses.dataclass(frozen=True, slots=True)
class _Serving:
    """Whether registry/serving.json now names the released model; if not, why. `trouble`: an error that ends
    the command after its document was printed."""

    is_updated: bool
    why: str = ""
    trouble: FleetLoopError | None = None


def _serve(place: Workspace, done: Advance) -> _Serving:
    """A completed release is what the fleet serves, and what is fine-tuned next.

    A model that was released from a bare file is not in the registry: expected, and told. Anything else that
    stops serving.json from being written is an error.
    """
    from training.registry import load_model, set_serving, why_not_registered

    if done.plan.state != COMPLETE:
        return _Serving(False, f"the rollout is {done.plan.state}")
    try:
        release = open_service(place).release_of(done.plan)
        why = why_not_registered(place.registry_path, release.model_name, release.model_digest)
        if why:
            return _Serving(False, why)
        base = load_model(place.registry_path, release.model_name, release.model_digest)
        set_serving(place.registry_path, base.record)
    except FleetLoopError as error:
        return _Serving(False, str(error), error)
    return _Serving(True)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
