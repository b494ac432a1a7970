"""What changed between two dataset versions, by payload: added, removed, relabelled, moved to another split.

A pure function of the two sets of rows. Nothing is called the same that has another sha256.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import polars as pl

_COLUMNS = ("payload_sha256", "class_name", "split")


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """Rows by what became of them between `before` and `after`; lists are sorted by payload sha256."""

    before_rows: int
    after_rows: int
    added: int
    removed: int
    relabelled: int
    moved: int
    unchanged: int
    classes: dict[str, tuple[int, int]]
    """Rows of each class (before, after)."""
    splits: dict[str, tuple[int, int]]
    relabelled_rows: tuple[tuple[str, str, str], ...]
    """(payload_sha256, class before, class after), at most MAX_LISTED."""
    moved_rows: tuple[tuple[str, str, str], ...]
    """(payload_sha256, split before, split after): empty unless a promise is broken."""

    def to_json(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return asdict(self)


MAX_LISTED = 1000


def diff(before: pl.DataFrame, after: pl.DataFrame) -> DatasetDiff:
    """Compare rows with payload_sha256, class_name and split; each payload is there once."""
    a, b = before.select(_COLUMNS), after.select(_COLUMNS)
    both = a.join(b, on="payload_sha256", suffix="_after").sort("payload_sha256")
    relabelled = both.filter(pl.col("class_name") != pl.col("class_name_after"))
    moved = both.filter(pl.col("split") != pl.col("split_after"))
    changed = both.filter(
        (pl.col("class_name") != pl.col("class_name_after")) | (pl.col("split") != pl.col("split_after"))
    )
    return DatasetDiff(
        before_rows=a.height,
        after_rows=b.height,
        added=b.height - both.height,
        removed=a.height - both.height,
        relabelled=relabelled.height,
        moved=moved.height,
        unchanged=both.height - changed.height,
        classes=_counts(a, b, "class_name"),
        splits=_counts(a, b, "split"),
        relabelled_rows=tuple(
            relabelled.select("payload_sha256", "class_name", "class_name_after").head(MAX_LISTED).rows()
        ),
        moved_rows=tuple(moved.select("payload_sha256", "split", "split_after").head(MAX_LISTED).rows()),
    )


def _counts(a: pl.DataFrame, b: pl.DataFrame, column: str) -> dict[str, tuple[int, int]]:
    before = dict(a.group_by(column).len().rows())
    after = dict(b.group_by(column).len().rows())
    return {str(key): (before.get(key, 0), after.get(key, 0)) for key in sorted({*before, *after})}
