"""The cluster itself forgets or fails: leaders killed, producer state lost, a day away. Nothing is lost or landed twice."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from tests.conditions import embedded_broker_is_missing
from tests.torture.broker_day import a_day
from tests.torture.broker_ride import ridden
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.faults.broker import DROPPED_COUNTS_AS_DELIVERED, REAL
from tests.torture.topic_broker import kafka_is_missing

if TYPE_CHECKING:
    from tests.e2e.field import LogEnd

FORGETS_PRODUCERS = {
    "producer.id.expiration.ms": "1000",
    "producer.id.expiration.check.interval.ms": "500",
}
NODES = 3
FROZEN_S = 1.5
"""Shorter than a node's session (3 s), so that the frozen ones count as in sync."""


def leader_killed(batch: Batch) -> Tally:
    """The leader of the partition that the vehicle writes to gets SIGKILL and is started again."""
    from devservers.apache_kafka import ApacheKafka
    from schemas.topics import TOPICS
    from tests.torture.broker_cluster import leader_of_the_flow, replicas_in_sync, topics_in_time
    from tests.waiting import until

    tally = Tally()
    with ApacheKafka(NODES) as kafka:
        topics_in_time(kafka.bootstrap)
        with ridden(batch.folder, kafka.bootstrap) as ride:
            ride.start()
            for number in batch.in_time(spare_s=90.0):
                leader = leader_of_the_flow(kafka.bootstrap, TOPICS.samples)
                assert leader is not None
                with ride.disturbed(f"try {number}: leader {leader} killed"):
                    before, begun_s = ride.delivered(), time.monotonic()
                    followers = [node for node in range(1, NODES + 1) if node != leader] if number % 2 else []
                    for node in followers:
                        kafka.signal(signal.SIGSTOP, node)
                    if followers:
                        time.sleep(FROZEN_S)
                        tally.count("followers_frozen_first")
                    kafka.kill(leader)
                    for node in followers:
                        kafka.signal(signal.SIGCONT, node)
                    until(lambda before=before: ride.delivered() > before + 40, "the others take over")
                    tally.measure("delivering_again_s", time.monotonic() - begun_s)
                    kafka.start()
                tally.count("leaders_killed")
                until(lambda: replicas_in_sync(kafka.bootstrap, TOPICS.samples) >= 2, "two replicas in sync")
            ride.judge(tally)
    return tally


def producer_state_lost(batch: Batch) -> Tally:
    """Odd tries: the broker forgets the producer while its answers are lost. Even ones: the topic is recreated."""
    from connectors.kafka.admin import ensure_topics
    from devservers.apache_kafka import ApacheKafka
    from schemas.topics import TOPICS
    from tests.e2e.field import LogEnd, ingest
    from tests.torture.broker_cluster import make_anew
    from tests.uplinks import DeafUplink

    tally = Tally()
    with ApacheKafka(extra=FORGETS_PRODUCERS) as kafka, DeafUplink() as uplink:
        states = ensure_topics(kafka.bootstrap)
        topic_id = next(state.info.topic_id for state in states if state.info.topic == TOPICS.samples)
        with ridden(batch.folder, kafka.bootstrap, proxy_url=uplink.url) as ride:
            ride.start()
            for number in batch.numbers():
                log_end = LogEnd(kafka.bootstrap)
                kind = "topic recreated" if number % 2 == 0 else "producer forgotten"
                with ride.disturbed(f"try {number}: {kind}"):
                    uplink.hold()
                    end = _resting_end(log_end)
                    if number % 2 == 0:
                        ingest(ride.place)
                        topic_id = make_anew(kafka.bootstrap, TOPICS.samples)
                        uplink.release()
                    else:
                        uplink.go_deaf()
                        _grows(log_end, end)
                        time.sleep(3.0)
                        uplink.hear()
                log_end.close()
                tally.count(kind.replace(" ", "_"))
            ride.judge(tally, topic_id=topic_id)
    return tally


def _grows(log_end: LogEnd, end: int) -> None:
    from tests.waiting import until

    until(lambda: log_end() > end, "records arrive whose answer is lost")


def _resting_end(log_end: LogEnd) -> int:
    from tests.waiting import until

    ends = [-1]

    def is_at_rest() -> bool:
        ends.append(log_end())
        return ends[-1] == ends[-2]

    until(is_at_rest, "the log comes to rest", poll_s=0.5)
    return ends[-1]


def down_a_day(batch: Batch) -> Tally:
    """A simulated day of records pile up while no broker answers."""
    tally = Tally()
    for number in batch.in_time(spare_s=60.0):
        a_day(batch.folder / str(number), batch.rng(number), tally, f"try {number}")
    return tally


FAULTS = (
    Fault(
        name="broker-down-a-day",
        group=7,
        guarantees=("G1", "G3"),
        what=(
            "No broker answers for 24 hours while 11,500 to 12,000 records of 6 kB are accepted; then one comes:"
            " memory grows by at most 64 MB, and all of it lands once."
        ),
        one_try="one day",
        full=5,
        turn=1,
        run=down_a_day,
        broken=(
            BrokenBuild(
                "a client that went silent is kept, and as much is given to the next",
                "edge_agent/uploader.py",
                "        self._window.silence()\n",
                '        self.__dict__.setdefault("kept", []).append(self._sink)\n',
            ),
            DROPPED_COUNTS_AS_DELIVERED,
        ),
        real=(
            "Real spool, uploader, ingest, lake and checker; the time of the day, the client that gets no answer"
            " and the two agent processes (one here) are simulated, and fsync is left out; the broker that comes back is"
            " the embedded one"
        ),
        needs=embedded_broker_is_missing,
    ),
    Fault(
        name="producer-state-lost",
        group=7,
        guarantees=("G1", "G3"),
        what=(
            "The topic is deleted and recreated under the running agent, or the broker forgets the producer while its"
            " answers are lost (so that the client writes records twice itself): all lands once."
        ),
        one_try="one topic recreated or one producer forgotten",
        full=10,
        turn=2,
        full_turn=4,
        run=producer_state_lost,
        broken=(
            BrokenBuild(
                "ingest lands what landed before",
                "pipelines/ingest/deduplicate.py",
                'pl.any_horizontal(pl.col(name) != pl.col(f"{name}_won") for name in PLACE)',
                "pl.lit(False)",
                tries=1,
                first=1,
            ),
        ),
        real=f"{REAL}; one real Apache Kafka node, the network a proxy on loopback",
        needs=kafka_is_missing,
    ),
    Fault(
        name="three-nodes-leader-killed",
        group=7,
        guarantees=("G1", "G3"),
        what=(
            "Three nodes, three replicas, two of which must be in sync: the leader of the vehicle's partition is killed"
            " with SIGKILL and started again, over and over; every second time the others are frozen for 1.5 s before, so"
            " that what only the leader has is lost with it."
        ),
        one_try="one leader killed",
        full=12,
        turn=1,
        full_turn=6,
        run=leader_killed,
        broken=(
            BrokenBuild(
                "the leader's word alone counts",
                "connectors/kafka/settings.py",
                '"acks": "all",\n        "enable_idempotence": True,',
                '"acks": 1,\n        "enable_idempotence": False,',
                tries=1,
                first=1,
            ),
        ),
        real=f"{REAL}; three real Apache Kafka nodes (KRaft) on one machine",
        needs=kafka_is_missing,
        turn_limit_s=900.0,
    ),
)
