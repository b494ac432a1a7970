"""Hypothesis strategies of valid records, for every test that needs any record at all."""

from __future__ import annotations

import hashlib
import zlib

from hypothesis import strategies as st

from schemas.predictions import (
    UNSEEN,
    Box,
    ClassificationOutput,
    DetectionOutput,
    ModelPrediction,
    RegressionOutput,
    SegmentationOutput,
)
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
    Content,
    Health,
    Incident,
    LedgerCounts,
    ModelEvent,
    Notice,
    RoleReport,
    Sample,
    Telemetry,
)
from schemas.roles import ROLE_PATTERN, SERVING

LONG = st.integers(0, 2**63 - 1)
TIME = st.integers(-(2**63) + 1, 2**63 - 1)
text = st.text(st.characters(codec="utf-8"), max_size=20)
name = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
vehicle_id = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
epoch = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)
digest = st.binary(max_size=4).map(lambda data: hashlib.sha256(data).hexdigest())
float32s = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8).map(tuple)
shares = st.lists(st.floats(0, 1, width=32), max_size=8).map(tuple)
word = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
edge = st.floats(-(2.0**20), 2.0**20, width=32)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    left, right = sorted((draw(edge), draw(edge)))
    top, bottom = sorted((draw(edge), draw(edge)))
    return Box(draw(name), draw(st.floats(0, 1, width=32)), left, top, right, bottom)


@st.composite
def masks(draw: st.DrawFn) -> SegmentationOutput:
    classes = tuple(draw(st.lists(name, min_size=1, max_size=3)))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    cell = st.sampled_from([*range(len(classes)), UNSEEN])
    cells = draw(st.lists(cell, min_size=height * width, max_size=height * width))
    return SegmentationOutput(classes, height, width, zlib.compress(bytes(cells)))


@st.composite
def regressions(draw: st.DrawFn) -> RegressionOutput:
    names = draw(st.lists(name, min_size=1, max_size=4))
    return RegressionOutput(
        tuple(names), tuple(draw(st.lists(edge, min_size=len(names), max_size=len(names))))
    )


model_predictions = st.builds(
    ModelPrediction,
    role=st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True),
    task=word,
    model_name=name,
    model_digest=digest,
    scores=st.dictionaries(word | st.sampled_from(["entropy", "novelty"]), st.floats(0, 1), max_size=4),
    embedding=float32s,
    classification=st.none() | st.builds(ClassificationOutput, name, shares),
    detection=st.none() | st.builds(DetectionOutput, st.lists(boxes(), max_size=3).map(tuple)),
    segmentation=st.none() | masks(),
    regression=st.none() | regressions(),
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    payload = draw(st.binary(max_size=300))
    uri = draw(st.just("") | name)
    own = draw(epoch)
    return Sample(
        vehicle_id=draw(vehicle_id),
        epoch=own,
        previous_epoch=draw((st.just("") | epoch).filter(lambda other: other != own)),
        seq=draw(LONG),
        drive_id=draw(name),
        sensor_id=draw(name),
        capture_time_ns=draw(TIME),
        capture_time_uncertainty_ns=draw(LONG),
        monotonic_ns=draw(LONG),
        boot_id=draw(name),
        spool_time_ns=draw(TIME),
        frame_id=draw(name),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        payload_bytes=len(payload),
        payload=b"" if uri else payload,
        modality=draw(name),
        content_type=draw(name),
        calibration_ref=draw(text),
        time_quality=draw(st.sampled_from(TimeQuality)),
        track_id=draw(st.none() | name),
        content=draw(st.builds(Content, text, LONG, LONG)),
        incident=draw(st.none() | st.builds(Incident, name, st.sampled_from(WindowRole), name)),
        predictions=draw(st.lists(model_predictions, max_size=3).map(tuple)),
        campaign_id=draw(text),
        rule_id=draw(text),
        rule_score=draw(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        value_class=draw(st.sampled_from(ValueClass)),
        selection_probability=draw(st.floats(0, 1, exclude_min=True)),
        privacy_policy=draw(name),
        consent_ref=draw(text),
        subject_refs=draw(st.lists(name, max_size=3).map(tuple)),
        provenance=draw(st.sampled_from(Provenance)),
        payload_uri=uri,
    )


SMALL = st.integers(0, 2**40)


@st.composite
def ledgers(draw: st.DrawFn) -> LedgerCounts:
    delivered, pending, in_doubt = draw(SMALL), draw(SMALL), draw(SMALL)
    evicted = draw(st.dictionaries(st.sampled_from(EvictReason).map(str), SMALL))
    return LedgerCounts(
        delivered + pending + in_doubt + sum(evicted.values()),
        delivered,
        pending,
        in_doubt,
        evicted,
        draw(st.dictionaries(st.sampled_from(NotAcceptedReason).map(str), SMALL)),
    )


health = st.builds(Health, LONG, LONG, LONG, LONG, text)
events = st.lists(st.builds(ModelEvent, TIME, text, text, name, text, text), max_size=3).map(tuple)
role_reports = st.builds(
    RoleReport,
    st.from_regex(ROLE_PATTERN, fullmatch=True).filter(lambda role: role != SERVING),
    st.just("") | digest,
    text,
    st.sampled_from(ModelState),
    text,
    LONG,
    LONG,
    LONG,
    health,
    events,
)


@st.composite
def telemetries(draw: st.DrawFn) -> Telemetry:
    return Telemetry(
        vehicle_id=draw(vehicle_id),
        epoch=draw(epoch),
        previous_epoch="",
        seq=draw(LONG),
        telemetry_time_ns=draw(TIME),
        monotonic_ns=draw(LONG),
        boot_id=draw(name),
        agent_version=draw(name),
        model_digest=draw(st.just("") | digest),
        model_name=draw(text),
        model_state=draw(st.sampled_from(ModelState)),
        swaps=draw(LONG),
        rollbacks=draw(LONG),
        frames_seen=draw(LONG),
        ledger=draw(ledgers()),
        health=draw(health),
        model_events=draw(events),
        bytes_captured=draw(LONG),
        bytes_uploaded=draw(LONG),
        start_number=draw(LONG),
        other_roles=tuple(draw(st.lists(role_reports, max_size=3, unique_by=lambda each: each.role))),
    )


notices = st.builds(Notice, name, LONG, kind=name, target=st.just("") | vehicle_id, detail=text)
