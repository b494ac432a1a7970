"""What is tried at the broker's gate: rights of a vehicle one by one, and the real agent when it is not let in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from devservers.local_authority import Certificate
    from tests.connectors.gate import Gate
    from tests.e2e.field import Vehicle

FRAMES = 40
RATE_HZ = 20.0


def may_do_its_work(gate: Gate, folder: Path) -> list[str]:
    """It writes samples and telemetry, and hears notices."""
    from schemas.topics import TOPICS

    options = gate.options(_car(gate))
    gate.write(options, TOPICS.samples, b"x")
    gate.write(options, TOPICS.telemetry, b"x")
    gate.write(gate.options(gate.issue("ingest", "services")), TOPICS.notices, b"look now")
    return [] if gate.read(options, TOPICS.notices) else ["no notice was heard"]


def may_not_read_samples(gate: Gate, folder: Path) -> list[str]:
    from schemas.topics import TOPICS
    from tests.connectors.gate import is_denied

    options = gate.options(_car(gate))
    found = is_denied("reading samples", lambda: gate.read(options, TOPICS.samples))
    return found + is_denied("reading telemetry", lambda: gate.read(options, TOPICS.telemetry))


def may_not_write_notices(gate: Gate, folder: Path) -> list[str]:
    from schemas.topics import TOPICS
    from tests.connectors.gate import is_denied

    options = gate.options(_car(gate))
    return is_denied("writing a notice", lambda: gate.write(options, TOPICS.notices, b"look now"))


def may_not_make_topics(gate: Gate, folder: Path) -> list[str]:
    from tests.connectors.gate import is_denied

    options, new = gate.options(_car(gate)), {"evil": {"num_partitions": 1, "replication_factor": 1}}
    found = is_denied(
        "making a topic", lambda: gate.administer(options, lambda client: client.create_topics(new))
    )
    return found + _topics_are_the_same(gate)


def may_not_take_away(gate: Gate, folder: Path) -> list[str]:
    from kafka import TopicPartition

    from schemas.topics import TOPICS
    from tests.connectors.gate import is_denied

    options, place = gate.options(_car(gate)), {TopicPartition(TOPICS.samples, 0): 0}
    found = is_denied(
        "deleting a topic",
        lambda: gate.administer(options, lambda client: client.delete_topics([TOPICS.samples])),
    )
    found += is_denied(
        "deleting records", lambda: gate.administer(options, lambda client: client.delete_records(place))
    )
    return found + _topics_are_the_same(gate)


def may_not_change_rights(gate: Gate, folder: Path) -> list[str]:
    from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

    from tests.connectors.gate import is_denied

    options = gate.options(_car(gate))
    rule = ACL(
        "User:vehicle-car-1",
        "*",
        ACLOperation.ALL,
        ACLPermissionType.ALLOW,
        ResourcePattern(ResourceType.TOPIC, "fleetloop.samples"),
    )

    def give() -> Any:
        answer = gate.administer(options, lambda client: client.create_acls([rule]))
        for refused in answer["failed"]:
            raise refused if isinstance(refused, type) else refused[1]
        return answer

    return is_denied("giving itself rights", give)


def may_not_join_groups(gate: Gate, folder: Path) -> list[str]:
    from schemas.topics import TOPICS
    from tests.connectors.gate import is_denied

    options = gate.options(_car(gate))
    return is_denied("joining a group", lambda: gate.read(options, TOPICS.notices, group="mine"))


def sees_no_other_topic(gate: Gate, folder: Path) -> list[str]:
    from connectors.kafka.admin import ensure_topics
    from schemas.topics import TOPICS, Topic

    ensure_topics(gate.operator, [Topic("secret.plans", 1, 3600)])
    seen = gate.administer(gate.options(_car(gate)), lambda client: client.list_topics())
    return (
        [] if set(seen) == {TOPICS.samples, TOPICS.telemetry, TOPICS.notices} else [f"it sees {sorted(seen)}"]
    )


def is_no_service_by_its_name(gate: Gate, folder: Path) -> list[str]:
    """A vehicle that is called operator, broker or ingest has no right of these."""
    from schemas.topics import TOPICS
    from tests.connectors.gate import is_denied

    found = []
    for name in ("operator", "broker", "ingest"):
        options = gate.options(gate.issue(name, "vehicles"))
        found += is_denied(
            f"{name} writes", lambda options=options: gate.write(options, TOPICS.notices, b"x")
        )  # type: ignore[misc]
        if got := gate.read(options, TOPICS.samples, patience_s=3.0):
            found.append(f"{name} reads: {got} samples")
    return found


def may_not_write_as_another(gate: Gate, folder: Path) -> list[str]:
    """What a stolen certificate writes in another's name is rejected by its signature at ingest."""
    from tests.connectors.gate import forge

    return forge(gate, _car(gate), folder)


def expired_is_refused(gate: Gate, folder: Path) -> list[str]:
    from tests.connectors.gate import EXPIRED

    gate.vehicle("car-expired")
    return _refused_agent(gate, folder, "car-expired", gate.issue("car-expired", lasts=EXPIRED))


def untrusted_is_refused(gate: Gate, folder: Path) -> list[str]:
    gate.vehicle("car-stranger")
    return _refused_agent(gate, folder, "car-stranger", gate.stranger.issue("car-stranger"))


def without_certificate_is_refused(gate: Gate, folder: Path) -> list[str]:
    return _refused_agent(gate, folder, "car-none", None)


