"""Quality, exact copies and labels: pure steps over columns, each removal with its reason and its match."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from foundation.errors import CorruptError, MisconfiguredError
from modelkit.tasks import TASKS
from pipelines.curate.exact_duplicates import remove_exact_duplicates
from pipelines.curate.fragments import OWN_LABELS, Fragment, read_metadata
from pipelines.curate.labels import join_labels, resolve_labels
from pipelines.curate.params import QualityParams, load_params
from pipelines.curate.quality import FEATURES, judge, measure
from tests.pipelines.curate_lake import PARAMS, picture

TASK = TASKS["classification"]


def test_a_payload_is_measured_the_same_every_time_and_a_broken_one_says_why() -> None:
    payload = picture(1)
    sha = hashlib.sha256(payload).hexdigest()
    found = measure(payload, sha)
    assert found == measure(payload, sha)
    assert (found.width_pixels, found.height_pixels) == (32, 32)
    assert found.image_hash is not None and len(found.image_hash) == 32
    broken = measure(payload[:40], hashlib.sha256(payload[:40]).hexdigest())
    assert broken.unreadable is not None and broken.luma is None


def test_a_payload_that_is_not_what_its_row_says_stops_the_run() -> None:
    with pytest.raises(CorruptError, match="0000"):
        measure(b"other bytes", "0" * 64)


def features(**columns: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(FEATURES)
    return row | {"width_pixels": 32, "height_pixels": 32, "luma": 100.0, "sharpness": 1.0} | columns


def test_each_bound_of_quality_removes_with_its_reason_and_the_value_that_decided() -> None:
    rows = pl.DataFrame(
        [
            features(),
            features(unreadable="cut short", payload_bytes=40, luma=None, sharpness=None),
            features(unreadable="not there", luma=None, sharpness=None),
            features(height_pixels=3),
            features(luma=2.0),
            features(luma=254.0),
            features(sharpness=0.001),
            features(luma=2.0, sharpness=0.0),
        ],
        schema=FEATURES,
    ).with_columns(pl.lit(None, pl.String).alias("reason"), pl.lit(None, pl.Float64).alias("reason_value"))
    judged = judge(rows, QualityParams())
    assert judged["reason"].to_list() == [
        None,
        "unreadable",
        "payload_unavailable",
        "too_small",
        "too_dark",
        "too_bright",
        "blurred",
        "too_dark",
    ]
    assert judged["reason_value"].to_list() == [None, None, None, 3.0, 2.0, 254.0, 0.001, 2.0]


def copies(*places: tuple[str, str, int, str]) -> pl.DataFrame:
    """Rows with one payload: (source, vehicle, seq, split)."""
    return pl.DataFrame(
        [
            {
                "fragment_id": "f",
                "row": number,
                "payload_sha256": "a" * 64,
                "source": source,
                "vehicle_id": vehicle,
                "epoch": "e",
                "seq": seq,
                "split": split,
                "drive_id": "d",
                "track_id": "t",
                "identity": f"{vehicle}/e/{seq}",
                "label_identity": None,
                "labeller": None,
                "ingest_time_ns": 0,
                "reason": None,
                "match_sha256": None,
                "match_identity": None,
                "distance": None,
            }
            for number, (source, vehicle, seq, split) in enumerate(places)
        ],
        schema_overrides={
            "label_identity": pl.String,
            "labeller": pl.String,
            "reason": pl.String,
            "match_sha256": pl.String,
            "match_identity": pl.String,
            "distance": pl.Float64,
        },
    )


def test_of_equal_bytes_the_smallest_identity_stays_in_numeric_order_of_seq() -> None:
    rows = copies(("fleet", "b", 1, "train"), ("fleet", "a", 10, "train"), ("fleet", "a", 9, "validation"))
    left = remove_exact_duplicates(rows)
    assert left["reason"].to_list() == ["exact_duplicate", "exact_duplicate", None]
    assert left["match_identity"].to_list() == ["a/e/9", "a/e/9", None]
    assert remove_exact_duplicates(rows[::-1]).sort("row").equals(left)


def test_a_copy_of_a_test_frame_leaves_training_even_with_the_smallest_identity() -> None:
    left = remove_exact_duplicates(copies(("fleet", "a", 0, "train"), ("reference", "z", 9, "test")))
    assert left["reason"].to_list() == ["near_duplicate_of_test", None]
    assert left["distance"].to_list() == [0.0, None]


def test_a_copy_in_anothers_test_drive_takes_no_row_from_the_frame_that_was_asked() -> None:
    rows = copies(("fleet", "victim", 7, "train"), ("fleet", "evil", 0, "test"))
    asked = rows.with_columns(pl.lit("victim/e/7").alias("label_identity"))
    assert remove_exact_duplicates(asked)["reason"].to_list() == [None, "exact_duplicate"]


def test_bytes_that_nobody_labelled_stay_with_the_vehicle_that_sent_them_first() -> None:
    rows = copies(("fleet", "victim", 7, "train"), ("fleet", "evil", 0, "test"))
    later = rows.with_columns(pl.Series("ingest_time_ns", [5, 6]))
    assert remove_exact_duplicates(later)["reason"].to_list() == [None, "exact_duplicate"]
    one = rows.with_columns(pl.Series("ingest_time_ns", [6, 5]), pl.lit("desk").alias("labeller"))
    assert remove_exact_duplicates(one)["reason"].to_list() == ["near_duplicate_of_test", None]


def test_a_copy_of_a_reference_picture_in_a_test_drive_takes_it_not_from_training() -> None:
    left = remove_exact_duplicates(copies(("reference", "", 9, "train"), ("fleet", "evil", 0, "test")))
    assert left["reason"].to_list() == [None, "exact_duplicate"]


def answers(*rows: tuple[str, str, str, int]) -> pl.DataFrame:
    names = ["payload_sha256", "class_name", "labeller", "labelled_time_ns"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.lit(1.0).alias("cost"))


def test_the_newest_answer_counts_whatever_its_place_in_the_table() -> None:
    table = answers(("x", "red", "ann", 5), ("x", "green", "bob", 9), ("x", "yellow", "cid", 7))
    assert resolve_labels(table, TASK).drop("label_identity").rows() == [("x", "green", "bob")]
    assert resolve_labels(table[::-1], TASK).equals(resolve_labels(table, TASK))


def test_a_reference_class_counts_for_the_payload_until_the_table_says_otherwise() -> None:
    rows = pl.DataFrame(
        {"payload_sha256": ["x", "y", "x"], "reference_class_name": ["red", "red", None]},
    )
    joined = join_labels(rows, answers(("y", "green", "ann", 1)), TASK)
    assert joined["class_name"].to_list() == ["red", "green", "red"]
    assert joined["labeller"].to_list() == ["reference", "ann", "reference"]


def test_an_answer_without_a_labeller_has_the_references_and_the_newest_without_a_class_takes_the_class_back() -> (
    None
):
    rows = pl.DataFrame({"payload_sha256": ["x", "y", "z"], "reference_class_name": ["red", None, "red"]})
    table = pl.DataFrame(
        [("x", "red", None, 1), ("y", "red", "ann", 1), ("y", None, "bob", 2), ("z", None, "bob", 2)],
        schema=["payload_sha256", "class_name", "labeller", "labelled_time_ns"],
        orient="row",
    ).with_columns(pl.lit(1.0).alias("cost"))
    # As the released join gave it.
    expected = [("x", "red", "reference"), ("y", None, "bob"), ("z", "red", "bob")]
    boxes = pl.Series("boxes", [None] * 4, OWN_LABELS["reference_boxes"])
    for labels in (table, table.with_columns(boxes)):
        joined = join_labels(rows, labels, TASK)
        assert joined.select("payload_sha256", "class_name", "labeller").rows() == expected


def test_an_answer_of_another_task_takes_no_class_back() -> None:
    table = answers(("x", "red", "ann", 1), ("x", None, "bob", 2))  # type: ignore[arg-type]
    boxes = pl.Series("boxes", [None, []], OWN_LABELS["reference_boxes"])
    found = resolve_labels(table.with_columns(boxes), TASK).drop("label_identity")
    assert found.rows() == [("x", "red", "ann")]


def test_columns_of_a_fleet_table_named_like_labels_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.parquet"
    arrival = {"payload_sha256": "b" * 64, "outcome": "landed", "vehicle_id": "v", "epoch": "e", "seq": 1}
    pl.DataFrame([{**arrival, "class_name": "red", "boxes": "[1,2]"}]).write_parquet(path)
    rows = read_metadata(Fragment("arrivals-0", "arrivals", str(path), 0, 1, 1))
    assert rows.select("source", *OWN_LABELS).rows() == [("fleet", None, None)]


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("classes", [], "classes is \\[\\]"),
        ("classes", ["a", "a"], "twice"),
        ("split", {"test_ratio": 0.9}, "test_ratio is 0.9"),
        ("split", {"test_ratio": 0.5, "validation_ratio": 0.5}, "must be below 1"),
        ("curate", {"quality": {"min_lumen": 3}}, "min_lumen"),
        ("curate", {"shards": {"target_bytes": "many"}}, "target_bytes is 'many'"),
        ("label", {"strategy": "cleverest"}, "cleverest"),
        ("label", {"random_ratio": 0.9, "test_ratio": 0.9}, "must be at most 1"),
        ("validate", 7, "expected a mapping"),
    ],
)
def test_a_mistake_in_params_is_named_with_its_file_value_and_bound(
    tmp_path: Path, section: str, value: object, words: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(PARAMS | {section: value}))
    with pytest.raises(MisconfiguredError, match=words) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


def test_the_parameters_in_the_template_are_the_defaults_of_the_code() -> None:
    from dataclasses import replace

    from pipelines.curate.params import CurateParams, LabelParams, SplitParams, ValidateParams

    params = load_params(Path("params.yaml"))
    assert (params.split, params.curate) == (SplitParams(), CurateParams())
    assert (params.label, params.validate) == (LabelParams(), ValidateParams())
    assert replace(params, classes=()).as_json()["classes"] == []


def test_a_blank_frame_has_a_hash_too() -> None:
    from pipelines.curate.perceptual_hash import dct_hash

    assert len(dct_hash(np.zeros((20, 20, 3), np.uint8))) == 32
