"""The pictures that labels refer to: the files of a folder, each decoded once, or frames known by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from connectors.labels.label_set import UNSEEN, Shape
from connectors.sensors.folder_listing import FolderListing, ListedFile, read_regular
from connectors.sensors.image_folder import MAX_FILE_BYTES, SUFFIX_TYPES
from foundation.errors import MisconfiguredError, RejectedError
from foundation.picture_header import picture_format

Look = Callable[[bytes], Shape]
"""Returns the shape of an encoded picture; raises RejectedError when it cannot be decoded."""


class FolderPictures:
    """The picture files below a folder, in natural order.

    Args:
        folder: where the pictures are.
        look: decodes a picture and returns its shape.

    Raises:
        MisconfiguredError: no such folder, or no picture in it.
    """

    def __init__(self, folder: Path, look: Look) -> None:
        if not folder.is_dir():
            raise MisconfiguredError(f"{str(folder)!r} is not a folder of pictures")
        listing = FolderListing(folder)
        self._files = {file.name: file for file in listing.read() if _is_picture(file)}
        if not self._files:
            raise MisconfiguredError(f"there is no picture in {folder}")
        self.left_out = {words: note.count for words, note in listing.left_out.items()}
        self._look = look
        self.folder = folder.resolve().name
        self._seen: dict[str, tuple[Shape | None, str]] = {}

    @property
    def names(self) -> Sequence[str]:
        """See `Pictures.names`."""
        return list(self._files)

    @property
    def aliases(self) -> Mapping[str, str]:
        """Empty: the hash of a file is known only once it was read."""
        return {}

    def shape(self, name: str) -> Shape | None:
        """See `Pictures.shape`."""
        return self._facts(name)[0]

    def digest(self, name: str) -> str:
        """Return the sha256 of the file, lower-case hex."""
        return self._facts(name)[1]

    def payload(self, name: str) -> bytes:
        """Return the bytes of the file. Raises MisconfiguredError when it cannot be read any more."""
        try:
            return read_regular(self._files[name].path, MAX_FILE_BYTES)
        except OSError as error:
            raise MisconfiguredError(f"cannot read {self._files[name].path}: {error.strerror}") from error

    def drive(self, name: str) -> str:
        """Return the sub-folder of a picture, "" for the folder itself."""
        return self._files[name].drive

    def _facts(self, name: str) -> tuple[Shape | None, str]:
        if name not in self._seen:
            try:
                payload = read_regular(self._files[name].path, MAX_FILE_BYTES)
            except OSError:
                payload = b""
            try:
                shape: Shape | None = self._look(payload)
            except RejectedError:
                shape = None
            self._seen[name] = (shape, hashlib.sha256(payload).hexdigest())
        return self._seen[name]


class NamedPayloads:
    """Frames of the lake, named drive/frame id, and by the hash of their payload.

    Args:
        frames: (drive id, frame id, payload_sha256) of each frame. A frame id with several payloads in one drive
            is accepted only with the hash appended, so that no label goes to another frame.
    """

    def __init__(self, frames: Iterable[tuple[str, str, str]]) -> None:
        found: dict[str, list[str]] = {}
        for drive, frame_id, digest in frames:
            name = frame_id if frame_id.startswith(f"{drive}/") else f"{drive}/{frame_id}"
            if digest not in found.setdefault(name, []):
                found[name].append(digest)
        self._digests: dict[str, str] = {}
        for name, digests in found.items():
            for digest in digests:
                self._digests[name if len(digests) == 1 else f"{name}#{digest}"] = digest
        self.folder = ""

    @property
    def names(self) -> Sequence[str]:
        """See `Pictures.names`."""
        return list(self._digests)

    @property
    def aliases(self) -> Mapping[str, str]:
        """The hash of each payload."""
        return {digest: name for name, digest in self._digests.items()}

    def shape(self, name: str) -> Shape | None:
        """See `Pictures.shape`: landed frames are not decoded here, and a class of a whole picture needs no size."""
        return UNSEEN if name in self._digests else None

    def digest(self, name: str) -> str:
        """Return the sha256 of the frame's payload."""
        return self._digests[name]


def _is_picture(file: ListedFile) -> bool:
    if file.path.suffix.lower() in SUFFIX_TYPES:
        return True
    try:
        return picture_format(read_regular(file.path, 32, cut=True)) is not None
    except OSError:
        return False
