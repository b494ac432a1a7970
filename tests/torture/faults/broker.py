"""The broker or the way to it is gone, slow, deaf or forgetful: nothing is lost or landed twice, no frame is missed.

Each turn is one ride of the real agent under load (see `tests.torture.broker_ride`): a try is one disturbance, and
what the ride broke as a whole counts against each of its tries.
"""

from __future__ import annotations

import time

from tests.conditions import embedded_broker_is_missing
from tests.torture.broker_ride import ridden
from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.topic_broker import kafka_is_missing

STALL = "stall_s = 2.0\n"
RATES_BYTES_PER_S = (20_000, 60_000, 120_000)
SLOW_S = 40.0
LEAST_USE = 0.3
"""Of what a slow uplink could carry if every record were of the largest size."""
LARGEST_RECORD_BYTES = 21_000
REAL = "Real agent processes, disk, ingest, lake and checker, 40 frames a second of 5 to 20 kB"
UPLOADER = "edge_agent/uploader.py"
DROPPED_COUNTS_AS_DELIVERED = BrokenBuild(
    "what was in flight when a client was dropped counts as delivered",
    UPLOADER,
    "self._reader.release([*self._in_flight, *(record.identity for record in self._waiting)])",
    "self._reader.acknowledge([*self._in_flight, *(record.identity for record in self._waiting)])",
)


def absent_at_start(batch: Batch) -> Tally:
    """The agent starts, perceives and spools; the broker comes later."""
    from connectors.kafka.admin import ensure_topics
    from devservers.embedded_broker import EmbeddedBroker

    tally = Tally()
    for number in batch.in_time(spare_s=60.0):
        broker = EmbeddedBroker()
        try:
            bootstrap = broker.start()
            broker.stop()
            with ridden(batch.folder / str(number), bootstrap, pace=STALL) as ride:
                ride.start(delivers=False)
                ride.settle()
                with ride.disturbed(f"try {number}: no broker at the start"):
                    time.sleep(batch.rng(number).uniform(4.0, 8.0))
                    if ride.delivered():
                        tally.fail(f"try {number}: {ride.delivered()} records delivered without a broker")
                        continue
                    broker.start()
                    ensure_topics(bootstrap)
                ride.judge(tally)
        finally:
            broker.stop()
    return tally


def uplink_cut(batch: Batch) -> Tally:
    """Every connection is reset and new ones are refused; then the network is back."""
    from connectors.kafka.admin import ensure_topics
    from devservers.embedded_broker import EmbeddedBroker
    from fleetloop.demo.uplink import Uplink

    tally = Tally()
    with EmbeddedBroker() as broker, Uplink() as uplink:
        ensure_topics(broker.bootstrap)
        with ridden(batch.folder, broker.bootstrap, proxy_url=uplink.url, pace=STALL) as ride:
            ride.start()
            for number in batch.numbers():
                with ride.disturbed(f"try {number}: uplink cut"):
                    uplink.cut()
                    time.sleep(batch.rng(number).uniform(2.0, 5.0))
                    uplink.restore()
            tally.count("connections_refused", uplink.refused)
            ride.judge(tally)
    return tally


def throttled(batch: Batch) -> Tally:
    """The uplink carries less than the vehicle makes, and the agent is stopped and started meanwhile."""
    from connectors.kafka.admin import ensure_topics
    from devservers.embedded_broker import EmbeddedBroker
    from tests.uplinks import SlowUplink

    tally = Tally()
    stuck: list[str] = []
    with EmbeddedBroker() as broker, SlowUplink() as uplink:
        ensure_topics(broker.bootstrap)
        with ridden(batch.folder, broker.bootstrap, proxy_url=uplink.url) as ride:
            ride.start()
            for number in batch.numbers():
                rate = RATES_BYTES_PER_S[number % len(RATES_BYTES_PER_S)]
                with ride.disturbed(f"try {number}: {rate // 1000} kB/s"):
                    uplink.throttle(rate)
                    time.sleep(SLOW_S / 2)
                    before = ride.delivered()
                    time.sleep(SLOW_S / 2)
                    arrived = ride.delivered() - before
                    uplink.throttle(0)
                tally.count(f"records_delivered_at_{rate // 1000}_kB_a_second", arrived)
                if arrived < LEAST_USE * rate * SLOW_S / 2 / LARGEST_RECORD_BYTES:
                    stuck.append(
                        f"uplink_unused: {arrived} records in {SLOW_S / 2:.0f} s at {rate // 1000} kB/s"
                    )
            ride.judge(tally, also=stuck)
    return tally


