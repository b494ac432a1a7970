"""Apache Kafka in KRaft mode on loopback: one or more nodes, each a child process with its own data folder.

For durability tests and for use on one machine, not for production. The jars come from `make kafka` and need Java 17 or
newer. A killed node restarts on its own folder. With `trust` the cluster accepts only clients with a certificate, each
with the ACLs that were granted (`connectors.kafka.access`).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from connectors.kafka.access import BROKER, OPERATOR, authorizer_settings
from connectors.kafka.settings import KafkaSettings
from devservers.child_process import LOOPBACK, ChildProcess, free_port
from devservers.local_authority import SERVICES, LocalAuthority
from foundation.errors import MisconfiguredError, RetryLaterError

_HOME: Final = Path(".cache/kafka")
_CLONE: Final = Path(__file__).resolve().parents[1]
_STARTED: Final = "Kafka Server started"
_READY_S: Final = 90.0
_JAVA_OPTIONS: Final = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-XX:-UsePerfData",
)


def usual_home() -> Path:
    """Return where `make kafka` put the jars: below the working folder, else in the clone that this code runs from."""
    here_or_clone = (_HOME, _CLONE / _HOME)
    return next((home for home in here_or_clone if (home / "libs" / ".complete").is_file()), here_or_clone[1])


def missing(home: Path | None = None) -> str:
    """Return what Apache Kafka lacks to run here, as a message; empty if nothing."""
    home = home or usual_home()
    if shutil.which("java") is None:
        return "no `java` on PATH: install Java 17 or newer"
    if not (home / "libs" / ".complete").is_file():
        return f"no jars in {home / 'libs'}: run `make kafka` in a clone of FleetLoop"
    return ""


class ApacheKafka:
    """A cluster of `nodes` combined brokers and controllers. `folder` holds their data, by default a temporary folder.

    Raises (the constructor):
        MisconfiguredError: Java or the jars are missing.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        port: int = 0,
        folder: Path | None = None,
        home: Path | None = None,
        extra: dict[str, str] | None = None,
        trust: LocalAuthority | None = None,
    ) -> None:
        home = home or usual_home()
        if why := missing(home):
            raise MisconfiguredError(why)
        if nodes not in (1, 3, 5):
            raise MisconfiguredError(f"nodes is {nodes}; it must be 1, 3 or 5")
        self._home = home.resolve()
        self._temporary = tempfile.TemporaryDirectory(prefix="fleetloop-kafka-") if folder is None else None
        self._folder = folder if folder is not None else Path(str(self._temporary and self._temporary.name))
        self._trust = trust
        self._extra = ({} if trust is None else _mutual_tls(trust)) | (extra or {})
        self._children: dict[int, ChildProcess] = {}
        self._ports = {node: (port if port and node == 1 else free_port()) for node in range(1, nodes + 1)}
        self._controller_ports = {node: free_port() for node in self._ports}

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of every node, separated by commas."""
        return ",".join(f"{LOOPBACK}:{port}" for port in self._ports.values())

    def client(self, name: str = OPERATOR, unit: str = SERVICES) -> KafkaSettings:
        """Return the settings of a client of this cluster; with `trust`, with a new certificate of that name."""
        settings = KafkaSettings(bootstrap=self.bootstrap)
        if self._trust is None:
            return settings
        made = self._trust.issue(name, unit)
        return replace(
            settings,
            security_protocol="SSL",
            tls_ca_path=self._trust.path,
            tls_certificate_path=made.certificate_path,
            tls_key_path=made.key_path,
        )

    @property
    def is_alive(self) -> bool:
        """Whether every node is running."""
        return all(node in self._children and self._children[node].is_alive for node in self._ports)

    def start(self) -> str:
        """Start the nodes that are not running and return the bootstrap address.

        Raises:
            RetryLaterError: a node did not start in time; the message has the end of its log.
        """
        for node in self._ports:
            self._format(node)
        waiting = [(node, self._launch(node)) for node in self._ports if not self._runs(node)]
        try:
            for node, (child, begin) in waiting:
                child.wait_ready(lambda c=child, b=begin: _STARTED in _text_from(c.log_path, b), _READY_S)  # type: ignore[misc]
                self._children[node] = child
        except BaseException:
            for _, (child, _begin) in waiting:
                child.kill()
            raise
        return self.bootstrap

    def kill(self, node: int = 1) -> None:
        """Kill one node with SIGKILL; unflushed data stays in the page cache, as after a process crash."""
        self._children.pop(node).kill()

    def signal(self, number: int, node: int = 1) -> None:
        """Send a signal to one node, e.g. SIGSTOP and SIGCONT."""
        self._children[node].signal(number)

    def stop(self) -> None:
        """Stop every node; the folder stays for the next `start`."""
        while self._children:
            _, child = self._children.popitem()
            child.stop(grace_s=10.0)

    def close(self) -> None:
        """Kill every node and remove a temporary folder."""
        while self._children:
            _, child = self._children.popitem()
            child.kill()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runs(self, node: int) -> bool:
        return node in self._children and self._children[node].is_alive

    def _place(self, node: int) -> Path:
        return self._folder / f"node-{node}"

    def _launch(self, node: int) -> tuple[ChildProcess, int]:
        place = self._place(node)
        log_path = place / "broker.log"
        begin = log_path.stat().st_size if log_path.exists() else 0

        command: list[str | Path] = [
            "java",
            *_JAVA_OPTIONS,
            *self._main("kafka.Kafka"),
            place / "server.properties",
        ]
        return ChildProcess(command, log_path, folder=place), begin

    def _main(self, name: str) -> list[str]:
        return [f"-Dlog4j2.configurationFile={self._log_settings()}", "-cp", f"{self._home}/libs/*", name]

    def _log_settings(self) -> Path:
        path = self._folder / "log4j2.properties"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "status=error\nappender.out.type=Console\nappender.out.name=out\n"
                "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %m (%c)%n%ex\n"
                "rootLogger.level=info\nrootLogger.appenderRef.out.ref=out\n",
                "utf-8",
            )
        return path

    def _format(self, node: int) -> None:
        """Write the settings of a node, and format its folder if it is new."""
        place = self._place(node)
        place.mkdir(parents=True, exist_ok=True)
        settings = "".join(f"{key}={value}\n" for key, value in self._settings(node).items())
        (place / "server.properties").write_text(settings, "utf-8")
        if (place / "data" / "meta.properties").is_file():
            return
        command = ["java", *_JAVA_OPTIONS, *self._main("kafka.tools.StorageTool"), "format"]
        # One argument, because a random id may begin with a dash.
        command += [f"--cluster-id={self._cluster_id()}", "-c", str(place / "server.properties")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_READY_S, check=False)
        if done.returncode != 0:
            raise RetryLaterError(f"cannot format {place / 'data'}: {(done.stdout + done.stderr)[-1500:]}")

    def _cluster_id(self) -> str:
        path = self._folder / "cluster.id"
        if not path.exists():
            import base64
            import uuid

            path.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="), "ascii")
        return path.read_text("ascii")

    def _settings(self, node: int) -> dict[str, str]:
        replicas = min(3, len(self._ports))
        listener = "PLAINTEXT" if self._trust is None else "SSL"
        voters = ",".join(f"{each}@{LOOPBACK}:{port}" for each, port in self._controller_ports.items())
        return {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": voters,
            "listeners": f"{listener}://{LOOPBACK}:{self._ports[node]},CONTROLLER://{LOOPBACK}:{self._controller_ports[node]}",
            "advertised.listeners": f"{listener}://{LOOPBACK}:{self._ports[node]}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": f"{listener}:{listener},CONTROLLER:{listener}",
            "inter.broker.listener.name": listener,
            "log.dirs": str(self._place(node).resolve() / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(max(1, replicas - 1)),
            "offsets.topic.replication.factor": str(replicas),
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(max(1, replicas - 1)),
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "log.cleaner.dedupe.buffer.size": "2097152",
        } | self._extra


def _mutual_tls(trust: LocalAuthority) -> dict[str, str]:
    """Return the settings of nodes that authenticate each other and clients by certificate, without a plaintext port."""
    made = trust.issue(BROKER, SERVICES)
    keystore = made.key_path.with_name("broker-keystore.pem")
    keystore.touch(mode=0o600)
    keystore.write_bytes(made.key_path.read_bytes() + made.certificate_path.read_bytes())
    return authorizer_settings() | {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore.resolve()),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trust.path.resolve()),
    }


def _text_from(path: Path, begin: int) -> str:
    with path.open("rb") as log:
        log.seek(begin)
        return log.read().decode("utf-8", "replace")
