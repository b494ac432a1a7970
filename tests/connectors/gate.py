"""A real Kafka that knows its clients by certificate, and clients of several kinds before it.

Attackers use kafka-python as it is, not the product; the agent before the gate is the real one.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kafka.errors as client_errors
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from connectors.kafka import access as kafka_access
from connectors.kafka.admin import ensure_topics
from devservers.apache_kafka import ApacheKafka
from devservers.local_authority import SERVICES, VEHICLES, Certificate, LocalAuthority
from schemas.topics import TOPICS

ANOTHER = "car-other"
"""A vehicle whose samples are in the log, for others to be kept from."""
DENIED = (client_errors.AuthorizationError,)
LIMIT_MS = 15_000
EXPIRED = datetime.timedelta(hours=-1)


class Gate:
    """The cluster, its authority, another authority that nobody trusts, and the topics."""

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        self.folder = folder
        self.authority = LocalAuthority(folder / "authority")
        self.stranger = LocalAuthority(folder / "stranger", "stranger")
        self.kafka = ApacheKafka(home=home, folder=folder / "kafka", trust=self.authority)

    def start(self) -> None:
        self.kafka.start()
        self.operator = self.kafka.client()
        ensure_topics(self.operator)
        kafka_access.grant(self.operator, kafka_access.INGEST, kafka_access.SERVICE_RIGHTS)
        self.vehicle(ANOTHER)
        self.write(self.options(self.issue(ANOTHER)), TOPICS.samples, b"what only ingest may read")

    def vehicle(self, vehicle_id: str) -> None:
        """Give a vehicle the rights that `docs/security.md` says."""
        kafka_access.grant(
            self.operator, kafka_access.vehicle_principal(vehicle_id), kafka_access.VEHICLE_RIGHTS
        )

    def issue(self, name: str, unit: str = VEHICLES, **changes: Any) -> Certificate:
        return self.authority.issue(name, unit, **changes)

    def options(self, certificate: Certificate | None) -> dict[str, Any]:
        """What a bare kafka-python client needs."""
        made: dict[str, Any] = {
            "bootstrap_servers": self.kafka.bootstrap,
            "security_protocol": "SSL",
            "ssl_cafile": str(self.authority.path),
        }
        if certificate is not None:
            made |= {
                "ssl_certfile": str(certificate.certificate_path),
                "ssl_keyfile": str(certificate.key_path),
            }
        return made

    def operator_options(self) -> dict[str, Any]:
        """What a bare client of the operator needs. One certificate, for to issue it again would replace its files."""
        paths = self.operator.tls_certificate_path, self.operator.tls_key_path
        assert paths[0] is not None and paths[1] is not None
        return self.options(Certificate(*paths))

    def lines(self, certificate: Certificate | None) -> str:
        """What agent.toml and fleetloop.toml say."""
        said = f'security_protocol = "SSL"\ntls_ca_path = "{self.authority.path.resolve()}"\n'
        if certificate is not None:
            said += f'tls_certificate_path = "{certificate.certificate_path.resolve()}"\n'
            said += f'tls_key_path = "{certificate.key_path.resolve()}"\n'
        return said

    def write(
        self, options: dict[str, Any], topic: str, value: bytes, headers: Any = (), key: bytes = b"k"
    ) -> Any:
        """One record; where it is written. Raises the client's error."""
        producer = KafkaProducer(
            **options, acks="all", enable_idempotence=False, retries=0, max_block_ms=LIMIT_MS
        )
        try:
            future = producer.send(topic, value=value, key=key, headers=list(headers))
            return future.get(timeout=LIMIT_MS / 1000)
        finally:
            with suppress(client_errors.KafkaError):
                producer.close(timeout=2)

    def read(
        self, options: dict[str, Any], topic: str, group: str | None = None, patience_s: float = 15.0
    ) -> int:
        """How many records a bare consumer gets: none where it may not even know the topic. Raises its error."""
        consumer = KafkaConsumer(
            **options, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
        )
        try:
            if group is None:
                consumer.assign(
                    [TopicPartition(topic, number) for number in range(4 if topic == TOPICS.samples else 1)]
                )
            else:
                consumer.subscribe([topic])
            end_s, got = time.monotonic() + patience_s, 0
            while not got and time.monotonic() < end_s:
                got += sum(len(batch) for batch in consumer.poll(timeout_ms=500).values())
            return got
        finally:
            consumer.close(autocommit=False)

    def administer(self, options: dict[str, Any], what: Callable[[Any], Any]) -> Any:
        client = KafkaAdminClient(**options)
        try:
            return what(client)
        finally:
            client.close()

    def workspace_of(self, folder: Path, *vehicles: Any) -> Path:
        """A workspace that reads with the certificate of ingest."""
        from tests.e2e.field import workspace

        place = workspace(folder, self.kafka.bootstrap, vehicles)
        lines = self.lines(self.issue(kafka_access.INGEST, SERVICES))
        (place / "fleetloop.toml").write_text(f'[kafka]\nbootstrap = "{self.kafka.bootstrap}"\n{lines}')
        return place

    def close(self) -> None:
        self.kafka.close()


