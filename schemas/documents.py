"""The documents sent to vehicles: a release, and the rollout plan that says which vehicles take it.

They are targets of the TUF repository, so their signatures are verified before they are read. The types define their
bounds for reading and writing, and schemas/json is exported from them (`python -m schemas.documents`). A vehicle computes
its own wave; plans do not list vehicles.

Agents of an earlier release refuse unknown keys, so version 1 of either document never gets a new key; new keys go into
version 2, which is in a target of its own (`schemas.downlink`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from foundation.document_messages import brief
from foundation.documents import (
    DocumentType,
    Family,
    Meta,
    Rows,
    Version,
    encode_json,
    parse_json,
    plain,
    read_rows,
    version_of,
)
from foundation.errors import RejectedError
from schemas.bundle import (
    GRAPH,
    MAX_FILES,
    BundleFile,
    Sha256Hex,
    bundle_bytes,
    bundle_digest,
    check_bundle,
    graph_of,
)
from schemas.reasons import RejectReason
from schemas.roles import ROLE_PATTERN, SERVING

T = TypeVar("T")
FORMAT: Final = 2
"""The version that is written; version 1 knew only the role serving."""
RUNNING: Final = "running"
HALTED: Final = "halted"
COMPLETE: Final = "complete"

DocumentId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$(?!\n)")]
RoleName = Annotated[str, Meta(pattern=rf"^{ROLE_PATTERN}$(?!\n)")]
VehicleId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)")]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Remark = Annotated[str, Meta(max_length=4096)]
TimeNs = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=10**9)]
TargetName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        pattern=r"^models/[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)",
        description="Name of the TUF target: flat under models/, because a delegated path models/* does not match a deeper one.",
    ),
]


@dataclass(frozen=True, slots=True)
class Override:
    """Who released a model that its gate refused, and why."""

    by: Name
    why: Annotated[str, Meta(min_length=1, max_length=4096)]
    time_ns: TimeNs


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict of the gate. A release whose gate did not pass needs an override."""

    passed: bool
    reason: Remark = ""
    override: Override | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """One model that may be offered to vehicles. `model_target` is the name of the TUF target of its graph.

    A model of several files lists them in `files`; `model_digest` and `model_bytes` are then of the bundle. Agents of the first
    release are not shown such a release.
    """

    release_id: DocumentId
    model_name: Name
    model_digest: Sha256Hex
    model_target: TargetName
    model_bytes: Annotated[int, Meta(ge=1, le=2**40)]
    contract_digest: Sha256Hex
    gate: Gate
    created_time_ns: TimeNs
    notes: Remark = ""
    role: RoleName = SERVING
    files: Annotated[tuple[BundleFile, ...], Meta(max_length=MAX_FILES)] = ()
    """The files of a bundle, sorted by path; empty for a model of one file."""

    @property
    def bundle(self) -> tuple[BundleFile, ...]:
        """The files of the model; a model of one file is a bundle of one."""
        return self.files or (BundleFile("model.onnx", GRAPH, self.model_bytes, self.model_digest),)

    def target_of(self, file: BundleFile) -> str:
        """Return the target of one of its files. In a bundle it is named by sha256, so releases share equal files."""
        return bundle_target(file) if self.files else self.model_target

    def to_json(self) -> bytes:
        """Encode as JSON of version 2. Raises RejectedError (invalid_value)."""
        return _written(self, RELEASE)

    def to_json_1(self) -> bytes:
        """Encode as JSON of version 1, which knew only the role serving and models of one file."""
        return _written_1(self, RELEASE, {"role", "files"})

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Decode a release of any version. Raises RejectedError (invalid_value) with location and bound."""
        return RELEASE.read(data)  # type: ignore[return-value]

    def checked(self) -> Self:
        """Return this release.

        Raises:
            RejectedError: `invalid_value` if its gate did not pass and has no override, or if digest, length or target are not
                those of its files; or as `check_bundle`.
        """
        if not self.gate.passed and self.gate.override is None:
            raise _invalid("release.gate.override", None, "given, because the gate did not pass")
        if not self.files:
            return self
        check_bundle(self.files)
        said = (self.model_digest, self.model_bytes, self.model_target)
        found = (bundle_digest(self.files), bundle_bytes(self.files), bundle_target(graph_of(self.files)))
        if len(self.files) < 2 or said != found:
            raise _invalid(
                "release.files", said, f"two or more files with digest, bytes and graph's target {found}"
            )
        return self


@dataclass(frozen=True, slots=True)
class Wave:
    """One wave: `exact_count` vehicles whose position is below `threshold_hex` and that are in no earlier wave."""

    number: Annotated[int, Meta(ge=1, le=100)]
    exact_count: Count
    threshold_hex: Sha256Hex


@dataclass(frozen=True, slots=True)
class HealthGate:
    """The conditions for the next wave. A vehicle without a report for `report_within_s` seconds is not healthy.

    Nor is one that reports but is not past its probation with the release `settle_within_s` seconds after its wave was
    opened. Failing vehicles are tolerated where their share is below `max_failing_ratio` with a confidence of 95 %.
    """

    min_reports: Count = 1
    max_error_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0
    max_nan_count: Count = 0
    report_within_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 3600.0
    settle_within_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 86_400.0
    max_failing_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.02


_GATE_2: Final = frozenset({"settle_within_s", "max_failing_ratio"})
"""What version 1 of a plan does not know of its gate, which only the cloud applies."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """Which vehicles may take a release. `waves` holds the waves that were opened so far, numbered from 1."""

    plan_id: DocumentId
    release_id: DocumentId
    state: Literal["running", "halted", "complete"]
    waves: Annotated[tuple[Wave, ...], Meta(min_length=1, max_length=100)]
    tags: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    include: Annotated[tuple[VehicleId, ...], Meta(max_length=100_000)] = ()
    exclude: Annotated[tuple[VehicleId, ...], Meta(max_length=100_000)] = ()
    health: HealthGate = field(default_factory=HealthGate)
    previous_release_id: DocumentId | None = None
    """The release that had the role before: the newest one of the same role whose rollout was completed."""
    role: RoleName = SERVING
    model_digest: Sha256Hex | None = None
    """With `model_bytes`, the model that the plan rolls out, so that no other release can replace it; None in version 1."""
    model_bytes: Annotated[int, Meta(ge=1, le=2**40)] | None = None
    is_bundle: bool = False
    """Of several files: vehicles of an earlier release are not shown such a plan, as they are not shown its release."""

    def wave_of(self, vehicle_id: str, tags: Collection[str] = ()) -> int | None:
        """Return the number of the vehicle's wave; None if it is in no wave that was opened.

        `exclude` takes precedence over `include`; an included vehicle is in the first wave, whatever its position and tags.
        Any other vehicle needs every tag of the plan and is in the first wave whose threshold is above its position.
        """
        if vehicle_id in self.exclude:
            return None
        if vehicle_id in self.include:
            return self.waves[0].number
        if not set(self.tags) <= set(tags):
            return None
        position = rollout_position(self.release_id, vehicle_id)
        for wave in self.waves:
            if position < wave.threshold_hex:
                return wave.number
        return None

    def with_state(self, state: Literal["running", "halted", "complete"]) -> Self:
        """Return the plan in another state."""
        return replace(self, state=state)

    def to_json(self) -> bytes:
        """Encode as JSON of version 2. Raises RejectedError (invalid_value)."""
        return _written(self, ROLLOUT_PLAN)

    def to_json_1(self) -> bytes:
        """Encode as JSON of version 1, which knew only the role serving and named the model by its release."""
        gate = {key: value for key, value in plain(self.health).items() if key not in _GATE_2}
        new = {"role", "model_digest", "model_bytes", "is_bundle"}
        return _written_1(self, ROLLOUT_PLAN, new, health=gate)

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Decode a plan of any version. Raises RejectedError (invalid_value) with location and bound."""
        return ROLLOUT_PLAN.read(data)  # type: ignore[return-value]

    def checked(self) -> Self:
        """Return this plan. Raises RejectedError for waves out of order, or a vehicle both included and excluded."""
        numbers = [wave.number for wave in self.waves]
        if numbers != list(range(1, len(numbers) + 1)):
            raise _invalid("rollout_plan.waves", numbers, "numbered 1, 2, ... in order")
        thresholds = [wave.threshold_hex for wave in self.waves]
        if thresholds != sorted(thresholds):
            raise _invalid("rollout_plan.waves", thresholds, "in order of increasing thresholds")
        both = set(self.include) & set(self.exclude)
        if both:
            raise _invalid("rollout_plan.include", sorted(both), "disjoint from exclude")
        return self


