"""A disk that refuses, said in words: which file or folder, what the system says, and how much room is left.

Native libraries (Polars, Arrow, Delta) wrap the system's error in errors of their own, which sometimes lose it: without
room for the footer of a Parquet file, Polars says `Invalid thrift: transport error`. So an error that says nothing of the
disk is taken for one of the disk when there is hardly any room.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from foundation.errors import FleetLoopError, RetryLaterError
from foundation.files import is_disk_trouble

FULL_BELOW_BYTES: Final = 64 * 1024
"""Less room than this, and a native library's error is taken for one of the full disk."""
_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_WORDS = re.compile(
    "|".join([*(re.escape(os.strerror(code)) for code in _CODES), "StorageFull", "QuotaExceeded"])
)
_NUMBER = re.compile(r"\b(?:os error|errno) (\d+)\b", re.IGNORECASE)
_FOOTER = "Invalid thrift: transport error"


class DiskError(RetryLaterError):
    """The disk is full, over a quota, or fails; nothing is wrong with the input, and nothing was left half done."""


@contextmanager
def naming_the_disk(folder: Path) -> Iterator[None]:
    """Turn whatever a disk that refuses leads to into a DiskError that names the file, or `folder`, and what is free there.

    Other errors pass as they are, also those of FleetLoop that say nothing of the disk.

    Raises:
        DiskError: the disk refused.
    """
    try:
        yield
    except DiskError:
        raise
    except FleetLoopError as error:  # a pipeline tells what ended its step in words
        if isinstance(error, RetryLaterError) and _WORDS.search(str(error)):
            raise DiskError(f"{error}; {_room(_free_bytes(folder), folder)}") from error
        raise
    except Exception as error:
        if told := _told(error, folder):
            raise DiskError(told) from error
        raise


def disk_of(text: str, folder: Path) -> str:
    """Return what a program's output says of a disk that refused below `folder`, and what is free; empty if it does not."""
    found = _WORDS.search(text)
    return f"cannot write below {folder}: {found[0]}; {_room(_free_bytes(folder), folder)}" if found else ""


def _told(error: Exception, folder: Path) -> str:
    """What to say; empty when the disk is not the cause."""
    free_bytes = _free_bytes(folder)
    for each in _chain(error):
        if isinstance(each, OSError) and is_disk_trouble(each):
            where = each.filename or f"a file below {folder}"
            return f"cannot write {where}: {each.strerror}; {_room(free_bytes, folder)}"
        text = str(each)
        if _WORDS.search(text) or any(int(number) in _CODES for number in _NUMBER.findall(text)):
            return f"cannot write below {folder}: {text}; {_room(free_bytes, folder)}"
    is_full = free_bytes is not None and free_bytes < FULL_BELOW_BYTES
    if _FOOTER in str(error) or (is_full and not isinstance(error, OSError)):
        why = os.strerror(errno.ENOSPC) if is_full else "the disk refused the end of a file"
        return f"cannot write below {folder}: {why} ({type(error).__name__}: {error}); {_room(free_bytes, folder)}"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _free_bytes(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def _room(free_bytes: int | None, folder: Path) -> str:
    return (
        f"{free_bytes} bytes are free at {folder}"
        if free_bytes is not None
        else f"{folder} cannot be asked what is free"
    )
