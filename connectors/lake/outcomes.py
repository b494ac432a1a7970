"""Count the rows of `arrivals` by outcome from the entries of the files, opening only files whose entries cannot tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from connectors.lake.schema import COUNTED_COLUMNS, Origin
from connectors.lake.table import Snapshot
from schemas.reasons import LandOutcome

_NEEDED = (
    "num_records",
    "min.origin",
    "max.origin",
    "null_count.outcome",
    *(f"null_count.{name}" for name in COUNTED_COLUMNS),
)


def count_outcomes(snapshot: Snapshot) -> Mapping[str, int]:
    """Return how many offsets of the log have each outcome; replayed rows, losses and gaps are none of the log's records."""
    files = snapshot.files()
    known = _told(files)
    counts = _of_entries(files.filter(known))
    others = files.filter(pc.invert(known))
    if others.num_rows:
        counts += _of_rows(snapshot, others)
    return {name: count for name, count in sorted(counts.items()) if count}


def _told(files: pa.Table) -> pa.Array:
    """Return for each file whether its entry says all that is needed.

    Not known: a file of another writer or release, and one that has rows of a replay beside others.
    """
    if not set(_NEEDED) <= set(files.column_names):
        return pa.array([False] * files.num_rows)
    replay = Origin.REPLAY.value
    is_pure = pc.or_(pc.not_equal(files["max.origin"], replay), pc.equal(files["min.origin"], replay))
    for name in _NEEDED:
        is_pure = pc.and_(is_pure, files[name].is_valid())
    return pc.fill_null(is_pure, False)


def _of_entries(files: pa.Table) -> Counter[str]:
    if not files.num_rows:
        return Counter()
    files = files.filter(pc.not_equal(files["min.origin"], Origin.REPLAY.value))
    rows, without = (int(pc.sum(files[name]).as_py() or 0) for name in ("num_records", "null_count.outcome"))
    resent, rejected = (
        rows - int(pc.sum(files[f"null_count.{name}"]).as_py() or 0) for name in COUNTED_COLUMNS
    )
    landed = rows - without - resent - rejected
    named = {LandOutcome.LANDED: landed, LandOutcome.RESENT: resent, LandOutcome.REJECTED: rejected}
    return Counter({outcome.value: count for outcome, count in named.items()})


def _of_rows(snapshot: Snapshot, files: pa.Table) -> Counter[str]:
    column = snapshot.read(["outcome"], pc.field("origin") == Origin.LOG.value, files=files)["outcome"]
    return Counter({str(row["values"]): int(row["counts"]) for row in pc.value_counts(column).to_pylist()})
