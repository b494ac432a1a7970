"""Step 4: decide the outcome of every row that was read.

A row is removed (with its reason and match), unlabelled, quarantined (with the rules it breaks) or kept (with its
shard). The four add up to the rows that were read, or the run stops. A vehicle that breaks a rule on what it says of itself
in too many of its labelled rows is in quarantine with all of them, and keeps no frame of another vehicle out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import polars as pl

from foundation.documents import decode
from foundation.errors import GuaranteeBrokenError
from pipelines.curate.fragments import Fragment
from pipelines.curate.measure_cache import MeasureCache
from pipelines.curate.near_duplicates import remove_near_duplicates
from pipelines.curate.near_pairs import PAIR_SCHEMA, test_distances
from pipelines.curate.params import Params, ShardParams
from pipelines.curate.row_states import KEPT, QUARANTINED, REMOVED, UNLABELLED
from pipelines.curate.rules import (
    Rule,
    broken_by_vehicles,
    broken_rules,
    failing,
    failing_of_vehicles,
    rules_for,
    with_derived,
    with_label_problems,
)
from schemas.reasons import QuarantineReason


def resolve(
    judged: pl.DataFrame,
    frames: pl.DataFrame,
    pairs: pl.DataFrame,
    params: Params,
    dense: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return `judged` with `state`, `rules`, `shard` and, where a label is a class, `class_index`.

    `dense` are the decisions of `dense_scenes.collapse` on frames that are not among `frames`.

    Raises GuaranteeBrokenError when the states do not add up to the rows.
    """
    task = params.task
    rules = rules_for(task, params.classes, params.curate.near_duplicates.max_distance_bits)
    untrusted = vehicles_in_quarantine(judged, rules, params)
    is_believed = ~pl.col("vehicle_id").is_in(untrusted).fill_null(False)
    decisions = remove_near_duplicates(
        frames.with_columns((pl.col("is_labelled") & is_believed).alias("is_labelled")), pairs
    )
    if dense is not None:
        decisions = pl.concat([decisions, dense.select(decisions.columns)])
    rows = judged.join(decisions, on="payload_sha256", how="left", suffix="_near", maintain_order="left")
    is_near = pl.col("reason").is_null() & pl.col("reason_near").is_not_null()
    rows = rows.with_columns(
        [
            pl.when(is_near).then(f"{n}_near").otherwise(n).alias(n)
            for n in ("reason", "match_sha256", "distance")
        ]
    ).drop("reason_near", "match_sha256_near", "distance_near")
    rows = rows.with_columns(
        pl.when(pl.col("reason").is_not_null())
        .then(pl.lit(REMOVED))
        .when(pl.col(task.label_column).is_null())
        .then(pl.lit(UNLABELLED))
        .otherwise(pl.lit(KEPT))
        .alias("state"),
        *([_class_index(task.label_column, params.classes)] if task.label_is_class else []),
    )
    labelled = rows.filter(pl.col("state") == KEPT)
    believed = labelled.filter(is_believed).select("payload_sha256", "split")
    distances = test_distances(believed, pairs).join(believed, on="payload_sha256", how="semi")
    judged_labels = with_label_problems(labelled, task, params.classes)
    verdicts = failing(with_derived(judged_labels.lazy(), distances), rules)
    breaks = verdicts.select(pl.any_horizontal(verdicts.columns))[verdicts.columns[0]]
    broken = labelled.filter(breaks).select("fragment_id", "row")
    broken = broken.with_columns(broken_rules(verdicts.filter(breaks)))
    rows = rows.join(broken, on=["fragment_id", "row"], how="left", maintain_order="left")
    of_vehicle = pl.concat_list(
        pl.col("rules").fill_null([]), pl.lit([str(QuarantineReason.VEHICLE_IN_QUARANTINE)])
    )
    is_out = (pl.col("state") == KEPT) & pl.col("vehicle_id").is_in(untrusted)
    rows = rows.with_columns(pl.when(is_out).then(of_vehicle).otherwise("rules").alias("rules"))
    rows = rows.with_columns(
        pl.when(pl.col("rules").list.len() > 0).then(pl.lit(QUARANTINED)).otherwise("state").alias("state")
    )
    rows = _with_shards(rows, params.curate.shards)
    counted = rows.group_by("state").len()["len"].sum()
    if counted != judged.height or rows.height != judged.height:
        raise GuaranteeBrokenError(
            f"{judged.height} rows were read, but {rows.height} were resolved and {counted} have a state"
        )
    return rows


