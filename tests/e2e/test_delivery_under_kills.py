"""Killed at random points under load, agent and ingest lose nothing and land nothing twice: an independent
checker says so, and it says otherwise of builds that break one promise each.

The load is offered to the real daemon (supervisor, perceive, deliver) with the embedded broker behind an
uplink; ingest is the command's own. The checker is a program that imports nothing of the product.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.lake.table import LakeTable
from devservers.embedded_broker import EmbeddedBroker
from pipelines.ingest.staging import LOG_FOLDER, STAGING
from tests.conditions import needs_embedded_broker
from tests.e2e.broken_builds import CUT_OFFSETS
from tests.e2e.field import LogEnd, Vehicle, check, ingest, run_program, workspace
from tests.uplinks import DeafUplink
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.e2e,
    needs_embedded_broker,
]
SEED = 20
FRAMES = 600  # played round and round, until everything was killed that is to be
RATE_HZ = 80.0
LEAST_RECORDS = 1_500  # more than two commits of the builds that break
VICTIMS = {"perceive": 3, "deliver": 2, "both": 2, "supervisor": 1, "deaf deliver": 1}
WHILE_THE_LOG_GROWS = ("ingest.plan", "ingest.read", "ingest.decode", "ingest.write", "ingest.deduplicate")
AFTERWARDS = ("ingest.apply", "ingest.rename", "ingest.commit", "ingest.done")


@dataclass(frozen=True)
class Field:
    """What is left after the agent was killed again and again, finished and drained."""

    bootstrap: str
    vehicle: Vehicle
    ledger: dict[str, Any]
    workspace: Path
    killed: Counter[str]
    resent: int


class Killer:
    """SIGKILL at a random moment of a flow: perceive accepts and deliver's records arrive."""

    def __init__(self, vehicle: Vehicle, uplink: DeafUplink, log_end: LogEnd) -> None:
        self.vehicle, self.uplink, self.log_end = vehicle, uplink, log_end
        self.rng = random.Random(SEED)
        self.killed: Counter[str] = Counter()
        self._gone: set[int] = set()

    def kill_all(self) -> None:
        rest = [victim for victim, times in VICTIMS.items() for _ in range(times)]
        self.rng.shuffle(rest)
        for victim in ["deaf deliver", *rest]:
            receipts, end = self.vehicle.receipts(), self.log_end()
            until(lambda: self.vehicle.receipts() > receipts, "perceive accepts")  # noqa: B023
            until(lambda: self.log_end() > end, "deliver's records arrive")  # noqa: B023
            later = self.vehicle.receipts() + self.rng.randrange(32)
            until(lambda: self.vehicle.receipts() >= later, "a random number of further receipts")  # noqa: B023
            self.kill(victim)

    def kill(self, victim: str) -> None:
        if victim == "supervisor":
            assert self.vehicle.process is not None
            self.vehicle.process.kill()
            self.vehicle.end()
            self.vehicle.start()
        elif victim == "both":
            self._kill_children("perceive", "deliver")
        elif victim == "deaf deliver":
            self.uplink.hold()
            end = self._resting_end()
            self.uplink.go_deaf()
            until(lambda: self.log_end() > end, "records arrive whose acknowledgement is lost")
            self._kill_children("deliver")
            self.uplink.hear()
        else:
            self._kill_children(victim)
        self.killed[victim] += 1

    def _resting_end(self) -> int:
        """Where the log ends once everything that was on its way is written."""
        ends = [-1]

        def has_come_to_rest() -> bool:
            ends.append(self.log_end())
            return ends[-1] == ends[-2]

        until(has_come_to_rest, "the log comes to rest while the uplink is held", poll_s=0.2)
        return ends[-1]

    def _kill_children(self, *names: str) -> None:
        pids = []
        for name in names:
            until(lambda: (self.vehicle.child(name) or -1) not in {-1, *self._gone}, f"{name} runs")  # noqa: B023
            pids.append(self.vehicle.child(name))
        for pid in pids:
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self._gone.add(pid)


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        ensure_topics(broker.bootstrap)
        yield broker.bootstrap


