"""Record: an observation that is kept becomes a sample, whole but for what the spool gives (identity and time)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from connectors.sensors.ports import Observation
from edge_agent.window import Kept
from schemas.predictions import ModelPrediction, of_role
from schemas.reasons import TimeQuality
from schemas.records import Sample
from schemas.roles import SERVING

TO_BE_GIVEN = "0" * 16


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation with all that was found out about it, while it waits in the window. No pixels."""

    observation: Observation
    source_id: str
    lap: int
    monotonic_ns: int
    time_quality: TimeQuality
    predictions: tuple[ModelPrediction, ...] = ()

    @property
    def serving(self) -> ModelPrediction | None:
        """What the serving model said first."""
        return of_role(self.predictions, SERVING)


def incident_name(vehicle_id: str, seen: Seen) -> str:
    """Return the incident that `seen` triggers: the same for the same observation, 32 hex characters."""
    one = seen.observation
    names = (vehicle_id, one.drive_id, one.sensor_id, one.frame_id, str(seen.lap))
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]


def record(seen: Seen, kept: Kept, *, vehicle_id: str, boot_id: str) -> Sample:
    """Return the sample; the spool fills in epoch, seq and the time of spooling."""
    one = seen.observation
    return Sample(
        vehicle_id=vehicle_id,
        epoch=TO_BE_GIVEN,
        previous_epoch="",
        seq=0,
        drive_id=one.drive_id,
        sensor_id=one.sensor_id,
        capture_time_ns=one.capture_time_ns,
        capture_time_uncertainty_ns=one.capture_time_uncertainty_ns,
        monotonic_ns=seen.monotonic_ns,
        boot_id=boot_id,
        spool_time_ns=0,
        frame_id=one.frame_id,
        payload_sha256=hashlib.sha256(one.payload).hexdigest(),
        payload_bytes=len(one.payload),
        payload=one.payload,
        modality=one.modality.value,
        content_type=one.content_type,
        content=one.content,
        calibration_ref=one.calibration_ref,
        time_quality=seen.time_quality,
        track_id=one.track_id,
        incident=kept.incident,
        predictions=seen.predictions,
        rule_id=kept.rule_id,
        rule_score=kept.rule_score,
        value_class=kept.value_class,
        selection_probability=kept.inclusion_probability,
        provenance=one.provenance,
    )