def bundle_target(file: BundleFile) -> str:
    """Return the target of a file of a bundle."""
    return f"models/{file.sha256}.bin"


def rollout_position(release_id: str, vehicle_id: str) -> str:
    """Return the position of a vehicle in the order of a release: sha256 hex of "release_id/vehicle_id"."""
    return hashlib.sha256(f"{release_id}/{vehicle_id}".encode()).hexdigest()


def _rejected(message: str) -> RejectedError:
    return RejectedError(message, reason=RejectReason.INVALID_VALUE)


def _release_1(release: Release) -> Release:
    return replace(release, role=SERVING, files=()).checked()


def _plan_1(plan: RolloutPlan) -> RolloutPlan:
    return replace(plan.checked(), role=SERVING, model_digest=None, model_bytes=None, is_bundle=False)


RELEASE: Final = DocumentType(
    "release",
    {1: Version(Release, _release_1), 2: Version(Release, Release.checked)},
    "format",
    _rejected,
)
ROLLOUT_PLAN: Final = DocumentType(
    "rollout_plan",
    {1: Version(RolloutPlan, _plan_1), 2: Version(RolloutPlan, RolloutPlan.checked)},
    "format",
    _rejected,
)


def json_schemas() -> dict[str, str]:
    """Return the JSON Schemas by file name in schemas/json, generated from the types."""
    release = "One model that may be offered to vehicles, and the word of the gate about it."
    plan = "Which vehicles may take a release, wave by wave. waves holds those that were opened so far."
    return {
        "release.schema.json": _schema(RELEASE, "Release", release),
        "rollout_plan.schema.json": _schema(ROLLOUT_PLAN, "RolloutPlan", plan),
    }


