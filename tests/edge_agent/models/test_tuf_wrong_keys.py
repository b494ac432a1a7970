"""Whoever has not the role's key gives this vehicle no model: wrong keys, wrong roles, too few signatures, old keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile

from edge_agent.models.desired import check_plan, desired, plans_of
from edge_agent.models.trust import parse_index
from edge_agent.models.trust_folder import TrustFolder
from foundation.errors import UntrustedError
from rollout.repository import init_repository
from schemas.downlink import DELEGATIONS_FIELD
from schemas.downlink import RELEASES_KEY as KEY
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.tuf_rig import (
    assert_never_loads,
    evil_listing,
    forge,
    metadata_path,
    refresh,
    sign,
    with_release,
)


def test_a_model_signed_by_a_wrong_key_is_refused(bench: Bench) -> None:
    with_release(bench)
    forge(bench, "models", evil_listing(bench), [CryptoSigner.generate_ed25519()])
    online = refresh(bench)
    with pytest.raises(UntrustedError, match="UnsignedMetadataError"):
        online.fetch_index("models")
    assert_never_loads(bench)


def test_a_model_signed_by_the_key_of_the_wrong_role_never_loads(bench: Bench) -> None:
    with_release(bench)
    forge(bench, "models", evil_listing(bench), bench.repository.keys.signers("rollouts"))
    with pytest.raises(UntrustedError, match="UnsignedMetadataError"):
        refresh(bench).fetch_index("models")
    assert_never_loads(bench)
    assert [event.event for event in bench.slots.read_fetch().events] == ["untrusted"]


def test_a_model_listed_by_the_role_of_plans_never_loads(bench: Bench) -> None:
    """The rollouts key signs its own document, properly, with models/* in it: the delegation does not reach there."""
    with_release(bench)
    forge(bench, "rollouts", evil_listing(bench), bench.repository.keys.signers("rollouts"))
    online = refresh(bench)
    assert online.target("models", "evil.onnx") is None
    index = online.fetch_index("models")
    assert index is not None
    assert [row["release_id"] for row in json.loads(index)[KEY]] == ["r2"]
    assert_never_loads(bench)


def test_a_model_listed_by_the_top_level_role_is_refused(bench: Bench) -> None:
    with_release(bench)
    forge(bench, "targets", evil_listing(bench), bench.repository.keys.signers("targets"))
    with pytest.raises(UntrustedError, match="only models may vouch"):
        refresh(bench).fetch_index("models")
    assert_never_loads(bench)


def test_the_next_publication_does_not_sign_what_a_wrong_key_published(bench: Bench) -> None:
    with_release(bench)
    bench.release("evil", 66, signing_role="rollouts")
    with pytest.raises(UntrustedError):
        refresh(bench).fetch_index("models")
    bench.release("r3", 3)
    index = refresh(bench).fetch_index("models")
    assert index is not None
    assert [row["release_id"] for row in json.loads(index)[KEY]] == ["r2", "r3"]
    assert refresh(bench).target("models", "evil.onnx") is None


def test_one_signature_under_the_threshold_makes_no_root(tmp_path: Path, bench: Bench) -> None:
    repository = init_repository(
        tmp_path / "t2", tmp_path / "k2", threshold=2, root_keys=3, clock=bench.clock
    )
    bench.repository = repository
    TrustFolder(bench.state).install(repository.root_bytes())
    refresh(bench)
    root = repository.load("root").signed
    root.version = 2
    signers = repository.keys.signers("root")
    metadata_path(bench, "2.root").write_bytes(sign(root, signers[:1]))
    with pytest.raises(UntrustedError, match="UnsignedMetadataError"):
        refresh(bench)
    metadata_path(bench, "2.root").write_bytes(sign(root, signers[:2]))
    refresh(bench)


def test_a_vehicle_without_a_root_trusts_nothing(bench: Bench) -> None:
    (bench.state / "trust" / "bootstrap_root.json").unlink()
    with pytest.raises(UntrustedError, match="enrol this vehicle"):
        refresh(bench)


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "models", "rollouts"])
def test_a_rotated_key_is_refused_from_then_on(bench: Bench, role: str) -> None:
    with_release(bench)
    refresh(bench)
    old = bench.repository.keys.signers(role)
    bench.repository.rotate_key(role)
    refresh(bench).fetch_index("models")
    document = bench.repository.load(role).signed
    document.version += 1
    data = sign(document, old)
    with pytest.raises(UntrustedError):
        if role == "timestamp":
            metadata_path(bench, "timestamp").write_bytes(data)
            refresh(bench)
        elif role == "snapshot":
            timestamp = bench.repository.load("timestamp").signed
            timestamp.version += 1
            timestamp.snapshot_meta = MetaFile.from_data(document.version, data, ["sha256"])
            metadata_path(bench, f"{document.version}.snapshot").write_bytes(data)
            signed = sign(timestamp, bench.repository._online_signers("timestamp"))
            metadata_path(bench, "timestamp").write_bytes(signed)
            refresh(bench)
        else:
            forge(bench, role, lambda _document: None, old)
            online = refresh(bench)
            online.fetch_index("models")
            online.fetch_index("rollouts")


@pytest.mark.parametrize(
    "change",
    [{"model_digest": "a" * 64}, {"model_bytes": 7}, {"role": "shadow"}],
    ids=["digest", "length", "role"],
)
def test_a_release_that_is_not_the_model_of_its_plan_is_not_taken(
    bench: Bench, change: dict[str, object]
) -> None:
    """The key of the role models alone cannot swap the model that a plan lets out."""
    bench.release("r2", 2)
    release = bench.releases[0]
    said = {"model_digest": release.model_digest, "model_bytes": release.model_bytes}
    bench.plan("r2", **said)
    assert desired(bench.plans, bench.vehicle).release_id == "r2"
    check_plan(bench.plans[0], release)
    with pytest.raises(UntrustedError, match="plan plan-r2 lets out"):
        check_plan(bench.plans[0], replace(release, **change))  # type: ignore[arg-type]
    if "role" not in change:
        bench.plan("r2", **{**said, **change})
        steps = bench.run(bench.fetcher())
        assert "plan plan-r2 lets out" in steps[-1].detail
        assert bench.slots.read_candidate() is None


@pytest.mark.parametrize(
    "data",
    [
        b'{"format": 1, "releases": ["\\ud800"]}',
        b'{"format": 1, "releases": [], "releases": []}',
        b'{"format": 1, "releases": [NaN]}',
        b'{"format": 1, "releases": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"format": 1, "releases": {}}',
        b'{"format": 9, "releases": []}',
        b"\xff",
    ],
)
def test_a_signed_index_that_is_no_plain_list_is_not_acted_on(data: bytes) -> None:
    with pytest.raises(UntrustedError, match="releases"):
        parse_index(data, "releases")


def test_a_plan_that_names_no_model_lets_nothing_out_and_its_halt_is_obeyed(bench: Bench) -> None:
    """Its release could be replaced by the key of models alone; only a list of the first release has such plans."""
    bench.release("r2", 2)
    bench.plan("r2", model_digest=None, model_bytes=None)
    assert bench.run(bench.fetcher())[-1].detail == "the plans want None"
    row = json.loads(bench.plans[0].to_json())
    listed = json.dumps({"format": 2, "plans": [row | {"state": "halted"}]}).encode()
    assert desired(plans_of(listed), bench.vehicle).withdrawn == {"r2"}
    old = json.dumps({"format": 1, "plans": [json.loads(bench.plans[0].to_json_1())]}).encode()
    assert desired(plans_of(old), bench.vehicle).release_id == "r2"


@pytest.mark.parametrize("role", ["models", "rollouts"])
def test_the_key_of_targets_alone_puts_no_other_key_in_the_place_of_a_role(bench: Bench, role: str) -> None:
    with_release(bench)
    own = CryptoSigner.generate_ed25519()
    forge(
        bench,
        "targets",
        lambda targets: targets.add_key(own.public_key, role),
        bench.repository.keys.signers("targets"),
    )
    forge(bench, role, lambda _document: None, [own])
    with pytest.raises(UntrustedError, match=f"delegates {role} to 1 of the keys"):
        refresh(bench).fetch_index(role)


@pytest.mark.parametrize("role", ["models", "rollouts"])
def test_the_key_of_targets_alone_exchanges_no_key_behind_its_id(bench: Bench, role: str) -> None:
    with_release(bench)
    private = Ed25519PrivateKey.generate()
    own = CryptoSigner(private).public_key
    (key_id,) = bench.repository.load("targets").signed.delegations.roles[role].keyids
    other = type(own)(key_id, own.keytype, own.scheme, own.keyval)
    forge(bench, role, lambda _document: None, [CryptoSigner(private, other)])
    forge(
        bench,
        "targets",
        lambda targets: targets.delegations.keys.update({key_id: other}),
        bench.repository.keys.signers("targets"),
    )
    with pytest.raises(UntrustedError, match=f"delegates {role} to 1 of the keys"):
        refresh(bench).fetch_index(role)


def test_a_root_of_an_earlier_release_leaves_delegations_to_targets_until_the_next_root(bench: Bench) -> None:
    repository = bench.repository
    root = repository.load("root").signed
    del root.unrecognized_fields[DELEGATIONS_FIELD]
    repository._write_root(root, repository.keys.signers("root"))
    TrustFolder(bench.state).install(repository.root_bytes())
    with_release(bench)
    assert refresh(bench).fetch_index("models") is not None
    repository.rotate_root()
    assert set(repository.load("root").signed.unrecognized_fields[DELEGATIONS_FIELD]) == {
        "models",
        "rollouts",
    }
    assert refresh(bench).fetch_index("models") is not None


def test_the_root_names_only_the_new_key_after_a_rotation(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    key_id = bench.repository.rotate_key("models")
    named = bench.repository.load("root").signed.unrecognized_fields[DELEGATIONS_FIELD]
    assert list(named["models"]["keys"]) == [key_id]
    assert refresh(bench).fetch_index("models") is not None
