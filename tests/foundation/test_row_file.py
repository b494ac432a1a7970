"""A row that could not be made durable is in no file and in nobody's memory, whoever read it meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from foundation import syscalls
from foundation.errors import RetryLaterError
from foundation.row_file import RowFile
from rollout.history import History
from schemas.records import ModelEvent

EVENT = ModelEvent(10, "a" * 64, "v1", "installed")
FULL = OSError(errno.ENOSPC, "No space left on device")


def row(number: int) -> dict[str, object]:
    return {"number": number}


def rows_of(path: Path) -> RowFile[object]:
    return RowFile(path, lambda row, _name: row)


@pytest.fixture
def writer(tmp_path: Path) -> RowFile[object]:
    writer = rows_of(tmp_path / "rows.jsonl")
    writer.news()
    writer.append([row(1)])
    return writer


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: object = lambda: None) -> None:
    """The next append writes its first rows whole, then finds the disk full; `after` runs in between."""

    def write_all(fd: int, data: bytes) -> None:
        os.write(fd, data[:-3])
        after()  # type: ignore[operator]
        raise FULL

    monkeypatch.setattr(syscalls, "write_all", write_all)


def test_an_append_that_fails_leaves_the_file_as_it_was(
    writer: RowFile[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = writer.path.read_bytes()
    fill_disk(monkeypatch)
    with pytest.raises(RetryLaterError, match="No space left"):
        writer.append([row(2), row(3)])
    assert writer.path.read_bytes() == before
    monkeypatch.undo()
    writer.append([row(4)])
    assert rows_of(writer.path).news() == (True, [row(1), row(4)])


def test_the_first_error_is_told_when_what_was_written_cannot_be_taken_back(
    writer: RowFile[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, lambda: monkeypatch.setattr(syscalls, "truncate", refuse))
    with pytest.raises(RetryLaterError, match="No space left"):
        writer.append([row(2), row(3)])
    monkeypatch.undo()
    assert writer.news() == (True, [row(1), row(2)])


def refuse(_fd: int, _length_bytes: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("then", [[row(4)], [{"number": 5, "note": "longer than what was there"}]])
def test_a_reader_of_rows_that_were_taken_back_reads_the_file_anew(
    writer: RowFile[object], monkeypatch: pytest.MonkeyPatch, then: list[dict[str, object]]
) -> None:
    """Whether the file is then shorter than what was read, as long, or longer."""
    reader = rows_of(writer.path)
    seen: list[object] = []
    fill_disk(monkeypatch, lambda: seen.append(reader.news()))
    with pytest.raises(RetryLaterError):
        writer.append([row(2), row(3)])
    assert seen == [(True, [row(1), row(2)])]
    monkeypatch.undo()
    writer.append(then)
    assert reader.news() == (True, [row(1), *then])
    assert reader.news() == (False, [])


def test_a_history_keeps_no_row_that_its_file_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add("car-1", [EVENT], 1, "")
    fill_disk(monkeypatch)
    with pytest.raises(RetryLaterError):
        history.save()
    assert (history.rows, history.runs()) == ([], [])
    monkeypatch.undo()
    history.catch_up()
    assert history.add("car-1", [EVENT], 2, "") == (EVENT,)
    history.save()
    assert [each.heard_ns for each in History(tmp_path / "history.jsonl").rows] == [2]
    assert len(history.rows) == 1
