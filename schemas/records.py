"""The records that vehicles and cloud exchange, with the unit of each field.

Constructing a record checks nothing, so that an invalid one can be held and reported; `schemas.bounds` checks it. The
codec checks when it encodes and when it decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.identity import Identity
from schemas.predictions import ModelPrediction, of_role
from schemas.reasons import Modality, ModelState, Provenance, TimeQuality, ValueClass, WindowRole
from schemas.roles import SERVING

MAX_MODEL_EVENTS = 200
"""Telemetry carries at most this many of the latest events of the model slots."""


@dataclass(frozen=True, slots=True)
class Content:
    """The encoding of a payload beyond its content type, and the time span that it covers.

    The payload covers [capture_time_ns, capture_time_ns + span_ns); a span of 0 is one instant. `items` is the number of
    images, rows or events in it.
    """

    encoding: str = ""
    span_ns: int = 0
    items: int = 1


@dataclass(frozen=True, slots=True)
class Incident:
    """The trigger window of a sample, across all streams of the vehicle.

    `role` is the position in the window; `stream` names the stream whose observation triggered it.
    """

    incident_id: str
    role: WindowRole
    stream: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One observation that a vehicle selected: its origin, its predictions and why it was selected.

    `payload_sha256` and `payload_bytes` describe the payload, which is inline in `payload`, or stored at `payload_uri` (then
    `payload` is empty). The spool assigns `seq` and `epoch`. Times are in nanoseconds; wall times may be wrong, and
    `time_quality` says how far they can be trusted. No vehicle sets `campaign_id` yet: it is read and kept.
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
    payload_sha256: str
    payload_bytes: int
    payload: bytes = field(repr=False)
    modality: str = Modality.IMAGE.value
    content_type: str = "image/jpeg"
    content: Content = Content()
    calibration_ref: str = ""
    time_quality: TimeQuality = TimeQuality.OK
    track_id: str | None = None
    incident: Incident | None = None
    predictions: tuple[ModelPrediction, ...] = ()
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

    @property
    def serving(self) -> ModelPrediction | None:
        """The first prediction of the serving model; None if there is none."""
        return of_role(self.predictions, SERVING)


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """Samples counted by outcome: accepted = delivered + pending + in_doubt + sum of evicted."""

    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    in_doubt: int = 0
    evicted: Mapping[str, int] = field(default_factory=dict)
    not_accepted: Mapping[str, int] = field(default_factory=dict)

    def balances(self) -> bool:
        """Return whether every accepted sample is accounted for."""
        return self.accepted == self.delivered + self.pending + self.in_doubt + sum(self.evicted.values())


@dataclass(frozen=True, slots=True)
class Health:
    """Health of a model since the agent started. Latencies are per inference, in nanoseconds."""

    error_count: int = 0
    nan_count: int = 0
    latency_p50_ns: int = 0
    latency_p99_ns: int = 0
    last_error: str = ""
    work: Mapping[str, float] = field(default_factory=dict)
    """Share of the multiply-accumulate operations of the model of now by execution provider; empty when it cannot be told."""
    is_fallen_back: bool = False
    """Whether it runs on the CPU, in part or whole, although another provider was wanted first."""


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """A change in a vehicle's model slots. `event` is for example activated, refused or rolled_back."""

    time_ns: int
    model_digest: str
    model_name: str
    event: str
    reason: str = ""
    release_id: str = ""


@dataclass(frozen=True, slots=True)
class RoleReport:
    """The model of one role on a vehicle: its identity, its state, and the counts of the role since enrolment.

    `model_digest` is empty while the role has no model; `frames` counts its inferences, failed ones included.
    """

    role: str
    model_digest: str
    model_name: str
    model_state: ModelState
    release_id: str = ""
    swaps: int = 0
    rollbacks: int = 0
    frames: int = 0
    health: Health = Health()
    model_events: tuple[ModelEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Telemetry:
    """A status report of a vehicle. Counts are cumulative, so that a lost report loses nothing.

    `epoch` and `seq` belong to the deliver process and are independent of those of samples. The model fields describe the
    role serving; `other_roles` describes the others.
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
    start_number: int = 0
    """Increases at each start of deliver, so that (start_number, seq) orders a vehicle's reports; 0 in version 1."""
    other_roles: tuple[RoleReport, ...] = ()

    @property
    def identity(self) -> Identity:
        """Raises RejectedError (malformed_identity)."""
        return Identity(self.vehicle_id, self.epoch, self.seq)

    def roles(self) -> tuple[RoleReport, ...]:
        """Return a report per role, serving first."""
        serving = RoleReport(
            role=SERVING,
            model_digest=self.model_digest,
            model_name=self.model_name,
            model_state=self.model_state,
            swaps=self.swaps,
            rollbacks=self.rollbacks,
            frames=self.frames_seen,
            health=self.health,
            model_events=self.model_events,
        )
        return (serving, *self.other_roles)


@dataclass(frozen=True, slots=True)
class Notice:
    """A hint to refresh the signed repository now; it is never trusted itself. An empty `target` means every vehicle."""

    notice_id: str
    published_time_ns: int
    kind: str = "release"
    target: str = ""
    detail: str = ""
