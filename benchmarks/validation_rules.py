"""The validation rules on 10 million rows, beside the same rules written by hand in bare polars, Great Expectations and
Pandera; and the verdicts of Great Expectations on mutated batches.

Rules: identity not null and unique, class in set, scores and luma in range, time rising within an epoch, hash well formed.
The product's side is `rules.with_derived` and `failing_counts`, the code of `fleetloop validate`. Great Expectations works
on pandas objects and is timed on a slice, by rows per second; Pandera (not in the lock) only where it can be imported.
"""

from __future__ import annotations

import importlib.util
import logging
import random
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from benchmarks.port import Measure, Step, paired_ratio
from modelkit.tasks import TASKS
from pipelines.curate.rules import SCORES, Rule, failing_counts, prepare, rules_for, with_derived

CLASSES = ("green", "red", "yellow")
MAX_BITS = 29
RULES = (
    "identity_present",
    "identity_unique",
    "hash_well_formed",
    "class_name_known",
    *(f"{name}_in_range" for name in SCORES),
    "luma_in_range",
    "time_rises",
)
FAULTY_EVERY = 100_000
"""One row in so many breaks a rule, so that no judge may stop at `all is well`."""


def rows(count: int, seed: int) -> pl.DataFrame:
    """Rows of 40 vehicles in epochs and drives, in any order, a few of them broken."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    number = pl.Series("n", order)
    frame = pl.DataFrame({"n": number}).with_columns(
        (pl.col("n") % 40).alias("v"),
        (pl.col("n") // 40).alias("seq"),
        (pl.col("n") // 40 // 2_000).alias("drive"),
    )
    halves = [pl.Series(rng.integers(0, 2**63, count)) for _ in range(4)]
    to_hex = [pl.lit(half) for half in halves]
    frame = frame.select(
        pl.concat_str(pl.lit("car-"), "v").alias("vehicle_id"),
        pl.concat_str(pl.lit("epoch-"), "v").alias("epoch"),
        pl.concat_str(pl.lit("drive-"), "v", pl.lit("-"), "drive").alias("drive_id"),
        pl.lit("front").alias("sensor_id"),
        "seq",
        pl.concat_str(pl.lit("car-"), "v", pl.lit("/epoch-"), "v", pl.lit("/"), "seq").alias("identity"),
        (1_790_000_000_000_000_000 + pl.col("seq") * 100_000_000).alias("capture_time_ns"),
        pl.lit("ok").alias("time_quality"),
        pl.concat_str([each.cast(pl.String).str.zfill(19).str.slice(3, 16) for each in to_hex]).alias(
            "payload_sha256"
        ),
        pl.lit("train").alias("split"),
        pl.Series("class_name", np.array(CLASSES)[rng.integers(0, 3, count)]),
        *[pl.Series(name, rng.random(count)) for name in SCORES],
        pl.Series("luma", rng.random(count) * 255),
    )
    at = (pl.int_range(pl.len()) % FAULTY_EVERY) == 7
    kind = (pl.int_range(pl.len()) // FAULTY_EVERY) % 4
    return frame.with_columns(
        pl.when(at & (kind == 0)).then(pl.lit("blue")).otherwise("class_name").alias("class_name"),
        pl.when(at & (kind == 1)).then(pl.lit(1.5)).otherwise("score_margin").alias("score_margin"),
        pl.when(at & (kind == 2)).then(pl.lit("X" * 64)).otherwise("payload_sha256").alias("payload_sha256"),
        pl.when(at & (kind == 3)).then(pl.lit("car-0/epoch-0/0")).otherwise("identity").alias("identity"),
    )


def product(frame: pl.DataFrame, rules: tuple[Rule, ...]) -> dict[str, int]:
    """What the stage does with its rows."""
    return failing_counts(with_derived(frame.lazy()), rules)


def bare_polars(frame: pl.DataFrame) -> dict[str, int]:
    """The same rules by hand, in one query."""
    unit = {
        f"{name}_in_range": (~pl.col(name).is_between(0.0, 1.0)).fill_null(False) | pl.col(name).is_nan()
        for name in SCORES
    }
    before = (
        pl.col("capture_time_ns")
        .shift(1)
        .over("vehicle_id", "epoch", "drive_id", "sensor_id", order_by="seq")
    )
    expressions = {
        "identity_present": pl.col("identity").is_null(),
        "identity_unique": pl.col("identity").is_not_null() & pl.col("identity").is_duplicated(),
        "hash_well_formed": ~pl.col("payload_sha256").str.contains("^[0-9a-f]{64}$"),
        "class_name_known": ~pl.col("class_name").is_in(CLASSES),
        **unit,
        "luma_in_range": ~pl.col("luma").is_between(0.0, 255.0),
        "time_rises": pl.col("capture_time_ns") <= before,
    }
    counted = frame.lazy().select(each.sum().alias(name) for name, each in expressions.items()).collect()
    return {name: int(value or 0) for name, value in counted.row(0, named=True).items()}


def great_expectations(frame: pl.DataFrame, rules: tuple[Rule, ...]) -> dict[str, int]:
    """The second judge of the product, on a whole frame."""
    from pipelines.validate.expectations import judge_with_expectations

    verdicts = judge_with_expectations(prepare(frame), rules, allowed_ratio=0.0, docs=None)
    return {verdict.rule: verdict.failing_rows for verdict in verdicts}


def pandera_counts(frame: pl.DataFrame) -> int:
    """All failures that Pandera's polars backend finds, lazily, by the same rules."""
    import pandera.polars as pa
    from pandera.errors import SchemaErrors

    unit = {name: pa.Column(float, pa.Check.in_range(0.0, 1.0), nullable=True) for name in SCORES}
    group = ["vehicle_id", "epoch", "drive_id", "sensor_id"]

    def rising(data: pa.PolarsData) -> pl.LazyFrame:
        before = pl.col("capture_time_ns").shift(1).over(group, order_by="seq")
        return data.lazyframe.select((pl.col("capture_time_ns") > before).fill_null(True))

    schema = pa.DataFrameSchema(
        {
            "identity": pa.Column(str, nullable=False, unique=True),
            "payload_sha256": pa.Column(str, pa.Check.str_matches("^[0-9a-f]{64}$")),
            "class_name": pa.Column(str, pa.Check.isin(CLASSES)),
            "luma": pa.Column(float, pa.Check.in_range(0.0, 255.0)),
            **unit,
        },
        checks=pa.Check(rising),
    )
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as errors:
        return len(errors.schema_errors)
    return 0


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def run(seed: int, quick: bool) -> Sequence[Measure]:
    """Beside bare polars on all rows, the others on slices, and the verdicts on mutated batches."""
    logging.disable(logging.WARNING)
    try:
        return _run(seed, quick)
    finally:
        logging.disable(logging.NOTSET)


