"""Real Kafka with mTLS and access rights: a vehicle may do its work and nothing else, and a refusal is never delivery."""

from __future__ import annotations

import time

from tests.torture.broker_gate import PROMISES
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

NAMES = [promise.__name__ for promise in PROMISES]


def try_the_gate(batch: Batch) -> Tally:
    """Every promise in turn, before one gate."""
    from tests.connectors.gate import gate

    tally = Tally()
    with gate(batch.folder / "gate") as open_gate:
        for number in batch.numbers():
            promise = PROMISES[number % len(PROMISES)]
            folder = batch.folder / f"try-{number}"
            folder.mkdir()
            begun_s = time.monotonic()
            try:
                tally.judge(promise(open_gate, folder), promise.__name__)
            except AssertionError as error:
                tally.fail(f"{promise.__name__}: {error}")
            tally.count(promise.__name__)
            if time.monotonic() + 1.5 * (time.monotonic() - begun_s) > batch.until_s:
                break
    return tally


def _needs() -> str | None:
    from devservers.apache_kafka import missing

    return missing() or None


FAULTS = (
    Fault(
        name="kafka-access",
        group=12,
        guarantees=("G1", "G8"),
        what=(
            "mTLS and access rights on a real Kafka: a vehicle writes samples and telemetry, hears notices and can do"
            " nothing else; an expired, untrusted, missing or removed certificate is refused, the agent says so, and"
            " nothing counts as delivered; what a stolen one writes as another vehicle is rejected."
        ),
        one_try="one of the 15 promises, before one gate",
        full=2 * len(PROMISES),
        turn=3,
        full_turn=len(PROMISES),
        run=try_the_gate,
        broken=(
            BrokenBuild(
                "a vehicle may read what it writes",
                "connectors/kafka/access.py",
                "    (TOPICS.samples, ACLOperation.WRITE),\n",
                "    (TOPICS.samples, ACLOperation.WRITE),\n    (TOPICS.samples, ACLOperation.READ),\n",
                tries=1,
                first=NAMES.index("may_not_read_samples"),
            ),
            BrokenBuild(
                "whoever is named like a service is one",
                "connectors/kafka/access.py",
                'r"RULE:^CN=([A-Za-z0-9._-]+),OU=vehicles',
                'r"RULE:^CN=(operator|broker|ingest),.*$/$1/,RULE:^CN=([A-Za-z0-9._-]+),OU=vehicles',
                tries=1,
                first=NAMES.index("is_no_service_by_its_name"),
            ),
            BrokenBuild(
                "ingest believes every signature",
                "schemas/signing.py",
                "_public_key(enrolled.public_b64).verify(\n            found[wire.FL_SIGNATURE]",
                "(lambda *_: None)(\n            found[wire.FL_SIGNATURE]",
                tries=1,
                first=NAMES.index("may_not_write_as_another"),
            ),
            BrokenBuild(
                "a refused record counts as delivered",
                "edge_agent/uploader.py",
                "                again.append(identity)\n                failure = _words(result)",
                "                acknowledged.append(identity)\n                failure = _words(result)",
                tries=1,
                first=NAMES.index("without_rights_is_refused"),
            ),
            BrokenBuild(
                "the agent does not tell a refusal from silence",
                "connectors/kafka/sink.py",
                "return is_refusal(self.last_error)",
                "return False",
                tries=1,
                first=NAMES.index("expired_is_refused"),
            ),
        ),
        real=(
            "Real Apache Kafka (SSL listeners, StandardAuthorizer), real agent processes, ingest and lake; certificates"
            " made on the spot; the attacker is bare kafka-python"
        ),
        needs=_needs,
    ),
)
