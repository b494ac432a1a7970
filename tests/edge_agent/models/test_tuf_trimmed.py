"""Trimming the release repository takes nothing from any vehicle: not from one that was off for years, or is half-way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from foundation.errors import MisconfiguredError
from rollout.trim import Trimmed, issued_ns, trim_repository
from schemas.downlink import ISSUED_FIELD
from schemas.downlink import RELEASES_KEY as KEY
from tests.edge_agent.models.model_bench import Bench
from tests.edge_agent.models.tuf_rig import DAY_S, refresh, with_release

KEEP_S = 30 * DAY_S


def files_of(bench: Bench) -> set[Path]:
    return {
        path for path in bench.repository.path.rglob("*") if path.is_file() and path.name != ".writer.lock"
    }


def publish(bench: Bench, name: str, number: int) -> None:
    bench.release(name, number)


def trim(bench: Bench, *, is_dry_run: bool = False) -> Trimmed:
    return trim_repository(bench.repository, KEEP_S, bench.clock, is_dry_run=is_dry_run)


@pytest.fixture
def two_years(bench: Bench) -> Bench:
    """A vehicle that heard of the first release, and 24 more since, with every kind of key replaced on the way."""
    with_release(bench)
    refresh(bench)
    for month in range(24):
        bench.clock.advance(30 * DAY_S)
        bench.repository.refresh()
        publish(bench, f"m{month}", 10 + month)
        if month % 8 == 7:
            bench.repository.rotate_root()
            bench.repository.rotate_key("models")
            bench.repository.rotate_key("snapshot")
    return bench


def test_a_vehicle_that_was_off_for_two_years_gets_every_release_and_model(two_years: Bench) -> None:
    before = files_of(two_years)
    done = trim(two_years)
    assert len(done.paths) > len(before) // 2, "old states went"
    assert files_of(two_years) == before - {two_years.repository.path / path for path in done.paths}
    online = refresh(two_years)
    index = online.fetch_index("models")
    assert index is not None
    releases = json.loads(index)[KEY]
    assert len(releases) == 25
    for release in releases:
        assert online.target("models", release["model_target"].removeprefix("models/")) is not None


def test_a_vehicle_with_the_oldest_root_alone_still_finds_the_chain(two_years: Bench) -> None:
    roots = {path for path in files_of(two_years) if path.name.endswith(".root.json")}
    trim(two_years)
    assert roots <= files_of(two_years)
    assert len(roots) > 3


def test_a_vehicle_in_the_middle_of_a_state_that_was_present_this_month_finishes_it(two_years: Bench) -> None:
    """It has a timestamp of before the newest publication, from a cache, and asks for what that one names."""
    timestamp = two_years.repository.path / "metadata" / "timestamp.json"
    older = timestamp.read_bytes()
    two_years.clock.advance(200 * DAY_S)
    two_years.repository.refresh()
    publish(two_years, "newest", 99)
    trim(two_years)
    newest = timestamp.read_bytes()
    timestamp.write_bytes(older)
    files = two_years.repository
    for role in ("snapshot", "targets", "models", "rollouts"):
        assert files.load(role) is not None
    assert files.read_index("models") is not None
    timestamp.write_bytes(newest)


def test_the_number_of_files_stays_bounded_and_publishing_goes_on(two_years: Bench) -> None:
    trim(two_years)
    before = len(files_of(two_years))
    for _month in range(12):
        two_years.clock.advance(30 * DAY_S)
        two_years.repository.refresh()
        trim(two_years)
    assert len(files_of(two_years)) <= before + 4
    publish(two_years, "after", 98)
    assert len(json.loads(refresh(two_years).fetch_index("models") or b"")[KEY]) == 26


def test_a_publication_that_was_killed_is_finished_after_a_trim(two_years: Bench) -> None:
    class KilledError(BaseException):
        pass

    from rollout.repository import Repository

    for step in ("targets", "role", "snapshot"):

        def kill(at: str, step: str = step) -> None:
            if at == step:
                raise KilledError

        keys_path = two_years.repository.keys._path
        broken = Repository(two_years.repository.path, keys_path, clock=two_years.clock, on_step=kill)
        with pytest.raises(KilledError):
            broken.publish("models", {"note.txt": step.encode()})
        two_years.clock.advance(60 * DAY_S)
        trim(two_years)
        two_years.repository.refresh()
        two_years.repository.publish("models", {"note.txt": b"done"})
        assert refresh(two_years).target("models", "note.txt") is not None


def test_a_dry_run_removes_nothing_and_less_than_a_day_is_refused(two_years: Bench) -> None:
    before = files_of(two_years)
    assert trim(two_years, is_dry_run=True).paths
    assert files_of(two_years) == before
    with pytest.raises(MisconfiguredError, match="keep_s is 60"):
        trim_repository(two_years.repository, 60, two_years.clock)


@pytest.mark.parametrize("restored_s", [0, 4_000_000_000])
def test_a_restored_backup_whose_files_have_other_times_is_trimmed_as_the_original(
    two_years: Bench, restored_s: int
) -> None:
    expected = trim(two_years, is_dry_run=True)
    for path in files_of(two_years):
        os.utime(path, (restored_s, restored_s))
    assert trim(two_years) == expected


def test_a_snapshot_of_an_earlier_release_counts_as_signed_when_it_expires(two_years: Bench) -> None:
    snapshot = two_years.repository.load("snapshot").signed
    assert issued_ns(snapshot) == two_years.clock.now_ns() // 1_000_000_000 * 1_000_000_000
    del snapshot.unrecognized_fields[ISSUED_FIELD]
    assert issued_ns(snapshot) > two_years.clock.now_ns()
