"""The agent is killed with SIGKILL under load, with half a gigabyte in its spool, and delivers again within seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conditions import embedded_broker_is_missing
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

if TYPE_CHECKING:
    from tests.e2e.field import LogEnd
    from tests.torture.agent_load import LoadedVehicle
    from tests.torture.agent_recovery import Comeback, Recovery, Spent

VICTIMS = ("perceive", "deliver", "both", "supervisor")
ALL = ("perceive", "deliver")
DELIVERING_WITHIN_S = 5.0
GIVEN_UP_AFTER_S = 60.0
FULL_TURN = 50
FULL_BYTES, BOX_BYTES = 560_000_000, 60_000_000
RATE_HZ = 40.0
PROBABILITY = 0.7
ANSWERS_WAIT_S = 0.15
PACE = "max_in_flight_bytes = 150000\n"
SPOOL = "quota_bytes = 4000000000\n"
DRAIN_S = 400.0
SHARE_OF_KILLS = 0.6
"""Of the time of a turn; the rest is for the drain, the ingest and the checker."""


@dataclass(slots=True)
class Kill:
    """One try: what was killed, and what was wrong afterwards."""

    number: int
    victim: str
    violations: list[str] = field(default_factory=list)


class Killer:
    """Kills one after another, each in the middle of a flow of receipts and of records in the broker's log."""

    def __init__(self, vehicle: LoadedVehicle, log_end: LogEnd, tally: Tally) -> None:
        self.vehicle, self.log_end, self.tally = vehicle, log_end, tally
        self.gone: set[int] = set()
        self.pids: dict[str, int] = {}
        self.kills: list[Kill] = []

    def kill(self, number: int, wait_s: float) -> None:
        kill = Kill(number, VICTIMS[number % len(VICTIMS)])
        self.kills.append(kill)
        try:
            self._wait_for_the_flow()
        except AssertionError as error:
            kill.violations.append(f"flow_stopped: {error}")
            return
        time.sleep(wait_s)
        self.tally.measure("spool_mb", self.vehicle.spool_bytes() / 1e6)
        recovery, supervisor_before = self._strike(kill.victim)
        if not recovery.wait(GIVEN_UP_AFTER_S, supervisor_before):
            missing = [comeback.name for comeback in recovery.comebacks if not comeback.working_s]
            kill.violations.append(f"not_delivering_again: {missing} not within {GIVEN_UP_AFTER_S} s")
            return
        self._judge(kill, recovery)

    def _wait_for_the_flow(self) -> None:
        from tests.waiting import until

        receipts, end = self.vehicle.receipts(), self.log_end()
        until(lambda: self.vehicle.receipts() > receipts, "perceive accepts")
        until(lambda: self.log_end() > end, "records arrive")
        for name in ALL:
            until(lambda: (self.vehicle.child(name) or -1) not in {-1, *self.gone}, f"{name} runs")  # noqa: B023

    def _comebacks(self, victim: str) -> list[Comeback]:
        from tests.torture.agent_recovery import Comeback, EventTail

        progress: dict[str, Callable[[], int]] = {"perceive": self._receipts_bytes, "deliver": self.log_end}
        names = (victim,) if victim in ALL else ALL
        self.pids = {name: self.vehicle.child(name) or 0 for name in names}
        self.gone |= set(self.pids.values())
        events = self.vehicle.state.events
        return [
            Comeback(name, EventTail(events / f"{name}.jsonl"), progress[name], frozenset(self.gone))
            for name in names
        ]

    def _receipts_bytes(self) -> int:
        return self.vehicle.receipts_path.stat().st_size

    def _strike(self, victim: str) -> tuple[Recovery, Spent]:
        from tests.torture.agent_recovery import EventTail, Recovery, Spent, spent

        process = self.vehicle.process
        assert process is not None
        comebacks = self._comebacks(victim)
        spawned = EventTail(self.vehicle.state.events / "supervisor.jsonl")
        ending = {pid: spent(pid) for pid in self.pids.values()} if victim == "supervisor" else {}
        before, killed_s = spent(process.pid), time.monotonic()
        if victim == "supervisor":
            process.kill()
            process.wait()
            self.vehicle.start()
            process, before = self.vehicle.process, Spent()
        else:
            for pid in filter(None, self.pids.values()):
                os.kill(pid, signal.SIGKILL)
        self.tally.count(f"killed_{victim}")
        return Recovery(killed_s, comebacks, spawned, process.pid, ending), before

    def _judge(self, kill: Kill, recovery: Recovery) -> None:
        tally = self.tally
        slowest = max(recovery.comebacks, key=lambda comeback: comeback.working_s)
        wall_s, waited_s = recovery.wall_s(slowest), recovery.waited_s(slowest)
        tally.measure("delivering_again_by_the_clock_s", wall_s)
        tally.measure("delivering_again_s", wall_s - waited_s)
        for comeback in recovery.comebacks:
            tally.measure(f"imports_of_{comeback.name}_s", recovery.imports_s(comeback))
            tally.measure(f"recovery_of_{comeback.name}_s", comeback.recovery_s)
            tally.measure(f"opening_the_spool_by_{comeback.name}_by_the_clock_s", comeback.opening_s)
            tally.measure(f"processor_time_of_{comeback.name}_s", comeback.at_work.on_core_s)
        tally.count("over_5_s_by_the_clock", int(wall_s > DELIVERING_WITHIN_S))
        if wall_s - waited_s > DELIVERING_WITHIN_S:
            kill.violations.append(
                f"slow: {slowest.name} worked again after {wall_s:.2f} s, {waited_s:.2f} s of it"
                f" without a core; the bound is {DELIVERING_WITHIN_S} s"
            )


