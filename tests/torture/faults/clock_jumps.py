"""A clock that jumps changes no order and no identity, deletes nothing, stops nothing, and its times are flagged."""

from __future__ import annotations

from tests.conditions import embedded_broker_is_missing
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally


def jumps(batch: Batch) -> Tally:
    from edge_agent.spool.snapshot import read_ledger
    from schemas.wire import TOPICS
    from tests.checker import clock_story
    from tests.checker.broker_log import read_schemas
    from tests.e2e.field import ROOT
    from tests.torture.clock_drive import DRAIN_BOUND_S, FRAMES, TELEMETRY_S, ClockDrive, story

    tally = Tally()
    schemas = read_schemas(ROOT / "schemas" / "avro")
    for number in batch.numbers():
        rng = batch.rng(number)
        name, off_s, acts = story(number, rng)
        drive = ClockDrive(batch.folder / str(number), rng, off_s)
        with drive.booted():
            drive.play(FRAMES, acts)
        ledger = read_ledger(drive.vehicle.state.spool).to_json()
        epochs = [str(row["epoch"]) for row in ledger["epochs"]]  # type: ignore[attr-defined]
        records = clock_story.delivered(drive.log(), schemas)
        once = list({(record.epoch, record.seq): record for record in reversed(records)}.values())
        telemetry = drive.log(TOPICS.telemetry)
        violations = [
            *clock_story.flag_violations(drive.moments, once),
            *clock_story.order_violations(list(drive.moments), once, epochs),
            *clock_story.books_violations(drive.told_receipts(), once, ledger, FRAMES),
            *clock_story.pace_violations(
                len(telemetry), drive.reachable_s, TELEMETRY_S, drive.drained_s, DRAIN_BOUND_S
            ),
        ]
        tally.judge(violations, f"try {number}, {name}")
        tally.count("jumps_and_boots", sum(act.what in ("jump", "boot") for act in acts))
        tally.count("records_delivered", len(once))
        tally.count("records_flagged", sum(record.time_quality != "ok" for record in once))
        tally.count("records_sent_again", len(records) - len(once))
        tally.count("telemetry_records", len(telemetry))
    return tally


def freeze(batch: Batch) -> Tally:
    from tests.checker.freeze_story import freeze_violations
    from tests.torture.clock_freeze import FrozenFleet

    tally = Tally()
    for number in batch.numbers():
        fleet = FrozenFleet(batch.folder / str(number), batch.rng(number))
        with fleet.booted():
            fleet.play()
        tally.judge(freeze_violations(fleet.looks), f"try {number}")
        tally.count("words_believed", sum(look.has_accepted for look in fleet.looks))
        tally.count("words_refused", sum(not look.has_accepted for look in fleet.looks))
        tally.count("boots", fleet.boots)
    return tally


def processes(batch: Batch) -> Tally:
    from connectors.kafka.admin import ensure_topics
    from devservers.embedded_broker import EmbeddedBroker
    from tests.e2e.field import LogEnd, Vehicle, workspace
    from tests.torture.clock_agent import ClockTurner, TurnedClock, landed

    tally = Tally()
    whole: list[str] = []
    done: list[str] = []
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        log_end = LogEnd(broker.bootstrap)
        vehicle = Vehicle(batch.folder / "car", "car-1", broker.bootstrap, 100, rate_hz=30.0, loop=True)
        place = workspace(batch.folder / "workspace", broker.bootstrap, [vehicle])
        turner = ClockTurner(vehicle, TurnedClock(batch.folder / "clock"), log_end)
        try:
            turner.start()
            turner.flows()
            for number in batch.numbers():
                done.append(f"try {number}, {turner.act(number)}")
                turner.flows()
        except AssertionError as error:
            whole.append(f"stalled: {error}")
        finally:
            whole += turner.finish()
            log_end.close()
        records, found = landed(broker.bootstrap, place, vehicle)
    for each in done:
        tally.judge(whole + found, each)
    for quality in ("ok", "before_build", "far_future", "unsynchronised"):
        tally.count(f"records_{quality}", sum(record.time_quality == quality for record in records))
    return tally


