"""The bounds of every field, checked in one place. Each message names field, value and bound."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Final

from foundation.errors import RejectedError
from schemas.identity import EPOCH_PATTERN, Identity, is_epoch, is_vehicle_id
from schemas.reasons import (
    EvictReason,
    ModelState,
    NotAcceptedReason,
    Provenance,
    RejectReason,
    TimeQuality,
    ValueClass,
    WindowRole,
)
from schemas.records import MAX_MODEL_EVENTS, LedgerCounts, Notice, Sample, Telemetry

MAX_TEXT_CHARS: Final = 256
MAX_DETAIL_CHARS: Final = 4096
MAX_CLASSES: Final = 10_000
MAX_EMBEDDING: Final = 4096
MAX_SUBJECTS: Final = 1000
MAX_FLOAT32: Final = 3.4028234663852886e38
MAX_LONG: Final = 2**63 - 1

_sha256 = re.compile(r"[0-9a-f]{64}").fullmatch


def invalid(field: str, value: object, bound: str) -> RejectedError:
    """The error for one field: its name, its value (cut to 100 characters) and its bound."""
    return RejectedError(
        f"{field} is {str(value)[:100]!r}; it must be {bound}", reason=RejectReason.INVALID_VALUE
    )


def check_sample(sample: Sample) -> None:
    """Raises RejectedError for the first field of `sample` that is out of its bounds."""
    Identity(sample.vehicle_id, sample.epoch, sample.seq)
    _previous_epoch(sample.previous_epoch, sample.epoch)
    for name in ("drive_id", "sensor_id", "frame_id", "boot_id", "model_name", "predicted_class", "modality"):
        _text(name, getattr(sample, name), least=1)
    for name in ("content_type", "privacy_policy"):
        _text(name, getattr(sample, name), least=1)
    for name in ("calibration_ref", "campaign_id", "rule_id", "consent_ref"):
        _text(name, getattr(sample, name))
    _text("payload_uri", sample.payload_uri, most=MAX_DETAIL_CHARS)
    for name in ("track_id", "incident_id"):
        value = getattr(sample, name)
        if value is not None:
            _text(name, value, least=1)
    for name in ("capture_time_uncertainty_ns", "monotonic_ns", "payload_bytes"):
        _whole(name, getattr(sample, name), least=0)
    for name in ("capture_time_ns", "spool_time_ns"):
        _whole(name, getattr(sample, name), least=-MAX_LONG)
    _digest("model_digest", sample.model_digest)
    _digest("payload_sha256", sample.payload_sha256)
    _member("time_quality", sample.time_quality, TimeQuality)
    _member("window_role", sample.window_role, WindowRole)
    _member("provenance", sample.provenance, Provenance)
    _member("value_class", sample.value_class, ValueClass)
    _vector("probabilities", sample.probabilities, MAX_CLASSES)
    if sample.probabilities and not (min(sample.probabilities) >= 0 and max(sample.probabilities) <= 1):
        raise invalid("probabilities", (min(sample.probabilities), max(sample.probabilities)), "in [0, 1]")
    _vector("embedding", sample.embedding, MAX_EMBEDDING)
    for name in ("entropy", "margin", "least_confidence", "novelty"):
        score = getattr(sample.scores, name)
        if score is not None and not 0 <= score <= 1:
            raise invalid(f"scores.{name}", score, "in [0, 1] or absent")
    if sample.rule_score is not None and not isfinite(sample.rule_score):
        raise invalid("rule_score", sample.rule_score, "finite or absent")
    if not 0 < sample.selection_probability <= 1:
        raise invalid("selection_probability", sample.selection_probability, "in (0, 1]")
    if len(sample.subject_refs) > MAX_SUBJECTS:
        raise invalid("subject_refs", len(sample.subject_refs), f"at most {MAX_SUBJECTS} of them")
    for subject in sample.subject_refs:
        _text("subject_refs", subject, least=1)
    if sample.payload_uri:
        if sample.payload:
            raise invalid("payload", f"{len(sample.payload)} bytes", "empty when payload_uri is given")
    elif len(sample.payload) != sample.payload_bytes:
        raise invalid(
            "payload_bytes", sample.payload_bytes, f"the size of the payload, {len(sample.payload)} bytes"
        )


def check_telemetry(telemetry: Telemetry) -> None:
    """Raises RejectedError for the first field of `telemetry` that is out of its bounds."""
    Identity(telemetry.vehicle_id, telemetry.epoch, telemetry.seq)
    _previous_epoch(telemetry.previous_epoch, telemetry.epoch)
    for name in ("boot_id", "agent_version"):
        _text(name, getattr(telemetry, name), least=1)
    _text("model_name", telemetry.model_name)
    if telemetry.model_digest:
        _digest("model_digest", telemetry.model_digest)
    _member("model_state", telemetry.model_state, ModelState)
    _whole("telemetry_time_ns", telemetry.telemetry_time_ns, least=-MAX_LONG)
    for name in ("monotonic_ns", "swaps", "rollbacks", "frames_seen", "bytes_captured", "bytes_uploaded"):
        _whole(name, getattr(telemetry, name), least=0)
    for name in ("error_count", "nan_count", "latency_p50_ns", "latency_p99_ns"):
        _whole(f"health.{name}", getattr(telemetry.health, name), least=0)
    _text("health.last_error", telemetry.health.last_error, most=MAX_DETAIL_CHARS)
    _ledger(telemetry.ledger)
    if len(telemetry.model_events) > MAX_MODEL_EVENTS:
        raise invalid("model_events", len(telemetry.model_events), f"at most {MAX_MODEL_EVENTS} of them")
    for event in telemetry.model_events:
        _whole("model_events.time_ns", event.time_ns, least=-MAX_LONG)
        _text("model_events.event", event.event, least=1)
        for name in ("model_digest", "model_name", "release_id"):
            _text(f"model_events.{name}", getattr(event, name))
        _text("model_events.reason", event.reason, most=MAX_DETAIL_CHARS)


def check_notice(notice: Notice) -> None:
    """Raises RejectedError for the first field of `notice` that is out of its bounds."""
    _text("notice_id", notice.notice_id, least=1)
    _text("kind", notice.kind, least=1)
    _whole("published_time_ns", notice.published_time_ns, least=0)
    if notice.target and not is_vehicle_id(notice.target):
        raise invalid("target", notice.target, "a vehicle_id, or empty for all")
    _text("detail", notice.detail, most=MAX_DETAIL_CHARS)


def _ledger(ledger: LedgerCounts) -> None:
    for name in ("accepted", "delivered", "pending", "in_doubt"):
        _whole(f"ledger.{name}", getattr(ledger, name), least=0)
    _counts("ledger.evicted", ledger.evicted, EvictReason)
    _counts("ledger.not_accepted", ledger.not_accepted, NotAcceptedReason)
    if not ledger.balances():
        raise invalid(
            "ledger.accepted",
            ledger.accepted,
            f"delivered {ledger.delivered} + pending {ledger.pending} + in_doubt {ledger.in_doubt}"
            f" + evicted {sum(ledger.evicted.values())}",
        )


def _counts(
    name: str, counts: Mapping[str, int], reasons: type[EvictReason] | type[NotAcceptedReason]
) -> None:
    for reason, count in counts.items():
        if reason not in reasons.__members__.values():
            raise invalid(name, reason, "one of " + ", ".join(reasons))
        _whole(f"{name}[{reason}]", count, least=0)


def _previous_epoch(previous: str, epoch: str) -> None:
    if previous and (not is_epoch(previous) or previous == epoch):
        raise invalid("previous_epoch", previous, f"empty or another epoch of the form {EPOCH_PATTERN}")


def _text(name: str, value: object, *, least: int = 0, most: int = MAX_TEXT_CHARS) -> None:
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise invalid(name, value, f"text of {least} to {most} characters")


def _whole(name: str, value: object, *, least: int) -> None:
    if type(value) is not int or not least <= value <= MAX_LONG:
        raise invalid(name, value, f"a whole number in [{least}, {MAX_LONG}]")


def _digest(name: str, value: str) -> None:
    if _sha256(value) is None:
        raise invalid(name, value, "64 lower-case hex characters (sha256)")


def _member(name: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        raise invalid(name, value, f"a {kind.__name__}")


def _vector(name: str, values: tuple[float, ...], most: int) -> None:
    if len(values) > most:
        raise invalid(name, len(values), f"at most {most} numbers")
    # The sum finds a nan, which min and max may miss; all three run at the speed of C.
    if values and not (isfinite(sum(values)) and min(values) >= -MAX_FLOAT32 and max(values) <= MAX_FLOAT32):
        raise invalid(
            name, "nan, infinite or too large", f"finite numbers within {MAX_FLOAT32:.8g} of 0 (float32)"
        )