def sigkill(batch: Batch) -> Tally:
    from connectors.kafka.admin import ensure_topics
    from devservers.embedded_broker import EmbeddedBroker
    from tests.e2e.field import LogEnd, workspace
    from tests.torture.agent_load import BROKEN, PICTURES, LoadedVehicle
    from tests.uplinks import LateUplink
    from tests.waiting import until

    tally = Tally()
    kills_until_s = time.monotonic() + SHARE_OF_KILLS * (batch.until_s - time.monotonic())
    with EmbeddedBroker() as broker, LateUplink(ANSWERS_WAIT_S) as uplink:
        ensure_topics(broker.bootstrap)
        vehicle = LoadedVehicle(batch.folder / "car", "car-1", broker.bootstrap, PICTURES + BROKEN)
        place = workspace(batch.folder / "workspace", broker.bootstrap, [vehicle])
        backlog_bytes = FULL_BYTES if batch.tries >= FULL_TURN else BOX_BYTES
        tally.count("backlog_records", vehicle.lay_in(backlog_bytes, batch.seed))
        vehicle.configure(
            rate_hz=RATE_HZ,
            loop=True,
            kafka=f'proxy_url = "{uplink.url}"\n',
            spool=SPOOL,
            pace=PACE,
            probability=PROBABILITY,
        )
        log_end = LogEnd(broker.bootstrap)
        killer = Killer(vehicle, log_end, tally)
        try:
            vehicle.start()
            until(lambda: log_end() > 0, "the first record arrives")
            for number in batch.numbers():
                killer.kill(number, batch.rng(number).uniform(0.0, 0.5))
                if killer.kills[-1].violations or time.monotonic() > kills_until_s:
                    break
            whole = finish(vehicle)
        finally:
            vehicle.clean_up()
            log_end.close()
        whole += violations_of(broker.bootstrap, place, vehicle, tally)
    for kill in killer.kills:
        tally.judge(kill.violations + whole, f"kill {kill.number} of {kill.victim}")
    return tally


def finish(vehicle: LoadedVehicle) -> list[str]:
    """Stop, play the lap to its end, drain and export the ledger."""
    whole = [] if vehicle.stop() == 0 else ["the agent did not stop cleanly"]
    vehicle.configure(spool=SPOOL, probability=PROBABILITY, lease_bytes=4_000_000, drain_s=DRAIN_S)
    begun_s = time.monotonic()
    vehicle.start("--until-source-ends")
    try:
        status = vehicle.end(DRAIN_S + 100.0)
    except subprocess.TimeoutExpired:
        vehicle.clean_up()
        whole.append(f"the drain did not end within {DRAIN_S + 100.0:g} s")
        status = 0
    if status != 0:
        whole.append(f"the drain ended with {status}: {vehicle.log_path.read_text()[-500:]}")
    print(f"drained in {time.monotonic() - begun_s:.1f} s", flush=True)
    vehicle.export_ledger()
    return whole


