"""Frames come in order, once, and resume; a file that cannot be read is counted, never skipped silently."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sensors.image_folder import CANNOT_READ, CaptureTimes, ImageFolderSource
from connectors.sensors.parquet_frames import ParquetFrameSource
from connectors.sensors.ports import Observation, SourceNote
from foundation.errors import CorruptError, MisconfiguredError, RejectedError
from schemas.reasons import Provenance
from tests.fakes.sensors import ListFrameSource


def rows(count: int) -> list[dict[str, object]]:
    return [
        {
            "frame_id": f"f-{number:04d}",
            "drive_id": "d-1",
            "sensor_id": "front",
            "track_id": None if number % 2 else f"t-{number // 5}",
            "capture_time_ns": 1_000 + number,
            "capture_time_uncertainty_ns": 7,
            "content_type": "image/png",
            "provenance": "jittered",
            "payload": b"payload-%d" % number,
            "class_name": "never to be read",
        }
        for number in range(count)
    ]


def write(path: Path, content: list[dict[str, object]], group: int = 10) -> Path:
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=group)
    return path


def folder_of(path: Path, names: list[str]) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode())
    return path


def test_a_parquet_row_becomes_the_frame_it_says(tmp_path: Path) -> None:
    source = ParquetFrameSource(write(tmp_path / "a.parquet", rows(25)))
    frames = list(source.observations())
    assert frames[4] == Observation(
        "f-0004", "d-1", "front", "t-0", 1004, 7, "image/png", b"payload-4", Provenance.JITTERED
    )
    assert frames[3].track_id is None
    assert [frame.frame_id for frame in frames] == [row["frame_id"] for row in rows(25)]


@settings(max_examples=25, deadline=None)
@given(count=st.integers(2, 40), group=st.integers(1, 15), batch=st.integers(1, 15), data=st.data())
def test_every_source_resumes_exactly_after_a_frame(
    tmp_path_factory: pytest.TempPathFactory, count: int, group: int, batch: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("resume")
    place = data.draw(st.integers(0, count - 1))
    write(folder / "a.parquet", rows(count)[: count // 2], group)
    write(folder / "b.parquet", rows(count)[count // 2 :], group)
    images = folder_of(folder / "images", [f"d/{number:03d}.png" for number in range(count)])
    parquet = ParquetFrameSource(folder, batch_rows=batch)
    for source in (parquet, ImageFolderSource(images), ListFrameSource(parquet.observations())):
        every = list(source.observations())
        assert len(every) == count
        assert list(source.observations(resume_after=every[place].resume_place)) == every[place + 1 :]
        with pytest.raises(RejectedError) as caught:
            next(source.observations(resume_after="absent"))
        assert caught.value.reason == "unknown_frame"


def test_a_missing_column_a_missing_file_and_a_broken_file_are_named(tmp_path: Path) -> None:
    without = [{key: value for key, value in row.items() if key != "drive_id"} for row in rows(3)]
    with pytest.raises(MisconfiguredError, match=r"less\.parquet has no column drive_id"):
        ParquetFrameSource(write(tmp_path / "less.parquet", without))
    with pytest.raises(MisconfiguredError, match=r"absent\.parquet"):
        ParquetFrameSource(tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not it")
    with pytest.raises(CorruptError, match=r"broken\.parquet"):
        ParquetFrameSource(tmp_path / "broken.parquet")


def test_a_row_group_that_is_damaged_is_named_when_it_is_reached(tmp_path: Path) -> None:
    big = [row | {"payload": os.urandom(4000)} for row in rows(40)]
    path = write(tmp_path / "damaged.parquet", big)
    source = ParquetFrameSource(path)
    place = path.read_bytes().find(b"f-0030")  # inside the fourth row group's names
    with path.open("r+b") as file:
        file.seek(place - 40)
        file.write(b"\xff" * 60)
    seen = []
    with pytest.raises(CorruptError, match=r"damaged\.parquet"):
        for frame in source.observations():
            seen.append(frame.frame_id)
    assert seen[:10] == [f"f-{number:04d}" for number in range(10)]


def test_a_null_payload_is_an_empty_one_so_that_it_is_counted(tmp_path: Path) -> None:
    content = rows(3)
    content[1]["payload"] = None
    source = ParquetFrameSource(write(tmp_path / "a.parquet", content))
    assert [frame.payload for frame in source.observations()] == [b"payload-0", b"", b"payload-2"]
    assert [note.count for note in source.notes().values()] == [3, 1]  # three times of 1970, one null


def test_an_image_folder_gives_its_files_in_order_with_their_drives(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "trip", ["b/2.png", "a/1.jpg", "z.JPEG", "a/notes.txt", "a/0.png"])
    source = ImageFolderSource(folder, times=CaptureTimes(interval_ns=100, first_ns=5_000))
    frames = list(source.observations())
    assert [(f.frame_id, f.drive_id, f.capture_time_ns, f.content_type) for f in frames] == [
        ("a/0.png", "a", 5_000, "image/png"),
        ("a/1.jpg", "a", 5_100, "image/jpeg"),
        ("b/2.png", "b", 5_200, "image/png"),
        ("z.JPEG", "trip", 5_300, "image/jpeg"),
    ]
    assert all(frame.payload == frame.frame_id.encode() for frame in frames)
    assert {frame.provenance for frame in frames} == {Provenance.REPLAYED}


def test_an_image_that_cannot_be_read_is_an_empty_frame_with_its_cause(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ["1.png", "1a.png", "2.png"])
    os.truncate(folder / "1a.png", 1 << 40)  # a sparse file larger than any memory
    source = ImageFolderSource(folder)
    assert [frame.payload for frame in source.observations()] == [b"1.png", b"", b"2.png"]
    list(source.observations())  # another lap
    why = "1a.png: 1099511627776 bytes, the limit is 20000000"
    assert source.notes()[CANNOT_READ] == SourceNote(1, why)


def test_an_empty_folder_is_an_empty_drive_and_a_missing_one_a_setting_to_mend(tmp_path: Path) -> None:
    assert list(ImageFolderSource(tmp_path).observations()) == []
    with pytest.raises(MisconfiguredError, match="nowhere"):
        ImageFolderSource(tmp_path / "nowhere")
