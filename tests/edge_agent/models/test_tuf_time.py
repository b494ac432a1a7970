"""An old state, a mixture of states and a stopped or stolen clock are refused: rollback, freeze, fast-forward, mix-and-match."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata

from edge_agent.models import trust as trust_module
from edge_agent.models import trust_folder as trust_folder_module
from edge_agent.models.trust import SavedTrust
from edge_agent.models.trust_folder import TrustFolder
from foundation.errors import FleetLoopError, RetryLaterError, UntrustedError
from rollout.repository import RepositorySettings, init_repository
from schemas.downlink import ISSUED_FIELD
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.tuf_rig import (
    DAY_S,
    YEAR_S,
    metadata_path,
    refresh,
    sign,
    with_release,
)


def test_rollback_to_an_older_repository_is_refused(bench: Bench, tmp_path: Path) -> None:
    with_release(bench)
    shutil.copytree(bench.repository.path, tmp_path / "old")
    bench.release("r3", 3)
    refresh(bench)
    shutil.rmtree(bench.repository.path)
    shutil.copytree(tmp_path / "old", bench.repository.path)
    with pytest.raises(UntrustedError, match="BadVersionNumberError"):
        refresh(bench)


def test_rollback_is_refused_even_with_the_stolen_timestamp_key(bench: Bench) -> None:
    with_release(bench)
    old_snapshot = bench.repository.load("timestamp").signed.snapshot_meta
    bench.release("r3", 3)
    refresh(bench)
    timestamp = bench.repository.load("timestamp").signed
    timestamp.version += 1
    timestamp.snapshot_meta = old_snapshot
    metadata_path(bench, "timestamp").write_bytes(sign(timestamp, bench.repository.keys.signers("timestamp")))
    with pytest.raises(UntrustedError, match="BadVersionNumberError"):
        refresh(bench)


def test_rollback_protection_survives_power_loss_in_the_middle_of_a_refresh(bench: Bench) -> None:
    """Metadata is written with fsync and rename: a torn or empty timestamp.json cannot be left behind."""
    with_release(bench)
    refresh(bench)
    written: list[str] = []
    original = trust_module.write_atomic

    def record(path: str | Path, data: bytes, **kwargs: Any) -> None:
        written.append(Path(path).name)
        original(path, data, **kwargs)

    trust_module.write_atomic, restore = record, trust_module.write_atomic
    try:
        bench.release("r3", 3)
        refresh(bench)
    finally:
        trust_module.write_atomic = restore
    assert {"timestamp.json", "snapshot.json"} <= set(written)


def test_freeze_is_noticed_when_the_word_expires(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    bench.clock.advance(6 * DAY_S)
    refresh(bench)
    bench.clock.advance(2 * DAY_S)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)
    with pytest.raises(UntrustedError, match="freeze protection"):
        SavedTrust.load(TrustFolder(bench.state), bench.clock)
    bench.repository.refresh()
    refresh(bench)


def test_freeze_is_noticed_with_the_clock_set_to_1970(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    bench.clock.jump_wall(-bench.clock.now_ns() / 1e9)
    assert bench.clock.now_ns() < DAY_S * 1e9
    refresh(bench)  # the word is still good: the floor is now, not 1970
    bench.clock.advance(8 * DAY_S)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)


def test_freeze_is_noticed_after_many_boots_in_1970(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each boot starts in 1970 with a monotonic clock at zero; days of running still add up."""
    with_release(bench)
    refresh(bench)
    for boot in range(8):
        monkeypatch.setattr(trust_folder_module, "boot_id", lambda boot=boot: f"boot-{boot}")
        bench.clock.jump_wall(-bench.clock.now_ns() / 1e9)
        bench.clock._monotonic_ns = 0
        TrustFolder(bench.state).hold_floor(bench.clock)
        try:
            refresh(bench)
        except UntrustedError as error:
            assert "freeze protection" in str(error)
            assert boot >= 6
            return
        bench.clock.advance(1.1 * DAY_S)
        TrustFolder(bench.state).hold_floor(bench.clock)
    pytest.fail("a frozen repository was believed for more than 8 days")


