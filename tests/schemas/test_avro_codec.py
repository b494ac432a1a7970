"""What is encoded is decoded as it was, at every version; every other input is rejected with its reason."""

from __future__ import annotations

import dataclasses
import io
import random
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from foundation.errors import RejectedError
from schemas import codec
from schemas.predictions import (
    Box,
    ClassificationOutput,
    DetectionOutput,
    flat_prediction,
)
from schemas.reasons import RejectReason, ValueClass, WindowRole
from schemas.records import MAX_MODEL_EVENTS, Content, Incident, LedgerCounts, ModelEvent, Sample, Telemetry
from schemas.registry import HEADER_BYTES, load, newest, schemas
from scripts import golden_vectors as golden
from tests.schemas.record_strategies import notices, samples, telemetries

EXAMPLES = golden.examples()
FULL = EXAMPLES["sample-4-full"]
TELEMETRY = EXAMPLES["telemetry-3-placed"]
assert isinstance(FULL, Sample)
assert isinstance(TELEMETRY, Telemetry)


@given(samples())
def test_a_sample_comes_back_as_it_was(sample: Sample) -> None:
    value = codec.encode_sample(sample)
    assert codec.decode_sample(value) == codec.decode(value) == sample


@given(telemetries())
def test_telemetry_comes_back_as_it_was(telemetry: Telemetry) -> None:
    value = codec.encode_telemetry(telemetry)
    assert codec.decode_telemetry(value) == codec.decode(value) == telemetry


@given(notices)
def test_a_notice_comes_back_as_it_was(notice: Any) -> None:
    value = codec.encode_notice(notice)
    assert codec.decode_notice(value) == codec.decode(value) == notice


def encode_at(version: int, sample: Sample) -> bytes:
    """The sample as an agent that knows `version` as its newest writes it."""
    (schema,) = (s for s in schemas().values() if (s.name, s.version) == ("sample", version))
    fields = {name: getattr(sample, name) for name in Sample.__slots__}
    fields["value_class"] = sample.value_class.label
    fields["content"] = dataclasses.asdict(sample.content)
    fields["predictions"] = [dataclasses.asdict(one) for one in sample.predictions]
    incident = sample.incident
    fields["incident_id"] = incident.incident_id if incident else None
    fields["window_role"] = incident.role if incident else "single"
    fields["incident_stream"] = incident.stream if incident else ""
    flat = flat_prediction(sample.predictions)
    fields |= {
        "model_name": "",
        "model_digest": "",
        "predicted_class": "",
        "probabilities": (),
        "embedding": (),
    }
    fields["scores"] = {name: flat.scores.get(name) if flat else None for name in codec.FLAT_SCORES}
    if flat is not None:
        fields |= {name: getattr(flat, name) for name in ("model_name", "model_digest", "embedding")}
        if flat.classification is not None:
            fields["predicted_class"] = flat.classification.class_name
            fields["probabilities"] = flat.classification.probabilities
    out = io.BytesIO()
    schemaless_writer(out, schema.parsed, fields)
    return schema.header + out.getvalue()


@pytest.mark.parametrize("size_bytes", [0, 1, 63, 64, 8_191, 8_192, 50_000, 1_048_575, 1_048_576])
def test_a_payload_of_any_size_is_written_as_the_avro_library_writes_it(size_bytes: int) -> None:
    payload = random.Random(size_bytes).randbytes(size_bytes)
    sample = dataclasses.replace(FULL, payload=payload, payload_bytes=size_bytes, payload_uri="")
    assert codec.encode_sample(sample) == encode_at(newest("sample").version, sample)


@given(samples())
def test_a_sample_is_written_as_the_avro_library_writes_it(sample: Sample) -> None:
    assert codec.encode_sample(sample) == encode_at(newest("sample").version, sample)