FAULTS = (
    Fault(
        name="clock-jumps",
        group=6,
        guarantees=("G1", "G2"),
        what=(
            "The wall clock is in 1970 at boot, ten years ahead, goes back by a day in the middle of a drive, or all of"
            " it to and fro, with boots, kills and a lost network in between: epoch and seq tell the order, everything"
            " accepted is delivered, nothing is evicted, telemetry and back-off keep their pace, wrong times are flagged."
        ),
        one_try="one drive of 80 frames with its jumps",
        full=64,
        turn=8,
        run=jumps,
        real=(
            "The real frame loop, spool, uploader, telemetry and jobs on a real disk; time, boots and the broker are"
            " simulated"
        ),
        fixed=8,
        broken=(
            BrokenBuild(
                "a time ten years ahead passes for good",
                "edge_agent/time_quality.py",
                "FAR_FUTURE_AFTER_NS = 8 * 365",
                "FAR_FUTURE_AFTER_NS = 20 * 365",
            ),
            BrokenBuild(
                "the uploader's pause ends by the wall clock",
                "edge_agent/uploader.py",
                "        self._not_before_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)\n",
                "        self._not_before_ns = self._clock.now_ns() + round(wait_s * 1e9)\n",
            ),
            BrokenBuild(
                "jobs are due by the wall clock",
                "edge_agent/jobs.py",
                "                row.due_ns = self._clock.monotonic_ns() + round(wait_s * 1e9)\n",
                "                row.due_ns = self._clock.now_ns() + round(wait_s * 1e9)\n",
            ),
            BrokenBuild(
                "a jump is forgotten with the next frame",
                "edge_agent/time_quality.py",
                "            self._jumped_ns = monotonic_ns\n",
                "            self._jumped_ns = None\n",
            ),
        ),
    ),
    Fault(
        name="clock-freeze",
        group=6,
        guarantees=("G6",),
        what=(
            "A vehicle runs for weeks with a clock that jumps (1970, a day back, ten years ahead) and boots with any"
            " clock, while the fleet speaks or is silenced: a word that must be over, by what the vehicle could know, is"
            " never believed, and a good one is believed again as soon as the clock is right."
        ),
        one_try="one story of 20 steps, asked after each",
        full=40,
        turn=5,
        run=freeze,
        real="Real TUF documents, keys, signatures and files; time and boots are simulated, the repository is a folder",
        fixed=1,
        broken=(
            BrokenBuild(
                "the wall clock alone says what time it is",
                "edge_agent/models/trust_folder.py",
                "        return max(clock.now_ns(), floor_ns)\n",
                "        return clock.now_ns()\n",
            ),
            BrokenBuild(
                "the wall clock raises the floor under time",
                "edge_agent/models/trust_folder.py",
                "TimeFloor(max(kept_ns, issued_ns), boot_id()",
                "TimeFloor(max(kept_ns, issued_ns, clock.now_ns()), boot_id()",
                tries=15,
            ),
            BrokenBuild(
                "how far the floor has moved is lost with the power",
                "edge_agent/models/trust_folder.py",
                "        if floor.boot != boot_id() or floor.at(clock) - floor.floor_ns > _HOLD_NS:\n",
                "        if floor.boot != boot_id():\n",
            ),
            BrokenBuild(
                "after a boot time stands still until a word is accepted",
                "edge_agent/models/trust_folder.py",
                "        if floor.boot != boot_id() or floor.at(clock) - floor.floor_ns > _HOLD_NS:\n",
                "        if floor.at(clock) - floor.floor_ns > _HOLD_NS:\n",
                tries=3,
                first=16,
            ),
        ),
    ),
    Fault(
        name="clock-jumps-processes",
        group=6,
        guarantees=("G1", "G3"),
        what=(
            "The real agent boots in 1970; then its clock is set right, ten years ahead, back by a day, it boots in 1970"
            " again, and both processes are killed ten years ahead: it goes on accepting and delivering, everything lands"
            " once, and the records with doubtful times say so."
        ),
        one_try="one turn of the clock",
        full=12,
        turn=6,
        run=processes,
        real=(
            "Real agent processes, client and disk; the broker is the embedded one; the clock is Python's own in each"
            " process (`time.time` and `time.time_ns`), not the kernel's, so TLS would not see it"
        ),
        needs=embedded_broker_is_missing,
        broken=(
            BrokenBuild(
                "no jump is ever noticed",
                "edge_agent/time_quality.py",
                "        if abs(offset_ns - self._offset_ns) > JUMP_NS:\n",
                "        if abs(offset_ns - self._offset_ns) > 10**12 * JUMP_NS:\n",
            ),
        ),
    ),
)