def violations_of(bootstrap: str, place: Path, vehicle: LoadedVehicle, tally: Tally) -> list[str]:
    """What an ingest and the checker make of it."""
    import json

    from tests.checker.__main__ import gather
    from tests.checker.frames_played import books, frames_violations
    from tests.checker.verdict import judge
    from tests.e2e.field import ROOT, ingest

    ingest(place, timeout_s=400.0)
    evidence = gather(
        bootstrap=bootstrap,
        lake_uri=str(place / "lake" / "arrivals"),
        schemas=ROOT / "schemas" / "avro",
        offered=vehicle.offered_path,
        receipts=[(vehicle.vehicle_id, vehicle.receipts_path)],
        ledgers=[(vehicle.vehicle_id, vehicle.ledger_path)],
        deadline_s=300.0,
    )
    verdict: dict[str, Any] = judge(evidence)
    ledger = json.loads(vehicle.ledger_path.read_text())
    found = [
        f"{rule}: {broken['count']}, {broken['examples'][:2]}"
        for rule, broken in verdict["violations"].items()
    ]
    found += frames_violations(vehicle.recording, evidence.log.records, ledger)
    if ledger["pending"] or ledger["in_doubt"] or ledger["evicted"]:
        found.append(
            f"not_drained: {ledger['pending']} pending, {ledger['in_doubt']} in doubt, {ledger['evicted']}"
        )
    told, rows = books(vehicle.recording, evidence.log.records, ledger), verdict["counts"]["rows"]
    for what, number in (
        ("receipts", verdict["counts"]["receipts"]),
        ("records_landed", rows.get("landed", 0)),
        ("records_resent", rows.get("resent", 0)),
        ("landed_twice", verdict["violations"].get("landed_twice", {}).get("count", 0)),
        ("frames_played", told.frames),
        ("frames_refused", sum(told.not_accepted.values())),
    ):
        tally.count(what, number)
    return found


FAULTS = (
    Fault(
        name="agent-sigkill",
        group=1,
        guarantees=("G1", "G2", "G3"),
        what=(
            "perceive, deliver, both and the supervisor are killed in turn at random moments, under load, with"
            " a 500 MB spool (60 MB in the time-boxed round); each must work again within 5 s (time spent waiting"
            " for a core that other programs have is told and not counted), what was accepted lands, nothing lands"
            " twice, the ledger balances, and frames played = accepted + not accepted by reason."
        ),
        one_try="one SIGKILL",
        full=200,
        turn=4,
        full_turn=FULL_TURN,
        turn_limit_s=2_400.0,
        run=sigkill,
        real=(
            "Real agent processes, real disk, real ingest; the broker is the embedded one, behind an uplink that lets"
            f" answers wait {ANSWERS_WAIT_S} s; the backlog is laid in by the product's own spool writer; the"
            " recording is of small pictures of noise, some of them no pictures"
        ),
        needs=embedded_broker_is_missing,
        broken=(
            BrokenBuild(
                "an acknowledgement is made up as soon as a record is handed to the client",
                "edge_agent/uploader.py",
                "                self._waiting.popleft()\n                sent += 1\n",
                "                self._waiting.popleft()\n                sent += 1\n"
                "                self._reader.acknowledge([record.identity])\n",
            ),
            BrokenBuild(
                "perceive forgets its place and plays the recording from its beginning",
                "edge_agent/perceive.py",
                "progress.place(source_id(source))",
                "progress.place('')",
            ),
            BrokenBuild(
                "the supervisor waits an hour before it starts a process again",
                "edge_agent/daemon.py",
                "        wait_s = child.backoff.next_s()\n",
                "        wait_s = 3600 + child.backoff.next_s()\n",
            ),
            BrokenBuild(
                "a restarted writer goes on in the old epoch and gives its numbers again",
                "edge_agent/spool/opened.py",
                "        account.apply(\n            LedgerKind.EPOCH,",
                "        epoch = account.last_epoch or epoch\n"
                "        account.apply(\n            LedgerKind.EPOCH,",
            ),
        ),
    ),
)
