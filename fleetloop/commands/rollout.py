"""`fleetloop rollout`: roll a release out to the fleet in waves of exact size, and watch its health."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetloop.options import (
    HERE,
    AsJson,
    Bootstrap,
    Place,
    record,
    say_notice,
    words,
)
from fleetloop.terminal import print_json, say, show_table
from foundation.private import private_umask
from foundation.service_manager import print_threads_on_abort
from schemas.documents import COMPLETE, HALTED, RUNNING, HealthGate

if TYPE_CHECKING:
    from services.rollout import PlanChanged, RolloutStatus, RolloutStep, VehicleStatus

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Roll a release out to the fleet in waves, and watch it."
)

Role = Annotated[str, typer.Option("--role", help="The role of the rollout.")]
Plan = Annotated[str, typer.Option("--plan", help="One rollout by name, when several of a role run.")]
HALTED_EXIT = 3
WAITING_EXIT = 75
HEARD = "Record the fleet's reports"
"""The message of a commit of new telemetry."""


@app.callback()
def rollout() -> None:
    """Roll a release out to the fleet in waves, and watch it."""


@app.command()
def start(
    release_id: str = typer.Argument(..., metavar="RELEASE"),
    waves: str = typer.Option("rest", "--waves", help="Exact sizes, for example 1,10,rest."),
    tags: str = typer.Option("", "--tags", help="Only vehicles with all these tags."),
    include: str = typer.Option("", "--include", help="Vehicles of the first wave, whatever their tags."),
    exclude: str = typer.Option("", "--exclude", help="Vehicles that never take part."),
    min_reports: int = typer.Option(
        1, "--min-reports", min=1, help="Healthy reports per vehicle before the next wave."
    ),
    max_error_ratio: float = typer.Option(0.0, "--max-error-ratio", min=0.0, max=1.0),
    max_nan_count: int = typer.Option(0, "--max-nan-count", min=0),
    report_within_s: float = typer.Option(
        3600.0, "--report-within-s", min=1.0, help="A vehicle silent for longer counts as unhealthy."
    ),
    settle_within_s: float = typer.Option(
        86_400.0,
        "--settle-within-s",
        min=1.0,
        help="A vehicle that reports but does not run the release past its probation by then counts as unhealthy.",
    ),
    max_failing_ratio: float = typer.Option(
        0.02,
        "--max-failing-ratio",
        min=0.0,
        max=1.0,
        help="Go on without failing vehicles while their share is below this with a confidence of 95 %; 0: halt at the"
        " first. With 0.02, at the first of up to 235 vehicles, at the 13th of 1,000.",
    ),
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Cut the fleet into waves of exactly the given sizes and open the first."""
    from services import rollout as service

    health = HealthGate(
        min_reports, max_error_ratio, max_nan_count, report_within_s, settle_within_s, max_failing_ratio
    )
    request = service.RolloutRequest(
        release_id,
        waves,
        tags=tuple(words(tags)),
        include=tuple(words(include)),
        exclude=tuple(words(exclude)),
        health=health,
    )
    done = service.start(place, request)
    record(place, f"Start the rollout {done.plan.plan_id}")
    count = done.plan.waves[0].exact_count
    _changed(done, as_json, f"rollout {done.plan.plan_id} is running: wave 1 of {count} vehicle(s) is open")


@app.command()
def advance(
    role: Role = "serving",
    plan: Plan = "",
    place: Place = HERE,
    bootstrap: Bootstrap = "",
    as_json: AsJson = False,
) -> None:
    """Read the fleet's reports and decide once: wait, open the next wave, complete, or halt (exit status 3)."""
    from services import rollout as service

    done = service.advance(place, bootstrap, role, plan)
    for notified in done.notified:
        say_notice(notified)
    _finish(place, done, as_json)


@app.command()
def watch(
    timeout_s: float = typer.Option(600.0, "--timeout-s", min=0.0, help="How long to watch."),
    every_s: float = typer.Option(
        2.0, "--every-s", min=0.05, max=3600.0, help="Seconds between two decisions."
    ),
    role: Role = "serving",
    plan: Plan = "",
    place: Place = HERE,
    bootstrap: Bootstrap = "",
    as_json: AsJson = False,
) -> None:
    """Advance until the rollout completes (exit status 0), halts (3), or the time is over (75)."""
    from services import rollout as service

    private_umask()
    print_threads_on_abort()
    done = service.watch(
        place,
        timeout_s=timeout_s,
        every_s=every_s,
        role=role,
        plan_id=plan,
        bootstrap=bootstrap,
        on_published=lambda _step, notified: say_notice(notified),
    )
    _finish(place, done, as_json, is_last_word=True)


@app.command()
def halt(
    why: str = typer.Option("halted by hand", "--why", help="For the record."),
    role: Role = "serving",
    plan: Plan = "",
    place: Place = HERE,
    as_json: AsJson = False,
) -> None:
    """Halt a rollout: its vehicles go back to the previous model."""
    from services import rollout as service

    done = service.halt(place, why, role, plan)
    record(place, f"Halt the rollout {done.plan.plan_id}")
    _changed(done, as_json, f"rollout {done.plan.plan_id} is {done.plan.state}: {why}")