@given(samples())
def test_a_sample_of_an_old_version_is_read_as_the_classification_of_the_serving_model(
    sample: Sample,
) -> None:
    assert newest("sample").version == 4
    flat = flat_prediction(sample.predictions)
    if flat is None or flat.classification is None:  # no old vehicle could write this
        assert reason_of(encode_at(2, sample)) == RejectReason.INVALID_VALUE
        return
    scores = {name: score for name, score in flat.scores.items() if name in codec.FLAT_SCORES}
    expected = dataclasses.replace(
        sample,
        content=Content(),
        incident=sample.incident and dataclasses.replace(sample.incident, stream=sample.sensor_id),
        predictions=(
            dataclasses.replace(
                flat,
                role="serving",
                task="classification",
                scores=scores,
                detection=None,
                segmentation=None,
                regression=None,
            ),
        ),
    )
    assert codec.decode(encode_at(1, sample)) == dataclasses.replace(expected, calibration_ref="")
    assert codec.decode(encode_at(2, sample)) == expected


@given(samples())
def test_a_reader_of_version_2_reads_a_new_sample_with_the_first_classification(sample: Sample) -> None:
    (old,) = (s for s in schemas().values() if (s.name, s.version) == ("sample", 2))
    body = io.BytesIO(codec.encode_sample(sample)[HEADER_BYTES:])
    fields = schemaless_reader(body, newest("sample").parsed, old.parsed)
    first = next((one.classification for one in sample.predictions if one.classification), None)
    assert fields["predicted_class"] == (first.class_name if first else "")
    assert fields["probabilities"] == list(first.probabilities if first else ())
    assert set(fields) == {field["name"] for field in old.raw["fields"]}


@pytest.mark.parametrize("modality", ["signals", "pose", "event", "a kind of tomorrow"])
def test_an_observation_that_no_model_looked_at_is_a_legal_sample(modality: str) -> None:
    bare = dataclasses.replace(FULL, modality=modality, predictions=(), content=Content("", 10**9, 0))
    assert codec.decode_sample(codec.encode_sample(bare)) == bare
    assert bare.serving is None


def reason_of(value: bytes) -> str:
    with pytest.raises(RejectedError) as caught:
        codec.decode(value)
    return caught.value.reason


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_record_cut_at_any_byte_is_rejected(name: str) -> None:
    value = golden.encode(EXAMPLES[name])
    for cut in range(len(value)):
        expected = {RejectReason.NOT_SINGLE_OBJECT} if cut < HEADER_BYTES else {RejectReason.TRUNCATED}
        assert reason_of(value[:cut]) in expected, f"cut at {cut}"


def test_bytes_after_the_record_are_rejected() -> None:
    assert reason_of(codec.encode_sample(FULL) + b"\0") == RejectReason.INVALID_VALUE


def test_a_fingerprint_that_nobody_knows_is_rejected() -> None:
    value = codec.encode_sample(FULL)
    assert reason_of(value[:2] + bytes(8) + value[10:]) == RejectReason.UNKNOWN_SCHEMA


def test_bytes_that_are_no_single_object_are_rejected() -> None:
    for value in (b"", b"\xc3", b"Obj\x01" + bytes(20), b"\xc3\x02" + codec.encode_sample(FULL)[2:]):
        assert reason_of(value) == RejectReason.NOT_SINGLE_OBJECT


def test_another_kind_of_record_is_rejected() -> None:
    with pytest.raises(RejectedError, match="the record is a telemetry; it must be a sample") as caught:
        codec.decode_sample(codec.encode_telemetry(TELEMETRY))
    assert caught.value.reason == RejectReason.UNKNOWN_SCHEMA


@settings(max_examples=400)
@given(st.sampled_from(sorted(EXAMPLES)), st.integers(0, 2**32), st.integers(1, 4))
def test_damage_of_any_kind_is_read_or_rejected_and_nothing_else(name: str, seed: int, flips: int) -> None:
    rng = random.Random(seed)
    value = bytearray(golden.encode(EXAMPLES[name]))
    for _ in range(flips):
        value[rng.randrange(HEADER_BYTES, len(value))] = rng.randrange(256)
    try:
        codec.decode(bytes(value))
    except RejectedError as error:
        assert error.reason in set(RejectReason)


@given(st.sampled_from(sorted(schemas())), st.binary(max_size=200))
def test_any_bytes_behind_a_known_fingerprint_are_read_or_rejected(header: bytes, body: bytes) -> None:
    try:
        codec.decode(header + body)
    except RejectedError as error:
        assert error.reason in set(RejectReason)


