"""A folder of image files as a drive: frames in the order of their names, bytes as they are on the disk.

Refuses to decode: whether a file is an image is judged where it is used. A file that cannot be read becomes a
frame with an empty payload, which is counted there as an unreadable image; its cause is in `unreadable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from connectors.sensors.ports import Frame
from foundation.errors import MisconfiguredError, RejectedError
from schemas.reasons import Provenance

CONTENT_TYPES: Final = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
}


class ImageFolderSource:
    """The images under `folder`, sub-folders too. A sub-folder of `folder` is a drive; so is `folder` itself.

    Args:
        folder: where the images are.
        sensor_id: what took them.
        first_capture_time_ns: capture time (ns since 1970) of the first frame; its file's time when None.
        frame_interval_ns: time between two frames, for all but the first.

    Raises:
        MisconfiguredError: `folder` is not a folder that can be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sensor_id: str = "camera",
        first_capture_time_ns: int | None = None,
        frame_interval_ns: int = 100_000_000,
    ) -> None:
        if not folder.is_dir():
            raise MisconfiguredError(f"{str(folder)!r} is not a folder of images")
        self.unreadable: list[tuple[Path, str]] = []
        self._folder = folder
        self._sensor_id = sensor_id
        self._first_capture_time_ns = first_capture_time_ns
        self._frame_interval_ns = frame_interval_ns

    def frames(self, resume_after: str | None = None) -> Iterator[Frame]:
        """See `FrameSource.frames`. A frame_id is the file's path below the folder."""
        files = self._files()
        names = [path.relative_to(self._folder).as_posix() for path in files]
        begin = 0
        if resume_after is not None:
            if resume_after not in names:
                raise RejectedError(
                    f"there is no frame {resume_after!r} in {self._folder} to resume after",
                    reason="unknown_frame",
                )
            begin = names.index(resume_after) + 1
        first_ns = self._first_capture_time_ns
        if first_ns is None and files:
            first_ns = _modified_ns(files[0])
        for number in range(begin, len(files)):
            yield self._frame(
                files[number], names[number], (first_ns or 0) + number * self._frame_interval_ns
            )

    def close(self) -> None:
        """Nothing is held open."""

    def _files(self) -> list[Path]:
        try:
            found = [path for path in self._folder.rglob("*") if path.suffix.lower() in CONTENT_TYPES]
        except OSError as error:
            raise MisconfiguredError(f"cannot list {self._folder}: {error.strerror}") from error
        return sorted(found, key=lambda path: path.relative_to(self._folder).as_posix())

    def _frame(self, path: Path, name: str, capture_time_ns: int) -> Frame:
        try:
            payload = path.read_bytes()
        except OSError as error:
            self.unreadable.append((path, error.strerror or type(error).__name__))
            payload = b""
        parts = path.relative_to(self._folder).parts
        return Frame(
            frame_id=name,
            drive_id=parts[0] if len(parts) > 1 else self._folder.resolve().name,
            sensor_id=self._sensor_id,
            track_id=None,
            capture_time_ns=capture_time_ns,
            capture_time_uncertainty_ns=self._frame_interval_ns,
            content_type=CONTENT_TYPES[path.suffix.lower()],
            payload=payload,
            provenance=Provenance.REPLAYED,
        )


def _modified_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
