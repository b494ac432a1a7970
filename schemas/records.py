"""The records that cross a border, each field with its unit and its bound.

Building a record checks nothing, so that a bad one can be held and named; `validate` says what is wrong with
it. The codec validates on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.identity import Identity
from schemas.reasons import ModelState, Provenance, TimeQuality, ValueClass, WindowRole

MAX_MODEL_EVENTS = 200
"""Telemetry carries at most the last so many events of the model slots."""


@dataclass(frozen=True, slots=True)
class Scores:
    """How much a prediction is worth learning from: 0 (nothing) to 1, None where it was not computed."""

    entropy: float | None = None
    margin: float | None = None
    least_confidence: float | None = None
    novelty: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame that a vehicle chose to keep, where it is from, what the model said and why it was taken.

    `payload_sha256` and `payload_bytes` describe the payload, which is inline in `payload`, or elsewhere at
    `payload_uri` (then `payload` is empty). `seq` and `epoch` are given by the spool. Times are nanoseconds;
    wall times may be wrong, `time_quality` says how far they can be believed.
    """

    vehicle_id: str
    epoch: str
    previous_epoch: str
    seq: int
    drive_id: str
    sensor_id: str
    capture_time_ns: int
    capture_time_uncertainty_ns: int
    monotonic_ns: int
    boot_id: str
    spool_time_ns: int
    frame_id: str
    model_name: str
    model_digest: str
    predicted_class: str
    probabilities: tuple[float, ...]
    payload_sha256: str
    payload_bytes: int
    payload: bytes = field(repr=False)
    modality: str = "image"
    content_type: str = "image/jpeg"
    calibration_ref: str = ""
    time_quality: TimeQuality = TimeQuality.OK
    track_id: str | None = None
    incident_id: str | None = None
    window_role: WindowRole = WindowRole.SINGLE
    embedding: tuple[float, ...] = field(default=(), repr=False)
    scores: Scores = Scores()
    campaign_id: str = ""
    rule_id: str = ""
    rule_score: float | None = None
    value_class: ValueClass = ValueClass.NORMAL
    selection_probability: float = 1.0
    privacy_policy: str = "none"
    consent_ref: str = ""
    subject_refs: tuple[str, ...] = ()
    provenance: Provenance = Provenance.RECORDED
    payload_uri: str = ""

    @property
    def identity(self) -> Identity:
        """Raises RejectedError (malformed_identity)."""
        return Identity(self.vehicle_id, self.epoch, self.seq)

    def validate(self) -> None:
        """Raises RejectedError (invalid_value, malformed_identity) naming field, value and bound."""
        from schemas.bounds import check_sample

        check_sample(self)


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """Samples by what became of them: accepted = delivered + pending + in_doubt + sum of evicted."""

    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    in_doubt: int = 0
    evicted: Mapping[str, int] = field(default_factory=dict)
    not_accepted: Mapping[str, int] = field(default_factory=dict)

    def balances(self) -> bool:
        """Whether every accepted sample is accounted for."""
        return self.accepted == self.delivered + self.pending + self.in_doubt + sum(self.evicted.values())


@dataclass(frozen=True, slots=True)
class Health:
    """How the serving model behaves since the agent started. Latencies are of one inference."""

    error_count: int = 0
    nan_count: int = 0
    latency_p50_ns: int = 0
    latency_p99_ns: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """One change in a vehicle's model slots. `event` is a word such as activated, refused, rolled_back."""

    time_ns: int
    model_digest: str
    model_name: str
    event: str
    reason: str = ""
    release_id: str = ""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What a vehicle says about itself. Counts are cumulative: losing one record of these loses nothing.

    `epoch` and `seq` are of the deliver process, apart from those of samples.
    """

    vehicle_id: str
    epoch: str
    previous_epoch: str
    seq: int
    telemetry_time_ns: int
    monotonic_ns: int
    boot_id: str
    agent_version: str
    model_digest: str
    model_name: str
    model_state: ModelState = ModelState.SERVING
    swaps: int = 0
    rollbacks: int = 0
    frames_seen: int = 0
    ledger: LedgerCounts = LedgerCounts()
    health: Health = Health()
    model_events: tuple[ModelEvent, ...] = ()
    bytes_captured: int = 0
    bytes_uploaded: int = 0

    @property
    def identity(self) -> Identity:
        """Raises RejectedError (malformed_identity)."""
        return Identity(self.vehicle_id, self.epoch, self.seq)

    def validate(self) -> None:
        """Raises RejectedError (invalid_value, malformed_identity) naming field, value and bound."""
        from schemas.bounds import check_telemetry

        check_telemetry(self)


@dataclass(frozen=True, slots=True)
class Notice:
    """Look now: it says where to look and is never itself trusted. An empty `target` means every vehicle."""

    notice_id: str
    published_time_ns: int
    kind: str = "release"
    target: str = ""
    detail: str = ""

    def validate(self) -> None:
        """Raises RejectedError (invalid_value) naming field, value and bound."""
        from schemas.bounds import check_notice

        check_notice(self)
