"""Read labels in a table of file and class: CSV as spreadsheets and tools write it, JSON and JSON lines.

A column is recognised by its name, in any case and with space around it. A file without them is refused with the
header that was found, the columns that are needed and the separators that were tried.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from connectors.labels.label_set import LabelSet, Mark
from foundation.errors import CorruptError, MisconfiguredError

FILE_COLUMNS: Final = (
    "file",
    "file_name",
    "filename",
    "frame_id",
    "payload_sha256",
    "path",
    "image",
    "picture",
)
CLASS_COLUMNS: Final = ("class", "class_name", "label", "category")
SEPARATORS: Final = (",", ";", "\t", "|")
MAX_BYTES: Final = 500_000_000

Row = tuple[str, Any, Any]
"""Place, file and label."""


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Raises:
        MisconfiguredError: no such file, or larger than the limit. CorruptError: in no such encoding.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise MisconfiguredError(f"{path} has {size} bytes, the limit is {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise MisconfiguredError(f"cannot read {path}: {error.strerror}") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CorruptError(f"not {encoding}: {error}", path=path) from error


def read_json_text(path: Path) -> Any:
    """Return the document of a JSON file. Raises CorruptError with line and column, MisconfiguredError."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise CorruptError(
            f"not JSON at line {error.lineno}, column {error.colno}: {error.msg}", path=path
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"not JSON: {error}", path=path) from error


def read_table(path: Path, labels: LabelSet) -> None:
    """Take each row as the class of one picture; a contradiction refuses every row of its picture.

    Raises:
        MisconfiguredError: no such file, or no column of files or of classes. CorruptError: not CSV or JSON.
    """
    seen: dict[str, list[Mark]] = {}
    for where, file, value in table_rows(path):
        labels.rows += 1
        if not isinstance(file, str):
            labels.refuse(where, value if file is None else file, "no file")
            continue
        picture = labels.picture_of(file, where)
        name = labels.class_of(value, where) if picture else ""
        if not name:
            continue
        before = seen.setdefault(picture, [])
        if any(mark.class_name == name for mark in before):
            labels.same_again.append(where)
            continue
        before.append(Mark(picture, name, None, where))
    labels.marks += [mark for marks in seen.values() for mark in marks]
    labels.single_classes()


def table_rows(
    path: Path, files: tuple[str, ...] = FILE_COLUMNS, labels: tuple[str, ...] = CLASS_COLUMNS
) -> Iterator[Row]:
    """Yield place, file and label of each row of a .csv (or other text), .json or .jsonl file, as they are written.

    `files` and `labels` are the accepted names of the two columns; messages name these.

    Raises:
        MisconfiguredError: no such file, or no column of files or of classes. CorruptError: not CSV or JSON.
    """
    readers = {".json": _json, ".jsonl": _json_lines}
    return readers.get(path.suffix.lower(), _csv)(path, files, labels)


def _csv(path: Path, files: tuple[str, ...], labels: tuple[str, ...]) -> Iterator[Row]:
    text = read_text(path)
    first, _, rest = text.partition("\n")
    skipped = 0
    separators: tuple[str, ...] = SEPARATORS
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        text, skipped, separators = rest, 1, (first.strip()[4],)
    header: list[str] = []
    for separator in separators:
        try:
            reader = csv.reader(
                io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
            )
            header = next(reader, [])
            names = [name.strip().casefold() for name in header]
            places = (_column(names, files), _column(names, labels))
            if None in places:
                continue
            yield from _cells(reader, header, places, skipped)  # type: ignore[arg-type]
        except csv.Error as error:
            raise CorruptError(f"not CSV: {error}", path=path) from error
        return
    shown = text.partition("\n")[0].rstrip("\r")[:100]
    tried = " ".join(repr(each) for each in separators)
    raise MisconfiguredError(
        f"{path}: the header is {shown!r}; wanted are a column {' or '.join(files)} "
        f"and a column {' or '.join(labels)}, separated by one of {tried}"
    )


def _column(names: list[str], wanted: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in wanted if name in names), None)


def _cells(reader: Any, header: list[str], places: tuple[int, int], skipped: int) -> Iterator[Row]:
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            if len(cells) > 1:
                yield f"line {reader.line_num + skipped}", "", ""
            continue
        where = f"line {reader.line_num + skipped}"
        if len(cells) != len(header):
            yield where, None, f"{len(cells)} cells, the header has {len(header)}"
            continue
        yield where, cells[places[0]], cells[places[1]]


def _json(path: Path, files: tuple[str, ...], labels: tuple[str, ...]) -> Iterator[Row]:
    document = read_json_text(path)
    if not isinstance(document, list):
        raise MisconfiguredError(f"{path} holds {type(document).__name__}, expected a list of rows")
    for number, row in enumerate(document, 1):
        yield _of_object(f"row {number}", row, files, labels)


def _json_lines(path: Path, files: tuple[str, ...], labels: tuple[str, ...]) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield _of_object(f"line {number}", json.loads(line), files, labels)
            except (ValueError, RecursionError) as error:
                raise CorruptError(f"line {number} is not JSON: {error}", path=path) from error


def _of_object(where: str, row: Any, files: tuple[str, ...], labels: tuple[str, ...]) -> Row:
    if not isinstance(row, dict):
        return where, None, None
    values = {str(name).strip().casefold(): value for name, value in row.items()}
    file = next((values[name] for name in files if name in values), None)
    return where, file, next((values[name] for name in labels if name in values), None)
