"""Encode records as Avro single objects in the newest schema version, and decode records of every version.

Every failure to decode is a RejectedError with a reason; no input, however hostile, raises any other error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, Final, TypeVar

from fastavro import schemaless_reader, schemaless_writer
from fastavro.schema import SchemaParseException

from foundation.errors import RejectedError
from schemas.bounds import check_notice, check_sample, check_telemetry
from schemas.predictions import (
    CLASSIFICATION,
    ClassificationOutput,
    ModelPrediction,
    flat_prediction,
    from_plain,
    to_plain,
)
from schemas.reasons import ModelState, Provenance, RejectReason, TimeQuality, ValueClass, WindowRole
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
from schemas.registry import HEADER_BYTES, MARKER, Schema, newest, schemas
from schemas.roles import SERVING

_T = TypeVar("_T")

_SHAPED: Final = frozenset({"content", "incident", "predictions", "value_class"})
"""Fields of `Sample` that have another shape on the wire."""
_FIELDS: Final = tuple(name for name in Sample.__slots__ if name not in _SHAPED)
_field_values = attrgetter(*_FIELDS)
FLAT_SCORES: Final = ("entropy", "margin", "least_confidence", "novelty")
"""Scores that have a field of their own on the wire and a column of their own in the lake."""
_LABELS: Final = {member: member.label for member in ValueClass}


def encode_sample(sample: Sample) -> bytes:
    """Encode a sample. Raises RejectedError (invalid_value, malformed_identity)."""
    check_sample(sample)
    fields: dict[str, Any] = dict(zip(_FIELDS, _field_values(sample), strict=True))
    content, incident = sample.content, sample.incident
    fields["content"] = {"encoding": content.encoding, "span_ns": content.span_ns, "items": content.items}
    fields["incident_id"] = incident and incident.incident_id
    fields["incident_stream"] = incident.stream if incident else ""
    fields["window_role"] = incident.role if incident else WindowRole.SINGLE
    fields["predictions"] = [to_plain(one) for one in sample.predictions]
    fields |= _flat_fields(sample.predictions)
    fields["value_class"] = _LABELS[sample.value_class]
    payload = sample.payload
    if not _ends_with_payload() or not isinstance(payload, bytes):
        return _write("sample", fields)
    # Avro writes the fields of a record in order, and bytes as a length followed by the bytes. The payload is the last
    # field: appended here, it is copied once and not four times.
    fields["payload"] = b""
    return b"".join((_write("sample", fields)[:-1], _avro_long(len(payload)), payload))


def encode_telemetry(telemetry: Telemetry) -> bytes:
    """Encode telemetry. Raises RejectedError (invalid_value, malformed_identity)."""
    check_telemetry(telemetry)
    fields = dataclasses.asdict(telemetry)
    for name in ("evicted", "not_accepted"):
        counts = fields["ledger"][name]
        fields["ledger"][name] = {str(reason): count for reason, count in counts.items()}
    return _write("telemetry", fields)


def encode_notice(notice: Notice) -> bytes:
    """Encode a notice. Raises RejectedError (invalid_value)."""
    check_notice(notice)
    return _write("notice", {name: getattr(notice, name) for name in Notice.__slots__})


def decode(value: bytes, *, check_payload: bool = True) -> Sample | Telemetry | Notice:
    """Decode a record of the kind that its schema fingerprint names.

    Args:
        value: one record in Avro single-object encoding.
        check_payload: whether to compare an inline payload with payload_sha256, at the cost of one SHA-256.

    Raises:
        RejectedError: not_single_object, unknown_schema, truncated, invalid_value, malformed_identity,
            payload_hash_mismatch.
    """
    schema = _schema(value)
    if schema.name == "sample":
        return _sample(_read(value, schema), schema.version, check_payload)
    if schema.name == "telemetry":
        return _telemetry(_read(value, schema))
    return _notice(_read(value, schema))


def decode_sample(value: bytes, *, check_payload: bool = True) -> Sample:
    """Decode a sample, as `decode`; another kind of record is rejected as unknown_schema."""
    schema = _schema(value, "sample")
    return _sample(_read(value, schema), schema.version, check_payload)


def decode_telemetry(value: bytes) -> Telemetry:
    """Decode telemetry, as `decode`; another kind of record is rejected as unknown_schema."""
    return _telemetry(_read(value, _schema(value, "telemetry")))


def decode_notice(value: bytes) -> Notice:
    """Decode a notice, as `decode`; another kind of record is rejected as unknown_schema."""
    return _notice(_read(value, _schema(value, "notice")))


@cache
def _ends_with_payload() -> bool:
    last = newest("sample").raw["fields"][-1]
    return bool(last["name"] == "payload" and last["type"] == "bytes")


def _avro_long(number: int) -> bytes:
    """Encode a non-negative integer as an Avro long: zigzag, then seven bits per byte, lowest first."""
    left, out = number << 1, bytearray()
    while left > 0x7F:
        out.append(0x80 | (left & 0x7F))
        left >>= 7
    out.append(left)
    return bytes(out)


def _write(name: str, fields: Mapping[str, Any]) -> bytes:
    schema = newest(name)
    out = io.BytesIO(schema.header)
    out.seek(HEADER_BYTES)
    try:
        schemaless_writer(out, schema.parsed, fields)
    except (ValueError, TypeError, OverflowError, KeyError, AttributeError) as error:
        # A value that passes the checks but that Avro cannot encode, such as a lone surrogate.
        raise _rejected(RejectReason.INVALID_VALUE, f"{name} cannot be encoded: {error}") from error
    return out.getvalue()


def _schema(value: bytes, name: str | None = None) -> Schema:
    if len(value) < HEADER_BYTES or not value.startswith(MARKER):
        begin = value[:HEADER_BYTES].hex()
        raise _rejected(
            RejectReason.NOT_SINGLE_OBJECT,
            f"{len(value)} bytes that begin with {begin} are not Avro single-object encoding",
        )
    schema = schemas().get(value[:HEADER_BYTES])
    if schema is None:
        raise _rejected(
            RejectReason.UNKNOWN_SCHEMA, f"schema fingerprint {value[2:HEADER_BYTES].hex()} is unknown"
        )
    if name is not None and schema.name != name:
        raise _rejected(RejectReason.UNKNOWN_SCHEMA, f"the record is a {schema.name}; it must be a {name}")
    return schema


def _read(value: bytes, schema: Schema) -> dict[str, Any]:
    reader = newest(schema.name)
    stream = io.BytesIO(value)
    stream.seek(HEADER_BYTES)
    try:
        if reader is schema:
            fields = schemaless_reader(stream, schema.parsed, None)
        else:
            fields = schemaless_reader(stream, schema.parsed, reader.parsed)
    except (EOFError, IndexError) as error:
        # At the end of the bytes fastavro raises IndexError only within a number, whose last byte then has the
        # continuation bit set; otherwise the index of a union or an enum is out of range.
        if isinstance(error, EOFError) or (stream.tell() == len(value) and value[-1] & 0x80):
            raise _rejected(
                RejectReason.TRUNCATED, f"{schema.name} ends within a field, after {len(value)} bytes"
            ) from error
        raise _rejected(
            RejectReason.INVALID_VALUE, f"{schema.name} holds an index that no union or enum has"
        ) from error
    except UnicodeDecodeError as error:
        raise _rejected(RejectReason.INVALID_VALUE, f"{schema.name} holds text that is not UTF-8") from error
    except (
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        MemoryError,
        SchemaParseException,
    ) as error:
        raise _rejected(
            RejectReason.INVALID_VALUE, f"{schema.name} version {schema.version} cannot be read: {error}"
        ) from error
    rest_bytes = len(value) - stream.tell()
    if rest_bytes:
        raise _rejected(RejectReason.INVALID_VALUE, f"{rest_bytes} bytes follow the {schema.name}")
    return fields  # type: ignore[no-any-return]


def _flat_fields(predictions: tuple[ModelPrediction, ...]) -> dict[str, Any]:
    """Return the prediction fields that a reader of version 2 knows; texts are empty if there is no prediction."""
    one = flat_prediction(predictions)
    scores = one.scores if one else {}
    answer = one.classification if one else None
    return {
        "model_name": one.model_name if one else "",
        "model_digest": one.model_digest if one else "",
        "predicted_class": answer.class_name if answer else "",
        "probabilities": answer.probabilities if answer else (),
        "embedding": one.embedding if one else (),
        "scores": {name: scores.get(name) for name in FLAT_SCORES},
    }


def _of_flat(fields: Mapping[str, Any]) -> tuple[ModelPrediction, ...]:
    """Return the predictions of a record of version 1 or 2: the classification of the serving model."""
    answer = ClassificationOutput(fields["predicted_class"], tuple(fields["probabilities"]))
    scores = {name: score for name, score in fields["scores"].items() if score is not None}
    return (
        ModelPrediction(
            SERVING,
            CLASSIFICATION,
            fields["model_name"],
            fields["model_digest"],
            scores,
            tuple(fields["embedding"]),
            answer,
        ),
    )


def _sample(fields: dict[str, Any], version: int, check_payload: bool) -> Sample:
    def build() -> Sample:
        kept = {name: fields[name] for name in _FIELDS}
        kept["time_quality"] = TimeQuality(fields["time_quality"])
        kept["provenance"] = Provenance(fields["provenance"])
        kept["subject_refs"] = tuple(fields["subject_refs"])
        incident_id, stream = fields["incident_id"], fields["incident_stream"] or fields["sensor_id"]
        return Sample(
            **kept,
            value_class=ValueClass.from_label(fields["value_class"]),
            content=Content(**fields["content"]),
            incident=None
            if incident_id is None
            else Incident(incident_id, WindowRole(fields["window_role"]), stream),
            predictions=tuple(map(from_plain, fields["predictions"])) if version > 2 else _of_flat(fields),
        )

    sample = _built(build)
    check_sample(sample)
    if check_payload and not sample.payload_uri:
        digest = hashlib.sha256(sample.payload).hexdigest()
        if digest != sample.payload_sha256:
            raise _rejected(
                RejectReason.PAYLOAD_HASH_MISMATCH,
                f"the payload hashes to {digest}; payload_sha256 is {sample.payload_sha256}",
            )
    return sample


def _telemetry(fields: dict[str, Any]) -> Telemetry:
    def build() -> Telemetry:
        fields["ledger"] = LedgerCounts(**fields["ledger"])
        fields["other_roles"] = tuple(RoleReport(**_model_parts(role)) for role in fields.pop("other_roles"))
        return Telemetry(**_model_parts(fields))

    telemetry = _built(build)
    check_telemetry(telemetry)
    return telemetry


def _model_parts(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {
        "model_state": ModelState(fields["model_state"]),
        "health": Health(**fields["health"]),
        "model_events": tuple(ModelEvent(**event) for event in fields["model_events"]),
    }


def _notice(fields: dict[str, Any]) -> Notice:
    notice = _built(lambda: Notice(**fields))
    check_notice(notice)
    return notice


def _built(build: Callable[[], _T]) -> _T:
    try:
        return build()
    except (ValueError, KeyError, TypeError) as error:
        raise _rejected(RejectReason.INVALID_VALUE, f"a field has an unknown value: {error}") from error


def _rejected(reason: RejectReason, message: str) -> RejectedError:
    return RejectedError(message, reason=reason)
