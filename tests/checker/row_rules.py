"""How many rows of a batch break each rule of docs/guarantees.md 5, counted row by row; imports nothing of the product."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

Row = Mapping[str, object]
SPLITS = ("train", "validation", "test")
UNIT = (
    "score_entropy",
    "score_margin",
    "score_least_confidence",
    "score_novelty",
    "selection_probability",
)
_HASH = re.compile(r"[0-9a-f]{64}")


def failing_rows(
    rows: Sequence[Row], classes: Sequence[str], test_distances: Mapping[str, float], max_bits: int
) -> dict[str, int]:
    """Rule -> rows that break it. A missing value breaks only the rules that ask for a value."""
    seen = Counter(row["identity"] for row in rows)
    splits: dict[object, set[object]] = defaultdict(set)
    for row in rows:
        splits[row["drive_id"]].add(row["split"])
    before = _believed_time_before(rows)
    counts: Counter[str] = Counter()
    for number, row in enumerate(rows):
        identity, sha, name = row["identity"], row["payload_sha256"], row["class_name"]
        counts["identity_present"] += identity is None
        counts["identity_unique"] += identity is not None and seen[identity] > 1
        counts["payload_sha256_present"] += sha is None
        counts["hash_well_formed"] += sha is not None and _HASH.fullmatch(str(sha)) is None
        counts["class_name_present"] += name is None
        counts["class_name_known"] += name is not None and name not in classes
        counts["split_known"] += row["split"] is not None and row["split"] not in SPLITS
        for column in UNIT:
            counts[f"{column}_in_range"] += _outside(row[column], 0.0, 1.0)
        counts["luma_in_range"] += _outside(row["luma"], 0.0, 255.0)
        now, last = row["capture_time_ns"], before.get(number)
        counts["time_rises"] += isinstance(now, int) and isinstance(last, int) and now <= last
        counts["drive_splits_in_range"] += len(splits[row["drive_id"]]) != 1
        near = None if row["split"] == "test" or sha is None else test_distances.get(str(sha))
        if row["split"] is None:
            near = None
        counts["test_distance_bits_in_range"] += near is not None and near <= max_bits
    return dict(counts)


def _outside(value: object, low: float, high: float) -> bool:
    if not isinstance(value, int | float):
        return False
    return math.isnan(value) or not low <= value <= high


def _believed_time_before(rows: Sequence[Row]) -> dict[int, object]:
    """Number of a row whose clock is believed -> the believed capture time of the row before it by seq."""
    drives: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        drives[row["vehicle_id"], row["epoch"], row["drive_id"], row["sensor_id"]].append(number)
    found: dict[int, object] = {}
    for numbers in drives.values():
        numbers.sort(key=lambda number: _seq(rows[number]))
        for last, number in pairwise(numbers):
            if _believed(rows[number]) and _believed(rows[last]):
                found[number] = rows[last]["capture_time_ns"]
    return found


def _believed(row: Row) -> bool:
    return row["vehicle_id"] is not None and row["time_quality"] == "ok"


def _seq(row: Row) -> int:
    value = row["seq"]
    if not isinstance(value, int):
        raise TypeError(f"seq is {value!r}")
    return value
