from __future__ import annotations

import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from connectors.lake.schema import ARRIVALS, STATISTICS_COLUMNS, TABLES
from connectors.lake.table import FilesGoneError, LakeTable, Snapshot, write_parquet
from foundation.errors import MisconfiguredError

Term = tuple[pc.Expression, pl.Expr]
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
ASKED = (*COMPARISONS, "isin", "is_null", "is_valid", "not_eq")
VALUES = 4
COLUMNS = tuple((table, name) for table, schema in TABLES.items() for name in schema.names)


def value_of(kind: pa.DataType, number: int) -> Any:
    """The `number`-th of a few values of a column, in their order; 0 is null."""
    if number == 0:
        return None
    if pa.types.is_list(kind):
        return [value_of(kind.value_type, number)]
    if pa.types.is_struct(kind):
        return {field.name: value_of(field.type, number) for field in kind}
    if pa.types.is_string(kind):
        return ("", "b", "bÿ", "\U0001f697")[number - 1]
    if pa.types.is_binary(kind):
        return (b"", b"b", b"b\xff", b"\xff\x00")[number - 1]
    if pa.types.is_floating(kind):
        return (-0.5, 0.0, 0.25, 1e6)[number - 1]
    return (-7, 0, 3, 2**31 - 1 if kind == pa.int32() else 2**62 + 1)[number - 1]


def term(field: pa.Field, asked: str, number: int) -> Term:
    """One condition on a column, for pyarrow and for polars."""
    ours, theirs, value = pc.field(field.name), pl.col(field.name), value_of(field.type, number)
    if asked in ("is_null", "is_valid") or pa.types.is_list(field.type):
        return (
            (ours.is_valid(), theirs.is_not_null())
            if asked == "is_valid"
            else (ours.is_null(), theirs.is_null())
        )
    if asked == "isin":
        values = [value_of(field.type, each) for each in {number, VALUES}]
        return ours.isin(pa.array(values, field.type)), theirs.is_in(values)
    if asked == "not_eq":
        return ~(ours == value), ~(theirs == value)
    return COMPARISONS[asked](ours, value), COMPARISONS[asked](theirs, value)


def lake_table(folder: Path, table: str, files: list[list[dict[str, int]]]) -> Snapshot:
    """A table of these files, each with its rows (column to the number of its value), two rows per row group."""
    schema = TABLES[table]
    made = LakeTable.create(folder / table, schema)
    for number, rows in enumerate(files):
        columns = {
            field.name: pa.array([value_of(field.type, row.get(field.name, 0)) for row in rows], field.type)
            for field in schema
        }
        written = write_parquet(
            made.folder, f"rows/{number}.parquet", pa.table(columns, schema=schema), row_group_rows=2
        )
        made.commit_files([written], expected_version=number)
    return made.snapshot()


def assert_same(snapshot: Snapshot, columns: list[str], asked: Term) -> None:
    """A filtered read, its batches and its count are what polars keeps of all rows."""
    kept = pl.DataFrame(pl.from_arrow(snapshot.read())).filter(asked[1]).select(columns)
    read = pl.DataFrame(pl.from_arrow(snapshot.read(columns, asked[0])))
    assert_frame_equal(read, kept, check_row_order=False)
    assert snapshot.count(asked[0]) == kept.height
    assert sum(batch.num_rows for batch in snapshot.batches(columns, asked[0])) == kept.height


def test_a_filter_on_a_column_without_statistics_loses_no_row(tmp_path: Path) -> None:
    assert "topic" not in STATISTICS_COLUMNS
    snapshot = lake_table(tmp_path, "arrivals", [[{"topic": 2, "topic_id": n}] for n in (1, 2)])
    of_topic = pc.field("topic") == "b"
    assert snapshot.count(of_topic) == 2
    assert snapshot.read(["topic_id"], of_topic & (pc.field("topic_id") != "b")).to_pydict() == {
        "topic_id": [""]
    }


def test_nulls_beside_values_are_found(tmp_path: Path) -> None:
    assert "seq" in STATISTICS_COLUMNS
    snapshot = lake_table(tmp_path, "arrivals", [[{"seq": 1}, {}, {"seq": 3}], [{}], [{"seq": 2}]])
    assert snapshot.count(pc.field("seq").is_null()) == 2
    assert snapshot.count((pc.field("seq") > 0) | pc.field("seq").is_null()) == 3


@pytest.mark.parametrize("table", TABLES)
def test_on_every_column_a_filtered_read_is_all_rows_filtered(table: str, tmp_path: Path) -> None:
    names = TABLES[table].names
    layout = [[1, 1, 2], [0, 3, 0, 4], [0, 0], [2]]  # without nulls, with some, nothing but, one row
    snapshot = lake_table(tmp_path, table, [[dict.fromkeys(names, k) for k in rows] for rows in layout])
    everything = pl.DataFrame(pl.from_arrow(snapshot.read()))
    for field in TABLES[table]:
        for asked in ASKED:
            ours, theirs = term(field, asked, 2)
            found = pl.DataFrame(pl.from_arrow(snapshot.read([field.name], ours)))
            expected = everything.filter(theirs).select(field.name)
            assert_frame_equal(found, expected, check_row_order=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_two_conditions_on_any_files_keep_what_polars_keeps(data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(sorted(TABLES)))
    columns = data.draw(st.lists(st.sampled_from(TABLES[table].names), min_size=2, max_size=2, unique=True))
    row = st.fixed_dictionaries({name: st.integers(0, VALUES) for name in columns})
    files = data.draw(st.lists(st.lists(row, min_size=1, max_size=5), min_size=1, max_size=4))
    (one, one_too), (other, other_too) = (
        term(TABLES[table].field(name), data.draw(st.sampled_from(ASKED)), data.draw(st.integers(1, VALUES)))
        for name in columns
    )
    both = data.draw(st.booleans())
    asked = (one & other, one_too & other_too) if both else (one | other, one_too | other_too)
    with tempfile.TemporaryDirectory() as folder:
        assert_same(lake_table(Path(folder), table, files), columns, asked)


def test_files_that_cannot_pass_are_not_opened_also_after_a_checkpoint(tmp_path: Path) -> None:
    files = [[{"seq": 1}, {"seq": 2}], [{"seq": 3}, {}], [{}, {}]]
    snapshot = lake_table(tmp_path, "arrivals", files)
    snapshot.delta.create_checkpoint()
    for name in ("0", "2"):
        (snapshot.table.folder / "rows" / f"{name}.parquet").unlink()
    again = LakeTable.open(snapshot.table.folder).snapshot()
    assert again.read(["seq"], pc.field("seq") > 0).to_pydict() == {"seq": [3]}
    with pytest.raises(FilesGoneError):
        again.read(["seq"], pc.field("seq").is_null())


def test_a_table_of_a_kind_that_is_not_made_here_is_refused(tmp_path: Path) -> None:
    DeltaTable.create(str(tmp_path / "arrivals"), schema=ARRIVALS, partition_by=["topic"])
    with pytest.raises(MisconfiguredError, match=r"partition columns \['topic'\]"):
        LakeTable.open(tmp_path / "arrivals").snapshot().read()
