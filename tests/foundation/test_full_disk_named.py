"""A disk that refuses is named with the file or folder and what is free, whichever library met it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundation import full_disk
from foundation.errors import RejectedError, RetryLaterError
from foundation.full_disk import DiskError, naming_the_disk

ROWS = list(range(1000))
FULL = "/dev/full"
"""A device of Linux on which each write finds no space left."""


@pytest.mark.skipif(not Path(FULL).exists(), reason=f"needs {FULL}")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: pl.DataFrame({"a": ROWS}).write_parquet(path),
        lambda path: pl.DataFrame({"a": ROWS}).write_ipc(path),
        lambda path: pq.write_table(pa.table({"a": ROWS}), path),
        lambda path: path.write_bytes(b"a"),
    ],
    ids=["polars parquet", "polars ipc", "arrow", "python"],
)
def test_what_a_native_library_says_of_a_full_disk_names_the_folder_and_what_is_free(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    link = tmp_path / "full"  # which Arrow removes after a failed write
    link.symlink_to(FULL)
    with pytest.raises(DiskError, match="No space left on device") as told, naming_the_disk(tmp_path):
        write(link)
    assert str(tmp_path) in str(told.value)
    assert "bytes are free at" in str(told.value)


def test_an_error_that_lost_its_cause_is_taken_for_the_disk_where_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def footer() -> None:
        raise pl.exceptions.ComputeError(
            "parquet: File out of specification: Invalid thrift: transport error"
        )

    monkeypatch.setattr(full_disk, "_free_bytes", lambda _folder: 4096)
    with (
        pytest.raises(DiskError, match=r"No space left on device.*4096 bytes are free"),
        naming_the_disk(tmp_path),
    ):
        footer()


@pytest.mark.parametrize(
    "error",
    [
        RejectedError("a value of 28 is out of range"),
        ValueError("a value of 28 is out of range"),
        PermissionError(errno.EACCES, "Permission denied", "file"),
    ],
)
def test_what_is_not_of_the_disk_passes_as_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as told, naming_the_disk(tmp_path / "missing" / "folder"):
        raise error
    assert told.value is error


def test_an_error_that_came_while_another_was_handled_is_named_by_its_cause(tmp_path: Path) -> None:
    disk, step = OSError(errno.ENOSPC, "No space left on device", "/a/file"), RuntimeError("the step failed")
    step.__cause__ = disk
    with pytest.raises(DiskError, match=r"/a/file: No space left on device"), naming_the_disk(tmp_path):
        raise step


def test_a_step_of_a_pipeline_that_the_disk_refused_is_told_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="step failed: No space left") as told, naming_the_disk(tmp_path):
        raise RetryLaterError("step failed: No space left on device")
    assert str(tmp_path) in str(told.value)
