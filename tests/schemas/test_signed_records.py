"""Only a record signed by its own vehicle's enrolled key is accepted; each way to pretend has its reason."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.key_file import load_key, save_key
from foundation.errors import CorruptError, MisconfiguredError, RejectedError, UntrustedError
from schemas import wire
from schemas.identity import Identity
from schemas.reasons import RejectReason
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, sign_record, verify
from schemas.topics import TOPICS
from schemas.wire import WireRecord
from workspace.enrolment_file import load_enrolment, save_enrolment

EPOCH = "00000000000000aa"
VALUE = b"\xc3\x01 some value"
KEY, OTHER = VehicleKey.generate(), VehicleKey.generate()


def enrolled(vehicle_id: str, key: VehicleKey) -> EnrolledKey:
    return EnrolledKey(vehicle_id, key.key_id, key.public_b64, 1)


FLEET = Enrolment.of(enrolled("car-1", KEY), enrolled("car-2", OTHER))
IDENTITY = Identity("car-1", EPOCH, 3)


def signed(kind: str = "sample", identity: Identity = IDENTITY, key: VehicleKey = KEY) -> WireRecord:
    return sign_record(TOPICS.samples, kind, identity, VALUE, key)


def judged(record: WireRecord, kind: str = "sample", fleet: Enrolment = FLEET) -> str:
    with pytest.raises(RejectedError) as caught:
        verify(record.headers, record.key, record.value, kind, fleet)
    return caught.value.reason


def with_header(record: WireRecord, name: str, value: bytes | None) -> WireRecord:
    headers = tuple(
        (n, v if n != name else value) for n, v in record.headers if n != name or value is not None
    )
    return dataclasses.replace(record, headers=headers)


@given(
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
    st.integers(0, 2**63 - 1),
    st.binary(max_size=100),
    st.sampled_from(["sample", "telemetry"]),
)
def test_what_a_vehicle_seals_is_verified_as_its_own(
    vehicle: str, epoch: str, seq: int, value: bytes, kind: str
) -> None:
    identity = Identity(vehicle, epoch, seq)
    record = sign_record(TOPICS.samples, kind, identity, value, KEY)
    fleet = Enrolment.of(enrolled(vehicle, KEY))
    assert verify(record.headers, record.key, record.value, kind, fleet) == identity
    assert record.key == vehicle.encode()
    assert record.size_bytes > len(value)


def test_the_headers_are_cloudevents_and_ours() -> None:
    headers = dict(signed().headers)
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == f"car-1/{EPOCH}/3".encode()
    assert headers["ce_type"] == b"ai.fleetloop.sample.v1"
    assert headers["ce_source"] == b"/vehicles/car-1"
    assert headers["content-type"] == b"application/avro"
    assert len(headers["fl_signature"]) == 64


@pytest.mark.parametrize(
    "name",
    [
        "ce_id",
        "ce_type",
        "ce_source",
        "fl_vehicle",
        "fl_epoch",
        "fl_seq",
        "fl_sha256",
        "fl_keyid",
        "fl_signature",
    ],
)
def test_a_record_without_a_header_is_rejected(name: str) -> None:
    assert judged(with_header(signed(), name, None)) == RejectReason.MISSING_HEADER


def test_a_record_without_key_or_value_is_rejected() -> None:
    record = signed()
    for key, value in ((None, record.value), (record.key, None)):
        with pytest.raises(RejectedError) as caught:
            verify(record.headers, key, value, "sample", FLEET)
        assert caught.value.reason == RejectReason.MISSING_HEADER


TAMPERED: dict[str, tuple[Callable[[WireRecord], WireRecord], RejectReason]] = {
    "another value": (
        lambda record: dataclasses.replace(record, value=record.value + b"!"),
        RejectReason.HASH_MISMATCH,
    ),
    "another value and hash": (
        lambda record: with_header(
            dataclasses.replace(record, value=b"other"),
            "fl_sha256",
            dict(sign_record("t", "sample", IDENTITY, b"other", KEY).headers)["fl_sha256"],
        ),
        RejectReason.BAD_SIGNATURE,
    ),
    "another seq in the fl header alone": (
        lambda record: with_header(record, "fl_seq", b"4"),
        RejectReason.IDENTITY_MISMATCH,
    ),
    "another seq everywhere": (
        lambda record: with_header(with_header(record, "fl_seq", b"4"), "ce_id", f"car-1/{EPOCH}/4".encode()),
        RejectReason.BAD_SIGNATURE,
    ),
    "a seq in another form": (
        lambda record: with_header(record, "fl_seq", b"03"),
        RejectReason.MALFORMED_IDENTITY,
    ),
    "a seq that is no number": (
        lambda record: with_header(record, "fl_seq", b"three"),
        RejectReason.MALFORMED_IDENTITY,
    ),
    "an epoch in capitals": (
        lambda record: with_header(record, "fl_epoch", EPOCH.upper().encode()),
        RejectReason.MALFORMED_IDENTITY,
    ),
    "a name that is not ASCII": (
        lambda record: with_header(record, "fl_vehicle", b"car-\xff"),
        RejectReason.MALFORMED_IDENTITY,
    ),
    "another vehicle's kafka key": (
        lambda record: dataclasses.replace(record, key=b"car-2"),
        RejectReason.IDENTITY_MISMATCH,
    ),
    "another source": (
        lambda record: with_header(record, "ce_source", b"/vehicles/car-2"),
        RejectReason.IDENTITY_MISMATCH,
    ),
    "a signature cut short": (
        lambda record: with_header(record, "fl_signature", dict(record.headers)["fl_signature"][:63]),
        RejectReason.BAD_SIGNATURE,
    ),
    "a header given twice": (
        lambda record: dataclasses.replace(record, headers=(*record.headers, ("fl_seq", b"3"))),
        RejectReason.MALFORMED_IDENTITY,
    ),
    "a key nobody knows": (
        lambda record: with_header(record, "fl_keyid", b"0" * 16),
        RejectReason.BAD_SIGNATURE,
    ),
}


@pytest.mark.parametrize("what", sorted(TAMPERED))
def test_a_record_that_was_changed_is_rejected(what: str) -> None:
    change, reason = TAMPERED[what]
    assert judged(change(signed())) == reason


def test_a_vehicle_cannot_sign_for_another() -> None:
    forged = signed(identity=Identity("car-2", EPOCH, 0), key=KEY)
    assert judged(forged) == RejectReason.BAD_SIGNATURE
    own_key_id = dict(signed(identity=Identity("car-2", EPOCH, 0), key=OTHER).headers)["fl_keyid"]
    assert judged(with_header(forged, "fl_keyid", own_key_id)) == RejectReason.BAD_SIGNATURE


def test_a_sample_cannot_be_passed_off_as_telemetry() -> None:
    assert judged(signed("sample"), "telemetry") == RejectReason.UNKNOWN_SCHEMA
    renamed = with_header(signed("sample"), "ce_type", wire.CE_TYPES["telemetry"])
    assert judged(renamed, "telemetry") == RejectReason.BAD_SIGNATURE


def test_an_unknown_vehicle_and_a_revoked_key_are_rejected() -> None:
    assert judged(signed(), fleet=Enrolment()) == RejectReason.UNKNOWN_VEHICLE
    revoked = FLEET.with_revoked("car-1", 99)
    assert judged(signed(), fleet=revoked) == RejectReason.REVOKED_KEY
    fresh = VehicleKey.generate()
    again = revoked.with_key(enrolled("car-1", fresh))
    record = signed(key=fresh)
    assert verify(record.headers, record.key, record.value, "sample", again) == IDENTITY


@given(st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=40)), max_size=12), st.binary(max_size=20))
def test_no_headers_raise_anything_but_a_rejection(headers: list[tuple[str, bytes]], value: bytes) -> None:
    with pytest.raises(RejectedError):
        verify(tuple(headers), b"car-1", value, "sample", FLEET)


@given(st.data())
def test_no_single_byte_of_a_sealed_record_can_change(data: st.DataObject) -> None:
    record = signed()
    index = data.draw(st.sampled_from(range(len(record.headers))))
    name, value = record.headers[index]
    if name in ("ce_specversion", "content-type"):
        return
    at, flip = data.draw(st.integers(0, len(value) - 1)), data.draw(st.integers(1, 255))
    changed = value[:at] + bytes([value[at] ^ flip]) + value[at + 1 :]
    judged(with_header(record, name, changed))


def test_an_unknown_kind_is_not_sealed() -> None:
    with pytest.raises(RejectedError, match="picture"):
        signed("picture")


def test_a_key_file_is_private_complete_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    save_key(KEY, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path).key_id == KEY.key_id
    with pytest.raises(MisconfiguredError, match="never overwritten"):
        save_key(OTHER, path)
    path.chmod(0o640)
    with pytest.raises(UntrustedError, match="0640"):
        load_key(path)


def test_what_is_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(MisconfiguredError, match=r"key\.pem"):
        load_key(path)
    other_kind = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content, words in ((b"rubbish", "not an unencrypted PEM"), (other_kind, "must be an Ed25519 key")):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(MisconfiguredError, match=words):
            load_key(path)


def test_the_private_half_never_shows() -> None:
    assert repr(KEY) == f"VehicleKey({KEY.key_id})"
    assert not hasattr(KEY, "__dict__")


def test_an_enrolment_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "vehicles.json"
    assert load_enrolment(path) == Enrolment()
    fleet = FLEET.with_revoked("car-2", 5).with_key(enrolled("car-2", VehicleKey.generate()))
    save_enrolment(fleet, path)
    assert load_enrolment(path) == fleet
    assert fleet.with_revoked("car-2", 9).vehicles["car-2"][0].revoked_time_ns == 5
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_belongs_to_one_vehicle() -> None:
    with pytest.raises(MisconfiguredError, match=f"{KEY.key_id} is already enrolled for car-1"):
        FLEET.with_key(enrolled("car-3", KEY))
    with pytest.raises(MisconfiguredError, match="car-9"):
        FLEET.with_revoked("car-9", 1)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"format": 2, "keys": []}',
        b'{"format": 1, "keys": {}}',
    ],
)
def test_a_damaged_enrolment_names_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vehicles.json"
    path.write_bytes(content)
    with pytest.raises(CorruptError, match=r"vehicles\.json|key_id"):
        load_enrolment(path)


@pytest.mark.parametrize(
    "row",
    [
        {},
        "x",
        {"vehicle_id": 3, "key_id": "0", "public_b64": "A", "enrolled_time_ns": 1, "revoked_time_ns": None},
        {
            "vehicle_id": "v",
            "key_id": "0" * 16,
            "public_b64": "AAAA",
            "enrolled_time_ns": 1,
            "revoked_time_ns": None,
        },
        {**json.loads(FLEET.to_json())["keys"][0], "scheme": "mldsa", "must_understand": ["scheme"]},
    ],
)
def test_a_key_that_cannot_be_read_is_not_trusted_told_and_kept_while_its_neighbours_serve(
    row: object,
) -> None:
    document = json.loads(FLEET.to_json())
    document["keys"] = [row, document["keys"][1]]
    read = Enrolment.from_json(json.dumps(document), path="vehicles.json")
    assert list(read.vehicles) == ["car-2"]
    (unreadable,) = read.unreadable
    assert unreadable.index == 0
    assert "vehicles.json" in unreadable.why or "key_id" in unreadable.why
    added = read.with_key(enrolled("car-3", VehicleKey.generate()))
    assert row in json.loads(added.with_revoked("car-2", 5).to_json())["keys"]
