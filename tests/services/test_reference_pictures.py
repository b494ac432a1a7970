"""Pictures of other origin: from Parquet or from a folder with its labels; each row is added or refused by reason."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from connectors.lake.table import LakeTable
from foundation.errors import FleetLoopError, MisconfiguredError, RejectedError
from services.reference import add_reference
from tests.pipelines.curate_lake import make_workspace
from workspace.layout import Workspace


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 40 % 256, 80, 20)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace", [])


def parquet(folder: Path, **other: pa.Array) -> Path:
    columns = {
        "payload": pa.array([png(number) for number in range(3)], pa.binary()),
        "class_name": pa.array(["green", "red", "red"]),
        "drive_id": pa.array(["d-1", "d-1", "d-2"]),
    }
    pq.write_table(
        pa.table({name: each for name, each in (columns | other).items() if each is not None}),
        folder / "r.parquet",
    )
    return folder / "r.parquet"


def rows_of(place: Workspace) -> list[dict]:
    return LakeTable.open(place.reference_uri).snapshot().read().sort_by("drive_id").to_pylist()


def test_an_image_struct_and_a_drive_by_number_are_read(place: Workspace, tmp_path: Path) -> None:
    cells = pa.array([{"bytes": png(number), "path": "x.png"} for number in range(3)])
    drives, tracks = pa.array([0, 1, 2], pa.int64()), pa.array([None, 5, 6], pa.int64())
    found = add_reference(place, parquet(tmp_path, payload=cells, drive_id=drives, track_id=tracks))
    assert (found.added.added, found.refused) == (3, ())
    assert [(row["drive_id"], row["track_id"]) for row in rows_of(place)] == [
        ("0", None),
        ("1", "5"),
        ("2", "6"),
    ]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("payload", pa.array(["/data/1.png"] * 3), "the column payload is string; wanted is binary"),
        ("payload", pa.array([1, 2, 3]), "the column payload is int64"),
        ("class_name", pa.array([0, 1, 2]), "the column class_name is int64; wanted is text"),
        ("drive_id", pa.array([1.5, 2.5, 3.5]), "the column drive_id is double"),
        ("drive_id", None, "no column drive_id.*--labels"),
    ],
)
def test_a_column_that_is_not_read_is_named_with_what_is_wanted(
    place: Workspace, tmp_path: Path, column: str, values: pa.Array | None, words: str
) -> None:
    with pytest.raises(MisconfiguredError, match=words):
        add_reference(place, parquet(tmp_path, **{column: values}))


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("payload", pa.array([None, png(1), png(2)], pa.binary()), "no payload"),
        ("drive_id", pa.array([None, "d-1", "d-2"]), "no drive_id"),
        ("drive_id", pa.array([" ", "d-1", "d-2"]), "no drive_id"),
        ("class_name", pa.array([None, "red", "red"]), "no class_name"),
    ],
)
def test_a_row_without_a_part_is_refused_and_the_rest_is_added(
    place: Workspace, tmp_path: Path, column: str, values: pa.Array, reason: str
) -> None:
    found = add_reference(place, parquet(tmp_path, **{column: values}))
    assert found.added.added == 2
    assert [(each.where, each.reason) for each in found.refused] == [("row 1", reason)]


def test_an_unknown_class_adds_nothing_and_names_row_and_nearest(place: Workspace, tmp_path: Path) -> None:
    with pytest.raises(
        RejectedError, match=r"1 rows.*row 2: unknown class 'redd'; the nearest is 'red'"
    ) as caught:
        add_reference(place, parquet(tmp_path, class_name=pa.array(["green", "redd", "red"])))
    assert caught.value.reason == "unknown_class"
    assert rows_of(place) == []


def test_a_folder_with_its_labels_is_added_each_sub_folder_as_a_drive(
    place: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    for number, name in enumerate(("monday/1.png", "monday/2.png", "tuesday/1.png", "loose.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(number))
    (tmp_path / "labels.csv").write_text(
        "file,class\nmonday/1.png,green\ntuesday/1.png,RED\nloose.png,red\nx.png,red\n"
    )
    found = add_reference(place, folder, labels=tmp_path / "labels.csv")
    assert [(row["drive_id"], row["class_name"]) for row in rows_of(place)] == [
        ("monday", "green"),
        ("own", "red"),
        ("tuesday", "red"),
    ]
    assert [each.reason for each in found.refused] == ["no such picture"]
    assert add_reference(place, folder, labels=tmp_path / "labels.csv").added.known == 3


def test_a_folder_without_labels_says_what_is_missing(place: Workspace, tmp_path: Path) -> None:
    with pytest.raises(FleetLoopError, match="--labels"):
        add_reference(place, tmp_path)
