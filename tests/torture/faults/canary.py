"""Canary breaches: however vehicles break, vanish and come back, no more are exposed than the open waves hold."""

from __future__ import annotations

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

TOLERATED_RATIO = 0.02
"""Of failing vehicles among all that were exposed: the default of the health gate."""


def _canary(batch: Batch) -> Tally:
    from tests.checker.exposure import exposure_violations
    from tests.torture.canary_fleet import SIZES, simulate

    tally = Tally()
    for number in batch.in_time():
        folder = batch.folder / str(number)
        folder.mkdir()
        run = simulate(folder, batch.rng(number))
        wrong = exposure_violations("r2", SIZES, run.enrolled, run.published, run.did)
        exposed = {each.vehicle for each in run.did if each.what == "serves"}
        if run.bad >= TOLERATED_RATIO * len(exposed) and run.bad and run.last_state == "complete":
            wrong.append(
                f"{run.bad} of {len(exposed)} vehicles broke or were silent, and the rollout completed"
            )
        tally.judge(wrong, f"seed {batch.seed}/{number}")
        tally.count(f"rollouts_{run.last_state}")
        tally.count("vehicles", len(run.enrolled))
        tally.count("vehicles_exposed", len(exposed))
        tally.count("documents_published", len(run.published))
        tally.count(
            "max_vehicles_exposed_of_a_halted_rollout", len(exposed) if run.last_state == "halted" else 0
        )
    return tally


FAULTS = (
    Fault(
        "canary-breach",
        10,
        ("G6",),
        "1,000 vehicles follow a plan of 5, 45 and 950; some break, some are silent, some are offline for minutes or come back "
        "when all is over, some enrol meanwhile, some have clocks that are a day, ten or fifty years off: never are more "
        "exposed than the open waves hold, no wave opens before every vehicle of the first 50 said "
        "that it is well, and no rollout completes in which 2 % fail.",
        "one rollout on 1,000 vehicles (one seed)",
        full=100,
        turn=3,
        full_turn=20,
        run=_canary,
        fixed=1,
        real="the rollout service with its signed repository, the health gate, the agent's reading of plans, decision and rule "
        "for old words; simulated: vehicles, reports, network, time",
        broken=(
            BrokenBuild(
                "a wave's threshold lets one vehicle more in",
                "rollout/plan.py",
                'threshold = f"{int(members[-1][0], 16) + 1:064x}"',
                'threshold = f"{int(order[min(end, len(order) - 1)][0], 16) + 1:064x}"',
            ),
            BrokenBuild(
                "a vehicle goes on although its plan is halted",
                "edge_agent/models/desired.py",
                "        if plan.state == HALTED or plan.release_id in withdrawn:\n            continue\n",
                "",
                tries=8,
            ),
            BrokenBuild(
                "the next wave opens while some vehicles have not said anything yet",
                "rollout/service.py",
                '        if verdict.verdict == "waiting":\n',
                "        if False:\n",
            ),
            BrokenBuild(
                "however many vehicles fail, the rollout goes on without them",
                "rollout/health.py",
                "    if failing and _must_halt(",
                "    if False and _must_halt(",
                tries=8,
            ),
            BrokenBuild(
                "who enrols later is not held out of the running plan",
                "rollout/service.py",
                "exclude=tuple(sorted({*plan.exclude, vehicle_id}))",
                "exclude=plan.exclude",
                tries=8,
            ),
        ),
    ),
)
