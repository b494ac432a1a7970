"""A thousand simulated vehicles under the real rollout service: offline, late, silent, broken, with wrong clocks.

Real: the service and its signed repository, the health gate, the agent's reading of plans, its decision and its rule
for old words (`edge_agent.models.desired`, `trust_folder`). Simulated: the vehicles, their reports, the network, time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.checker.exposure import Did, Published

FLEET = 1000
SIZES = (5, 45, 950)
TICK_S = 300.0
TICKS = 72
WITHIN_S = 3600.0
LIFE_S = 7 * 86_400.0
"""How long a signed word is good."""
OFFSETS_S = (0.0, 0.0, 0.0, -86_400.0, 86_400.0, -50 * 365 * 86_400.0)
FAR_AHEAD_S = 10 * 365 * 86_400.0
"""Such a vehicle believes no signed word, and so holds the rollout back; it is rare here."""


@dataclass(slots=True)
class SimulatedVehicle:
    """What one vehicle knows and does. It decides on the document that it read last, however old."""

    name: str
    breaks: bool
    silent: bool
    offline: tuple[float, float]
    offset_s: float
    enrolled: int = 0
    """The tick at which it enrols."""
    document: int = -1
    read_s: float = 0.0
    serves: bool = False
    blocked: bool = False
    reports: int = 0
    did: list[Did] = field(default_factory=list)

    def is_offline(self, now_s: float) -> bool:
        return self.offline[0] <= now_s < self.offline[1]

    def believes(self, now_s: float, document_s: float) -> bool:
        """Whether the word is still good by this vehicle's clock, which no wrong wall clock can set back."""
        from datetime import UTC, datetime, timedelta

        from edge_agent.models.trust_folder import check_fresh
        from foundation.errors import UntrustedError

        expires = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=document_s + LIFE_S)
        floor_s = document_s + (now_s - self.read_s)
        mine_s = max(now_s + self.offset_s, floor_s)
        mine = round((datetime(2026, 1, 1, tzinfo=UTC).timestamp() + mine_s) * 1e9)
        word = SimpleNamespace(expires=expires, is_expired=lambda reference: reference >= expires)
        try:
            check_fresh([("timestamp", word)], mine)
        except UntrustedError:
            return False
        return True


def _fleet(rng: random.Random) -> list[SimulatedVehicle]:
    breaks, silent = rng.choice([0.0, 0.0005, 0.002, 0.05, 0.5]), rng.choice([0.0, 0.0, 0.001, 0.02])
    away = rng.choice([0.0, 0.002])
    fleet = []
    for number in range(FLEET + rng.choice([0, 20])):
        offline = (0.0, 0.0)
        chance = rng.random()
        if chance < 0.01:
            begin_s = rng.uniform(0, TICKS * TICK_S)
            offline = (begin_s, begin_s + rng.uniform(0, WITHIN_S * 0.8))
        elif chance < 0.01 + away:
            offline = (
                rng.uniform(0, 6 * TICK_S),
                TICKS * TICK_S * rng.uniform(0.5, 1.5),
            )  # back after it all
        enrolled = 0 if number < FLEET else rng.randrange(1, TICKS // 2)
        fleet.append(
            SimulatedVehicle(
                f"car-{number}",
                rng.random() < breaks,
                rng.random() < silent,
                offline,
                rng.choice(OFFSETS_S) if rng.random() < 0.9995 else FAR_AHEAD_S,
                enrolled,
            )
        )
    return fleet


@dataclass(slots=True)
class Run:
    """What came of one seed, for the checker."""

    published: list[Published]
    did: list[Did]
    enrolled: list[str]
    last_state: str
    bad: int
    """Vehicles that were exposed and broke or are silent."""


def simulate(folder: Path, rng: random.Random) -> Run:
    """One rollout from its start to its end, or to the last tick; then the late ones come back."""
    from edge_agent.models.desired import Intent, desired, plans_of
    from edge_agent.models.vehicle import Vehicle
    from schemas.documents import RUNNING, HealthGate
    from tests.rollout.rollout_lab import Lab

    lab = Lab(folder)
    release = lab.release()
    fleet = _fleet(rng)
    enrolled = [each.name for each in fleet if not each.enrolled]
    gate = HealthGate(min_reports=1, max_error_ratio=0.05, max_nan_count=0, report_within_s=WITHIN_S)
    lab.service.start("r2", SIZES, enrolled, health=gate)
    published: list[Published] = []
    plans: list[Sequence[Any]] = []
    intents: dict[tuple[int, str], Intent] = {}
    is_over = False

    def publish(now_s: float) -> None:
        data = lab.repository.read_target("rollouts", "index.json")
        if data is not None and (not published or published[-1].data != data):
            published.append(Published(now_s, data))
            plans.append(plans_of(data))

    def decide(vehicle: SimulatedVehicle) -> Intent:
        key = vehicle.document, vehicle.name
        if key not in intents:
            intents[key] = desired(plans[vehicle.document], Vehicle(vehicle.name, "0" * 16, 0))
        return intents[key]

    def act(vehicle: SimulatedVehicle, now_s: float) -> None:
        if not vehicle.is_offline(now_s) and (vehicle.document < 0 or rng.random() < 0.7):
            if vehicle.document < len(plans) - 1:
                vehicle.document = len(plans) - 1
                vehicle.did.append(Did(now_s, vehicle.name, "read", vehicle.document))
            vehicle.read_s = now_s
        if vehicle.document < 0:
            return
        intent = decide(vehicle)
        if (
            intent.release_id == "r2"
            and not vehicle.serves
            and not vehicle.blocked
            and vehicle.believes(now_s, published[vehicle.document].time_s)
        ):
            vehicle.serves = True
            vehicle.did.append(Did(now_s, vehicle.name, "serves", vehicle.document))
        elif "r2" in intent.withdrawn:
            vehicle.serves = False
        if vehicle.serves and vehicle.breaks and rng.random() < 0.6:
            vehicle.serves, vehicle.blocked = False, True
        if vehicle.silent or vehicle.is_offline(now_s):
            return
        ends = {"r2": ("rolled_back", "not_finite")} if vehicle.blocked else {}
        lab.says(vehicle.name, release if vehicle.serves else None, ends=ends)
        if vehicle.serves:
            vehicle.did.append(Did(now_s, vehicle.name, "well", vehicle.document))

    publish(0.0)
    for tick in range(TICKS):
        now_s = tick * TICK_S
        for vehicle in fleet:
            if vehicle.enrolled == tick and tick:
                lab.service.hold_out(vehicle.name)
                publish(now_s)
            if vehicle.enrolled <= tick:
                act(vehicle, now_s)
        if not is_over:
            is_over = lab.service.advance(lab.reports).plan.state != RUNNING
            publish(now_s + 1.0)
        elif tick % 12:
            break
        lab.clock.advance(TICK_S)
    for vehicle in fleet:  # whoever was away comes back when all is over
        act(vehicle, TICKS * TICK_S * 2)
    exposed = {each.vehicle for vehicle in fleet for each in vehicle.did if each.what == "serves"}
    bad = sum(vehicle.name in exposed and (vehicle.breaks or vehicle.silent) for vehicle in fleet)
    did = [each for vehicle in fleet for each in vehicle.did]
    return Run(published, did, enrolled, lab.service.current().state, bad)
