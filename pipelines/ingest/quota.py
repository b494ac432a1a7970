"""Quota: how much one vehicle may land in a day; a record beyond it is a dead letter with its bytes, reason `over_quota`.

Counted are landed rows of the log and the bytes of their payloads, within a day before the run. Of the rows of one run the
first by (topic id, partition, offset) land, so neither the cut into batches nor the number of workers changes a verdict.
A vehicle that had used up its quota before the run costs a signature and a hash per record: nothing of it is decoded,
looked up, curated or labelled. `fleetloop deadletter replay --reason over_quota` lands such records later, without a quota.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.lake.schema import Origin
from connectors.lake.table import Snapshot
from foundation.documents import decode
from foundation.errors import RejectedError
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.verdicts import IDENTITY, PLACE, VERDICTS
from schemas.reasons import LandOutcome, RejectReason

DAY_NS: Final = 86_400 * 10**9
BATCH_ROWS: Final = 65_536
"""Rows of the last day that are held at once: a large fleet lands millions."""


class Used(NamedTuple):
    """What a vehicle landed within a day."""

    records: int
    payload_bytes: int

    def is_over(self, settings: IngestSettings) -> bool:
        """Return whether nothing more of the vehicle lands."""
        most = (settings.vehicle_records_per_day, settings.vehicle_bytes_per_day)
        return any(bound and used >= bound for used, bound in zip(self, most, strict=True))


def has_quota(settings: IngestSettings) -> bool:
    """Return whether there is any bound."""
    return bool(settings.vehicle_records_per_day or settings.vehicle_bytes_per_day)


def used_within_a_day(snapshot: Snapshot, now_ns: int, settings: IngestSettings) -> dict[str, Used]:
    """Return what each vehicle landed in (now_ns - 1 day, now_ns], from the files that were committed since then."""
    if not has_quota(settings) or snapshot.version == 0:
        return {}
    since_ns = now_ns - DAY_NS
    files = snapshot.files()
    recent = files.filter(pc.greater_equal(files["modification_time"], since_ns // 10**6))
    if not recent.num_rows:
        return {}
    landed = (pc.field("outcome") == LandOutcome.LANDED.value) & (pc.field("origin") == Origin.LOG.value)
    landed &= pc.field("ingest_time_ns") > since_ns
    found: dict[str, Used] = {}
    for batch in snapshot.batches(["vehicle_id", "payload_bytes"], landed, BATCH_ROWS, files=recent):
        counted = (
            pa.Table.from_batches([batch])
            .group_by("vehicle_id")
            .aggregate([([], "count_all"), ("payload_bytes", "sum")])
        )
        for row in counted.to_pylist():
            before = found.get(row["vehicle_id"], Used(0, 0))
            found[row["vehicle_id"]] = Used(
                before.records + row["count_all"], before.payload_bytes + (row["payload_bytes_sum"] or 0)
            )
    return found


def to_json(used: Mapping[str, Used]) -> str:
    """Return `used` as one text, for the context of a run."""
    return json.dumps(used, sort_keys=True)


def from_json(text: str) -> dict[str, Used]:
    """Return what `to_json` wrote. Raises CorruptError."""
    return {name: Used(*each) for name, each in decode(dict[str, tuple[int, int]], text, "used").items()}


@dataclass(frozen=True, slots=True)
class Quota:
    """What each vehicle used before the run, and the bounds."""

    used: Mapping[str, Used]
    settings: IngestSettings

    def check(self, vehicle_id: str) -> None:
        """Raise RejectedError (reason over_quota) when the vehicle had used up its quota before this run."""
        before = self.used.get(vehicle_id)
        if before is not None and before.is_over(self.settings):
            raise RejectedError(_detail(vehicle_id, self.settings), reason=RejectReason.OVER_QUOTA)


def with_quota(
    index: pa.Table, verdicts: pa.Table, used: Mapping[str, Used], settings: IngestSettings
) -> pa.Table:
    """Return `verdicts` with those on the rows of `index` that would land beyond the quota of their vehicle.

    A repetition of such a row in the same run, which has nothing to refer to, is over the quota as well. Depends on no order.
    """
    if not has_quota(settings) or not index.num_rows:
        return verdicts
    rows, judged = pl.DataFrame(pl.from_arrow(index)), pl.DataFrame(pl.from_arrow(verdicts))
    landing = rows.join(judged.select(PLACE), on=PLACE, how="anti").sort(PLACE)
    before = pl.DataFrame(
        [(name, *each) for name, each in used.items()],
        {"vehicle_id": pl.String, "used_records": pl.Int64, "used_bytes": pl.Int64},
        orient="row",
    )
    size = pl.col("payload_bytes").fill_null(0)
    landing = landing.join(before, on="vehicle_id", how="left", maintain_order="left").with_columns(
        (pl.col("used_records").fill_null(0) + pl.int_range(pl.len()).over("vehicle_id")).alias("records"),
        (pl.col("used_bytes").fill_null(0) + size.cum_sum().over("vehicle_id") - size).alias("bytes"),
    )
    bounds = {"records": settings.vehicle_records_per_day, "bytes": settings.vehicle_bytes_per_day}
    is_over = pl.any_horizontal(pl.col(name) >= most for name, most in bounds.items() if most)
    over = landing.filter(is_over)
    if over.is_empty():
        return verdicts
    # A row of the lake is no row of `over`, so what repeats one stays a resend.
    every = rows.join(over.select(IDENTITY), on=IDENTITY, how="semi")
    told = pl.DataFrame({"vehicle_id": (names := every["vehicle_id"].unique().sort())}).with_columns(
        pl.Series("detail", [_detail(name, settings) for name in names], pl.String)
    )
    added = every.join(told, on="vehicle_id").select(
        *PLACE,
        "path",
        outcome=pl.lit(LandOutcome.REJECTED.value),
        reason=pl.lit(RejectReason.OVER_QUOTA.value),
        detail="detail",
        resend_of=pl.lit(None, pl.String),
    )
    kept = judged.join(added.select(PLACE), on=PLACE, how="anti")
    return pl.concat([kept, added.select(kept.columns)]).sort(PLACE).to_arrow().cast(VERDICTS)


def _detail(vehicle_id: str, settings: IngestSettings) -> str:
    bounds = {"records": settings.vehicle_records_per_day, "payload bytes": settings.vehicle_bytes_per_day}
    return f"{vehicle_id} landed its quota of a day: " + " or ".join(
        f"{most:,} {name}" for name, most in bounds.items() if most
    )