def read_index(data: bytes, key: str, kind: DocumentType[T], *, family: Family = _rejected) -> Rows[T]:
    """Read the documents of a list target such as `{"format": 1, "plans": [...]}`, in order.

    A row that cannot be read is returned apart with the reason and does not affect the others.

    Raises:
        FleetLoopError: made by `family`, if the list itself is malformed or of an unknown format.
    """
    tree = parse_json(data, key, family=family)
    version_of(tree, key, "format", {1, 2}, family=family)
    return read_rows(tree.get(key), lambda row: kind.of(row, family=family), key, family=family)


def _schema(kind: DocumentType[Any], title: str, description: str) -> str:
    about = {
        "$id": f"urn:fleetloop:{kind.name.replace('_', '-')}:{FORMAT}",
        "title": title,
        "description": description,
    }
    return json.dumps(kind.schema(FORMAT, **about), indent=2, ensure_ascii=False) + "\n"


def _written(document: Release | RolloutPlan, kind: DocumentType[Any]) -> bytes:
    data = encode_json(document, format=FORMAT)
    kind.read(data)
    return data


def _written_1(
    document: Release | RolloutPlan, kind: DocumentType[Any], new: set[str], **changed: object
) -> bytes:
    tree = {key: value for key, value in plain(document).items() if key not in new}
    data = encode_json(tree | changed, format=1)
    kind.read(data)
    return data


def _invalid(place: str, value: object, bound: str) -> RejectedError:
    return _rejected(f"{place} is {brief(value)}; it must be {bound}")


if __name__ == "__main__":
    for file_name, schema_text in json_schemas().items():
        (Path(__file__).parent / "json" / file_name).write_text(schema_text, "utf-8")
