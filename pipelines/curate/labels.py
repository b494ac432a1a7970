"""Every frame gets the one label of its payload: the newest answer; the lake's table before the reference's own.

Labels belong to payloads, not to arrivals: a resent or copied frame is never labelled twice. Refuses to choose
between answers by their order in the table: time decides, then the labeller's name, then the label itself.
The task defines what a label is and its column.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import polars as pl

from connectors.lake.schema import LABEL_COLUMNS
from modelkit.tasks import Task

AnyTask = Task[Any, Any]


def resolve_labels(labels: pl.DataFrame, task: AnyTask) -> pl.DataFrame:
    """Return one row per payload of the table `labels`: payload_sha256, the task's label column, labeller, label_identity.

    A row without a class that has no label of another task either says that the payload has none: the newest one counts.
    """
    column = task.label_column
    others = [name for name in LABEL_COLUMNS if name != column and name in labels.columns]
    is_answer = pl.col(column).is_not_null()
    if task.label_is_class:
        is_answer |= pl.all_horizontal(pl.col(name).is_null() for name in others) if others else True
    answers = labels.filter(is_answer)
    is_recorded = "identity" in labels.columns
    asked = (pl.col("identity") if is_recorded else pl.lit(None, pl.String)).alias("label_identity")
    return (
        answers.with_columns(label_text(answers[column]).alias("text"))
        .sort("payload_sha256", "labelled_time_ns", "labeller", "text", "cost")
        .unique("payload_sha256", keep="last", maintain_order=True)
        .select("payload_sha256", column, "labeller", asked)
    )


def join_labels(rows: pl.DataFrame, labels: pl.DataFrame, task: AnyTask) -> pl.DataFrame:
    """Return `rows` with the task's label column, labeller and label_identity, without the columns reference_*.

    The three are null without a label; label_identity names the frame that was asked, null also where nobody recorded it.

    Needs payload_sha256 and reference_<label column>: a reference row's own label holds for every row with its payload,
    unless the table has another one.
    """
    column = task.label_column
    brought = rows.filter(pl.col(f"reference_{column}").is_not_null())
    own = (
        brought.with_columns(label_text(brought[f"reference_{column}"]).alias("text"))
        .sort("payload_sha256", "text")
        .unique("payload_sha256", keep="first", maintain_order=True)
        .select(
            "payload_sha256",
            pl.col(f"reference_{column}").alias("own_label"),
            pl.lit("reference").alias("own_labeller"),
        )
    )
    found = resolve_labels(labels, task)
    joined = rows.join(found, on="payload_sha256", how="left", maintain_order="left").join(
        own, on="payload_sha256", how="left", maintain_order="left"
    )
    return joined.with_columns(
        pl.coalesce(column, "own_label").alias(column),
        pl.coalesce("labeller", "own_labeller").alias("labeller"),
    ).drop("own_label", "own_labeller", *(f"reference_{name}" for name in LABEL_COLUMNS), strict=False)


def label_text(labels: pl.Series) -> pl.Series:
    """Return each label as one text that can be sorted: equal labels have equal texts; null stays null."""
    if labels.dtype == pl.String:
        return labels
    texts = [None if each is None else json.dumps(each, sort_keys=True) for each in labels.to_list()]
    return pl.Series(labels.name, texts, dtype=pl.String)


def classes_of(labels: pl.Series, task: AnyTask) -> pl.Series:
    """Return the classes that each label names, a list of texts; null without a label."""
    if task.label_is_class:
        one = pl.col(labels.name)
        return labels.to_frame().select(
            pl.when(one.is_not_null()).then(pl.concat_list(one)).alias("classes")
        )["classes"]
    lists = [
        None if each is None else list(task.classes_of(task.label_of(each))) for each in labels.to_list()
    ]
    return pl.Series("classes", lists, dtype=pl.List(pl.String))


def problems(rows: pl.DataFrame, task: AnyTask, classes: Sequence[str]) -> pl.Series:
    """Return why each row's label cannot be used with these classes and its picture's size; null if it can, or has none."""
    column = task.label_column
    if task.label_is_class:
        is_none = ~pl.col(column).is_in(list(classes)).fill_null(True)
        return rows.select(pl.when(is_none).then(pl.col(column)).alias("label_problem"))["label_problem"]
    found = [
        None if value is None else value_problem(value, task, classes, None if None in size else size) or None
        for value, *size in rows.select(column, "width_pixels", "height_pixels").iter_rows()
    ]
    return pl.Series("label_problem", found, dtype=pl.String)


def value_problem(value: Any, task: AnyTask, classes: Sequence[str], size: Any) -> str:
    """As `Task.label_problem`, of a plain value, which may be no label at all: others write tables and desks' answers."""
    try:
        return task.label_problem(task.label_of(value), classes, size)
    except (KeyError, TypeError, ValueError) as error:
        return f"no label of {task.name}: {error}"


def label_histogram(labels: pl.Series, task: AnyTask) -> dict[str, int]:
    """Count the rows that name each class, by name."""
    counted = classes_of(labels, task).explode().drop_nulls().value_counts().sort("classes")
    return {str(name): int(count) for name, count in counted.iter_rows()}