def test_a_payload_that_is_not_what_its_hash_says_is_rejected() -> None:
    wrong = dataclasses.replace(FULL, payload=FULL.payload[:-1] + b"!")
    value = codec.encode_sample(wrong)
    assert reason_of(value) == RejectReason.PAYLOAD_HASH_MISMATCH
    assert codec.decode_sample(value, check_payload=False) == wrong


LONG_TEXT = "x" * 257


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"drive_id": ""}, ["drive_id", "1 to 256"]),
        ({"rule_id": LONG_TEXT}, ["rule_id", "0 to 256"]),
        ({"track_id": ""}, ["track_id"]),
        ({"payload_sha256": "0" * 63}, ["payload_sha256"]),
        ({"payload_bytes": 3}, ["payload_bytes", "3", str(len(FULL.payload))]),
        ({"payload_uri": "s3://x"}, ["payload", "empty when payload_uri"]),
        ({"content": Content("x" * 257)}, ["content.encoding", "0 to 256"]),
        ({"content": Content(span_ns=-1)}, ["content.span_ns", "-1"]),
        ({"incident": Incident("", WindowRole.PRE, "s")}, ["incident.incident_id", "1 to 256"]),
        ({"incident": Incident("i", WindowRole.PRE, "")}, ["incident.stream"]),
        ({"predictions": FULL.predictions * 33}, ["predictions", "33", "at most 32"]),
        ({"rule_score": float("inf")}, ["rule_score", "inf"]),
        ({"selection_probability": 0.0}, ["selection_probability", "0.0", "(0, 1]"]),
        ({"selection_probability": 1.1}, ["selection_probability", "1.1"]),
        ({"seq": -1}, ["seq", "-1"]),
        ({"seq": 2**63}, ["seq", str(2**63)]),
        ({"vehicle_id": "Car"}, ["vehicle_id", "Car"]),
        ({"epoch": "xyz"}, ["epoch", "xyz"]),
        ({"previous_epoch": FULL.epoch}, ["previous_epoch", "another epoch"]),
        ({"capture_time_ns": 2**63}, ["capture_time_ns"]),
        ({"capture_time_ns": 1.5}, ["capture_time_ns", "1.5", "whole"]),
        ({"capture_time_uncertainty_ns": -1}, ["capture_time_uncertainty_ns", "-1"]),
        ({"time_quality": "ok"}, ["time_quality", "TimeQuality"]),
        ({"value_class": 2}, ["value_class", "ValueClass"]),
        ({"subject_refs": ("",)}, ["subject_refs"]),
        ({"frame_id": "\ud800"}, ["cannot be encoded"]),
    ],
)
def test_a_field_out_of_bounds_is_named_and_never_encoded(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RejectedError) as caught:
        codec.encode_sample(dataclasses.replace(FULL, **change))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.reason in (RejectReason.INVALID_VALUE, RejectReason.MALFORMED_IDENTITY)


def box(**change: Any) -> DetectionOutput:
    return DetectionOutput((Box("car", 0.5, 0.0, 0.0, 1.0, 1.0), Box(**{**BOX, **change})))


