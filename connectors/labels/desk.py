"""A label desk that is a file of labels: it answers only what is requested, and every answer costs.

Refuses to be read as a whole: its labels cannot be listed, so that none leaks into selection.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from connectors.labels.answers import ANSWERS
from connectors.labels.classes import ClassNames
from connectors.labels.label_tables import CLASS_COLUMNS, table_rows
from connectors.labels.ports import Label
from connectors.sensors.parquet_columns import check_size
from foundation.clock import Clock, SystemClock
from foundation.errors import CorruptError, MisconfiguredError

KEY: Final = "payload_sha256"
SHOWN: Final = 5
MAX_ANSWER_BYTES: Final = 1_000_000
"""Bound on the mean uncompressed size of the rows of a Parquet file: 10,000 boxes."""
_BATCH_ROWS: Final = 4096
_WORDS: Final = {"class_name": "class", "boxes": "boxes of classes"}


class FileLabelDesk:
    """Labels of a .parquet, .jsonl or (for classes only) .csv file with the columns payload_sha256 and `column`.

    Args:
        path: the file.
        classes: the contract's classes. Every answer is compared with them before anything is requested or paid:
            one that names none of them refuses the whole file, by row, value and nearest class. None: any text.
        column: the label column of the task: class_name, or boxes.
        labeller: the name recorded as the annotator.
        cost: label units per answer.

    Raises:
        MisconfiguredError: no such file, another kind of file, a missing column, an unknown class, or two
        answers for one payload. CorruptError: the file cannot be parsed.
    """

    def __init__(
        self,
        path: Path,
        *,
        classes: Sequence[str] | None = None,
        column: str = "class_name",
        labeller: str = "label-desk",
        cost: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        self.asked_count = 0
        self.answered_count = 0
        self.cost_spent = 0.0
        self._labeller = labeller
        self._cost = cost
        self._clock = clock or SystemClock()
        self._labels: dict[str, Any] = {}
        for sha256, value in _rows(path, column, None if classes is None else ClassNames(classes)):
            if self._labels.setdefault(sha256, value) != value:
                raise MisconfiguredError(
                    f"{path} answers {self._labels[sha256]!r} and {value!r} for the payload {sha256}"
                )

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        """Return the labels of the payloads, see `LabelDesk.request`. One named twice is answered and paid for once."""
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


def _rows(path: Path, column: str, classes: ClassNames | None) -> Iterator[tuple[str, Any]]:
    readers = {".parquet": _parquet, ".jsonl": _table}
    if column in CLASS_COLUMNS:
        readers[".csv"] = _table
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise MisconfiguredError(f"the label desk {path} must end in {', '.join(readers)}")
    if not path.is_file():
        raise MisconfiguredError(f"there is no label desk {path}")
    wrong: list[str] = []
    for where, sha256, value in reader(path, column):
        if not isinstance(sha256, str) or not sha256.strip():
            raise MisconfiguredError(f"{path}, {where}: no payload_sha256")
        answer, problem = ANSWERS[column](value, classes, strict=True)
        if problem:
            wrong.append(f"{where}: {problem}")
            continue
        yield sha256.strip().lower(), answer
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise MisconfiguredError(
            f"{path} has {len(wrong)} answers that are no {_WORDS[column]} of the contract, so nobody is asked: "
            f"{'; '.join(wrong[:SHOWN])}{more}"
        )


def _table(path: Path, column: str) -> Iterator[tuple[str, Any, Any]]:
    return table_rows(path, (KEY,), CLASS_COLUMNS if column in CLASS_COLUMNS else (column,))


def _parquet(path: Path, column: str) -> Iterator[tuple[str, Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        if absent := [name for name in (KEY, column) if name not in names]:
            raise MisconfiguredError(f"{path} has no column {', '.join(absent)} (it has {', '.join(names)})")
        for group in range(file.num_row_groups):
            check_size(file.metadata.row_group(group), path, (KEY, column), MAX_ANSWER_BYTES)
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=[KEY, column]):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row[KEY], row[column]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptError(f"not a Parquet file: {error}", path=path) from error
