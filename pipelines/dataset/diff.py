"""Compare two dataset versions by payload: rows added, removed, relabelled, or moved to another split."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipelines.curate.labels import AnyTask, label_histogram, label_text


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """The differences between two versions; lists are sorted by payload sha256."""

    before_rows: int
    after_rows: int
    added: int
    removed: int
    relabelled: int
    moved: int
    unchanged: int
    classes: dict[str, tuple[int, int]]
    """Rows per class (before, after); with boxes, rows that contain the class."""
    splits: dict[str, tuple[int, int]]
    relabelled_rows: tuple[tuple[str, str, str], ...]
    """(payload_sha256, label before, label after) as text, at most MAX_LISTED."""
    moved_rows: tuple[tuple[str, str, str], ...]
    """(payload_sha256, split before, split after): empty unless a guarantee is broken."""


MAX_LISTED = 1000


def diff(before: pl.DataFrame, after: pl.DataFrame, task: AnyTask) -> DatasetDiff:
    """Compare two tables with payload_sha256 (unique), the task's label column and split. A pure function."""
    column = task.label_column
    a, b = (
        rows.select("payload_sha256", column, "split", label_text(rows[column]).alias("text"))
        for rows in (before, after)
    )
    both = a.join(b, on="payload_sha256", suffix="_after").sort("payload_sha256")
    relabelled = both.filter(pl.col("text") != pl.col("text_after"))
    moved = both.filter(pl.col("split") != pl.col("split_after"))
    changed = both.filter(
        (pl.col("text") != pl.col("text_after")) | (pl.col("split") != pl.col("split_after"))
    )
    listed = relabelled.select("payload_sha256", column, f"{column}_after").head(MAX_LISTED)
    return DatasetDiff(
        before_rows=a.height,
        after_rows=b.height,
        added=b.height - both.height,
        removed=a.height - both.height,
        relabelled=relabelled.height,
        moved=moved.height,
        unchanged=both.height - changed.height,
        classes=_pairs(*(label_histogram(rows[column], task) for rows in (a, b))),
        splits=_pairs(*(dict(rows.group_by("split").len().rows()) for rows in (a, b))),
        relabelled_rows=tuple(
            (sha, *(task.label_words(task.label_of(each)) for each in labels))
            for sha, *labels in listed.iter_rows()
        ),
        moved_rows=tuple(moved.select("payload_sha256", "split", "split_after").head(MAX_LISTED).rows()),
    )


def _pairs(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[int, int]]:
    return {str(key): (before.get(key, 0), after.get(key, 0)) for key in sorted({*before, *after})}