BOX: dict[str, Any] = {
    "class_name": "car",
    "score": 0.5,
    "left": 0.0,
    "top": 0.0,
    "right": 1.0,
    "bottom": 1.0,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": "Serving"}, ["role", "Serving", "[a-z]"]),
        ({"task": ""}, ["task"]),
        ({"model_name": ""}, ["model_name", "1 to 256"]),
        ({"model_digest": "A" * 64}, ["model_digest", "lower-case hex"]),
        ({"embedding": (float("inf"),)}, ["embedding", "finite"]),
        ({"embedding": (float("inf"), float("-inf"))}, ["embedding", "finite"]),
        ({"embedding": (0.0,) * 4097}, ["embedding", "4097", "4096"]),
        ({"embedding": (1e300,)}, ["embedding"]),
        ({"scores": {"entropy": 1.01}}, ["scores.entropy", "1.01", "[0, 1]"]),
        ({"scores": {"novelty": float("nan")}}, ["scores.novelty", "nan"]),
        ({"scores": {"No": 0.5}}, ["scores", "No"]),
        ({"scores": {f"s{n}": 0.5 for n in range(65)}}, ["scores", "65", "at most 64"]),
        ({"classification": ClassificationOutput("", ())}, ["classification.class_name"]),
        ({"classification": ClassificationOutput("red", (0.5, 1.5))}, ["probabilities", "[0, 1]"]),
        ({"classification": ClassificationOutput("red", (0.5, float("nan")))}, ["probabilities", "nan"]),
        ({"detection": box(score=1.5)}, ["boxes[1].score", "1.5", "[0, 1]"]),
        ({"detection": box(left=2.0)}, ["boxes[1]", "left <= right"]),
        ({"detection": box(bottom=float("nan"))}, ["boxes[1]", "nan"]),
        ({"detection": box(class_name="")}, ["boxes[1].class_name"]),
        ({"detection": DetectionOutput((Box(**BOX),) * 1001)}, ["boxes", "1001", "at most 1000"]),
    ],
)
def test_a_prediction_out_of_bounds_is_named_and_never_encoded(
    change: dict[str, Any], words: list[str]
) -> None:
    one = dataclasses.replace(FULL.predictions[0], **change)
    with pytest.raises(RejectedError) as caught:
        codec.encode_sample(dataclasses.replace(FULL, predictions=(FULL.predictions[0], one)))
    for word in ["predictions[1]", *words]:
        assert word in str(caught.value)
    assert caught.value.reason == RejectReason.INVALID_VALUE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"ledger": LedgerCounts(accepted=3, delivered=1, pending=1)},
            ["ledger.accepted", "3", "delivered 1"],
        ),
        ({"ledger": LedgerCounts(accepted=1, evicted={"mood": 1})}, ["ledger.evicted", "mood", "quota"]),
        ({"ledger": LedgerCounts(not_accepted={"oversize": -1})}, ["not_accepted[oversize]", "-1"]),
        ({"swaps": -1}, ["swaps"]),
        ({"model_digest": "x"}, ["model_digest"]),
        (
            {"model_events": (ModelEvent(0, "", "", "e"),) * (MAX_MODEL_EVENTS + 1)},
            ["model_events", "201", "at most 200"],
        ),
        ({"model_events": (ModelEvent(0, "", "", ""),)}, ["model_events.event"]),
    ],
)
def test_telemetry_that_does_not_add_up_is_named(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RejectedError) as caught:
        codec.encode_telemetry(dataclasses.replace(TELEMETRY, **change))
    for word in words:
        assert word in str(caught.value)


def test_the_fingerprint_is_the_one_of_the_specification() -> None:
    # Avro 1.12, "Schema Fingerprints": CRC-64-AVRO of "int" is 7275d51a3f395c8f; little endian here.
    assert load("int", 1, '"int"').header == b"\xc3\x01" + (0x7275D51A3F395C8F).to_bytes(8, "little")


def test_every_word_of_the_schema_is_a_word_of_the_code() -> None:
    from schemas.reasons import Provenance, TimeQuality, WindowRole

    fields = {field["name"]: field["type"] for field in newest("sample").raw["fields"]}
    assert fields["value_class"]["symbols"] == [member.label for member in ValueClass]
    assert fields["time_quality"]["symbols"] == list(TimeQuality)
    assert fields["window_role"]["symbols"] == list(WindowRole)
    assert fields["provenance"]["symbols"] == list(Provenance)
    assert set(fields) >= set(Sample.__slots__) - {"incident"}
    assert set(Telemetry.__slots__) == {field["name"] for field in newest("telemetry").raw["fields"]}


def test_an_unbounded_count_in_hostile_bytes_ends_at_once() -> None:
    value = codec.encode_sample(FULL)
    at = value.index(b"\x06" + b"\0\0\0\x3f")  # three probabilities, the first 0.5
    hostile = value[:at] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" + value[at + 1 :]
    assert reason_of(hostile) in (RejectReason.TRUNCATED, RejectReason.INVALID_VALUE)