def _run(seed: int, quick: bool) -> list[Measure]:
    count = 200_000 if quick else 10_000_000
    rules = tuple(
        rule for rule in rules_for(TASKS["classification"], CLASSES, MAX_BITS) if rule.name in RULES
    )
    frame = rows(count, seed)
    if product(frame.head(1_000), rules) != bare_polars(frame.head(1_000)):  # and both are warm then
        raise RuntimeError("the product and bare polars do not judge alike")
    found: list[dict[str, int]] = []
    ours, bare = [], []
    for _ in range(1 if quick else 3):
        ours.append(count / _seconds(lambda: found.append(product(frame, rules))))
        bare.append(count / _seconds(lambda: found.append(bare_polars(frame))))
        if found[-1] != found[-2]:
            raise RuntimeError(f"the product counts {found[-2]}, bare polars {found[-1]}")
    ratio, spread = paired_ratio(ours, bare)
    rate = statistics.median(ours)
    step = f"validation rules, {count:,} rows"
    told = [
        Measure(
            step,
            "the same rules by hand in bare polars",
            ratio,
            ">= 0.60, or 50 million rows/s",
            ratio >= 0.60 or rate >= 50e6,
            spread,
            {"product_rows_per_s": rate, "bare_polars_rows_per_s": statistics.median(bare)},
            "the same counts. Grouping by drive for the order of time, and text that must be unique, take most of it",
        )
    ]
    small = frame.head(20_000 if quick else 100_000)
    told.append(
        _peer(
            "Great Expectations",
            small,
            rules,
            rate,
            lambda: great_expectations(small, rules),
            product(small, rules),
        )
    )
    if importlib.util.find_spec("pandera"):
        slice_ = frame.head(20_000 if quick else 1_000_000)
        told.append(_peer("Pandera (polars)", slice_, rules, rate, lambda: pandera_counts(slice_), None))
    else:
        told.append(
            Measure(
                step, "Pandera", None, "-", None, None, note="not measured: pandera cannot be imported here"
            )
        )
    told.append(_verdicts(seed, 5 if quick else 25))
    return told


def _peer(
    name: str,
    frame: pl.DataFrame,
    rules: tuple[Rule, ...],
    whole_rate: float,
    call: Callable[[], object],
    same_as: dict[str, int] | None,
) -> Measure:
    """A peer on a slice, beside the product on the same slice."""
    ours, theirs, found = [], [], []
    for _ in range(2):
        ours.append(frame.height / _seconds(lambda: product(frame, rules)))
        theirs.append(frame.height / _seconds(lambda: found.append(call())))
    if same_as is not None and found[-1] != same_as:
        raise RuntimeError(f"{name} counts {found[-1]}, the product {same_as}")
    ratio, spread = paired_ratio(ours, theirs)
    return Measure(
        "validation rules",
        f"{name}, on {frame.height:,} of the rows",
        ratio,
        "-",
        None,
        spread,
        {
            "product_rows_per_s": statistics.median(ours),
            "product_rows_per_s_on_all_rows": whole_rate,
            "peer_rows_per_s": statistics.median(theirs),
        },
        "a peer, no target" + ("; the same counts" if same_as is not None else ""),
    )


def _verdicts(seed: int, batches: int) -> Measure:
    """Mutated batches: the counts of the fast rules and of Great Expectations, rule by rule."""
    from pipelines.validate.expectations import judge_with_expectations
    from tests.pipelines import mutated_batches as made

    agreeing = 0
    for number in range(batches):
        mutated, near = made.mutated(random.Random(f"{seed}/{number}"))  # noqa: S311 - the same batches at every run
        prepared = prepare(made.frame(mutated), made.distances_frame(near))
        verdicts = judge_with_expectations(prepared, made.RULES, allowed_ratio=0.0, docs=None)
        agreeing += {v.rule: v.failing_rows for v in verdicts} == failing_counts(prepared.lazy(), made.RULES)
    return Measure(
        f"verdicts on {batches} mutated batches",
        "Great Expectations",
        agreeing / batches,
        "1 (the same verdict)",
        agreeing == batches,
        None,
        {"batches": float(batches), "agreeing": float(agreeing)},
        "all 1,000 batches are judged by the fault `validation-parity`, with a third judge: docs/reliability.md",
    )


STEPS = (Step("validation-rules", run),)
