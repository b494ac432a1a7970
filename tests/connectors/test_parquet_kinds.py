"""Parquet as other tools write it: read, or one clear line with column, type and what is wanted, or a counted row."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.labels.desk import FileLabelDesk
from connectors.labels.labelled_pictures import read_labelled_parquet
from connectors.sensors.parquet_frames import IN_1970, NO_PAYLOAD, NOT_UTF8, ParquetFrameSource
from foundation.errors import CorruptError, MisconfiguredError, RejectedError

ROWS = 6
TIMES = [1_760_000_000_000_000_000 + row * 10**8 for row in range(ROWS)]
NAMES = [f"f{row}" for row in range(ROWS)]
PAYLOADS = [b"picture-%d" % row for row in range(ROWS)]
MOMENTS = [datetime.fromtimestamp(time / 1e9, UTC) for time in TIMES]


def table(**other: pa.Array) -> pa.Table:
    columns = {
        "payload": pa.array(PAYLOADS, pa.binary()),
        "frame_id": pa.array(NAMES),
        "drive_id": pa.array(["d"] * ROWS),
        "sensor_id": pa.array(["cam"] * ROWS),
        "capture_time_ns": pa.array(TIMES, pa.int64()),
    }
    return pa.table(columns | other)


def source_of(folder: Path, **other: pa.Array) -> ParquetFrameSource:
    pq.write_table(table(**other), folder / "f.parquet")
    return ParquetFrameSource(folder / "f.parquet")


READ = {
    "plain": {},
    "dictionaries": {
        "drive_id": pa.array(["d"] * ROWS).dictionary_encode(),
        "frame_id": pa.array(NAMES).dictionary_encode(),
        "payload": pa.array(PAYLOADS, pa.binary()).dictionary_encode(),
    },
    "large": {
        "payload": pa.array(PAYLOADS, pa.large_binary()),
        "frame_id": pa.array(NAMES, pa.large_string()),
    },
    "views": {"payload": pa.array(PAYLOADS, pa.binary_view()), "frame_id": pa.array(NAMES, pa.string_view())},
    "image struct": {"payload": pa.array([{"bytes": each, "path": None} for each in PAYLOADS])},
    "microseconds in Tokyo": {"capture_time_ns": pa.array(MOMENTS, pa.timestamp("us", "Asia/Tokyo"))},
    "nanoseconds in UTC": {"capture_time_ns": pa.array(TIMES, pa.int64()).cast(pa.timestamp("ns", "UTC"))},
    "uint64": {"capture_time_ns": pa.array(TIMES, pa.uint64())},
    "provenance in capitals": {"provenance": pa.array(["REPLAYED"] * ROWS)},
}


@pytest.mark.parametrize("kind", READ)
def test_what_means_the_same_is_read_the_same(tmp_path: Path, kind: str) -> None:
    frames = list(source_of(tmp_path, **READ[kind]).observations())
    found = [(frame.frame_id, frame.capture_time_ns, frame.payload) for frame in frames]
    assert found == list(zip(NAMES, TIMES, PAYLOADS, strict=True))


def test_whole_numbers_name_frames_drives_and_tracks(tmp_path: Path) -> None:
    numbers = pa.array(range(ROWS), pa.int64())
    first = next(source_of(tmp_path, frame_id=numbers, drive_id=numbers, track_id=numbers).observations())
    assert (first.frame_id, first.drive_id, first.track_id) == ("0", "0", "0")


REFUSED = {
    "seconds as float": (
        "capture_time_ns",
        pa.array([each / 1e9 for each in TIMES]),
        "double.*nanoseconds since",
    ),
    "no number": ("capture_time_ns", pa.array([float("nan")] * ROWS), "double"),
    "text as time": (
        "capture_time_ns",
        pa.array([each.isoformat() for each in MOMENTS]),
        "string.*timestamp",
    ),
    "no zone": (
        "capture_time_ns",
        pa.array([each.replace(tzinfo=None) for each in MOMENTS], pa.timestamp("us")),
        r"timestamp\[us\].*has no zone",
    ),
    "paths": ("payload", pa.array([f"/data/{name}.jpg" for name in NAMES]), "string.*not a path"),
    "integers as payload": ("payload", pa.array([2**31] * ROWS), "int64.*binary"),
    "pixels": ("payload", pa.array([[1, 2, 3]] * ROWS), "list.*not pixels"),
    "bytes as names": ("frame_id", pa.array([name.encode() for name in NAMES]), "binary.*text or an integer"),
    "half nanoseconds": ("capture_time_uncertainty_ns", pa.array([1.5] * ROWS), "double.*an integer"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_column_that_is_not_read_is_named_with_its_type_and_what_is_wanted(
    tmp_path: Path, kind: str
) -> None:
    column, values, words = REFUSED[kind]
    with pytest.raises(MisconfiguredError, match=rf"f\.parquet: the column {column} is {words}"):
        source_of(tmp_path, **{column: values})


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    whole = table()
    doubled = pa.Table.from_arrays(
        [*whole.columns, whole["frame_id"]], names=[*whole.column_names, "frame_id"]
    )
    pq.write_table(doubled, tmp_path / "f.parquet")
    with pytest.raises(MisconfiguredError, match="2 columns named frame_id"):
        ParquetFrameSource(tmp_path / "f.parquet")


BAD = {
    "no time": ("capture_time_ns", pa.array([None, *TIMES[1:]], pa.int64()), "capture_time_ns is null"),
    "before 1970": (
        "capture_time_ns",
        pa.array([-5, *TIMES[1:]], pa.int64()),
        "capture_time_ns is out of range",
    ),
    "beyond 64 bits": (
        "capture_time_ns",
        pa.array([2**64 - 1, *TIMES[1:]], pa.uint64()),
        "capture_time_ns is out of range",
    ),
    "no frame id": ("frame_id", pa.array([None, *NAMES[1:]]), "frame_id is null"),
    "no drive": ("drive_id", pa.array([None] + ["d"] * (ROWS - 1)), "drive_id is null"),
    "NUL": ("drive_id", pa.array(["a\0b"] + ["d"] * (ROWS - 1)), "drive_id does not have"),
    "too long": ("frame_id", pa.array(["x" * 257, *NAMES[1:]]), "frame_id does not have"),
    "dreamt": ("provenance", pa.array(["dreamt"] + ["replayed"] * (ROWS - 1)), "provenance is none of"),
    "less than sure": ("capture_time_uncertainty_ns", pa.array([-1] + [0] * (ROWS - 1)), "is out of range"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_row_that_cannot_be_a_frame_is_left_out_counted_and_named(tmp_path: Path, kind: str) -> None:
    column, values, words = BAD[kind]
    source = source_of(tmp_path, **{column: values})
    assert [frame.payload for frame in source.observations()] == PAYLOADS[1:]
    [(told, note)] = source.notes().items()
    assert told.startswith("left out: ") and words in told
    assert note.count == 1 and note.first.startswith("f.parquet, row 1: ")


def test_a_row_without_a_payload_is_an_empty_frame_and_told(tmp_path: Path) -> None:
    cells = [
        None,
        {"bytes": None, "path": "a.jpg"},
        *({"bytes": each, "path": None} for each in PAYLOADS[2:]),
    ]
    source = source_of(tmp_path, payload=pa.array(cells))
    assert [frame.payload for frame in source.observations()] == [b"", b"", *PAYLOADS[2:]]
    assert source.notes()[NO_PAYLOAD].count == 2


def test_milliseconds_as_nanoseconds_are_taken_and_doubted(tmp_path: Path) -> None:
    source = source_of(tmp_path, capture_time_ns=pa.array([time // 10**6 for time in TIMES], pa.int64()))
    assert len(list(source.observations())) == ROWS and source.notes()[IN_1970].count == ROWS


def test_frame_ids_that_repeat_between_drives_resume_at_their_own_row(tmp_path: Path) -> None:
    repeated = pa.array(["0", "1", "2"] * 2)
    source = source_of(tmp_path, frame_id=repeated, drive_id=pa.array(["one"] * 3 + ["two"] * 3))
    every = list(source.observations())
    for number, frame in enumerate(every):
        rest = list(ParquetFrameSource(tmp_path / "f.parquet", batch_rows=2).observations(frame.resume_place))
        assert [each.payload for each in rest] == PAYLOADS[number + 1 :]
    with pytest.raises(RejectedError, match="not one frame but 2 frames '1'") as caught:
        next(source.observations("1"))
    assert caught.value.reason == "unknown_frame"


def test_a_place_of_another_recording_under_the_same_name_is_unknown(tmp_path: Path) -> None:
    place = list(source_of(tmp_path).observations())[3].resume_place
    with pytest.raises(RejectedError, match="no frame"):
        next(source_of(tmp_path, frame_id=pa.array([f"g{row}" for row in range(ROWS)])).observations(place))


def test_a_payload_that_unpacks_to_more_than_any_picture_is_not_read(tmp_path: Path) -> None:
    source = source_of(tmp_path, payload=pa.array([bytes(65_000_000 * ROWS), *PAYLOADS[1:]]))
    with pytest.raises(CorruptError, match="the limit is 64000000 bytes per row"):
        next(source.observations())


@pytest.mark.parametrize("after", [None, "f2"])
def test_one_changed_byte_of_a_footer_gives_frames_or_an_error_of_the_declared_kinds(
    tmp_path: Path, after: str | None
) -> None:
    source_of(tmp_path)
    path = tmp_path / "f.parquet"
    whole = path.read_bytes()
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    ended = 0
    for place in range(begin, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            list(ParquetFrameSource(path).observations(after))
        except (CorruptError, MisconfiguredError, RejectedError):
            ended += 1
    assert ended > 100


@pytest.mark.parametrize("number", [0, 3, ROWS - 1])
def test_a_text_that_is_not_utf8_costs_its_row_alone_also_when_resuming(tmp_path: Path, number: int) -> None:
    texts = [name.encode() for name in NAMES]
    texts[number] = b"\xff\xfe"
    offsets = pa.array([0, *accumulate(len(text) for text in texts)], pa.int32())
    names = pa.StringArray.from_buffers(ROWS, offsets.buffers()[1], pa.py_buffer(b"".join(texts)))
    source = source_of(tmp_path, frame_id=names)
    sound = [payload for row, payload in enumerate(PAYLOADS) if row != number]
    every = list(source.observations())
    assert [frame.payload for frame in every] == sound
    assert source.notes()[NOT_UTF8].count == 1
    assert source.notes()[NOT_UTF8].first == f"f.parquet, row {number + 1}"
    for place, frame in enumerate(every):
        assert [each.payload for each in source.observations(frame.resume_place)] == sound[place + 1 :]


def test_a_file_of_many_row_groups_is_opened_once_per_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    class Counted(pq.ParquetFile):
        def __init__(self, path: Path) -> None:
            opened.append(path)
            super().__init__(path)

    pq.write_table(table(), tmp_path / "f.parquet", row_group_size=1)
    source = ParquetFrameSource(tmp_path / "f.parquet")
    monkeypatch.setattr(pq, "ParquetFile", Counted)
    assert len(list(source.observations())) == ROWS
    assert len(opened) == 1


def test_small_files_that_unpack_to_hundreds_of_megabytes_are_refused_from_their_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tmp_path / "bomb.parquet"
    columns = {"payload_sha256": ["a" * 2_000_000], "payload": [bytes(65_000_000)], "class_name": ["red"]}
    pq.write_table(pa.table(columns | {"drive_id": ["d"]}), bomb, compression="zstd")
    assert bomb.stat().st_size < 100_000

    def read(*_arguments: object, **_options: object) -> None:
        raise AssertionError("something of the file was unpacked")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", read)
    with pytest.raises(CorruptError, match="the limit is 64000000 bytes per row"):
        list(read_labelled_parquet(bomb, []))
    with pytest.raises(CorruptError, match="the limit is 1000000 bytes per row"):
        FileLabelDesk(bomb)
