"""Golden vectors: encoded records that every implementation and version must decode to the same values.

    python -m scripts.golden_vectors           check every vector in schemas/vectors; exit status 0 if all are right
    python -m scripts.golden_vectors --write   write missing vectors; an existing one is never changed

A vector consists of NAME.avro (one record in single-object encoding) and NAME.json (the schema version and the record as
the newest reader decodes it, bytes in hex). Vectors of versions that are no longer written are kept. signed.json is a
complete wire record, signed with a test key that it contains and that is used nowhere else.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from foundation.errors import FleetLoopError
from schemas import codec, predictions, reasons, records
from schemas.registry import HEADER_BYTES, newest, schemas
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, sign_record, verify
from schemas.topics import TOPICS

FOLDER: Final = Path(__file__).resolve().parents[1] / "schemas" / "vectors"
_SIGNED: Final = "signed.json"
_SEED: Final = bytes(range(32))
_MASK: Final = b"\x78\x9c\x63\x60\x60\x64\x64\xfc\x0f\x00\x01\x0e\x01\x03"
"""zlib of the cells 0, 0, 1, 1, 1, 255; kept as bytes, because libraries compress differently."""
_PAYLOAD: Final = b"\xff\xd8not really a picture\xff\xd9"

Record = records.Sample | records.Telemetry | records.Notice


def as_json(record: Record) -> dict[str, Any]:
    """Return the record as plain JSON values: enums by value, bytes in hex, tuples as lists."""
    plain = dict(_plain(dataclasses.asdict(record)))
    for one in plain.get(
        "predictions", ()
    ):  # what a later version of the type gained is there when it is said
        for name in ("segmentation", "regression"):
            if one[name] is None:
                del one[name]
    return plain


def check(folder: Path) -> list[str]:
    """Return a message for each vector in `folder` that fails, or if there are no vectors."""
    problems = []
    paths = sorted(folder.glob("*.avro"))
    if not paths or not (folder / _SIGNED).exists():
        problems.append(f"{folder} lacks vectors")
    for path in paths:
        try:
            problems += _check_one(path)
        except (FleetLoopError, OSError, ValueError, KeyError) as error:
            problems.append(f"{path.name}: {error}")
    if (folder / _SIGNED).exists():
        try:
            problems += _check_signed(json.loads((folder / _SIGNED).read_text("utf-8")))
        except (FleetLoopError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{_SIGNED}: {error}")
    return problems


def _check_one(path: Path) -> list[str]:
    value = path.read_bytes()
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    record = codec.decode(value)
    schema = schemas()[value[:HEADER_BYTES]]
    found = {"schema": schema.name, "version": schema.version, "record": as_json(record)}
    problems = [] if found == expected else [f"{path.name}: decodes to {json.dumps(found)[:300]}"]
    if schema is newest(schema.name) and encode(record) != value:
        problems.append(f"{path.name}: encodes to other bytes")
    return problems


def _check_signed(vector: dict[str, Any]) -> list[str]:
    headers = tuple((name, bytes.fromhex(value)) for name, value in vector["headers"])
    value = bytes.fromhex(vector["value"])
    enrolment = Enrolment.of(EnrolledKey(**vector["enrolled"]))
    identity = verify(headers, bytes.fromhex(vector["key"]), value, vector["kind"], enrolment)
    key = VehicleKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private_seed"])))
    problems = []
    if str(identity) != vector["identity"]:
        problems.append(f"{_SIGNED}: identity {identity}")
    if sign_record(vector["topic"], vector["kind"], identity, value, key).headers != headers:
        problems.append(f"{_SIGNED}: signing gives other headers")
    return problems


def write(folder: Path) -> list[str]:
    """Write the missing vectors and return their names."""
    done = []
    vectors = {name: encode(record) for name, record in examples().items()}
    for name, value in vectors.items():
        path = folder / f"{name}.avro"
        if path.exists():
            continue
        schema = schemas()[value[:HEADER_BYTES]]
        said = {"schema": schema.name, "version": schema.version, "record": as_json(codec.decode(value))}
        path.write_bytes(value)
        path.with_suffix(".json").write_text(_text(said), "utf-8")
        done.append(name)
    if not (folder / _SIGNED).exists():
        (folder / _SIGNED).write_text(_text(_signed()), "utf-8")
        done.append(_SIGNED)
    return done


def examples() -> dict[str, Record]:
    """One record per name of a vector, at the newest versions."""
    minimal = records.Sample(
        vehicle_id="v",
        epoch="0123456789abcdef",
        previous_epoch="",
        seq=0,
        drive_id="d",
        sensor_id="s",
        capture_time_ns=0,
        capture_time_uncertainty_ns=0,
        monotonic_ns=0,
        boot_id="b",
        spool_time_ns=0,
        frame_id="f",
        payload_sha256=hashlib.sha256(b"").hexdigest(),
        payload_bytes=0,
        payload=b"",
    )
    full = dataclasses.replace(
        minimal,
        vehicle_id="truck-0042",
        previous_epoch="fedcba9876543210",
        seq=2**40,
        drive_id="Fahrt/ä-7",
        capture_time_ns=-1,
        capture_time_uncertainty_ns=5_000_000,
        monotonic_ns=2**62,
        spool_time_ns=1_790_000_000_000_000_001,
        calibration_ref="cal-3",
        time_quality=reasons.TimeQuality.BEFORE_BUILD,
        track_id="t1",
        incident=records.Incident("i1", reasons.WindowRole.TRIGGER, "s"),
        predictions=(
            predictions.ModelPrediction(
                "serving",
                "classification",
                "m",
                "0" * 64,
                {"entropy": 0.125, "margin": 0.5, "novelty": 1.0},
                (-1.5, 0.0, 3.25),
                predictions.ClassificationOutput("red", (0.5, 0.25, 0.25)),
            ),
        ),
        campaign_id="c1",
        rule_id="entropy",
        rule_score=-2.5,
        value_class=reasons.ValueClass.CRITICAL,
        selection_probability=0.1,
        privacy_policy="blur-1",
        consent_ref="consent-9",
        subject_refs=("p1", "p2"),
        provenance=reasons.Provenance.SIMULATED,
        payload_sha256=hashlib.sha256(_PAYLOAD).hexdigest(),
        payload_bytes=len(_PAYLOAD),
        payload=_PAYLOAD,
    )
    by_uri = dataclasses.replace(
        minimal, payload_uri="s3://bucket/object", payload_bytes=3_000_000, payload_sha256="a" * 64
    )
    signals = dataclasses.replace(
        minimal,
        sensor_id="can0",
        modality=reasons.Modality.SIGNALS.value,
        content_type="application/vnd.apache.arrow.stream",
        content=records.Content("lz4", 5_000_000_000, 500),
        incident=records.Incident("i1", reasons.WindowRole.PRE, "front"),
    )
    boxes = (
        predictions.Box("car", 0.75, 0.0, 1.5, 20.25, 30.0),
        predictions.Box("person", 0.5, -1.0, 0.0, 8.0, 16.0),
    )
    detected = dataclasses.replace(
        minimal,
        predictions=(
            predictions.ModelPrediction(
                "serving", "detection", "d", "1" * 64, {"least_confidence": 0.25}, (),
                detection=predictions.DetectionOutput(boxes),
            ),
            predictions.ModelPrediction(
                "shadow", "classification", "m", "2" * 64, {}, (0.5,), predictions.ClassificationOutput("red", (1.0,))
            ),
        ),
    )  # fmt: skip
    masked = dataclasses.replace(
        minimal,
        predictions=(
            predictions.ModelPrediction(
                "serving", "segmentation", "s", "3" * 64, {"entropy": 0.5}, (),
                segmentation=predictions.SegmentationOutput(("road", "lane"), 2, 3, _MASK),
            ),
            predictions.ModelPrediction(
                "head-pose", "regression", "h", "4" * 64, {}, (),
                regression=predictions.RegressionOutput(("yaw", "pitch"), (-12.5, 3.0)),
            ),
        ),
    )  # fmt: skip
    telemetry = records.Telemetry(
        vehicle_id="v",
        epoch="0123456789abcdef",
        previous_epoch="",
        seq=7,
        telemetry_time_ns=1_790_000_000_000_000_000,
        monotonic_ns=12,
        boot_id="b",
        agent_version="0.1.0",
        model_digest="1" * 64,
        model_name="m",
        model_state=reasons.ModelState.ROLLED_BACK,
        swaps=2,
        rollbacks=1,
        frames_seen=100,
        ledger=records.LedgerCounts(10, 5, 2, 1, {"quota": 2}, {"not_selected": 90}),
        health=records.Health(1, 2, 1_600_000, 4_000_000, "no output"),
        model_events=(records.ModelEvent(5, "1" * 64, "m", "rolled_back", "nan", "r3"),),
        bytes_captured=1000,
        bytes_uploaded=500,
    )
    two_roles = dataclasses.replace(
        telemetry,
        start_number=41,
        other_roles=(
            records.RoleReport(
                role="shadow",
                model_digest="2" * 64,
                model_name="n",
                model_state=reasons.ModelState.SHADOW,
                release_id="r4",
                swaps=1,
                frames=90,
                health=records.Health(3, 0, 900_000, 2_000_000, ""),
                model_events=(records.ModelEvent(9, "2" * 64, "n", "activated", "", "r4"),),
            ),
            records.RoleReport("depth", "", "", reasons.ModelState.REFUSED),
        ),
    )
    work = {"CPUExecutionProvider": 0.25, "QNNExecutionProvider": 0.75}
    placed = dataclasses.replace(
        two_roles, health=dataclasses.replace(telemetry.health, work=work, is_fallen_back=True)
    )
    notice = records.Notice("n1", 1_790_000_000_000_000_000, target="v", detail="look")
    return {
        "sample-4-by-uri": by_uri,
        "sample-4-signals": signals,
        "sample-4-detected": detected,
        "sample-4-minimal": minimal,
        "sample-4-full": full,
        "sample-4-masked": masked,
        "telemetry-3-placed": placed,
        "notice": notice,
    }


def _signed() -> dict[str, Any]:
    key = VehicleKey(Ed25519PrivateKey.from_private_bytes(_SEED))
    sample = examples()["sample-4-full"]
    if not isinstance(sample, records.Sample):
        raise TypeError(type(sample))
    record = sign_record(TOPICS.samples, "sample", sample.identity, codec.encode_sample(sample), key)
    return {
        "kind": "sample",
        "identity": str(sample.identity),
        "private_seed": _SEED.hex(),
        "enrolled": {
            "vehicle_id": sample.vehicle_id,
            "key_id": key.key_id,
            "public_b64": key.public_b64,
            "enrolled_time_ns": 1,
        },
        "topic": record.topic,
        "key": record.key.hex(),
        "value": record.value.hex(),
        "headers": [[name, value.hex()] for name, value in record.headers],
    }


def encode(record: Record) -> bytes:
    """The record in single-object encoding."""
    match record:
        case records.Sample():
            return codec.encode_sample(record)
        case records.Telemetry():
            return codec.encode_telemetry(record)
        case records.Notice():
            return codec.encode_notice(record)


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case reasons.ValueClass():
            return value.label
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case str():
            return str(value)
    return value


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Print every problem and return the exit status: 0 if there is none, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.golden_vectors", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--write", action="store_true", help="write the vectors that are missing")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the vectors are")
    options = parser.parse_args(arguments)
    if options.write:
        for name in write(options.folder):
            print(f"written: {name}")
    problems = check(options.folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(list(options.folder.glob('*.avro')))} vectors and one signed record hold")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