@contextmanager
def gate(folder: Path, home: Path | None = None) -> Iterator[Gate]:
    """A gate that is open until the end of the block; its broker ends with it."""
    made = Gate(folder, home)
    try:
        made.start()
        yield made
    finally:
        made.close()


def is_denied(what: str, call: Callable[[], Any]) -> list[str]:
    """Nothing when the broker refuses the call for want of a right; what was let through otherwise."""
    try:
        got = call()
    except DENIED:
        return []
    except client_errors.KafkaError as error:
        return [f"{what}: not denied but {type(error).__name__}: {error}"[:300]]
    return [f"{what}: it was let through: {got!r}"[:300]]


def forge(gate_: Gate, thief: Certificate, folder: Path) -> list[str]:
    """A stolen certificate and the key that belongs to it write in the name of another vehicle; ingest reads that."""
    from dataclasses import replace

    from schemas.codec import encode_sample
    from schemas.identity import Identity, new_epoch
    from schemas.signing import VehicleKey, sign_record
    from schemas.wire import FL_KEYID, KIND_SAMPLE
    from tests.checker.access_books import forged_violations
    from tests.checker.lake_files import read_rows
    from tests.e2e.field import ingest
    from tests.edge_agent.spool.spool_rig import sample

    victim, robbed = VehicleKey.generate(), VehicleKey.generate()
    known = [
        SimpleNamespace(vehicle_id="car-victim", key=victim),
        SimpleNamespace(vehicle_id="car-1", key=robbed),
    ]
    places = []
    for number in range(5):
        identity = Identity("car-victim", new_epoch(), number)
        forged = replace(
            sample(2_000, seed=number), vehicle_id="car-victim", epoch=identity.epoch, seq=number
        )
        wire = sign_record(TOPICS.samples, KIND_SAMPLE, identity, encode_sample(forged), robbed)
        headers = dict(wire.headers) | ({FL_KEYID: victim.key_id.encode()} if number % 2 else {})
        at = gate_.write(
            gate_.options(thief), TOPICS.samples, wire.value, list(headers.items()), wire.key or b"k"
        )
        places.append((at.partition, at.offset))
    place = gate_.workspace_of(folder / "workspace", *known)
    ingest(place)
    rows = read_rows(str(place / "lake" / "arrivals"), TOPICS.samples)
    found = [(str(row.identity), str(row.outcome)) for row in rows if (row.partition, row.offset) in places]
    landed = [
        row.identity
        for row in rows
        if row.outcome == "landed" and row.identity and row.identity.vehicle == "car-victim"
    ]
    return forged_violations(found, len(places)) + [f"forged_and_landed: {each}" for each in landed]