@app.command()
def status(
    role: Annotated[str, typer.Option("--role", help="This role only; every role by default.")] = "",
    place: Place = HERE,
    bootstrap: Bootstrap = "",
    offline: bool = typer.Option(False, "--offline", help="Say what is known without asking the broker."),
    as_json: AsJson = False,
) -> None:
    """Show every running rollout (else the newest), per vehicle, and the last report of each vehicle."""
    from services import rollout as service

    found = service.status(place, bootstrap, is_offline=offline, role=role)
    record(place, HEARD)
    if as_json:
        first, *others = found
        more = {"other_roles": {name: _document(found[name]) for name in others}}
        print_json(_document(found[first]) | more)
        return
    shown = ("plan_id", "wave", "outcome", "model_name", "model_state", "swaps", "rollbacks", "reason")
    rows = []
    for name, each in found.items():
        for line in each.plans:
            sizes = ", ".join(f"{wave.number}: {wave.exact_count}" for wave in line.plan.waves)
            told = f"{line.plan.plan_id}  {name}  {line.plan.state}  open waves {sizes}"
            say(f"{told}  {line.verdict or ''}  {line.halt_reason}".rstrip())
            for who in line.left_out:
                why = f"{who.outcome}: {who.reason}"
                say(f"  went on without {who.vehicle_id} ({_time(who.time_ns)}): {why}")
        vehicles = {vehicle: _vehicle_row(said) for vehicle, said in each.vehicles.items()}
        rows += [(vehicle, name, *(row[key] for key in shown)) for vehicle, row in vehicles.items()]
    for trouble in next(iter(found.values())).unreadable:
        say(trouble.why, err=True)
    headings = (
        "vehicle",
        "role",
        "rollout",
        "wave",
        "outcome",
        "model",
        "state",
        "swaps",
        "rollbacks",
        "reason",
    )
    show_table("vehicles", headings, rows)


@app.command()
def history(
    place: Place = HERE,
    bootstrap: Bootstrap = "",
    offline: bool = typer.Option(False, "--offline", help="Say what is known without asking the broker."),
    events: bool = typer.Option(False, "--events", help="Every event, not only which model served when."),
    as_json: AsJson = False,
) -> None:
    """Show which vehicle ran which model when, by the vehicles' signed reports."""
    from services import rollout as service

    found = service.history(place, bootstrap, is_offline=offline)
    record(place, HEARD)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    if events:
        headings = ["vehicle", "role", "time", "event", "model", "release", "reason"]
        rows: list[tuple[str, ...]] = [
            (e.vehicle_id, e.role, _time(e.time_ns), e.event, e.model_name, e.release_id, e.reason)
            for e in found.events
        ]
    else:
        headings = ["vehicle", "role", "model", "sha256", "release", "from", "to", "ended by"]
        rows = [
            (run.vehicle_id, run.role, run.model_name, run.model_digest[:12], run.release_id,
             _time(run.start_ns), "now" if run.end_ns is None else _time(run.end_ns), run.ended_by)
            for run in found.runs
        ]  # fmt: skip
    show_table("which vehicle ran which model when (vehicles' clocks)", headings, rows)
    if found.left_out:
        headings = ["rollout", "wave", "vehicle", "time", "outcome", "reason"]
        rows = [
            (plan_id, str(each.wave), each.vehicle_id, _time(each.time_ns), each.outcome, each.reason)
            for plan_id, each in found.left_out
        ]
        show_table("failing vehicles without which a rollout went on", headings, rows)
    for trouble in found.unreadable:
        say(f"not read: {trouble.why}", err=True)


def _document(found: RolloutStatus) -> dict[str, Any]:
    return {
        "plans": [
            dataclasses.asdict(each.plan)
            | {
                "halt_reason": each.halt_reason,
                "verdict": each.verdict,
                "left_out": [dataclasses.asdict(who) for who in each.left_out],
            }
            for each in found.plans
        ],
        "vehicles": {name: _vehicle_row(vehicle) for name, vehicle in found.vehicles.items()},
        "not_believed": dict(found.not_believed),
        "lost_offsets": found.lost_offsets,
    }


def _vehicle_row(vehicle: VehicleStatus) -> dict[str, Any]:
    report, verdict = vehicle.report, vehicle.verdict
    said = ("model_name", "model_digest", "model_state", "swaps", "rollbacks", "heard_ns")
    return {
        "plan_id": vehicle.plan_id,
        "wave": verdict.wave if verdict else None,
        "outcome": verdict.outcome if verdict else None,
        "reason": verdict.reason if verdict else "",
        **{name: getattr(report, name) if report else None for name in said},
        "ends": {key: list(value) for key, value in ((report.ends or {}) if report else {}).items()},
    }


def _changed(done: PlanChanged, as_json: bool, told: str) -> None:
    say_notice(done.notified)
    document = dataclasses.asdict(done.plan) | {"notified": done.notified.is_sent}
    print_json(document) if as_json else say(told)


def _finish(place: Place, step: RolloutStep, as_json: bool, *, is_last_word: bool = False) -> None:
    done, serving = step.advance, step.serving
    record(place, f"Rollout {done.plan.plan_id}: {done.did}" if done.has_published else HEARD)
    vehicles = [dataclasses.asdict(each) for each in done.wave.vehicles] if done.wave else []
    if as_json:
        document = {
            "did": done.did,
            "reason": done.reason,
            "plan": dataclasses.asdict(done.plan),
            "vehicles": vehicles,
            "notified": all(each.is_sent for each in step.notified) if step.notified else None,
            "serving_updated": serving.is_updated,
            "why": serving.why,
        }
        print_json(document)
    else:
        if done.plan.state == COMPLETE and not serving.is_updated:
            say(f"the registry's serving model is unchanged: {serving.why}", err=True)
        say(f"rollout {done.plan.plan_id} {done.did}: {done.plan.state} {done.reason}".rstrip())
        for each in vehicles:
            say(f"  {each['vehicle_id']}  wave {each['wave']}  {each['outcome']}  {each['reason']}")
    if serving.trouble is not None:
        raise serving.trouble
    if done.plan.state == HALTED:
        raise typer.Exit(HALTED_EXIT)
    if is_last_word and done.plan.state == RUNNING:
        raise typer.Exit(WAITING_EXIT)


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
