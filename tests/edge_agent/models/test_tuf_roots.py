"""A vehicle follows the fleet's keys through any number of rotations, and through a publication that was killed."""

from __future__ import annotations

import json

import pytest
from tuf.api.metadata import Metadata
from tuf.ngclient import Updater
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from edge_agent.models.trust_folder import TrustFolder
from foundation.errors import UntrustedError
from rollout.repository import Repository
from schemas.downlink import RELEASES_KEY as KEY
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.tuf_rig import (
    DAY_S,
    metadata_path,
    refresh,
    sign,
    with_release,
)


def test_a_chain_of_257_roots_is_followed(bench: Bench) -> None:
    root = bench.repository.load("root").signed
    signers = bench.repository.keys.signers("root")
    for version in range(2, 259):
        root.version = version
        metadata_path(bench, f"{version}.root").write_bytes(sign(root, signers))
    refresh(bench)
    refresh(bench)
    with_release(bench)
    refresh(bench)
    assert Metadata.from_bytes(TrustFolder(bench.state).newest_root()).signed.version == 258


def test_a_root_that_skips_a_version_is_refused(bench: Bench) -> None:
    root = bench.repository.load("root").signed
    root.version = 3
    metadata_path(bench, "2.root").write_bytes(sign(root, bench.repository.keys.signers("root")))
    with pytest.raises(UntrustedError, match="BadVersionNumberError"):
        refresh(bench)


def test_a_vehicle_that_was_off_for_months_just_refreshes(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    for month in range(6):
        bench.clock.advance(30 * DAY_S)
        bench.repository.refresh()
        bench.release(f"m{month}", 10 + month)
    bench.repository.rotate_root()
    bench.repository.rotate_key("models")
    index = refresh(bench).fetch_index("models")
    assert index is not None
    assert len(json.loads(index)[KEY]) == 7


def test_every_crash_of_a_publication_leaves_a_repository_that_clients_can_use(bench: Bench) -> None:
    class KilledError(BaseException):
        pass

    with_release(bench)
    for step in ("targets", "role", "snapshot", "timestamp"):

        def kill(at: str, step: str = step) -> None:
            if at == step:
                raise KilledError

        keys_path = bench.repository.keys._path
        broken = Repository(bench.repository.path, keys_path, clock=bench.clock, on_step=kill)
        with pytest.raises(KilledError):
            broken.publish("models", {"note.txt": step.encode()})
        online = refresh(bench)
        index = online.fetch_index("models")
        assert index is not None
        assert (online.target("models", "note.txt") is not None) == (step == "timestamp")
        assert online.fetch_index("rollouts") is not None
    bench.repository.publish("models", {"note.txt": b"at last"})
    assert refresh(bench).target("models", "note.txt") is not None


def test_every_crash_of_a_rotation_leaves_a_repository_that_clients_can_use(bench: Bench) -> None:
    class KilledError(BaseException):
        pass

    with_release(bench)
    for role in ("timestamp", "snapshot", "targets", "models"):
        for step in ("root-both", "snapshot", "timestamp", "republished"):

            def kill(at: str, step: str = step) -> None:
                if at == step:
                    raise KilledError

            keys_path = bench.repository.keys._path
            broken = Repository(bench.repository.path, keys_path, clock=bench.clock, on_step=kill)
            try:
                broken.rotate_key(role)
            except KilledError:
                pass
            assert refresh(bench).fetch_index("models") is not None
        bench.repository.rotate_key(role)
        bench.release(f"after-{role}", 7)
        assert refresh(bench).fetch_index("models") is not None


def test_this_version_of_the_library_lets_time_be_set_and_files_be_made_durable() -> None:
    """Guards the two places where we reach into python-tuf: an update that moves them must fail here."""
    assert hasattr(Updater, "_persist_file")
    assert hasattr(Updater, "_load_root")
    assert "reference_time" in TrustedMetadataSet.__init__.__code__.co_names
