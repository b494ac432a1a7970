"""A source that reads the picture files of a folder as drives, in natural order, without decoding them.

A file that cannot be read becomes an observation with an empty payload, which is counted as an unreadable image where it
is decoded. Only regular files are opened. `notes` counts the files that were left out and those that could not be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from connectors.sensors.exif import TakenTime, taken_time
from connectors.sensors.folder_listing import FolderListing, ListedFile, printable, read_regular
from connectors.sensors.ports import Observation, SourceNote
from foundation.errors import MisconfiguredError, RejectedError
from foundation.picture_header import CONTENT_TYPES, picture_format
from schemas.reasons import Provenance

SUFFIX_TYPES: Final = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".jpe": "image/jpeg",
    ".jfif": "image/jpeg",
    ".png": "image/png",
    ".apng": "image/png",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".ppm": "image/x-portable-anymap",
    ".pgm": "image/x-portable-anymap",
    ".pbm": "image/x-portable-anymap",
    ".pnm": "image/x-portable-anymap",
}
MAX_FILE_BYTES: Final = 20_000_000
_BURST_STEP_NS: Final = 1_000_000
_BURST_STEPS: Final = 999
_FILE_TIME_UNCERTAINTY_NS: Final = 365 * 86_400 * 1_000_000_000

NOT_A_PICTURE: Final = "left out: not a picture by its name nor by its first bytes"
CAME_LATE: Final = "left out: came after a later name was played"
CANNOT_READ: Final = "taken: a file that cannot be read, counted as an unreadable image"
FILE_TIME: Final = "taken: without a time in EXIF, the time of the file stands for it"
NO_ZONE: Final = "taken: EXIF names no time zone, read as UTC (uncertain by 14 h)"


@dataclass(frozen=True, slots=True)
class CaptureTimes:
    """How the files of a folder get their capture time (ns since 1970).

    With `interval_ns`: `first_ns` (default: the time of the first picture) plus one interval per file. Without it: the EXIF
    time of each picture, otherwise the modification time of its file. `zone_minutes` is the time zone of a camera whose EXIF
    data has none.
    """

    interval_ns: int | None = None
    first_ns: int | None = None
    zone_minutes: int | None = None


class ImageFolderSource:
    """The pictures in `folder` and its sub-folders. Each direct sub-folder is a drive, and so is `folder` itself.

    Args:
        folder: the folder of the pictures.
        sensor_id: the sensor that took them.
        times: where capture times come from.
        is_growing: files are still being written. A file is then read once two listings found it unchanged; until then it
            and the files after it wait (`is_waiting`).

    Raises:
        MisconfiguredError: `folder` is not a readable folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sensor_id: str = "camera",
        times: CaptureTimes | None = None,
        is_growing: bool = False,
    ) -> None:
        if not folder.is_dir():
            raise MisconfiguredError(f"{str(folder)!r} is not a folder of images")
        self.is_waiting = self.is_live = False
        self._folder = folder
        self._sensor_id = sensor_id
        self._times = times or CaptureTimes()
        self._is_growing = is_growing
        self._is_picture: dict[str, bool] = {}
        self._listed: set[str] = set()
        self._settled: dict[str, tuple[int, int]] = {}
        self._late: list[str] = []
        self._notes: dict[str, SourceNote] = {}
        self._doubts = _Doubts()

    def observations(self, resume_after: str | None = None) -> Iterator[Observation]:
        """See `ObservationSource.observations`. The frame_id is the path of the file below the folder."""
        before = set(self._listed)
        files = self._files()
        names = [file.name for file in files]
        begin = 0
        if resume_after is not None:
            if resume_after not in names:
                raise RejectedError(
                    f"there is no frame {resume_after!r} in {self._folder} to resume after",
                    reason="unknown_frame",
                )
            begin = names.index(resume_after) + 1
            if before:
                self._late += [name for name in names[:begin] if name not in before]
        end = len(files)
        if self._is_growing:
            still = (number for number in range(begin, end) if not files[number].is_settled)
            end = next(still, end)
        self.is_waiting = end < len(files)
        clock = _FolderClock(files, self._times, self._doubts)
        for number in range(begin, end):
            yield self._frame(files[number], number, clock)

    def notes(self) -> Mapping[str, SourceNote]:
        """See `ObservationSource.notes`."""
        late = {CAME_LATE: SourceNote(len(self._late), self._late[0])} if self._late else {}
        return self._notes | late | self._doubts.notes()

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def _files(self) -> list[ListedFile]:
        listing = FolderListing(self._folder)
        found = listing.read()
        pictures = [file for file in found if self._looks_like_picture(file)]
        others = [file.name for file in found if not self._is_picture[file.name]]
        self._notes = dict(listing.left_out)
        if others:
            self._notes[NOT_A_PICTURE] = SourceNote(len(others), others[0])
        pictures = [file.settled_since(self._settled) for file in pictures]
        self._settled = {file.name: (file.size_bytes, file.modified_ns) for file in pictures}
        self._listed.update(file.name for file in pictures)
        return pictures

    def _looks_like_picture(self, file: ListedFile) -> bool:
        if file.name not in self._is_picture:
            is_picture = file.path.suffix.lower() in SUFFIX_TYPES
            if not is_picture:
                try:
                    is_picture = picture_format(read_regular(file.path, 32, cut=True)) is not None
                except OSError:
                    is_picture = False
            self._is_picture[file.name] = is_picture
        return self._is_picture[file.name]

    def _frame(self, file: ListedFile, number: int, clock: _FolderClock) -> Observation:
        try:
            payload = read_regular(file.path, MAX_FILE_BYTES)
        except OSError as error:
            self._doubts.add(CANNOT_READ, file.name, error.strerror or str(error))
            payload = b""
        taken = clock.at(number, payload)
        by_bytes = picture_format(payload[:32])
        by_name = SUFFIX_TYPES.get(file.path.suffix.lower(), "application/octet-stream")
        return Observation(
            frame_id=file.name,
            drive_id=file.drive or printable(self._folder.resolve().name) or "drive",
            sensor_id=self._sensor_id,
            track_id=None,
            capture_time_ns=taken.time_ns,
            capture_time_uncertainty_ns=taken.uncertainty_ns,
            content_type=CONTENT_TYPES[by_bytes] if by_bytes else by_name,
            payload=payload,
            provenance=Provenance.REPLAYED,
        )


