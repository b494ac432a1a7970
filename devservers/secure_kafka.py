"""Run a Kafka broker with mutual TLS and ACLs on this machine: `python -m devservers.secure_kafka FOLDER [VEHICLE ...]`.

Certificates are written to FOLDER/certificates, and the settings for agent.toml and fleetloop.toml are printed. Ctrl-C
stops the broker; its data stays in FOLDER/kafka for the next run.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from connectors.kafka import access as kafka_access
from connectors.kafka.admin import ensure_topics
from devservers.apache_kafka import ApacheKafka
from devservers.local_authority import SERVICES, VEHICLES, Certificate, LocalAuthority
from foundation.errors import FleetLoopError
from foundation.printable import printable_lines

DEFAULT_PORT = 9093


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C or SIGTERM and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m devservers.secure_kafka", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("vehicles", nargs="*", default=["car-1"])
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    folder = options.folder.resolve()
    authority = LocalAuthority(folder / "certificates")
    try:
        kafka = ApacheKafka(port=options.port, folder=folder / "kafka", trust=authority)
        try:
            kafka.start()
            _open(kafka, authority, options.vehicles)
            while not ended.wait(1.0) and kafka.is_alive:
                pass
        finally:
            kafka.stop()
    except FleetLoopError as error:
        print(printable_lines(error), file=sys.stderr)
        return error.exit_code
    return 0


def _open(kafka: ApacheKafka, authority: LocalAuthority, vehicles: Sequence[str]) -> None:
    operator = kafka.client()
    ensure_topics(operator)
    kafka_access.grant(operator, kafka_access.INGEST, kafka_access.SERVICE_RIGHTS)
    print(f"Kafka with mTLS at {kafka.bootstrap}. Certificates are in {authority.folder}. Ctrl-C stops it.")
    _tell("fleetloop.toml", "kafka", kafka, authority, authority.issue(kafka_access.INGEST, SERVICES))
    for vehicle in vehicles:
        kafka_access.grant(operator, kafka_access.vehicle_principal(vehicle), kafka_access.VEHICLE_RIGHTS)
        _tell(
            f"agent.toml of {vehicle}", "upload.kafka", kafka, authority, authority.issue(vehicle, VEHICLES)
        )


def _tell(where: str, table: str, kafka: ApacheKafka, authority: LocalAuthority, made: Certificate) -> None:
    print(
        f'\n# {where}\n[{table}]\nbootstrap = "{kafka.bootstrap}"\nsecurity_protocol = "SSL"\n'
        f'tls_ca_path = "{authority.path}"\ntls_certificate_path = "{made.certificate_path}"\n'
        f'tls_key_path = "{made.key_path}"',
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
