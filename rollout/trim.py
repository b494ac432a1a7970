"""Trim the release repository: remove what no vehicle can ask for any more.

A vehicle starts from any root that it knows, so every root stays. From the timestamp it goes to one snapshot, from there to
one document of each role and to the targets that these list. So what is kept is all that is reached from the present
snapshot, and from each snapshot that was present within the last `keep_s`: a vehicle, or a cache between, may be in the
middle of such a state. When that was is read from the signed documents, never from the times of files, which a backup may
restore as others. Models and plans of earlier releases are listed by the present documents; they stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata

from foundation import syscalls
from foundation.clock import Clock
from foundation.errors import MisconfiguredError
from rollout.keys import DELEGATED_ROLES
from rollout.metadata_files import MetadataFiles
from rollout.repository import Repository
from schemas.downlink import ISSUED_FIELD

LEAST_KEEP_S = 86_400
_DOCUMENT = re.compile(r"(\d+)\.([a-z]+)\.json")


@dataclass(slots=True)
class Trimmed:
    """What was removed, or would be: paths below the repository, and their bytes."""

    paths: list[str] = field(default_factory=list)
    size_bytes: int = 0


def trim_repository(
    repository: Repository, keep_s: float, clock: Clock, *, is_dry_run: bool = False
) -> Trimmed:
    """Remove the documents and targets that no state of the last `keep_s` seconds refers to.

    Nothing else is published or signed. After a crash run it again.

    Raises:
        MisconfiguredError: `keep_s` is below a day; there is no repository.
        RetryLaterError: another writer holds the repository.
    """
    if keep_s < LEAST_KEEP_S:
        raise MisconfiguredError(f"keep_s is {keep_s:.0f}; it must be at least {LEAST_KEEP_S} s, a day")
    done = Trimmed()
    with repository.lock():
        files = MetadataFiles(repository.path)
        oldest_ns = clock.now_ns() - round(keep_s * 1e9)
        documents, targets = _needed(files, oldest_ns)
        for path in _removable(files, documents, targets):
            done.paths.append(path.relative_to(files.path).as_posix())
            done.size_bytes += path.stat().st_size
            if not is_dry_run:
                syscalls.unlink(path)
    return done


def _needed(files: MetadataFiles, oldest_ns: int) -> tuple[dict[str, set[int]], set[str]]:
    """Return the versions of each role, and the file names of targets as "role/sha256.name", that must stay."""
    present = files.load("timestamp").signed.snapshot_meta.version
    documents: dict[str, set[int]] = {"snapshot": set(_recent(files, present, oldest_ns))}
    for version in documents["snapshot"]:
        for name, meta in _read(files, "snapshot", version).meta.items():
            documents.setdefault(name.removesuffix(".json"), set()).add(meta.version)
    for role in DELEGATED_ROLES:  # the repository goes on from the newest one that is signed as it must be
        documents.setdefault(role, set()).add(files.load(role).signed.version)
    targets = {
        f"{role}/{info.hashes['sha256']}.{path.partition('/')[2]}"
        for role in DELEGATED_ROLES
        for version in documents[role]
        for path, info in _read(files, role, version).targets.items()
    }
    return documents, targets


def _recent(files: MetadataFiles, present: int, oldest_ns: int) -> Iterator[int]:
    """Yield the present snapshot and, going back, each one whose successor is not older than `oldest_ns`."""
    version = present
    yield version
    while issued_ns(_read(files, "snapshot", version)) >= oldest_ns:
        version -= 1
        if not files.metadata_path(f"{version}.snapshot").exists():
            return
        yield version


def issued_ns(snapshot: Any) -> int:
    """Return when a snapshot was signed; of an earlier release, which did not say so, when it expires, which is later."""
    issued_s = snapshot.unrecognized_fields.get(ISSUED_FIELD)
    if isinstance(issued_s, int) and not isinstance(issued_s, bool):
        return int(issued_s) * 1_000_000_000
    expires_s: float = snapshot.expires.timestamp()
    return round(expires_s) * 1_000_000_000


def _read(files: MetadataFiles, role: str, version: int) -> Any:
    return Metadata.from_bytes(files.metadata_path(f"{version}.{role}").read_bytes()).signed


def _removable(files: MetadataFiles, documents: dict[str, set[int]], targets: set[str]) -> Iterator[Path]:
    """Yield files that are not needed. A document above the needed ones belongs to a publication that was cut."""
    for path in sorted((files.path / "metadata").glob("*.json")):
        found = _DOCUMENT.fullmatch(path.name)
        if found is None or found[2] not in documents:  # the timestamp, and every root
            continue
        version, needed = int(found[1]), documents[found[2]]
        if version < max(needed) and version not in needed:
            yield path
    for role in DELEGATED_ROLES:
        for path in sorted((files.path / "targets" / role).glob("*")):
            if path.is_file() and f"{role}/{path.name}" not in targets:
                yield path
