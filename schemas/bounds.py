"""Check every field of a record against its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Final

from schemas.identity import EPOCH_PATTERN, Identity, is_epoch, is_vehicle_id
from schemas.limits import MAX_DETAIL_CHARS, MAX_LONG, digest, invalid, member, text, whole
from schemas.predictions import check_predictions
from schemas.reasons import (
    EvictReason,
    ModelState,
    NotAcceptedReason,
    Provenance,
    TimeQuality,
    ValueClass,
    WindowRole,
)
from schemas.records import (
    MAX_MODEL_EVENTS,
    Health,
    LedgerCounts,
    ModelEvent,
    Notice,
    RoleReport,
    Sample,
    Telemetry,
)
from schemas.roles import MAX_ROLES, ROLE_PATTERN, SERVING, is_role

MAX_SUBJECTS: Final = 1000
MAX_PROVIDERS: Final = 32


def check_sample(sample: Sample) -> None:
    """Raise RejectedError for the first field of `sample` that is out of bounds.

    A sample may have no prediction: signal blocks and events are not shown to a model.
    """
    Identity(sample.vehicle_id, sample.epoch, sample.seq)
    _previous_epoch(sample.previous_epoch, sample.epoch)
    for name in (
        "drive_id",
        "sensor_id",
        "frame_id",
        "boot_id",
        "modality",
        "content_type",
        "privacy_policy",
    ):
        text(name, getattr(sample, name), least=1)
    for name in ("calibration_ref", "campaign_id", "rule_id", "consent_ref"):
        text(name, getattr(sample, name))
    text("payload_uri", sample.payload_uri, most=MAX_DETAIL_CHARS)
    if sample.track_id is not None:
        text("track_id", sample.track_id, least=1)
    for name in ("capture_time_uncertainty_ns", "monotonic_ns", "payload_bytes"):
        whole(name, getattr(sample, name), least=0)
    for name in ("capture_time_ns", "spool_time_ns"):
        whole(name, getattr(sample, name), least=-MAX_LONG)
    digest("payload_sha256", sample.payload_sha256)
    member("time_quality", sample.time_quality, TimeQuality)
    member("provenance", sample.provenance, Provenance)
    member("value_class", sample.value_class, ValueClass)
    text("content.encoding", sample.content.encoding)
    whole("content.span_ns", sample.content.span_ns, least=0)
    whole("content.items", sample.content.items, least=0)
    if sample.incident is not None:
        text("incident.incident_id", sample.incident.incident_id, least=1)
        member("incident.role", sample.incident.role, WindowRole)
        text("incident.stream", sample.incident.stream, least=1)
    check_predictions(sample.predictions)
    if sample.rule_score is not None and not isfinite(sample.rule_score):
        raise invalid("rule_score", sample.rule_score, "finite or absent")
    if not 0 < sample.selection_probability <= 1:
        raise invalid("selection_probability", sample.selection_probability, "in (0, 1]")
    if len(sample.subject_refs) > MAX_SUBJECTS:
        raise invalid("subject_refs", len(sample.subject_refs), f"at most {MAX_SUBJECTS} of them")
    for subject in sample.subject_refs:
        text("subject_refs", subject, least=1)
    if sample.payload_uri:
        if sample.payload:
            raise invalid("payload", f"{len(sample.payload)} bytes", "empty when payload_uri is given")
    elif len(sample.payload) != sample.payload_bytes:
        raise invalid(
            "payload_bytes", sample.payload_bytes, f"the size of the payload, {len(sample.payload)} bytes"
        )


def check_telemetry(telemetry: Telemetry) -> None:
    """Raise RejectedError for the first field of `telemetry` that is out of bounds."""
    Identity(telemetry.vehicle_id, telemetry.epoch, telemetry.seq)
    _previous_epoch(telemetry.previous_epoch, telemetry.epoch)
    for name in ("boot_id", "agent_version"):
        text(name, getattr(telemetry, name), least=1)
    text("model_name", telemetry.model_name)
    if telemetry.model_digest:
        digest("model_digest", telemetry.model_digest)
    member("model_state", telemetry.model_state, ModelState)
    whole("telemetry_time_ns", telemetry.telemetry_time_ns, least=-MAX_LONG)
    for name in ("monotonic_ns", "swaps", "rollbacks", "frames_seen", "bytes_captured", "bytes_uploaded"):
        whole(name, getattr(telemetry, name), least=0)
    _health("health", telemetry.health)
    _ledger(telemetry.ledger)
    _events("model_events", telemetry.model_events)
    whole("start_number", telemetry.start_number, least=0)
    names = [SERVING, *(each.role for each in telemetry.other_roles)]
    if len(names) > MAX_ROLES:
        raise invalid("other_roles", len(names) - 1, f"at most {MAX_ROLES - 1} of them")
    if len(set(names)) != len(names):
        raise invalid("other_roles", names[1:], "different roles, none of them serving")
    for each in telemetry.other_roles:
        _role_report(each)


def _role_report(report: RoleReport) -> None:
    if not is_role(report.role):
        raise invalid("other_roles.role", report.role, f"of the form {ROLE_PATTERN}")
    place = f"other_roles[{report.role}]"
    if report.model_digest:
        digest(f"{place}.model_digest", report.model_digest)
    for name in ("model_name", "release_id"):
        text(f"{place}.{name}", getattr(report, name))
    member(f"{place}.model_state", report.model_state, ModelState)
    for name in ("swaps", "rollbacks", "frames"):
        whole(f"{place}.{name}", getattr(report, name), least=0)
    _health(f"{place}.health", report.health)
    _events(f"{place}.model_events", report.model_events)


def _health(place: str, health: Health) -> None:
    for name in ("error_count", "nan_count", "latency_p50_ns", "latency_p99_ns"):
        whole(f"{place}.{name}", getattr(health, name), least=0)
    text(f"{place}.last_error", health.last_error, most=MAX_DETAIL_CHARS)
    if len(health.work) > MAX_PROVIDERS:
        raise invalid(f"{place}.work", len(health.work), f"at most {MAX_PROVIDERS} of them")
    for provider, share in health.work.items():
        text(f"{place}.work", provider, least=1)
        if not 0 <= share <= 1:
            raise invalid(f"{place}.work.{provider}", share, "in [0, 1]")


def _events(place: str, events: tuple[ModelEvent, ...]) -> None:
    if len(events) > MAX_MODEL_EVENTS:
        raise invalid(place, len(events), f"at most {MAX_MODEL_EVENTS} of them")
    for event in events:
        whole(f"{place}.time_ns", event.time_ns, least=-MAX_LONG)
        text(f"{place}.event", event.event, least=1)
        for name in ("model_digest", "model_name", "release_id"):
            text(f"{place}.{name}", getattr(event, name))
        text(f"{place}.reason", event.reason, most=MAX_DETAIL_CHARS)


def check_notice(notice: Notice) -> None:
    """Raise RejectedError for the first field of `notice` that is out of bounds."""
    text("notice_id", notice.notice_id, least=1)
    text("kind", notice.kind, least=1)
    whole("published_time_ns", notice.published_time_ns, least=0)
    if notice.target and not is_vehicle_id(notice.target):
        raise invalid("target", notice.target, "a vehicle_id, or empty for all")
    text("detail", notice.detail, most=MAX_DETAIL_CHARS)


def _ledger(ledger: LedgerCounts) -> None:
    for name in ("accepted", "delivered", "pending", "in_doubt"):
        whole(f"ledger.{name}", getattr(ledger, name), least=0)
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
        whole(f"{name}[{reason}]", count, least=0)


def _previous_epoch(previous: str, epoch: str) -> None:
    if previous and (not is_epoch(previous) or previous == epoch):
        raise invalid("previous_epoch", previous, f"empty or another epoch of the form {EPOCH_PATTERN}")
