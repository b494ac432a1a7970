"""A folder as people fill it: order, times, odd names and files, a recorder that still writes; nothing uncounted."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from connectors.sensors import image_folder
from connectors.sensors.folder_listing import LINK, NO_FILE, natural_key
from connectors.sensors.image_folder import CaptureTimes, ImageFolderSource

SECOND_NS = 1_000_000_000
MARCH = datetime(2026, 3, 1, 8, 0, 0, tzinfo=UTC)


def picture(kind: str = "JPEG", exif: Image.Exif | None = None) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 160, 30)).save(out, kind, **({"exif": exif} if exif else {}))
    return out.getvalue()


def taken_at(when: datetime, **more: str) -> Image.Exif:
    exif = Image.Exif()
    tags = {0x9003: when.strftime("%Y:%m:%d %H:%M:%S")}
    exif[0x8769] = tags | {
        tag: more[name] for name, tag in (("subseconds", 0x9291), ("zone", 0x9011)) if name in more
    }
    return exif


def names_of(source: ImageFolderSource, resume_after: str | None = None) -> list[str]:
    return [frame.frame_id for frame in source.observations(resume_after)]


def test_numbers_in_names_are_read_as_numbers(tmp_path: Path) -> None:
    for number in range(1, 13):
        (tmp_path / f"img{number}.jpg").write_bytes(picture())
    assert names_of(ImageFolderSource(tmp_path)) == [f"img{number}.jpg" for number in range(1, 13)]


def test_every_name_has_its_place_in_the_order() -> None:
    names = ["b", "10", "a2", "\u0661", "a10", "2", "", "a/1", "9" * 50, "\u00b2"]
    wanted = ["", "\u0661", "2", "10", "9" * 50, "a/1", "a2", "a10", "b", "\u00b2"]
    assert sorted(names, key=natural_key) == wanted


def test_capture_times_are_those_of_exif_with_what_is_not_known_as_uncertainty(tmp_path: Path) -> None:
    for number in range(1, 4):
        when = taken_at(MARCH + timedelta(seconds=10 * number))
        (tmp_path / f"img{number}.jpg").write_bytes(picture(exif=when))
    zoned = taken_at(MARCH + timedelta(hours=9), zone="+09:00", subseconds="250")
    (tmp_path / "img4.jpg").write_bytes(picture(exif=zoned))
    source = ImageFolderSource(tmp_path)
    first, second, _, last = source.observations()
    start_ns = int(MARCH.timestamp()) * SECOND_NS
    assert first.capture_time_ns == start_ns + 10 * SECOND_NS
    assert second.capture_time_ns - first.capture_time_ns == 10 * SECOND_NS
    assert first.capture_time_uncertainty_ns == (14 * 3600 + 1) * SECOND_NS
    assert (last.capture_time_ns, last.capture_time_uncertainty_ns) == (start_ns + SECOND_NS // 4, 1_000_000)
    assert source.notes()[image_folder.NO_ZONE].count == 3
    in_tokyo = ImageFolderSource(tmp_path, times=CaptureTimes(zone_minutes=540))
    assert next(in_tokyo.observations()).capture_time_ns == start_ns - 9 * 3600 * SECOND_NS + 10 * SECOND_NS


@pytest.mark.parametrize("resume_after", [None, "2.jpg"])
def test_pictures_of_one_second_still_follow_each_other(tmp_path: Path, resume_after: str | None) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(picture(exif=taken_at(MARCH)))
    times = [frame.capture_time_ns for frame in ImageFolderSource(tmp_path).observations(resume_after)]
    start_ns = int(MARCH.timestamp()) * SECOND_NS
    assert times == [start_ns + number * 1_000_000 for number in range(5 - len(times), 5)]


def test_without_exif_the_files_time_stands_rises_and_is_said(tmp_path: Path) -> None:
    for number, seconds in enumerate((50, 20, 20, 60)):  # as a copy leaves them
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture("PNG"))
        os.utime(path, ns=(0, seconds * SECOND_NS))
    source = ImageFolderSource(tmp_path)
    times = [frame.capture_time_ns for frame in source.observations()]
    assert times == [50 * SECOND_NS, 50 * SECOND_NS + 1000, 50 * SECOND_NS + 2000, 60 * SECOND_NS]
    assert source.notes()[image_folder.FILE_TIME].count == 4
    assert [f.capture_time_ns for f in ImageFolderSource(tmp_path).observations("1.png")] == times[2:]


def test_what_is_no_picture_is_counted_by_kind_and_nothing_but_files_is_opened(tmp_path: Path) -> None:
    (tmp_path / "0.tif").write_bytes(picture("TIFF"))
    (tmp_path / "1.gif").write_bytes(picture("GIF"))
    (tmp_path / "2.ppm").write_bytes(picture("PPM"))
    (tmp_path / "3.jfif").write_bytes(picture())
    (tmp_path / "4.dat").write_bytes(picture())
    (tmp_path / "5.jpg").write_bytes(picture("PNG"))
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "link.jpg").symlink_to("5.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    source = ImageFolderSource(tmp_path)
    frames = list(source.observations())
    assert [frame.frame_id for frame in frames] == ["0.tif", "1.gif", "2.ppm", "3.jfif", "4.dat", "5.jpg"]
    assert [frame.content_type.partition("/")[2] for frame in frames] == [
        "tiff",
        "gif",
        "x-portable-anymap",
        "jpeg",
        "jpeg",
        "png",
    ]
    left_out = {words: note.count for words, note in source.notes().items() if words.startswith("left out")}
    assert left_out == {LINK: 2, NO_FILE: 1, image_folder.NOT_A_PICTURE: 1}


def test_a_name_that_is_no_text_or_too_long_becomes_one_that_can_be_stored(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/02\xff.png")).write_bytes(picture("PNG"))
    deep = tmp_path.joinpath("x" * 200, "y" * 200)
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(picture("PNG"))
    frames = list(ImageFolderSource(tmp_path).observations())
    assert "02\\xff.png" in [frame.frame_id for frame in frames]
    for frame in frames:
        frame.frame_id.encode()
        assert len(frame.frame_id) <= 256 and frame.payload
    assert [f.frame_id for f in ImageFolderSource(tmp_path).observations(frames[0].resume_place)] == [
        frames[1].frame_id
    ]


def test_a_recorders_new_files_are_the_next_frames_and_late_ones_are_counted(tmp_path: Path) -> None:
    for name in ("1.jpg", "3.jpg"):
        (tmp_path / name).write_bytes(picture())
    source = ImageFolderSource(tmp_path)
    assert names_of(source) == ["1.jpg", "3.jpg"]
    assert names_of(source, "3.jpg") == []
    for name in ("2.jpg", "4.jpg", "10.jpg"):
        (tmp_path / name).write_bytes(picture())
    assert names_of(source, "3.jpg") == ["4.jpg", "10.jpg"]
    assert source.notes()[image_folder.CAME_LATE].first == "2.jpg"
    assert names_of(source, "10.jpg") == [] and source.notes()[image_folder.CAME_LATE].count == 1


def test_a_file_that_is_being_written_waits_and_so_does_what_follows_it(tmp_path: Path) -> None:
    whole = picture()
    (tmp_path / "1.jpg").write_bytes(whole)
    (tmp_path / "2.jpg").write_bytes(whole[:100])
    source = ImageFolderSource(tmp_path, is_growing=True)
    assert names_of(source) == [] and source.is_waiting
    (tmp_path / "2.jpg").write_bytes(whole[:200])
    (tmp_path / "3.jpg").write_bytes(whole)
    assert names_of(source) == ["1.jpg"] and source.is_waiting
    (tmp_path / "2.jpg").write_bytes(whole)
    assert names_of(source, "1.jpg") == []
    frames = list(source.observations("1.jpg"))
    assert [frame.payload for frame in frames] == [whole, whole] and not source.is_waiting


def test_notes_may_be_asked_for_while_a_thread_reads_on(tmp_path: Path) -> None:
    """Each count takes so long here that the reading thread meets a new kind of doubt meanwhile."""
    (tmp_path / "a.jpg").write_bytes(picture())
    source = ImageFolderSource(tmp_path)
    names_of(source)

    class SlowToCount(set[str]):
        def __len__(self) -> int:
            source._doubts.add("a doubt that is new", "b.jpg")
            return super().__len__()

    source._doubts.names[image_folder.FILE_TIME] = SlowToCount({"a.jpg"})
    assert source.notes()[image_folder.FILE_TIME].count == 1
    assert source.notes()["a doubt that is new"].count == 1
