"""The digest is of the rows: not of their order, their files or their Arrow layout; and every value counts."""

from __future__ import annotations

import random
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.labels.answers import EDGES
from connectors.lake.schema import LABEL_COLUMNS
from foundation.errors import GuaranteeBrokenError
from modelkit.tasks import TASKS
from pipelines.dataset.diff import diff
from pipelines.dataset.digest import rows_digest
from pipelines.dataset.manifest import code_digest

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("text", pa.string()),
        pa.field("raw", pa.binary()),
        pa.field("whole", pa.int64()),
        pa.field("small", pa.int32()),
        pa.field("real", pa.float64()),
        pa.field("flag", pa.bool_()),
        pa.field("vector", pa.list_(pa.float32())),
    ]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.text(max_size=5),
            "text": st.none() | st.text(max_size=4),
            "raw": st.none() | st.binary(max_size=4),
            "whole": st.none() | st.integers(-(2**60), 2**60),
            "small": st.none() | st.integers(-5, 5),
            "real": st.none() | st.floats(),
            "flag": st.none() | st.booleans(),
            "vector": st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=3),
        }
    ),
    max_size=8,
    unique_by=lambda row: row["key"],
)


@settings(max_examples=150)
@given(ROWS, st.integers(0, 100))
def test_order_chunks_and_large_types_change_nothing(rows: list[dict[str, object]], seed: int) -> None:
    table = pa.Table.from_pylist(rows, SCHEMA)
    mixed = random.Random(seed).sample(rows, len(rows))
    chunked = pa.concat_tables(
        [pa.Table.from_pylist([row], SCHEMA) for row in mixed] or [SCHEMA.empty_table()]
    )
    assert rows_digest(chunked, ["key"]) == rows_digest(table, ["key"])
    through_polars = pl.DataFrame(pl.from_arrow(table)).to_arrow()
    assert rows_digest(through_polars, ["key"]) == rows_digest(table, ["key"])
    assert rows_digest(table.slice(0, len(rows)).select(SCHEMA.names[::-1]), ["key"]) == rows_digest(
        table, ["key"]
    )


@settings(max_examples=150)
@given(ROWS, ROWS)
def test_other_rows_have_another_digest(one: list[dict[str, object]], two: list[dict[str, object]]) -> None:
    a, b = pa.Table.from_pylist(one, SCHEMA), pa.Table.from_pylist(two, SCHEMA)
    same = a.sort_by("key").equals(b.sort_by("key")) or _text(one) == _text(two)
    assert (rows_digest(a, ["key"]) == rows_digest(b, ["key"])) == same


def _text(rows: list[dict[str, object]]) -> list[str]:
    """Values as text: every NaN alike, both zeros alike."""
    return [
        repr(sorted(row.items())).replace("-0.0", "0.0")
        for row in sorted(rows, key=lambda row: str(row["key"]))
    ]


def test_the_digest_is_the_one_that_it_was_long_ago() -> None:
    table = pa.table({"key": ["b", "a"], "n": pa.array([1, None], pa.int64()), "x": [0.5, float("nan")]})
    assert rows_digest(table, ["key"]) == "b59399594f062c7a184e51f114de0fbfc59554d88ca3bdc76e37e9392941b688"


def test_a_key_that_is_not_unique_is_refused() -> None:
    with pytest.raises(GuaranteeBrokenError, match="1 of 2 rows"):
        rows_digest(pa.table({"key": ["a", "a"]}), ["key"])


def rows_of(*rows: tuple[str, str, str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["payload_sha256", "class_name", "split"], orient="row")


def boxes_table(lists: list[Any], large: bool = False) -> pa.Table:
    kind = LABEL_COLUMNS["boxes"]
    column = pa.array(lists, pa.large_list(kind.value_type) if large else kind)
    return pa.table({"k": pa.array(range(len(lists))), "boxes": column})


def test_every_number_of_a_box_counts_and_how_the_boxes_are_chunked_does_not() -> None:
    box = {"class_name": "car", "left": 1.0, "top": 2.0, "right": 3.0, "bottom": 4.0}
    rows: list[Any] = [[box, box], [], None, [box]]
    digest = rows_digest(boxes_table(rows), ["k"])
    parts = [boxes_table(rows).slice(at, 2) for at in (0, 2)]
    assert rows_digest(pa.concat_tables(parts), ["k"]) == digest
    assert rows_digest(boxes_table(rows, large=True), ["k"]) == digest
    others = [[{**box, name: value}] for name, value in (*((e, 0.5) for e in EDGES), ("class_name", "bus"))]
    changed = [[[box, box], [], None, other] for other in others]
    changed += [[[box, box], None, None, [box]], [[box, box], [], [], [box]], [[box], [box], None, [box]]]
    found = {rows_digest(boxes_table(each), ["k"]) for each in changed}
    assert len(found | {digest}) == len(changed) + 1


def test_a_diff_tells_added_removed_relabelled_and_moved_rows_apart() -> None:
    before = rows_of(
        ("a", "red", "train"), ("b", "red", "train"), ("c", "red", "test"), ("d", "red", "train")
    )
    after = rows_of(
        ("a", "red", "train"), ("b", "green", "train"), ("c", "red", "train"), ("e", "red", "train")
    )
    found = diff(before, after, TASKS["classification"])
    assert (found.added, found.removed, found.relabelled, found.moved, found.unchanged) == (1, 1, 1, 1, 1)
    assert found.relabelled_rows == (("b", "red", "green"),)
    assert found.moved_rows == (("c", "test", "train"),)
    assert found.classes == {"green": (0, 1), "red": (4, 3)}


@pytest.mark.parametrize(
    "module",
    [
        "pipelines/curate/split.py",
        "modelkit/images.py",
        "modelkit/tasks/detection.py",
        "modelkit/tasks/boxes.py",
    ],
)
def test_code_that_decides_about_rows_changes_the_code_digest_of_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    before = code_digest()
    for package in ("pipelines", "modelkit"):
        shutil.copytree(Path(package), tmp_path / package)
    monkeypatch.setattr(resources, "files", lambda name: tmp_path / name.replace(".", "/"))
    assert code_digest() == before
    with (tmp_path / module).open("a") as file:
        file.write("# another rule\n")
    assert code_digest() != before
