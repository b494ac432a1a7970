"""A blob comes back as it went in, or not at all."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.blob.store import BlobRef, BlobStore
from foundation.errors import MisconfiguredError, RejectedError


def stored_file(folder: Path, ref: BlobRef) -> Path:
    return folder / ref.sha256[:2] / ref.sha256


@settings(max_examples=30, deadline=None)
@given(payload=st.binary(max_size=5000))
def test_what_was_put_comes_back_and_twice_is_once(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes
) -> None:
    folder = tmp_path_factory.mktemp("blobs")
    store = BlobStore(folder.as_uri())
    ref = store.put_verified(payload)
    assert ref == store.put_verified(payload)
    assert (ref.sha256, ref.size_bytes) == (hashlib.sha256(payload).hexdigest(), len(payload))
    assert store.get_verified(ref) == payload
    assert [path for path in folder.rglob("*") if path.is_file()] == [stored_file(folder, ref)]


@pytest.mark.parametrize("damage", [b"other bytes", b"payload", b"payloae", b"payload and more", b""])
def test_bytes_that_changed_are_never_returned(tmp_path: Path, damage: bytes) -> None:
    store = BlobStore(str(tmp_path))
    ref = store.put_verified(b"payload")
    stored_file(tmp_path, ref).write_bytes(damage)
    if damage == b"payload":
        assert store.get_verified(ref) == damage
        return
    with pytest.raises(RejectedError) as caught:
        store.get_verified(ref)
    assert caught.value.reason == "payload_hash_mismatch"
    assert store.put_verified(b"payload") == ref  # the damaged blob is replaced
    assert store.get_verified(ref) == b"payload"


def test_a_size_that_does_not_hold_is_refused_before_the_bytes_are_read(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path), max_blob_bytes=10)
    with pytest.raises(RejectedError, match=r"11 bytes .* 10 bytes") as caught:
        store.put_verified(b"x" * 11)
    assert caught.value.reason == "oversize"
    ref = store.put_verified(b"x" * 10)
    with pytest.raises(RejectedError, match="10 bytes; it must have 9"):
        store.get_verified(replace(ref, size_bytes=9))


def test_nothing_outside_the_store_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "store").mkdir()
    store = BlobStore(str(tmp_path / "store"))
    sha256 = hashlib.sha256(b"secret").hexdigest()
    for uri in (
        (tmp_path / "secret").as_uri(),
        "http://127.0.0.1:1/x",
        f"{store.put_verified(b'a').uri}/../secret",
    ):
        with pytest.raises(RejectedError) as caught:
            store.get_verified(BlobRef(uri, sha256, 6))
        assert caught.value.reason == "foreign_uri"


def test_a_blob_that_is_gone_and_a_store_that_cannot_be_are_named(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path))
    ref = store.put_verified(b"payload")
    stored_file(tmp_path, ref).unlink()
    with pytest.raises(RejectedError) as caught:
        store.get_verified(ref)
    assert caught.value.reason == "payload_missing"
    unknown = BlobStore("nonsense://x")  # a workspace without payloads elsewhere never asks
    with pytest.raises(MisconfiguredError, match="nonsense"):
        unknown.put_verified(b"payload")


def test_it_works_on_a_store_that_is_no_disk() -> None:
    store = BlobStore("memory://fleetloop-test-blobs")
    assert store.get_verified(store.put_verified(b"payload")) == b"payload"
