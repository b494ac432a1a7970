"""Guarantee 4: the same rows give the same digest, with any workers, any order of arrival, any crash and restart."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from connectors.blob.store import BlobStore
from connectors.lake.lock import write_lake_lock
from connectors.lake.schema import SAMPLE_FIELDS
from connectors.lake.table import LakeTable
from foundation.errors import CorruptError, GuaranteeBrokenError, MisconfiguredError, RetryLaterError
from pipelines.curate.fragments import FRAGMENT_BYTES
from pipelines.curate.pipeline import WorkFolder
from pipelines.curate.run import cache_of
from pipelines.dataset.exclusive import dataset_lock
from pipelines.dataset.make import curate
from pipelines.dataset.manifest import dataset_digest, read_rows, shard_paths
from pipelines.runner import RunnerSettings
from pipelines.steps import watched
from tests.pipelines.curate_lake import (
    PARAMS,
    arrival,
    fleet_rows,
    label_rows,
    make_workspace,
    picture,
    reference_rows,
)
from workspace.layout import Workspace

SAMPLE_NAMES = [field.name for field in SAMPLE_FIELDS] + ["vehicle_id", "epoch", "seq"]
TEST_DRIVE, TRAIN_DRIVE = "drive-1", "drive-2"


def world() -> list[dict[str, object]]:
    """Distinct frames, and one of every kind that must leave."""
    rows = fleet_rows(10, 6)
    of = {name: [row for row in rows if row["drive_id"] == name] for name in (TEST_DRIVE, TRAIN_DRIVE)}
    seed_of_test, seed_of_train = int(str(of[TEST_DRIVE][0]["seq"])), int(str(of[TRAIN_DRIVE][0]["seq"]))
    extra = [
        arrival(picture(seed_of_train), seq=900, drive=TRAIN_DRIVE),  # exact copy within training
        arrival(picture(seed_of_test), seq=901, drive=TRAIN_DRIVE),  # exact copy of a test frame
        arrival(picture(seed_of_test + 1, light=0.9), seq=902, drive=TRAIN_DRIVE),  # looks like a test frame
        arrival(
            picture(seed_of_train + 1, light=1.1), vehicle="car-2", seq=903, drive=TRAIN_DRIVE
        ),  # looks like a train frame
        arrival(b"no picture", seq=904, drive=TRAIN_DRIVE),
        arrival(picture(7), seq=905, outcome="resent"),
        arrival(b"", seq=906, outcome="rejected") | dict.fromkeys(SAMPLE_NAMES),
        arrival(picture(5000, light=0.01), seq=907, drive=TRAIN_DRIVE),
    ]
    return [row | {"offset": number} for number, row in enumerate([*rows, *extra])]


def test_every_row_that_was_read_is_kept_or_has_its_reason(tmp_path: Path) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows, every=2), reference_rows())
    result = curate(workspace)
    counts = result.manifest["counts"]
    removed = pl.read_parquet(result.path / "removed.parquet")
    assert isinstance(counts, dict)
    assert counts["read"] == len(rows) + 6
    assert counts["kept"] + counts["unlabelled"] + counts["quarantined"] + removed.height == counts["read"]
    assert counts["removed"] == {
        "exact_duplicate": 1,
        "near_duplicate": 1,
        "near_duplicate_of_test": 2,
        "not_landed": 2,
        "too_dark": 1,
        "unreadable": 1,
    }
    copies = removed.filter(
        pl.col("reason").is_in(["exact_duplicate", "near_duplicate", "near_duplicate_of_test"])
    )
    assert copies["match_sha256"].null_count() == copies["distance"].null_count() == 0
    assert dataset_digest(result.path) == result.manifest["digest"]
    assert not (workspace.private_path / "work" / "curate").exists()


def test_no_frame_of_training_is_a_drive_or_a_twin_of_test(tmp_path: Path) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    found = read_rows(curate(workspace).path)
    test = found.filter(pl.col("split") == "test")
    others = found.filter(pl.col("split") != "test")
    assert test.height and others.height
    assert not set(test["drive_id"]) & set(others["drive_id"])
    twins = {901, 902}
    assert not twins & set(others["seq"])


def test_a_test_frame_without_a_label_keeps_its_twin_out_of_training(tmp_path: Path) -> None:
    rows = world()
    of_test = {row["payload_sha256"] for row in rows if row["drive_id"] == TEST_DRIVE}
    labels = label_rows([row for row in rows if row["payload_sha256"] not in of_test])
    found = read_rows(curate(make_workspace(tmp_path / "ws", rows, labels)).path)
    assert found.filter(pl.col("drive_id") == TEST_DRIVE).is_empty()
    assert found.height
    assert not {901, 902} & set(found["seq"])


def shuffled(rows: list[dict[str, object]], seed: int) -> list[dict[str, object]]:
    mixed = random.Random(seed).sample(rows, len(rows))
    return [row | {"offset": number, "ingest_time_ns": 10**9 - number} for number, row in enumerate(mixed)]


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    rows = world()
    workspace = make_workspace(
        tmp_path_factory.mktemp("reference") / "ws", rows, label_rows(rows), reference_rows()
    )
    return workspace.root, str(curate(workspace).manifest["digest"])


@pytest.mark.parametrize("files", [1, 7])
def test_another_order_of_arrival_in_other_files_gives_the_same_digest(
    tmp_path: Path, reference_run: tuple[Path, str], files: int
) -> None:
    rows = world()
    labels = shuffled(label_rows(rows), 3)
    for label in labels:
        label.pop("offset"), label.pop("ingest_time_ns")
    workspace = make_workspace(
        tmp_path / "ws", shuffled(rows, files), labels, reference_rows()[::-1], files=files
    )
    result = curate(workspace)
    assert result.manifest["digest"] == reference_run[1]
    assert shard_bytes(result.path) == shard_bytes(reference_run[0] / "datasets" / "current")


def shard_bytes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shard_paths(folder)}


def test_two_workers_write_the_same_dataset_as_one(tmp_path: Path, reference_run: tuple[Path, str]) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows), reference_rows(), files=5)
    result = curate(workspace, RunnerSettings(workers=2))
    assert result.manifest["digest"] == reference_run[1]


@pytest.mark.slow
def test_two_worker_processes_write_the_same_dataset_as_one(
    tmp_path: Path, reference_run: tuple[Path, str]
) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows), reference_rows(), files=5)
    result = curate(workspace, RunnerSettings(workers=2, multi_processing=True))
    assert result.manifest["digest"] == reference_run[1]


class CrashError(Exception):
    """Stands for a kill: nothing after it runs."""


def crash_at(label: str) -> Callable[[str], None]:
    def hook(reached: str) -> None:
        if reached == label:
            raise CrashError(label)

    return hook


@pytest.mark.parametrize("label", ["curate.rows", "curate.built", "curate.placed"])
def test_a_crash_after_any_step_leaves_a_whole_dataset_or_none_and_the_next_run_finishes(
    tmp_path: Path, reference_run: tuple[Path, str], label: str
) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows), reference_rows())
    with watched(crash_at(label)), pytest.raises(CrashError):
        curate(workspace)
    if (workspace.dataset_path / "manifest.json").is_file():
        assert dataset_digest(workspace.dataset_path) == reference_run[1]
    assert curate(workspace).manifest["digest"] == reference_run[1]


def test_a_dataset_that_somebody_holds_is_not_replaced_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    impatient = Workspace(workspace.root, type(workspace.settings)(lock_wait_s=0.0))
    with dataset_lock(workspace), pytest.raises(RetryLaterError, match=r"dataset\.lock is held by process"):
        curate(impatient)
    assert not workspace.dataset_path.exists()
    assert cache_of(workspace).features_path.is_file()
    assert dataset_digest(curate(impatient).path)


def test_what_was_measured_once_is_not_read_again_and_changes_no_result(tmp_path: Path) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows), reference_rows())
    first = curate(workspace).manifest
    cache = cache_of(workspace)
    assert cache.features_path.is_file()
    more = [arrival(picture(9000 + n), seq=2000 + n, drive="drive-late") for n in range(3)]
    _append(workspace, more, label_rows(more))
    with_cache = curate(workspace).manifest["digest"]
    for path in cache.folder.iterdir():
        path.unlink()
    assert curate(workspace).manifest["digest"] == with_cache != first["digest"]


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    first = curate(workspace).manifest["digest"]
    for path in cache_of(workspace).folder.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert curate(workspace).manifest["digest"] == first


def test_late_data_changes_nothing_until_the_lock_is_written_anew(tmp_path: Path) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    first = curate(workspace).manifest
    late = [arrival(picture(9100 + n), seq=2100 + n, drive="drive-late") for n in range(3)]
    table = LakeTable.open(workspace.arrivals_uri)
    _append(workspace, late, label_rows(late), lock=False)
    assert curate(workspace).manifest == first
    write_lake_lock(
        workspace.lake_lock_path, {"arrivals": table, "labels": LakeTable.open(workspace.labels_uri)}
    )
    assert curate(workspace).manifest["rows"] == int(str(first["rows"])) + 3


def test_a_table_that_was_made_anew_is_refused_under_the_old_lock(tmp_path: Path) -> None:
    rows = fleet_rows(2, 2)
    first = make_workspace(tmp_path / "a", rows, label_rows(rows))
    second = make_workspace(tmp_path / "b", rows, label_rows(rows))
    second.lake_lock_path.write_bytes(first.lake_lock_path.read_bytes())
    with pytest.raises(MisconfiguredError, match="recreated"):
        curate(second)


def test_a_lake_without_frames_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="fleetloop ingest"):
        curate(make_workspace(tmp_path / "ws", []))


def test_shards_are_cut_by_bytes_and_their_layout_changes_no_digest(tmp_path: Path) -> None:
    rows = world()
    labels = label_rows(rows)
    small = {"curate": {"quality": {"min_sharpness": 0.0}, "shards": {"target_bytes": 1_048_576}}}
    one = curate(make_workspace(tmp_path / "a", rows, labels)).manifest
    from pipelines.curate.params import ShardParams
    from pipelines.curate.resolve import _with_shards

    frame = pl.DataFrame(
        {
            "fragment_id": ["f"] * 4,
            "row": [0, 1, 2, 3],
            "state": ["kept"] * 4,
            "split": ["train"] * 4,
            "payload_sha256": list("dcba"),
            "payload_bytes": [600_000] * 4,
        }
    )
    cut = _with_shards(frame, ShardParams(target_bytes=1_048_576))
    assert cut["shard"].to_list() == ["train-00001", "train-00001", "train-00000", "train-00000"]
    other = curate(make_workspace(tmp_path / "b", rows, labels, params={**PARAMS, **small})).manifest
    assert one["digest"] == other["digest"]
    assert FRAGMENT_BYTES > 0


def test_rows_that_break_a_rule_are_in_quarantine_with_the_rule_and_not_in_the_shards(tmp_path: Path) -> None:
    rows = world()
    labels = label_rows(rows)
    labels[0]["class_name"] = "blue"
    rows[2]["score_margin"] = 1.5
    no_vehicle = PARAMS | {
        "curate": {"quality": {"min_sharpness": 0.0}, "quarantine": {"max_failing_ratio": 1.0}}
    }
    result = curate(make_workspace(tmp_path / "ws", rows, labels, params=no_vehicle))
    quarantine = pl.read_parquet(result.path / "quarantine.parquet").sort("seq")
    assert quarantine.select("seq", pl.col("rules").list.join(",")).rows() == [
        (0, "class_name_known"),
        (2, "score_margin_in_range"),
    ]
    assert not {0, 2} & set(read_rows(result.path)["seq"])
    assert result.manifest["quarantine"] == {"class_name_known": 1, "score_margin_in_range": 1}


def test_a_payload_that_changed_in_the_lake_stops_the_run_and_the_old_dataset_stays(tmp_path: Path) -> None:
    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    before = curate(workspace).manifest["digest"]
    bad = arrival(picture(1234), seq=3000, drive=TRAIN_DRIVE) | {"payload": picture(4321)}
    _append(workspace, [bad], label_rows([bad]))
    with pytest.raises(CorruptError, match="sha256"):
        curate(workspace)
    assert dataset_digest(workspace.dataset_path) == before


def test_a_payload_in_the_blob_store_is_read_from_there_and_nowhere_else(tmp_path: Path) -> None:
    rows = world()
    store = BlobStore(f"file://{tmp_path}/blobs")
    for row in rows[:5]:
        payload = row["payload"]
        assert isinstance(payload, bytes)
        row |= {"payload_uri": store.put_verified(payload).uri, "payload": b""}
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    assert curate(workspace).manifest["counts"]["removed"]["payload_unavailable"] == 5
    (workspace.root / "fleetloop.toml").write_text(f'blobs = "file://{tmp_path}/blobs"\n')
    elsewhere = curate(Workspace.open(workspace.root)).manifest["digest"]
    rows = world()
    assert curate(make_workspace(tmp_path / "inline", rows, label_rows(rows))).manifest["digest"] == elsewhere


BAD_REFERENCES = (
    "s3://somebody-else/blob",
    "nosuchscheme://x",
    "file:///etc/passwd",
    "{root}/../blobs/{sha}",
    "{root}/00/{sha}",
    "{root}/{first}/{sha}",
    "\x00",
    "http://127.0.0.1:1/x",
)


@pytest.mark.parametrize("blobs", ["", "file://{folder}/blobs"])
def test_a_bad_payload_reference_costs_its_own_row_and_never_the_dataset(tmp_path: Path, blobs: str) -> None:
    root = f"file://{tmp_path}/blobs"
    rows = world()
    honest = dict(rows[3])
    sha = str(honest["payload_sha256"])
    changes: list[dict[str, object]] = [
        {"payload_uri": uri.format(root=root, sha=sha, first=sha[:2])} for uri in BAD_REFERENCES
    ]
    other = hashlib.sha256(b"other").hexdigest()
    (tmp_path / "blobs" / other[:2]).mkdir(parents=True)
    (tmp_path / "blobs" / other[:2] / other).write_bytes(b"changed")
    changes += [
        {"payload_uri": f"{root}/{other[:2]}/{other}", "payload_sha256": other, "payload_bytes": size}
        for size in (7, 5, -1, None)
    ]
    # Vehicle "a" sorts before every honest one: its rows claim the honest row's payload, and would win it.
    bad = [
        honest
        | {"vehicle_id": "a", "seq": 5000 + n, "offset": 5000 + n, "offset_end": 5001 + n, "payload": b""}
        | one
        for n, one in enumerate(changes)
    ]
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    if blobs:
        (workspace.root / "fleetloop.toml").write_text(f'blobs = "{blobs.format(folder=tmp_path)}"\n')
        workspace = Workspace.open(workspace.root)
    before = curate(workspace).manifest
    _append(workspace, bad, [])
    for _ in range(2):  # the second run has every measure in its cache
        after = curate(workspace).manifest
        assert after["counts"]["removed"] == before["counts"]["removed"] | {"payload_unavailable": len(bad)}
        assert after["digest"] == before["digest"]


def test_a_blob_that_is_gone_since_it_was_measured_removes_its_row(tmp_path: Path) -> None:
    rows = world()
    store = BlobStore(f"file://{tmp_path}/blobs")
    payload = rows[0]["payload"]
    assert isinstance(payload, bytes)
    rows[0] |= {"payload_uri": store.put_verified(payload).uri, "payload": b""}
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    (workspace.root / "fleetloop.toml").write_text(f'blobs = "file://{tmp_path}/blobs"\n')
    workspace = Workspace.open(workspace.root)
    before = curate(workspace).manifest["counts"]["removed"]
    assert "payload_unavailable" not in before
    (tmp_path / "blobs" / str(rows[0]["payload_sha256"])[:2] / str(rows[0]["payload_sha256"])).unlink()
    assert curate(workspace).manifest["counts"]["removed"] == before | {"payload_unavailable": 1}


def test_a_picture_that_ends_the_process_which_decodes_it_is_removed_as_unreadable_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.curate import measure as measuring

    rows = world()
    honest = curate(make_workspace(tmp_path / "honest", rows, label_rows(rows))).manifest["counts"]
    killer = arrival(rows[2]["payload"] + b"ends the process", vehicle="hostile", drive="x", offset=9999)
    monkeypatch.setattr(measuring, "DECODING", "tests.fakes.decoders:measured_unless_it_kills")
    workspace = make_workspace(tmp_path / "ws", [*rows, killer], label_rows(rows))
    for _ in range(2):  # the second run has it in its cache
        counts = curate(workspace).manifest["counts"]
        assert counts["removed"] == honest["removed"] | {"unreadable": honest["removed"]["unreadable"] + 1}
        assert counts["kept"] == honest["kept"]


def test_the_states_must_add_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipelines.curate import resolve as resolving

    rows = world()
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    honest = resolving.remove_near_duplicates

    def twice(frames: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        found = honest(frames, pairs)
        return pl.concat([found, found])

    monkeypatch.setattr(resolving, "remove_near_duplicates", twice)
    with pytest.raises(GuaranteeBrokenError, match="were read"):
        curate(workspace)


def _append(
    workspace: Workspace, rows: list[dict[str, object]], labels: list[dict[str, object]], *, lock: bool = True
) -> None:
    import pyarrow as pa

    from connectors.lake.schema import ARRIVALS, LABELS
    from pipelines.dataset.lock import lake_tables

    LakeTable.open(workspace.arrivals_uri).append(pa.Table.from_pylist(rows, ARRIVALS))
    LakeTable.open(workspace.labels_uri).append(pa.Table.from_pylist(labels, LABELS))
    if lock:
        write_lake_lock(workspace.lake_lock_path, lake_tables(workspace))


def test_the_work_folder_says_where_things_are(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    work.make()
    assert {path.name for path in tmp_path.iterdir()} == {"measured", "pairs", "pieces", "shards"}
