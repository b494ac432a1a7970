"""The rules of every dataset row, each defined once as a polars expression and as a Great Expectations expectation.

A missing value breaks only the rules that say "present"; NaN breaks the rule of its range. Both engines must count
the same failing rows for every rule (`stage.judge` stops when they do not).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from pipelines.curate.labels import AnyTask, problems
from schemas.reasons import QuarantineReason, Split

SCORES = ("score_entropy", "score_margin", "score_least_confidence", "score_novelty")
MAX_LUMA = 255.0
_HASH_FORM = "^[0-9a-f]{64}$"
_HASH_FORM_PYTHON = r"^[0-9a-f]{64}\Z"  # Python's "$" accepts a trailing line feed, that of polars does not


@dataclass(frozen=True, slots=True)
class Rule:
    """One requirement on every row. `fails` is true, never null, on the rows that break it."""

    name: QuarantineReason
    promise: str
    columns: tuple[str, ...]
    fails: pl.Expr
    expectation: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    is_said_by_vehicle: bool = False
    """Whether what a vehicle says of its own frames decides: such a rule is judged vehicle by vehicle."""


def rules_for(task: AnyTask, classes: Sequence[str], max_distance_bits: int) -> tuple[Rule, ...]:
    """Return the rules of a dataset of this task with these classes, in the order in which they are reported."""
    return (
        _present("identity"),
        Rule(
            QuarantineReason.IDENTITY_UNIQUE,
            "no two rows have one identity",
            ("identity",),
            pl.col("identity").is_not_null() & pl.col("identity").is_duplicated(),
            "ExpectColumnValuesToBeUnique",
            {"column": "identity"},
        ),
        _present("payload_sha256"),
        Rule(
            QuarantineReason.HASH_WELL_FORMED,
            "a payload is named by 64 lower-case hexadecimal digits",
            ("payload_sha256",),
            ~pl.col("payload_sha256").str.contains(_HASH_FORM).fill_null(True),
            "ExpectColumnValuesToMatchRegex",
            {"column": "payload_sha256", "regex": _HASH_FORM_PYTHON},
        ),
        _present(task.label_column),
        _usable(task.label_column, classes, is_class=task.label_is_class),
        _one_of("split", tuple(str(split) for split in Split), "the split is train, validation or test"),
        *(
            replace(_between(name, 0.0, 1.0), is_said_by_vehicle=True)
            for name in (*SCORES, "selection_probability")
        ),
        _between("luma", 0.0, MAX_LUMA),
        Rule(
            QuarantineReason.TIME_RISES,
            "capture time rises with seq, for one sensor in one drive and epoch",
            ("capture_time_ns", "previous_capture_time_ns"),
            (pl.col("capture_time_ns") <= pl.col("previous_capture_time_ns")).fill_null(False),
            "ExpectColumnPairValuesAToBeGreaterThanB",
            {
                "column_A": "capture_time_ns",
                "column_B": "previous_capture_time_ns",
                "ignore_row_if": "either_value_is_missing",
            },
            is_said_by_vehicle=True,
        ),
        _between("drive_splits", 1.0, 1.0, "a drive is in one split"),
        _between(
            "test_distance_bits",
            max_distance_bits + 1.0,
            None,
            "no frame of training is a near-duplicate of a test frame",
        ),
    )


def with_label_problems(rows: pl.DataFrame, task: AnyTask, classes: Sequence[str]) -> pl.DataFrame:
    """Return `rows`, with `label_problem` if a label is not a plain class: why it cannot be used, null when it can."""
    return rows if task.label_is_class else rows.with_columns(problems(rows, task, classes))


def prepare(rows: pl.DataFrame, test_distances: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return `rows` with the derived columns that some rules need.

    `previous_capture_time_ns`: of the previous row by seq (null for the first, and where the clock is not
    trusted). `drive_splits`: in how many splits the row's drive is. `test_distance_bits`: to the nearest
    test frame, from `test_distances` (payload_sha256, test_distance_bits), null when none is near or the row
    is a test frame itself.
    """
    return with_derived(rows.lazy(), test_distances).collect()


