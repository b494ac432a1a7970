"""Look up which identities have landed already, skipping files and row groups whose statistics rule them out."""

from __future__ import annotations

from functools import reduce
from operator import or_

import pyarrow as pa
import pyarrow.compute as pc

from connectors.lake.table import Snapshot
from schemas.reasons import LandOutcome

MAX_EXACT_TERMS = 128
"""Above this number of (vehicle, epoch) pairs, one wider condition is used instead of one per pair."""

_IDENTITY = ["vehicle_id", "epoch", "seq"]
SEEN = pa.schema(
    [
        pa.field("vehicle_id", pa.string()),
        pa.field("epoch", pa.string()),
        pa.field("seq", pa.int64()),
        pa.field("value_sha256", pa.string()),
        pa.field("topic_id", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
    ]
)


def landed_identities(snapshot: Snapshot, wanted: pa.Table) -> pa.Table:
    """Return where the identities in `wanted` (columns vehicle_id, epoch, seq) landed, as rows of `SEEN`.

    There is at most one row per identity, since an identity lands once.
    """
    if wanted.num_rows == 0 or snapshot.version == 0:
        return SEEN.empty_table()
    wanted = wanted.select(_IDENTITY).group_by(_IDENTITY).aggregate([])
    found = snapshot.read(SEEN.names, _condition(wanted))
    if found.num_rows == 0:
        return SEEN.empty_table()
    return found.join(wanted, keys=_IDENTITY, join_type="left semi").select(SEEN.names).cast(SEEN)


def _condition(wanted: pa.Table) -> pc.Expression:
    landed = pc.field("outcome") == LandOutcome.LANDED.value
    pairs = wanted.group_by(["vehicle_id", "epoch"]).aggregate([("seq", "min"), ("seq", "max")])
    if pairs.num_rows <= MAX_EXACT_TERMS:
        terms = [
            (pc.field("vehicle_id") == row["vehicle_id"])
            & (pc.field("epoch") == row["epoch"])
            & (pc.field("seq") >= row["seq_min"])
            & (pc.field("seq") <= row["seq_max"])
            for row in pairs.to_pylist()
        ]
        return landed & reduce(or_, terms)
    vehicles = pc.unique(pairs.column("vehicle_id"))
    lowest, highest = pc.min_max(vehicles).values()
    seqs = pc.min_max(wanted.column("seq"))
    return (
        landed
        & (pc.field("vehicle_id") >= lowest)
        & (pc.field("vehicle_id") <= highest)
        & (pc.field("seq") >= seqs["min"])
        & (pc.field("seq") <= seqs["max"])
        & pc.field("vehicle_id").isin(vehicles)
        & pc.field("epoch").isin(pc.unique(pairs.column("epoch")))
    )
