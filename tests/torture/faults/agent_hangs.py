"""A process of the agent hangs under load: the supervisor ends it and starts it again, and nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import time

from tests.conditions import embedded_broker_is_missing
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.faults.agent_kills import PROBABILITY, RATE_HZ, finish, violations_of

VICTIMS = (("perceive",), ("deliver",), ("perceive", "deliver"))
BACKLOG_BYTES = 10_000_000
LIMITS = "perceive_hung_after_s = 2.0\ndeliver_hung_after_s = 4.0\n"
BACK_WITHIN_S = 30.0
"""From the hang to the first sample accepted and the first record delivered again."""


def hang(batch: Batch) -> Tally:
    from connectors.kafka.admin import ensure_topics
    from devservers.embedded_broker import EmbeddedBroker
    from tests.e2e.field import LogEnd, workspace
    from tests.torture.agent_load import BROKEN, PICTURES, LoadedVehicle
    from tests.waiting import until

    tally = Tally()
    found: dict[int, list[str]] = {}
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        vehicle = LoadedVehicle(batch.folder / "car", "car-1", broker.bootstrap, PICTURES + BROKEN)
        place = workspace(batch.folder / "workspace", broker.bootstrap, [vehicle])
        vehicle.lay_in(BACKLOG_BYTES, batch.seed)
        vehicle.configure(rate_hz=RATE_HZ, loop=True, probability=PROBABILITY, supervisor=LIMITS)
        log_end = LogEnd(broker.bootstrap)
        try:
            vehicle.start()
            for number in batch.numbers():
                victims = VICTIMS[number % len(VICTIMS)]
                receipts, end = vehicle.receipts(), log_end()
                until(lambda: vehicle.receipts() > receipts and log_end() > end, "all is at work")  # noqa: B023
                time.sleep(batch.rng(number).uniform(0.0, 0.5))
                pids = {name: vehicle.child(name) or 0 for name in victims}
                for pid in filter(None, pids.values()):
                    os.kill(pid, signal.SIGSTOP)
                tally.count("+".join(victims) + "_hung")
                found[number] = _violations(vehicle, log_end, pids, tally)
                if found[number]:
                    break
            whole = finish(vehicle)
        finally:
            vehicle.clean_up()
            log_end.close()
        whole += violations_of(broker.bootstrap, place, vehicle, tally)
    for number, violations in found.items():
        tally.judge(violations + whole, f"hang {number} of {VICTIMS[number % len(VICTIMS)]}")
    return tally


def _violations(vehicle, log_end, pids: dict[str, int], tally: Tally) -> list[str]:  # type: ignore[no-untyped-def]
    """Wait until other processes work again: a sample is accepted, a record is delivered."""
    from tests.waiting import until

    hung_s = time.monotonic()
    try:
        for name, pid in pids.items():
            until(lambda: vehicle.child(name) not in (None, pid), f"{name} is started again", BACK_WITHIN_S)  # noqa: B023
        receipts, end = vehicle.receipts(), log_end()
        until(
            lambda: vehicle.receipts() > receipts and log_end() > end, "all is at work again", BACK_WITHIN_S
        )
    except AssertionError as error:
        return [f"still_hung: {error}"]
    tally.measure("back_at_work_s", time.monotonic() - hung_s)
    return []


FAULTS = (
    Fault(
        name="hung-process",
        group=1,
        guarantees=("G1", "G2", "G3"),
        what=(
            "perceive, deliver and both are stopped with SIGSTOP at random moments, under load: the supervisor ends them"
            " and starts them again, what was accepted lands, nothing lands twice, and the ledger balances."
        ),
        one_try="one hang",
        full=60,
        turn=3,
        full_turn=15,
        turn_limit_s=1_200.0,
        run=hang,
        real="Real agent processes, real disk, real ingest; the broker is the embedded one; silence is bounded at 2 and 4 s",
        needs=embedded_broker_is_missing,
        broken=(
            BrokenBuild(
                "the supervisor only looks whether a process has ended",
                "edge_agent/daemon.py",
                "            self._watch(child, passed_s)\n",
                "",
            ),
            BrokenBuild(
                "a hung process is asked to end, and never made to",
                "edge_agent/daemon.py",
                "                child.process.kill()\n        elif",
                "                pass\n        elif",
            ),
        ),
    ),
)
