from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.lake.seen import SEEN
from pipelines.ingest.deduplicate import committable, duplicate_verdicts
from pipelines.ingest.elements import Unread
from pipelines.ingest.verdicts import INDEX

arrival = st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 1))
"""(partition, identity, content); its offset is its number within the partition."""
arrivals = st.lists(arrival, max_size=24)


def index_of(log: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    ends: dict[int, int] = defaultdict(int)
    rows = []
    for partition, identity, content in log:
        rows.append(
            {
                "vehicle_id": f"v{identity % 2}",
                "epoch": "00000000000000aa",
                "seq": identity,
                "value_sha256": hashlib.sha256(f"{identity} {content}".encode()).hexdigest(),
                "topic_id": "t",
                "partition": partition,
                "offset": ends[partition],
                "path": f"p{partition}",
            }
        )
        ends[partition] += 1
    return rows


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=INDEX)


def place(row: dict[str, Any]) -> str:
    return f"{row['topic_id']}/{row['partition']}/{row['offset']}"


def identity(row: dict[str, Any]) -> tuple[str, int]:
    return row["vehicle_id"], row["seq"]


def ingest_in(runs: list[list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Mark the runs one after the other, each on what landed before. Place to row with its outcome."""
    rows: dict[str, dict[str, Any]] = {}
    landed: list[dict[str, Any]] = []
    for run in runs:
        seen = pa.Table.from_pylist([{k: r[k] for k in SEEN.names} for r in landed], schema=SEEN)
        verdicts = {place(v): v for v in duplicate_verdicts(table(run), seen).to_pylist()}
        for row in run:
            verdict = verdicts.get(place(row), {"outcome": "landed", "resend_of": None})
            rows[place(row)] = row | {"outcome": verdict["outcome"], "resend_of": verdict["resend_of"]}
            if verdict["outcome"] == "landed":
                landed.append(row)
    return rows


def assert_sound(rows: dict[str, dict[str, Any]]) -> None:
    landed: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows.values():
        if row["outcome"] == "landed":
            assert identity(row) not in landed, "landed twice"
            landed[identity(row)] = row
    for row in rows.values():
        first = landed[identity(row)]
        if row["outcome"] == "resent":
            assert row["resend_of"] == place(first)
            assert row["value_sha256"] == first["value_sha256"]
        if row["outcome"] == "rejected":
            assert row["value_sha256"] != first["value_sha256"]


@given(arrivals, st.randoms(use_true_random=False))
def test_the_order_in_which_rows_are_looked_at_changes_no_verdict(
    log: list[tuple[int, int, int]], rng: random.Random
) -> None:
    rows = index_of(log)
    shuffled = rng.sample(rows, len(rows))
    empty = SEEN.empty_table()
    assert duplicate_verdicts(table(shuffled), empty) == duplicate_verdicts(table(rows), empty)
    assert_sound(ingest_in([rows]))


@given(arrivals, st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12)), max_size=4))
@settings(max_examples=150)
def test_any_cut_into_runs_lands_the_same_identities_once(
    log: list[tuple[int, int, int]], cuts: list[tuple[int, int, int]]
) -> None:
    rows = index_of(log)
    whole = ingest_in([rows])
    runs: list[list[dict[str, Any]]] = []
    begin = (0, 0, 0)
    for cut in [*cuts, (99, 99, 99)]:
        end = tuple(max(a, b) for a, b in zip(begin, cut, strict=True))
        runs.append([r for r in rows if begin[r["partition"]] <= r["offset"] < end[r["partition"]]])
        begin = end  # type: ignore[assignment]
    cut_up = ingest_in([run for run in runs if run])
    assert cut_up.keys() == whole.keys()
    assert_sound(cut_up)
    assert {identity(r) for r in cut_up.values() if r["outcome"] == "landed"} == {identity(r) for r in rows}
    if len({r["partition"] for r in rows}) <= 1:
        assert cut_up == whole


@given(arrivals)
def test_marking_what_landed_already_makes_every_row_a_resend_or_a_conflict(
    log: list[tuple[int, int, int]],
) -> None:
    rows = index_of(log)
    again = [row | {"offset": row["offset"] + 1000} for row in rows]
    marked = ingest_in([rows, again])
    assert_sound(marked)
    assert all(marked[place(row)]["outcome"] != "landed" for row in again)


def test_of_equal_records_the_smallest_place_lands() -> None:
    rows = index_of([(2, 1, 0), (1, 0, 0), (1, 1, 0), (0, 2, 0)])
    outcome = {place(r): r["outcome"] for r in ingest_in([rows]).values()}
    assert outcome == {"t/2/0": "resent", "t/1/0": "landed", "t/1/1": "landed", "t/0/0": "landed"}


def test_a_conflict_names_both_hashes_and_the_place() -> None:
    rows = index_of([(0, 1, 0), (0, 1, 1)])
    verdict = duplicate_verdicts(table(rows), SEEN.empty_table()).to_pylist()[0]
    assert (verdict["outcome"], verdict["reason"], verdict["offset"]) == ("rejected", "conflict", 1)
    assert rows[0]["value_sha256"] in verdict["detail"]
    assert rows[1]["value_sha256"] in verdict["detail"]
    assert "t/0/0" in verdict["detail"]


@pytest.mark.parametrize("begin", [0, 1, 2])
def test_rows_from_the_first_unread_offset_on_claim_nothing(begin: int) -> None:
    rows = index_of([(0, 1, 0), (0, 2, 0), (1, 1, 0)])
    left = committable(table(rows), [Unread(0, begin, ""), Unread(0, 7, "")])
    assert pl.DataFrame(pl.from_arrow(left)).filter(pl.col("partition") == 0).height == begin
    assert duplicate_verdicts(left, SEEN.empty_table()).num_rows == (1 if begin else 0)