def test_days_of_a_boot_in_which_no_word_was_accepted_add_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boot ten years ahead refuses every word; what it ran counts all the same when the clock is in 1970 again."""
    with_release(bench)
    refresh(bench)
    right_s = bench.clock.now_ns() / 1e9
    monkeypatch.setattr(trust_folder_module, "boot_id", lambda: "boot-2")
    bench.clock.jump_wall(10 * YEAR_S)
    bench.clock._monotonic_ns = 0
    for _ in range(8):
        TrustFolder(bench.state).hold_floor(bench.clock)
        with pytest.raises(UntrustedError, match="freeze protection"):
            refresh(bench)
        bench.clock.advance(DAY_S)
    bench.clock.jump_wall(-10 * YEAR_S - right_s)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)


def test_the_saved_timestamp_stands_for_a_lost_floor(bench: Bench) -> None:
    bench.clock.advance(30 * DAY_S)
    bench.repository.refresh()
    with_release(bench)
    refresh(bench)
    (bench.state / "trust" / "floor.json").write_text("{damaged")
    bench.clock.jump_wall(-YEAR_S)
    trust = TrustFolder(bench.state)
    root = Metadata.from_bytes(trust.newest_root()).signed
    assert trust.reference_ns(root, bench.clock) >= bench.clock.now_ns() + round((YEAR_S - 1) * 1e9)


def test_a_clock_ten_years_ahead_refuses_but_does_no_lasting_harm(bench: Bench) -> None:
    with_release(bench)
    refresh(bench)
    bench.clock.jump_wall(10 * YEAR_S)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)
    bench.clock.jump_wall(-10 * YEAR_S)
    refresh(bench)


def test_a_clock_set_back_revives_no_expired_word(bench: Bench) -> None:
    """A day, a month, or to 1970: what was refused as expired stays refused, and so does what is saved."""
    with_release(bench)
    refresh(bench)
    bench.clock.advance(8 * DAY_S)
    with pytest.raises(UntrustedError, match="freeze protection"):
        refresh(bench)
    for back_s in (2 * DAY_S, 30 * DAY_S, bench.clock.now_ns() / 1e9 - 32 * DAY_S):
        bench.clock.jump_wall(-back_s)
        with pytest.raises(UntrustedError, match="freeze protection"):
            refresh(bench)
        with pytest.raises(UntrustedError, match="freeze protection"):
            SavedTrust.load(TrustFolder(bench.state), bench.clock)


def test_mix_and_match_of_two_states_is_refused(bench: Bench) -> None:
    with_release(bench)
    old = metadata_path(bench, "2.models").read_bytes()
    bench.release("r3", 3)
    metadata_path(bench, "3.models").write_bytes(old)
    with pytest.raises(UntrustedError, match="LengthOrHashMismatchError"):
        refresh(bench).fetch_index("models")


def test_an_index_of_another_time_is_refused(bench: Bench) -> None:
    with_release(bench)
    targets = bench.repository.load("models").signed.targets
    sha256 = targets["models/index-2.json"].hashes["sha256"]
    bench.release("r3", 3)
    newer = bench.repository.load("models").signed.targets["models/index-2.json"].hashes["sha256"]
    folder = bench.repository.path / "targets" / "models"
    shutil.copyfile(folder / f"{sha256}.index-2.json", folder / f"{newer}.index-2.json")
    with pytest.raises((UntrustedError, RetryLaterError)):
        refresh(bench).fetch_index("models")


def test_fast_forward_is_undone_by_rotating_the_stolen_keys(bench: Bench) -> None:
    """Versions and time raised as far as they go with stolen keys; new keys bring the vehicle back."""
    with_release(bench)
    refresh(bench)
    timestamp = bench.repository.load("timestamp").signed
    genuine = metadata_path(bench, "timestamp").read_bytes()
    timestamp.version = 2**31
    timestamp.unrecognized_fields[ISSUED_FIELD] += int(50 * YEAR_S)
    timestamp.expires = timestamp.expires.replace(year=timestamp.expires.year + 51)
    metadata_path(bench, "timestamp").write_bytes(sign(timestamp, bench.repository.keys.signers("timestamp")))
    with pytest.raises(UntrustedError):
        refresh(bench)
    metadata_path(bench, "timestamp").write_bytes(genuine)
    with pytest.raises(UntrustedError):
        refresh(bench)
    bench.repository.rotate_key("timestamp")
    bench.repository.rotate_key("snapshot")
    refresh(bench)
    bench.release("r3", 3)
    refresh(bench).fetch_index("models")


def test_a_floor_raised_with_a_stolen_key_falls_when_the_key_is_replaced(bench: Bench) -> None:
    """The thief moves the vehicle's time ahead, within the life of what else is signed; new keys undo it."""
    with_release(bench)
    refresh(bench)
    timestamp = bench.repository.load("timestamp").signed
    timestamp.version += 1
    timestamp.unrecognized_fields[ISSUED_FIELD] += int(20 * DAY_S)
    timestamp.expires = timestamp.expires.replace(year=timestamp.expires.year + 1)
    metadata_path(bench, "timestamp").write_bytes(sign(timestamp, bench.repository.keys.signers("timestamp")))
    refresh(bench)
    floor = TrustFolder(bench.state).read_floor()
    assert floor is not None
    assert floor.at(bench.clock) > bench.clock.now_ns() + 19 * DAY_S * 1e9
    with pytest.raises(UntrustedError, match="freeze protection"):  # its own next word would be too old
        bench.repository.refresh()
        refresh(bench)
    bench.repository.rotate_key("timestamp")
    refresh(bench)
    floor = TrustFolder(bench.state).read_floor()
    assert floor is not None
    assert floor.at(bench.clock) <= bench.clock.now_ns()


def test_the_life_of_a_word_can_be_set(tmp_path: Path, bench: Bench) -> None:
    settings = RepositorySettings(timestamp_expiry_s=3600)
    repository = init_repository(tmp_path / "t3", tmp_path / "k3", settings=settings, clock=bench.clock)
    bench.repository = repository
    TrustFolder(bench.state).install(repository.root_bytes())
    refresh(bench)
    bench.clock.advance(3700)
    with pytest.raises(FleetLoopError, match="freeze protection"):
        refresh(bench)
