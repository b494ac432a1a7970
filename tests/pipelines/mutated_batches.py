"""Batches of rows with a few faults each, drawn from a seed: for the suite, the benchmark and the campaign."""

from __future__ import annotations

import random

import polars as pl

from modelkit.tasks import TASKS
from pipelines.curate.rules import rules_for
from pipelines.curate.shard_rows import shard_schema

CLASSES = ("green", "red")
MAX_BITS = 24
TASK = TASKS["classification"]
RULES = rules_for(TASK, CLASSES, MAX_BITS)
SCHEMA = {
    name: kind
    for name, kind in pl.DataFrame(pl.from_arrow(shard_schema(TASK).empty_table())).schema.items()
    if name != "payload"
}
Rows = list[dict[str, object]]

BREAKS: list[tuple[dict[str, object], str]] = [
    ({"identity": None}, "identity_present"),
    ({"payload_sha256": None}, "payload_sha256_present"),
    ({"payload_sha256": "A" * 64}, "hash_well_formed"),
    ({"payload_sha256": "a" * 63}, "hash_well_formed"),
    ({"payload_sha256": "a" * 64 + "\n"}, "hash_well_formed"),
    ({"class_name": None}, "class_name_present"),
    ({"class_name": "blue"}, "class_name_known"),
    ({"score_entropy": 1.01}, "score_entropy_in_range"),
    ({"score_margin": -0.01}, "score_margin_in_range"),
    ({"score_least_confidence": float("nan")}, "score_least_confidence_in_range"),
    ({"score_novelty": float("inf")}, "score_novelty_in_range"),
    ({"selection_probability": 1.5}, "selection_probability_in_range"),
    ({"luma": 255.1}, "luma_in_range"),
    ({"capture_time_ns": 90}, "time_rises"),
    ({"capture_time_ns": 5}, "time_rises"),
]
MORE: list[dict[str, object]] = [
    {"payload_sha256": ""},
    {"payload_sha256": "\n" + "a" * 64},
    {"payload_sha256": "\u0660" * 64},
    {"payload_sha256": "g" * 64},
    {"class_name": ""},
    {"class_name": "Red"},
    {"class_name": "red "},
    {"split": "holdout"},
    {"split": None},
    {"split": "validation"},
    {"drive_id": "d0"},
    {"drive_id": None},
    {"score_entropy": float("-inf")},
    {"score_entropy": -0.0},
    {"score_entropy": 1.0 + 2**-52},
    {"score_margin": None},
    {"score_margin": float("nan")},
    {"score_novelty": 5e-324},
    {"luma": -1e-9},
    {"luma": 255.0},
    {"luma": float("nan")},
    {"luma": None},
    {"selection_probability": None},
    {"capture_time_ns": None},
    {"capture_time_ns": 2**62},
    {"capture_time_ns": -(2**62)},
    {"capture_time_ns": 110, "time_quality": "before_build"},
    {"time_quality": None},
    {"vehicle_id": None},
    {"sensor_id": "rear"},
    {"epoch": "f"},
]
"""Values at the edge of a rule, which may break one, several or none."""


def good_rows(count: int = 20) -> Rows:
    """Rows that break no rule."""
    rows = []
    for number in range(count):
        row: dict[str, object] = dict.fromkeys(SCHEMA)
        row |= {
            "identity": f"car/e/{number}",
            "payload_sha256": f"{number:064x}",
            "class_name": CLASSES[number % 2],
            "class_index": number % 2,
            "split": "test" if number < 5 else "train",
            "drive_id": "d0" if number < 5 else "d1",
            "vehicle_id": "car",
            "epoch": "e",
            "seq": number,
            "sensor_id": "front",
            "capture_time_ns": 10 * number,
            "time_quality": "ok",
            "luma": 90.0,
            "score_entropy": 0.5,
            "score_margin": 1.0,
            "score_least_confidence": 0.0,
            "selection_probability": 1.0,
        }
        rows.append(row)
    return rows


def frame(rows: Rows) -> pl.DataFrame:
    """The rows in the columns of a shard."""
    return pl.DataFrame(rows, schema=SCHEMA)


def mutated(chooser: random.Random) -> tuple[Rows, dict[str, float]]:
    """(rows with up to six faults, in any order; distances in bits to a test frame by payload_sha256)."""
    rows = good_rows()
    changes = [change for change, _ in BREAKS] + MORE
    for _ in range(chooser.randrange(7)):
        rows[chooser.randrange(len(rows))] |= chooser.choice(changes)
    for _ in range(chooser.choice((0, 0, 0, 1, 2))):
        rows[chooser.randrange(len(rows))]["identity"] = rows[chooser.randrange(len(rows))]["identity"]
    near = {
        f"{chooser.randrange(20):064x}": chooser.choice((0.0, 3.0, 24.0))
        for _ in range(chooser.choice((0, 0, 1, 2)))
    }
    if chooser.random() < 0.5:
        chooser.shuffle(rows)
    return rows, near


def distances_frame(near: dict[str, float]) -> pl.DataFrame:
    """`near` as `rules.prepare` takes it."""
    return pl.DataFrame(
        {"payload_sha256": list(near), "test_distance_bits": list(near.values())},
        schema={"payload_sha256": pl.String, "test_distance_bits": pl.Float64},
    )