def flapping(batch: Batch) -> Tally:
    """The broker is killed and started, or stopped for a while and woken, again and again."""
    import signal

    from connectors.kafka.admin import ensure_topics
    from devservers.apache_kafka import ApacheKafka

    tally = Tally()
    with ApacheKafka() as kafka:
        ensure_topics(kafka.bootstrap)
        with ridden(batch.folder, kafka.bootstrap, pace=STALL) as ride:
            ride.start()
            for number in batch.numbers():
                is_killed = number % 2 == 0
                with ride.disturbed(f"try {number}: broker {'killed' if is_killed else 'stopped'}"):
                    if is_killed:
                        kafka.kill()
                        kafka.start()
                    else:
                        kafka.signal(signal.SIGSTOP)
                        time.sleep(batch.rng(number).uniform(1.0, 6.0))
                        kafka.signal(signal.SIGCONT)
                    tally.count("brokers_killed" if is_killed else "brokers_frozen")
            ride.judge(tally)
    return tally


def acks_dropped(batch: Batch) -> Tally:
    """What the vehicle sends is written into the log; the answer never comes back."""
    from connectors.kafka.admin import ensure_topics
    from devservers.apache_kafka import ApacheKafka
    from tests.e2e.field import LogEnd
    from tests.uplinks import DeafUplink
    from tests.waiting import until

    tally = Tally()
    with ApacheKafka() as kafka, DeafUplink() as uplink:
        ensure_topics(kafka.bootstrap)
        log_end = LogEnd(kafka.bootstrap)
        try:
            with ridden(batch.folder, kafka.bootstrap, proxy_url=uplink.url, pace=STALL) as ride:
                ride.start()
                for number in batch.numbers():
                    with ride.disturbed(f"try {number}: acknowledgements dropped"):
                        stalls, end = int(ride.uploader()["stalls"]), log_end()
                        uplink.go_deaf()
                        until(lambda end=end: log_end() > end, "records arrive whose answer is lost")
                        until(
                            lambda stalls=stalls: int(ride.uploader()["stalls"]) > stalls,
                            "the uploader gives the silent client up",
                        )
                        uplink.hear()
                ride.judge(tally, resends=True)
        finally:
            log_end.close()
    return tally


FAULTS = (
    Fault(
        name="broker-absent-at-start",
        group=7,
        guarantees=("G1", "G3"),
        what="The agent starts where no broker is, and one comes 4 to 8 s later: all that was accepted meanwhile lands once.",
        one_try="one start without a broker",
        full=6,
        turn=1,
        run=absent_at_start,
        broken=(DROPPED_COUNTS_AS_DELIVERED,),
        real=f"{REAL}; the broker is the embedded one",
        needs=embedded_broker_is_missing,
    ),
    Fault(
        name="uplink-cut",
        group=7,
        guarantees=("G1", "G3"),
        what="Every connection is reset and none is let through for 2 to 5 s: no frame is missed, and the backlog goes.",
        one_try="one cut",
        full=20,
        turn=2,
        full_turn=10,
        run=uplink_cut,
        broken=(DROPPED_COUNTS_AS_DELIVERED,),
        real=f"{REAL}; the broker is the embedded one, the network a proxy on loopback",
        needs=embedded_broker_is_missing,
    ),
    Fault(
        name="uplink-throttled",
        group=7,
        guarantees=("G1", "G3"),
        what=(
            "The uplink carries 20, 60 or 120 kB a second for 40 s, less than the vehicle makes: records go on arriving"
            " all the time, and memory stays."
        ),
        one_try="one slow stretch of 40 s",
        full=6,
        turn=1,
        full_turn=3,
        run=throttled,
        broken=(
            BrokenBuild(
                "as much is in flight on a slow network as on a fast one",
                "edge_agent/uploader.py",
                "room = self._window.bytes - self._in_flight_bytes",
                "room = (self._window.__setattr__('bytes', 8_000_000) or 8_000_000) - self._in_flight_bytes",
            ),
        ),
        real=f"{REAL}; the broker is the embedded one, the network a proxy on loopback",
        needs=embedded_broker_is_missing,
    ),
    Fault(
        name="broker-flapping",
        group=7,
        guarantees=("G1", "G3"),
        what="The broker is killed with SIGKILL and started again, or frozen for 1 to 6 s, again and again.",
        one_try="one kill or freeze",
        full=20,
        turn=2,
        full_turn=10,
        run=flapping,
        broken=(DROPPED_COUNTS_AS_DELIVERED,),
        real=f"{REAL}; one real Apache Kafka node",
        needs=kafka_is_missing,
        turn_limit_s=900.0,
    ),
    Fault(
        name="acks-dropped",
        group=7,
        guarantees=("G1", "G3"),
        what=(
            "Records reach the broker's log and no answer comes back until the uploader gives its client up: they are"
            " sent again, and land once."
        ),
        one_try="one deaf stretch",
        full=10,
        turn=2,
        full_turn=5,
        run=acks_dropped,
        broken=(
            BrokenBuild(
                "ingest lands what landed before",
                "pipelines/ingest/deduplicate.py",
                'pl.any_horizontal(pl.col(name) != pl.col(f"{name}_won") for name in PLACE)',
                "pl.lit(False)",
            ),
        ),
        real=f"{REAL}; one real Apache Kafka node, the network a proxy on loopback",
        needs=kafka_is_missing,
    ),
)