def without_rights_is_refused(gate: Gate, folder: Path) -> list[str]:
    return _refused_agent(gate, folder, "car-new", gate.issue("car-new"))


def removed_is_refused_and_let_in_again(gate: Gate, folder: Path) -> list[str]:
    """Its rights are taken while it delivers, and given back."""
    from connectors.kafka import access as kafka_access
    from tests.waiting import until

    name = f"car-{folder.name.rpartition('_')[2].lower()}"
    gate.vehicle(name)
    vehicle = _agent(gate, folder, name, gate.issue(name))
    try:
        vehicle.start()
        until(lambda: vehicle.status()["ledger"]["delivered"] > RATE_HZ, "it delivers")
        kafka_access.revoke(gate.operator, kafka_access.vehicle_principal(name))
        until(lambda: _state(vehicle) == "refused", "it says that it is refused")
        until(lambda: vehicle.status()["ledger"]["pending"] > RATE_HZ, "it goes on accepting")
        counted = vehicle.status()["ledger"]["delivered"]
        arrived = sum(identity.vehicle == name for identity in _log(gate))
        found = (
            [] if counted <= arrived else [f"refused_and_counted: {counted} delivered, {arrived} in the log"]
        )
        accepted = vehicle.status()["ledger"]["accepted"]
        gate.vehicle(name)
        until(
            lambda: vehicle.status()["ledger"]["delivered"] >= accepted, "all of it is delivered afterwards"
        )
        return found + _books(gate, vehicle, is_shut_out_from_the_start=False)
    finally:
        vehicle.clean_up()


Promise = Callable[["Gate", Path], list[str]]
REFUSED: tuple[Promise, ...] = (
    expired_is_refused,
    untrusted_is_refused,
    without_certificate_is_refused,
    without_rights_is_refused,
)
"""Each an agent of its own before a closed gate, which mostly waits: they may be tried at the same time."""
PROMISES: tuple[Promise, ...] = (
    may_do_its_work,
    may_not_read_samples,
    may_not_write_notices,
    may_not_make_topics,
    may_not_take_away,
    may_not_change_rights,
    may_not_join_groups,
    sees_no_other_topic,
    is_no_service_by_its_name,
    may_not_write_as_another,
    *REFUSED,
    removed_is_refused_and_let_in_again,
)


def _car(gate: Gate) -> Certificate:
    gate.vehicle("car-1")
    return gate.issue("car-1")


def _topics_are_the_same(gate: Gate) -> list[str]:
    from schemas.topics import TOPICS

    there = gate.administer(gate.operator_options(), lambda client: client.list_topics())
    missing = {TOPICS.samples, TOPICS.telemetry, TOPICS.notices} - set(there)
    return [f"topics changed: {sorted(there)}"] if missing or "evil" in there else []


def _agent(gate: Gate, folder: Path, name: str, certificate: Certificate | None) -> Vehicle:
    from tests.e2e.field import Vehicle

    return Vehicle(
        folder / name,
        name,
        gate.kafka.bootstrap,
        FRAMES,
        rate_hz=RATE_HZ,
        loop=True,
        kafka=gate.lines(certificate),
        pace="stall_s = 3.0",
    )


def _refused_agent(gate: Gate, folder: Path, name: str, certificate: Certificate | None) -> list[str]:
    """The real agent before a closed gate: it goes on accepting, says that it is refused, and counts nothing."""
    import time

    from tests.waiting import until

    vehicle = _agent(gate, folder, name, certificate)
    try:
        vehicle.start()
        until(lambda: vehicle.receipts() > RATE_HZ, "it accepts")
        until(lambda: _state(vehicle) == "refused", "it says that it is refused")
        time.sleep(4.0)  # past the stall, when the client is given up and a new one made
        found = (
            []
            if _state(vehicle) == "refused"
            else [f"refusal_not_told: after a new client, {_state(vehicle)}"]
        )
        return found + _books(gate, vehicle, is_shut_out_from_the_start=True)
    finally:
        vehicle.clean_up()


def _state(vehicle: Vehicle) -> str:
    return str(vehicle.status()["broker"].get("state"))


def _books(gate: Gate, vehicle: Vehicle, *, is_shut_out_from_the_start: bool) -> list[str]:
    from tests.checker.access_books import refused_violations
    from tests.checker.told import read_ledger

    status = vehicle.stop()
    vehicle.export_ledger()
    account = read_ledger(vehicle.vehicle_id, vehicle.ledger_path)
    found = refused_violations(
        account, _log(gate), _states(vehicle), is_shut_out_from_the_start=is_shut_out_from_the_start
    )
    return found + ([] if status == 0 else [f"the agent ended with {status}"])


def _states(vehicle: Vehicle) -> list[str]:
    """What the agent's own events say of delivery, in order."""
    lines = [
        line
        for path in sorted(vehicle.state.events.glob("deliver*"))
        for line in path.read_text().splitlines()
    ]
    events = [json.loads(line) for line in lines if '"delivery_state"' in line]
    return [str(event["state"]) for event in events]


def _log(gate: Gate) -> list[Any]:
    """The identities in the log, read by the checker with the operator's certificate."""
    from tests.checker.broker_log import read_log, read_schemas
    from tests.e2e.field import ROOT

    options = gate.operator_options()
    bootstrap = options.pop("bootstrap_servers")
    log = read_log(bootstrap, "fleetloop.samples", read_schemas(ROOT / "schemas" / "avro"), **options)
    return [record.identity for record in log.records if record.identity is not None]
