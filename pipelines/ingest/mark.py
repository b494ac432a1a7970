"""Mark: of all rows with one identity exactly one lands, and which one depends on places alone.

The row that is in the lake already wins; else the one with the smallest (topic_id, partition, offset).
Another row with the same sha256 is a resend of it; with another sha256 it is a conflict, and rejected.
Neither the order of arrival nor how the log was cut into batches changes the verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from connectors.lake.seen import SEEN, landed_identities
from connectors.lake.table import LakeTable
from pipelines import steps
from pipelines.ingest.elements import RunContext, Unread
from schemas.reasons import LandOutcome, RejectReason

IDENTITY = ["vehicle_id", "epoch", "seq"]
PLACE = ["topic_id", "partition", "offset"]
INDEX = SEEN.append(pa.field("path", pa.string()))
VERDICTS = pa.schema(
    [
        pa.field("topic_id", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("path", pa.string()),
        pa.field("outcome", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("resend_of", pa.string()),
    ]
)


class Mark(beam.DoFn):
    """(shard, index tables) -> (path, verdict table) for the files whose rows do not all land."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def process(
        self, element: tuple[int, Iterable[pa.Table]], unread: Sequence[Unread]
    ) -> Iterator[tuple[str, pa.Table]]:
        """Rows that this run cannot commit, because an earlier offset is unread, claim nothing."""
        index = committable(pa.concat_tables(list(element[1])), unread)
        seen = landed_identities(LakeTable.open(self._context.table).snapshot(self._context.version), index)
        verdicts = mark(index, seen)
        steps.reached("ingest.mark")
        for (path,), of_path in pl.DataFrame(pl.from_arrow(verdicts)).group_by(["path"], maintain_order=True):
            yield str(path), of_path.to_arrow().cast(VERDICTS)


def first_unread(unread: Iterable[Unread]) -> dict[int, int]:
    """Partition to the first offset that was not read."""
    first: dict[int, int] = {}
    for one in unread:
        first[one.partition] = min(one.begin, first.get(one.partition, one.begin))
    return first


def committable(index: pa.Table, unread: Sequence[Unread]) -> pa.Table:
    """The rows before the first unread offset of their partition."""
    for partition, begin in sorted(first_unread(unread).items()):
        index = index.filter((pc.field("partition") != partition) | (pc.field("offset") < begin))
    return index


def mark(index: pa.Table, seen: pa.Table) -> pa.Table:
    """Verdicts (`VERDICTS`) for the rows of `index` (`INDEX`) that do not land.

    `seen` (`connectors.lake.seen.SEEN`) says where identities landed before. A pure function of both, in any
    order.
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