@pytest.fixture(scope="module")
def field(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """The agent under kills; meanwhile ingest is killed, too, at its first steps."""
    folder = tmp_path_factory.mktemp("field")
    log_end = LogEnd(bootstrap)
    with DeafUplink() as uplink, ThreadPoolExecutor(1) as beside:
        kafka = f'proxy_url = "{uplink.url}"'
        vehicle = Vehicle(folder / "car", "car-1", bootstrap, FRAMES, rate_hz=RATE_HZ, loop=True, kafka=kafka)
        place = workspace(folder / "workspace", bootstrap, [vehicle])
        killer = Killer(vehicle, uplink, log_end)
        try:
            vehicle.start()
            until(lambda: log_end() > 0, "the first record arrives")
            early = beside.submit(lambda: [ingest(place, label) for label in WHILE_THE_LOG_GROWS])
            killer.kill_all()
            until(lambda: vehicle.receipts() >= LEAST_RECORDS, "enough records for the test")
            assert vehicle.stop() == 0
            vehicle.configure(kafka=kafka)
            vehicle.start("--until-source-ends")
            assert vehicle.end() == 0, vehicle.log_path.read_text()[-3000:]
            early.result()
        finally:
            vehicle.clean_up()
            log_end.close()
        yield Field(
            bootstrap, vehicle, vehicle.export_ledger(), place, killer.killed, vehicle.status()["resent"]
        )


def test_what_was_accepted_landed_once_though_agent_and_ingest_were_killed_at_every_point(
    field: Field,
) -> None:
    assert field.killed == {**VICTIMS, "deaf deliver": VICTIMS["deaf deliver"] + 1}
    assert field.resent > 0, "a lost acknowledgement makes a resend"
    for label in AFTERWARDS:
        ingest(field.workspace, label)
    ingest(field.workspace)

    status, verdict = check(field.bootstrap, field.workspace, field.vehicle.told())
    assert (status, verdict["violations"]) == (0, {})
    counts, ledger = verdict["counts"], field.ledger
    assert counts["offered"] == FRAMES
    assert LEAST_RECORDS <= counts["receipts"] <= ledger["accepted"]
    assert ledger["accepted"] == ledger["delivered"] == counts["landed_identities"]
    assert (ledger["pending"], ledger["in_doubt"], ledger["evicted"]) == (0, 0, {})
    rows = counts["rows"]
    assert rows["landed"] + rows["resent"] == counts["log_records"]
    assert 0 < rows["resent"] <= field.resent
    assert set(rows) == {"landed", "resent"}
    assert_nothing_is_left_over(field.workspace)


def assert_nothing_is_left_over(place: Path) -> None:
    """Killed ingests leave no file that the table does not name."""
    table = LakeTable.open(place / "lake" / "arrivals")
    files = {
        path.relative_to(table.folder).as_posix() for path in (table.folder / LOG_FOLDER).rglob("*.parquet")
    }
    assert files == set(table.snapshot().files().column("path").to_pylist())
    assert [path.name for path in (table.folder / STAGING).iterdir()] == ["commit.lock"]


@pytest.fixture(scope="module")
def broken_lakes(field: Field, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What two broken builds of ingest make of the same log, each killed or ended as its test expects."""
    folder = tmp_path_factory.mktemp("broken")

    def made_by(build: str, exit_status: int) -> Path:
        place = workspace(folder / build, field.bootstrap, [field.vehicle])
        done = run_program("tests.e2e.broken_builds", build, str(place))
        assert done.returncode == exit_status, done.stderr[-3000:]
        if exit_status:
            refused = run_program("tests.e2e.ingest_child", str(place), "", "1")
            assert refused.returncode != 0, "a true ingest went on over offsets that have no row"
            on = run_program("tests.e2e.broken_builds", "blind_to_holes", str(place))
            assert on.returncode == 0, on.stderr[-3000:]
        return place

    builds = {"no_resend_deduplication": 0, "offsets_before_data": -signal.SIGKILL}
    with ThreadPoolExecutor(len(builds)) as pool:
        return dict(zip(builds, pool.map(made_by, builds, builds.values()), strict=True))


def test_the_checker_tells_an_ingest_that_marks_no_resends(
    field: Field, broken_lakes: dict[str, Path]
) -> None:
    status, verdict = check(field.bootstrap, broken_lakes["no_resend_deduplication"], field.vehicle.told())
    assert status == 1
    assert set(verdict["violations"]) == {"landed_twice"}


def test_the_checker_tells_an_ingest_that_commits_offsets_before_data(
    field: Field, broken_lakes: dict[str, Path]
) -> None:
    status, verdict = check(field.bootstrap, broken_lakes["offsets_before_data"], field.vehicle.told())
    assert status == 1
    assert {"offset_has_no_row", "accepted_and_lost"} <= set(verdict["violations"])
    assert verdict["violations"]["offset_has_no_row"]["count"] == CUT_OFFSETS


def lose_power_and_go_on(build: str, vehicle: Vehicle) -> None:
    died = run_program("tests.e2e.broken_builds", build, "--config", str(vehicle.config))
    assert died.returncode == -signal.SIGKILL, died.stderr[-3000:]
    vehicle.start("--until-source-ends")


def test_the_checker_tells_a_receipt_before_its_fsync_from_one_after_it(tmp_path: Path) -> None:
    """Two vehicles lose power in the fsync of a commit. One is built as it is; the other had told the receipt already."""
    with EmbeddedBroker() as broker:
        bootstrap = broker.bootstrap
        ensure_topics(bootstrap)
        builds = {"as_it_is": "car-true", "receipt_before_fsync": "car-broken"}
        vehicles = [Vehicle(tmp_path / name, name, bootstrap, 150) for name in builds.values()]
        place = workspace(tmp_path / "workspace", bootstrap, vehicles)
        try:
            with ThreadPoolExecutor(len(builds)) as pool:
                for _ in pool.map(lose_power_and_go_on, builds, vehicles):
                    pass
            assert [vehicle.end() for vehicle in vehicles] == [0, 0]
        finally:
            for vehicle in vehicles:
                vehicle.clean_up()
        ingest(place)
        verdicts = []
        for vehicle in vehicles:
            vehicle.export_ledger()
            verdicts.append(check(bootstrap, place, vehicle.told()))
    (true_status, true_verdict), (status, verdict) = verdicts
    assert (true_status, true_verdict["violations"]) == (0, {})
    assert status == 1
    assert "accepted_and_lost" in verdict["violations"]
