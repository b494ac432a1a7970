"""Publish a model as a signed release, if its gate passed or a named person overrode it with a reason.

The signed document holds the digests of the model and its contract, the model's length and the verdict of the gate. The
model is verified but not executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foundation.clock import Clock
from foundation.errors import CorruptError, MisconfiguredError, RejectedError
from modelkit.bundle import Bundle
from modelkit.verify import ModelLimits, verify_model
from rollout.repository import Repository
from schemas.bundle import bundle_bytes, graph_of
from schemas.documents import RELEASE, Gate, Override, Release, bundle_target, read_index
from schemas.downlink import RELEASES_KEY, index_targets
from schemas.roles import SERVING

_NOT_ID = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict of a gate. `model_digest` is the model that it evaluated, or empty if the report has none."""

    passed: bool
    reason: str
    model_digest: str = ""


NO_GATE = GateReport(False, "no gate evaluated this model")


def publish_release(
    repository: Repository,
    model: bytes | Bundle,
    gate: GateReport,
    clock: Clock,
    *,
    release_id: str = "",
    role: str = SERVING,
    override: Override | None = None,
    notes: str = "",
    limits: ModelLimits | None = None,
    signing_role: str | None = None,
) -> Release:
    """Sign and publish one model, of one file or a bundle. Repeating the call, also after a crash, publishes nothing new.

    Args:
        release_id: the id; by default made of the model's name and digest.
        role: the role of the model on a vehicle.
        override: who releases a refused model, and why; ignored if the gate passed.
        signing_role: only to demonstrate the attack "a key of the wrong role", see `Repository.transact`.

    Raises:
        RejectedError: reason `gate_refused` (no override), `gate_of_another_model`, `conflict` (the id belongs to another
            model), or the reason why the model is not acceptable.
        RetryLaterError: another writer holds the repository.
    """
    files = model.files if isinstance(model, Bundle) and len(model.files) > 1 else ()
    verified = verify_model(model, None, limits) if isinstance(model, bytes) else model.verified(limits)
    if gate.model_digest and gate.model_digest != verified.digest:
        raise RejectedError(
            f"the gate evaluated model {gate.model_digest}; this model is {verified.digest}",
            reason="gate_of_another_model",
        )
    if not gate.passed and override is None:
        raise RejectedError(
            f"the gate refused {verified.contract.name} ({gate.reason}); an override needs a name and a reason",
            reason="gate_refused",
        )
    chosen = release_id or default_release_id(verified.contract.name, verified.digest)
    release = Release(
        release_id=chosen,
        model_name=verified.contract.name,
        model_digest=verified.digest,
        model_target=bundle_target(graph_of(files)) if files else f"models/{chosen}.onnx",
        model_bytes=bundle_bytes(files) if files else len(verified.data),
        contract_digest=verified.contract.digest,
        gate=Gate(gate.passed, gate.reason, None if gate.passed else override),
        created_time_ns=clock.now_ns(),
        notes=notes,
        role=role,
        files=files,
    )
    release.to_json()  # refuses a malformed id before anything is written
    published = [release]

    def build() -> Mapping[str, bytes | Path]:
        known = {each.release_id: each for each in read_releases(repository)}
        before = known.get(chosen)
        if before is not None:
            if (before.model_digest, before.role) != (release.model_digest, role):
                raise RejectedError(
                    f"release {chosen} is already model {before.model_digest} for {before.role}, "
                    f"not {release.model_digest} for {role}",
                    reason="conflict",
                )
            published[0] = before
            return {}
        targets: dict[str, bytes | Path] = {f"{chosen}.onnx": verified.data}
        if isinstance(model, Bundle) and files:
            targets = {
                bundle_target(file).removeprefix("models/"): model.folder / file.path for file in files
            }
        return {**targets, **index_targets(RELEASES_KEY, [*known.values(), release])}

    repository.transact("models", build, signing_role=signing_role)
    return published[0]


def read_releases(repository: Repository) -> list[Release]:
    """Return all published releases, oldest first."""
    data = repository.read_index("models")
    if data is None:
        return []
    rows = read_index(data, RELEASES_KEY, RELEASE)
    if rows.unreadable:  # the list is published again, so it must be complete
        raise CorruptError(f"release {rows.unreadable[0].index} of the index: {rows.unreadable[0].why}")
    return list(rows.read)


def find_release(repository: Repository, release_id: str) -> Release:
    """Return a release by id. Raises MisconfiguredError, which lists the existing ids."""
    releases = {each.release_id: each for each in read_releases(repository)}
    if release_id not in releases:
        raise MisconfiguredError(
            f"there is no release {release_id!r}; known: {', '.join(releases) or 'none'}"
        )
    return releases[release_id]


def default_release_id(model_name: str, digest: str) -> str:
    """Return `<name>-<first 12 characters of the digest>` in lower case, with valid characters only."""
    name = _NOT_ID.sub("-", model_name.lower()).strip("-._")[:80] or "model"
    return f"{name}-{digest[:12]}"


def with_override(gate: GateReport, by: str, why: str, clock: Clock) -> Override | None:
    """Return the override of a refused gate, or None. Raises MisconfiguredError for a name without a reason or vice versa."""
    if not by and not why:
        return None
    if not by.strip() or not why.strip():
        raise MisconfiguredError(f"an override needs both a name and a reason; by is {by!r}, why is {why!r}")
    return None if gate.passed else Override(by.strip(), why.strip(), clock.now_ns())
