"""A file of labels that stands for the annotators: it answers only what it is asked, and every answer costs.

Refuses to be read as a whole: there is no way to list what it knows, so no label leaks into selection.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from connectors.labels.ports import Label
from foundation.clock import Clock, SystemClock
from foundation.errors import CorruptError, MisconfiguredError

COLUMNS: Final = ("payload_sha256", "class_name")


class FileLabelDesk:
    """Labels of a .parquet, .jsonl or .csv file with the columns payload_sha256 and class_name.

    Args:
        path: the file.
        labeller: who is said to have answered.
        cost: label units an answer.

    Raises:
        MisconfiguredError: no such file, another kind of file, a missing column, or two answers for one
        payload. CorruptError: the file cannot be parsed.
    """

    def __init__(
        self, path: Path, *, labeller: str = "label-desk", cost: float = 1.0, clock: Clock | None = None
    ) -> None:
        self.asked_count = 0
        self.answered_count = 0
        self.cost_spent = 0.0
        self._labeller = labeller
        self._cost = cost
        self._clock = clock or SystemClock()
        self._labels: dict[str, str] = {}
        for sha256, class_name in _rows(path):
            if self._labels.setdefault(sha256, class_name) != class_name:
                raise MisconfiguredError(
                    f"{path} answers {self._labels[sha256]!r} and {class_name!r} for the payload {sha256}"
                )

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        """See `LabelDesk.request`. A payload named twice in one request is answered, and paid for, once."""
        wanted = list(dict.fromkeys(payload_sha256s))
        now_ns = self._clock.now_ns()
        answers = [
            Label(sha256, self._labels[sha256], self._labeller, now_ns, self._cost)
            for sha256 in wanted
            if sha256 in self._labels
        ]
        self.asked_count += len(wanted)
        self.answered_count += len(answers)
        self.cost_spent += self._cost * len(answers)
        return answers


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    readers = {".parquet": _parquet, ".jsonl": _json_lines, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MisconfiguredError(f"the label desk {path} must end in {', '.join(readers)}")
    if not path.is_file():
        raise MisconfiguredError(f"there is no label desk {path}")
    for number, row in enumerate(reader(path), 1):
        if absent := [name for name in COLUMNS if not row.get(name)]:
            raise MisconfiguredError(f"{path}, row {number}: no {', '.join(absent)}")
        yield str(row[COLUMNS[0]]), str(row[COLUMNS[1]])


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if absent := [name for name in COLUMNS if name not in names]:
            raise MisconfiguredError(f"{path} has no column {', '.join(absent)} (it has {', '.join(names)})")
        for batch in file.iter_batches(columns=list(COLUMNS)):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"not a Parquet file: {error}", path=path) from error


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise CorruptError(f"line {number} is not JSON: {error}", path=path) from error
            if not isinstance(row, dict):
                raise CorruptError(f"line {number} is not an object", path=path)
            yield row


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, strict=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorruptError(f"not CSV: {error}", path=path) from error