def with_derived(rows: pl.LazyFrame, test_distances: pl.DataFrame | None = None) -> pl.LazyFrame:
    """Return the same as `prepare`, lazily: columns that no rule needs are never computed."""
    group = ["vehicle_id", "epoch", "drive_id", "sensor_id"]
    believed = pl.col("vehicle_id").is_not_null() & (pl.col("time_quality") == "ok").fill_null(False)
    previous = (
        pl.when(believed)
        .then("capture_time_ns")
        .shift(1)
        .over(group, order_by="seq")
        .alias("previous_capture_time_ns")
    )
    rows = rows.with_columns(
        pl.when(believed).then(previous).alias("previous_capture_time_ns"),
        pl.col("split").n_unique().over("drive_id").cast(pl.Int64).alias("drive_splits"),
    )
    if test_distances is None:
        return rows.with_columns(pl.lit(None, pl.Float64).alias("test_distance_bits"))
    joined = rows.join(test_distances.lazy(), on="payload_sha256", how="left", maintain_order="left")
    is_test = pl.col("split") == str(Split.TEST)
    return joined.with_columns(
        pl.when(~is_test).then("test_distance_bits").cast(pl.Float64).alias("test_distance_bits")
    )


def failing(prepared: pl.DataFrame | pl.LazyFrame, rules: Sequence[Rule]) -> pl.DataFrame:
    """Return one boolean column per rule, in the order of the rows: true where the row breaks it."""
    return prepared.lazy().select(rule.fails.alias(rule.name) for rule in rules).collect()


def failing_counts(prepared: pl.LazyFrame, rules: Sequence[Rule]) -> dict[str, int]:
    """Count the rows that break each rule, without the columns of `failing` in memory."""
    counted = prepared.select(rule.fails.sum().alias(rule.name) for rule in rules).collect()
    return {rule.name: int(counted[rule.name][0] or 0) for rule in rules}


def failing_of_vehicles(prepared: pl.LazyFrame, rules: Sequence[Rule]) -> pl.DataFrame:
    """Return one row per vehicle, by name: vehicle_id, `rows`, and per rule on what it says how many of them fail."""
    counted = (
        prepared.filter(pl.col("vehicle_id").is_not_null())
        .group_by("vehicle_id")
        .agg(
            pl.len().alias("rows"),
            *(rule.fails.sum().alias(rule.name) for rule in rules if rule.is_said_by_vehicle),
        )
    )
    return counted.sort("vehicle_id").collect()


def broken_by_vehicles(counted: pl.DataFrame, allowed: float) -> list[dict[str, Any]]:
    """Name each vehicle of `failing_of_vehicles` and rule that fails in more than `allowed` of its rows, with both counts."""
    return [
        {"vehicle_id": row["vehicle_id"], "rule": name, "failing_rows": row[name], "rows": row["rows"]}
        for row in counted.iter_rows(named=True)
        for name in counted.columns[2:]
        if row[name] > allowed * row["rows"]
    ]


def broken_rules(verdicts: pl.DataFrame) -> pl.Series:
    """Return for each row the list of names of the rules that it breaks."""
    names = [pl.when(pl.col(name)).then(pl.lit(name)) for name in verdicts.columns]
    return verdicts.select(pl.concat_list(names).list.drop_nulls().alias("rules"))["rules"]


def _present(column: str) -> Rule:
    return Rule(
        QuarantineReason(f"{column}_present"),
        f"every row has a value for {column}",
        (column,),
        pl.col(column).is_null(),
        "ExpectColumnValuesToNotBeNull",
        {"column": column},
    )


def _one_of(column: str, values: tuple[str, ...], promise: str) -> Rule:
    return Rule(
        QuarantineReason(f"{column}_known"),
        promise,
        (column,),
        ~pl.col(column).is_in(values).fill_null(True),
        "ExpectColumnValuesToBeInSet",
        {"column": column, "value_set": list(values)},
    )


def _usable(column: str, classes: Sequence[str], *, is_class: bool) -> Rule:
    if is_class:
        return _one_of(column, tuple(classes), "the class is one of the contract's")
    return Rule(
        QuarantineReason(f"{column}_usable"),
        "every label names classes of the contract and lies inside its picture",
        ("label_problem",),
        pl.col("label_problem").is_not_null(),
        "ExpectColumnValuesToBeNull",
        {"column": "label_problem"},
    )


def _between(column: str, low: float, high: float | None, promise: str = "") -> Rule:
    bound = f"in [{low:g}, {'inf' if high is None else format(high, 'g')}]"
    fails = pl.col(column) < low
    if high is not None:
        fails = fails | (pl.col(column) > high)
    if column not in {"drive_splits"}:
        fails = fails | pl.col(column).cast(pl.Float64).is_nan()
    arguments: dict[str, object] = {"column": column, "min_value": low}
    if high is not None:
        arguments["max_value"] = high
    return Rule(
        QuarantineReason(f"{column}_in_range"),
        promise or f"{column} is {bound}",
        (column,),
        fails.fill_null(False),
        "ExpectColumnValuesToBeBetween",
        arguments,
    )
