"""Deduplicate: of all rows with one identity exactly one lands, and which one depends on offsets alone.

The row that is in the lake already wins; otherwise the one with the smallest (topic_id, partition, offset). Another
row with the same sha256 is a resend of it; one with another sha256 is a conflict and is rejected. Neither the order of
arrival nor the cut into batches changes the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.lake.seen import landed_identities
from connectors.lake.table import LakeTable
from pipelines import steps
from pipelines.ingest.elements import RunContext, Unread
from pipelines.ingest.quota import from_json, with_quota
from pipelines.ingest.verdicts import IDENTITY, PLACE, VERDICTS
from schemas.reasons import LandOutcome, RejectReason


class Deduplicate(beam.DoFn):
    """Turn (shard, index tables) into (path, verdict table) for the files whose rows do not all land."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def process(
        self, element: tuple[int, Iterable[pa.Table]], unread: Sequence[Unread]
    ) -> Iterator[tuple[str, pa.Table]]:
        """Yield verdicts; rows behind an unread offset, which this run cannot commit, take no part."""
        index = committable(pa.concat_tables(list(element[1])), unread)
        seen = landed_identities(LakeTable.open(self._context.table).snapshot(self._context.version), index)
        verdicts = with_quota(
            index, duplicate_verdicts(index, seen), from_json(self._context.used_json), self._context.settings
        )
        steps.reached("ingest.deduplicate")
        for (path,), of_path in pl.DataFrame(pl.from_arrow(verdicts)).group_by(["path"], maintain_order=True):
            yield str(path), of_path.to_arrow().cast(VERDICTS)


def first_unread(unread: Iterable[Unread]) -> dict[int, int]:
    """Return the first offset that was not read, by partition."""
    first: dict[int, int] = {}
    for one in unread:
        first[one.partition] = min(one.begin, first.get(one.partition, one.begin))
    return first


def committable(index: pa.Table, unread: Sequence[Unread]) -> pa.Table:
    """Return the rows before the first unread offset of their partition."""
    for partition, begin in sorted(first_unread(unread).items()):
        index = index.filter((pc.field("partition") != partition) | (pc.field("offset") < begin))
    return index


def duplicate_verdicts(index: pa.Table, seen: pa.Table) -> pa.Table:
    """Return verdicts (`VERDICTS`) for the rows of `index` (`INDEX`) that do not land.

    `seen` (`connectors.lake.seen.SEEN`) holds where identities landed before. A pure function of both tables that does not
    depend on the order of their rows.
    """
    rows = pl.DataFrame(pl.from_arrow(index))
    before = pl.DataFrame(pl.from_arrow(seen)).select(*IDENTITY, "value_sha256", *PLACE)
    first = rows.sort(PLACE).unique(IDENTITY, keep="first", maintain_order=True)
    first = first.join(before, on=IDENTITY, how="anti").select(*IDENTITY, "value_sha256", *PLACE)
    winners = pl.concat([before, first]).rename({name: f"{name}_won" for name in ("value_sha256", *PLACE)})
    beaten = rows.join(winners, on=IDENTITY, how="inner").filter(
        pl.any_horizontal(pl.col(name) != pl.col(f"{name}_won") for name in PLACE)
    )
    is_same = pl.col("value_sha256") == pl.col("value_sha256_won")
    won = pl.concat_str(*(f"{name}_won" for name in PLACE), separator="/")
    detail = pl.format(
        "identity {}/{}/{} landed at {} with sha256 {}; this record has {}",
        *IDENTITY, won, "value_sha256_won", "value_sha256",
    )  # fmt: skip
    return (
        beaten.select(
            *PLACE,
            "path",
            outcome=pl.when(is_same)
            .then(pl.lit(LandOutcome.RESENT.value))
            .otherwise(pl.lit(LandOutcome.REJECTED.value)),
            reason=pl.when(~is_same).then(pl.lit(RejectReason.CONFLICT.value)),
            detail=pl.when(~is_same).then(detail),
            resend_of=pl.when(is_same).then(won),
        )
        .sort(PLACE)
        .to_arrow()
        .cast(VERDICTS)
    )