@dataclass(slots=True)
class _Doubts:
    """Files that were read with a warning, by its text: each file once, with the cause for the first."""

    names: dict[str, set[str]] = field(default_factory=dict)
    firsts: dict[str, str] = field(default_factory=dict)

    def add(self, words: str, name: str, why: str = "") -> None:
        self.firsts.setdefault(words, f"{name}: {why}" if why else name)
        self.names.setdefault(words, set()).add(name)

    def notes(self) -> dict[str, SourceNote]:
        copied = list(self.names.items())  # the thread that reads the source may add some meanwhile
        return {words: SourceNote(len(names), self.firsts[words]) for words, names in copied}


class _FolderClock:
    """Capture times for one listing. Equal listings give equal times, wherever reading starts."""

    def __init__(self, files: list[ListedFile], how: CaptureTimes, doubts: _Doubts) -> None:
        self._files = files
        self._how = how
        self._doubts = doubts
        self._first_ns = how.first_ns
        self._raw: dict[int, TakenTime | None] = {}
        self._file_times = _rising(files)

    def at(self, number: int, payload: bytes) -> TakenTime:
        how = self._how
        if how.interval_ns is not None:
            if self._first_ns is None:
                self._first_ns = self._own(0).time_ns
            return TakenTime(self._first_ns + number * how.interval_ns, how.interval_ns)
        self._raw[number] = taken_time(payload, how.zone_minutes)
        return self._own(number)

    def _own(self, number: int) -> TakenTime:
        file, raw = self._files[number], self._exif(number)
        if raw is None:
            self._doubts.add(FILE_TIME, file.name)
            return TakenTime(self._file_times[number], _FILE_TIME_UNCERTAINTY_NS)
        if raw.uncertainty_ns > _FILE_TIME_UNCERTAINTY_NS // 1000:
            self._doubts.add(NO_ZONE, file.name)
        same = 0
        while same < _BURST_STEPS and number > same and self._is_same(number - same - 1, number):
            same += 1
        return TakenTime(raw.time_ns + same * _BURST_STEP_NS, raw.uncertainty_ns)

    def _is_same(self, one: int, other: int) -> bool:
        """Return whether two files belong to one drive and have the same EXIF time, as pictures of one burst have."""
        if self._files[one].drive != self._files[other].drive:
            return False
        return self._exif(one) == self._exif(other)

    def _exif(self, number: int) -> TakenTime | None:
        if number not in self._raw:
            try:
                payload = read_regular(self._files[number].path, MAX_FILE_BYTES)
            except OSError:
                payload = b""
            self._raw[number] = taken_time(payload, self._how.zone_minutes)
        return self._raw[number]


def _rising(files: list[ListedFile]) -> list[int]:
    """Return modification times made increasing within each drive, because a copied folder has them in any order."""
    last: dict[str, int] = {}
    times = []
    for file in files:
        time_ns = max(file.modified_ns, last.get(file.drive, -1) + 1000)
        last[file.drive] = time_ns
        times.append(time_ns)
    return times