def vehicles_in_quarantine(judged: pl.DataFrame, rules: Sequence[Rule], params: Params) -> list[str]:
    """Return the vehicles of which nothing is trained on, by name.

    All labelled rows count that no quality rule and no copy removed, so that no frame of another vehicle decides.
    """
    has_label = pl.col("reason").is_null() & pl.col(params.task.label_column).is_not_null()
    quarantine = params.curate.quarantine
    counted = failing_of_vehicles(with_derived(judged.lazy().filter(has_label)), rules)
    broken = broken_by_vehicles(counted, quarantine.max_failing_ratio)
    return sorted({each["vehicle_id"] for each in broken} - set(quarantine.lifted))


def _class_index(column: str, classes: tuple[str, ...]) -> pl.Expr:
    numbers = {name: number for number, name in enumerate(classes)}
    return pl.col(column).replace_strict(numbers, default=None, return_dtype=pl.Int32).alias("class_index")


def _with_shards(rows: pl.DataFrame, params: ShardParams) -> pl.DataFrame:
    """Add `shard` = "<split>-<number>" to kept rows, cut by payload bytes in order of (split, payload_sha256)."""
    kept = rows.filter(pl.col("state") == KEPT).sort("split", "payload_sha256")
    before = pl.col("payload_bytes").cum_sum().over("split") - pl.col("payload_bytes")
    number = (before // params.target_bytes).cast(pl.String).str.zfill(5)
    shards = kept.select("fragment_id", "row", pl.concat_str("split", pl.lit("-"), number).alias("shard"))
    return rows.join(shards, on=["fragment_id", "row"], how="left", maintain_order="left")


class ResolveRows(beam.DoFn):
    """All pairs -> `resolved.parquet` and `pairs.parquet` in the work folder -> the fragments that have kept rows."""

    def __init__(self, work: str, cache: str, params: Params) -> None:
        self._work = Path(work)
        self._cache = cache
        self._params = params

    def process(self, element: str, pair_paths: Iterable[str]) -> Iterator[str]:
        """Yield the JSON of each fragment with kept rows; `element` is the path of the plan."""
        near = self._params.curate.near_duplicates
        frames = pl.read_ipc(
            self._work / "frames.arrow",
            columns=["payload_sha256", "split", "vehicle_id", "is_labelled", "is_good", "since_ns"],
        )
        stored, _ = MeasureCache(Path(self._cache)).read_pairs(near.max_distance_bits)
        present = frames.select("payload_sha256")
        for side in ("sha_a", "sha_b"):
            stored = stored.join(present, left_on=side, right_on="payload_sha256", how="semi")
        found = [pl.read_parquet(path) for path in sorted(pair_paths)]
        pairs = (
            pl.concat([pl.DataFrame(schema=PAIR_SCHEMA), stored, *found])
            .unique()
            .sort("sha_a", "sha_b", "measure")
        )
        pairs.write_parquet(self._work / "pairs.parquet", compression="lz4")
        dense = pl.read_ipc(self._work / "dense.arrow")
        rows = resolve(pl.read_ipc(self._work / "judged.arrow"), frames, pairs, self._params, dense)
        rows.write_parquet(self._work / "resolved.parquet", compression="lz4")
        wanted = set(rows.filter(pl.col("state") == KEPT)["fragment_id"].unique())
        for fragment in decode(list[str], Path(element).read_bytes(), "plan of fragments"):
            if Fragment.from_json(fragment).fragment_id in wanted:
                yield fragment
