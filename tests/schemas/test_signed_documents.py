"""A release or a plan is read only within its bounds, tomorrow's keys are skipped, and a vehicle finds its own wave."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import RejectedError, UntrustedError
from schemas.documents import (
    RELEASE as RELEASE_TYPE,
)
from schemas.documents import (
    ROLLOUT_PLAN,
    RUNNING,
    Gate,
    HealthGate,
    Override,
    Release,
    RolloutPlan,
    Wave,
    json_schemas,
    read_index,
    rollout_position,
)
from schemas.downlink import index_targets

RELEASE = Release(
    "r-2", "lights", "a" * 64, "models/lights-2.onnx", 1000, "b" * 64, Gate(True, "better on yellow"), 5
)
FORCED = replace(RELEASE, gate=Gate(False, "worse on red", Override("ann", "trial on one road", 7)))
PLAN = RolloutPlan(
    "p-1",
    "r-2",
    RUNNING,
    (Wave(1, 1, "4" + "0" * 63), Wave(2, 2, "c" + "0" * 63)),
    health=HealthGate(2, 0.1, 0, 60.0),
    previous_release_id="r-1",
)


@pytest.mark.parametrize("release", [RELEASE, FORCED])
def test_a_release_comes_back_as_it_was(release: Release) -> None:
    data = release.to_json()
    assert Release.from_json(data) == release
    assert data == (json.dumps(json.loads(data), sort_keys=True, indent=2) + "\n").encode()


def test_a_plan_comes_back_as_it_was() -> None:
    plan = replace(PLAN, tags=("north",), include=("car-1",), exclude=("car-2", "car-3"))
    assert RolloutPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": 1, "must_understand": ["extra"]}, ["release.extra", "must be understood"]),
        ({"format": 3}, ["release.format", "3"]),
        ({"model_digest": "A" * 64}, ["release.model_digest"]),
        ({"model_digest": "a" * 64 + "\n"}, ["release.model_digest"]),
        ({"model_target": "models/v2/m.onnx"}, ["release.model_target"]),
        ({"model_target": "models/../root.json"}, ["release.model_target"]),
        ({"model_bytes": 0}, ["release.model_bytes", "0", "[1,"]),
        ({"model_bytes": 1.0}, ["release.model_bytes", "a whole number"]),
        ({"model_bytes": True}, ["release.model_bytes", "a whole number"]),
        ({"release_id": ""}, ["release.release_id"]),
        ({"notes": "x" * 4097}, ["release.notes", "4097", "4096"]),
        (
            {"gate": {"passed": "yes", "reason": "", "override": None}},
            ["release.gate.passed", "true or false"],
        ),
        ({"gate": {"passed": False, "reason": "", "override": None}}, ["gate.override", "did not pass"]),
        (
            {"gate": {"passed": False, "reason": "", "override": {"by": "", "why": "x", "time_ns": 1}}},
            ["override.by"],
        ),
        ({"gate": None}, ["release.gate", "a table of keys"]),
    ],
)
def test_a_release_that_leaves_its_schema_is_named(change: dict[str, Any], words: list[str]) -> None:
    document = {**json.loads(RELEASE.to_json()), **change}
    with pytest.raises(RejectedError) as caught:
        Release.from_json(json.dumps(document))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["format", "plan_id", "release_id", "state", "waves"])
def test_a_plan_without_what_it_needs_is_refused(name: str) -> None:
    document = json.loads(PLAN.to_json())
    del document[name]
    with pytest.raises(RejectedError, match=rf"rollout_plan\.{name} is (missing|None)"):
        RolloutPlan.from_json(json.dumps(document))


def test_a_row_of_tomorrow_is_skipped_over_or_counted_and_never_spoils_its_neighbours() -> None:
    good = json.loads(PLAN.to_json())
    rows = [
        good,
        {**good, "colour": "red"},
        {**good, "must_understand": ["colour"], "colour": "red"},
        {**good, "format": 3},
        3,
    ]
    found = read_index(json.dumps({"format": 1, "plans": rows}).encode(), "plans", ROLLOUT_PLAN)
    assert found.read == (PLAN, PLAN)
    assert [row.index for row in found.unreadable] == [2, 3, 4]
    assert all("rollout_plan" in row.why for row in found.unreadable)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"format": 3, "plans": []}', b'{"format": 1}', b'{"format": 1, "plans": {}}']
)
def test_a_list_that_is_none_is_refused_whole(data: bytes) -> None:
    with pytest.raises(UntrustedError, match="plans"):
        read_index(data, "plans", ROLLOUT_PLAN, family=UntrustedError)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": "paused"}, "one of 'running', 'halted', 'complete'"),
        ({"waves": ()}, "1 to 100 items"),
        ({"waves": (Wave(2, 1, "0" * 64),)}, "numbered 1, 2"),
        ({"waves": (Wave(1, 1, "2" * 64), Wave(2, 1, "1" * 64))}, "increasing thresholds"),
        ({"waves": (Wave(1, -1, "2" * 64),)}, "exact_count"),
        ({"include": ("Car",)}, r"include\[0\]"),
        ({"include": ("car-1",), "exclude": ("car-1",)}, "disjoint from exclude"),
        ({"health": HealthGate(1, 1.5, 0, 60)}, "max_error_ratio"),
        ({"health": HealthGate(1, 0.5, 0, -1)}, "report_within_s"),
    ],
)
def test_a_plan_out_of_bounds_is_not_even_written(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RejectedError, match=words):
        replace(PLAN, **change).to_json()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"format": 1, "format": 1}',
        b"[" * 100_000,
        b'{"format": NaN}',
        b"1e999",
    ],
)
def test_what_is_no_document_is_rejected(data: bytes) -> None:
    with pytest.raises(RejectedError):
        RolloutPlan.from_json(data)


def test_the_published_schemas_are_those_of_the_types() -> None:
    folder = Path(__file__).parents[2] / "schemas" / "json"
    assert {path.name: path.read_text("utf-8") for path in folder.iterdir()} == json_schemas()


def test_the_schemas_do_not_depend_on_what_was_imported_first() -> None:
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "from typing import Annotated\nfrom msgspec import Meta\n"
            "kept = Annotated[float, Meta(ge=0.0, le=1.0)], Annotated[float, Meta(ge=0.0, le=31_536_000.0)]\n"
            "import json\nfrom schemas.documents import json_schemas\nprint(json.dumps(json_schemas()))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == json_schemas()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from([RELEASE, PLAN]), st.data(), json_values)
def test_the_published_schemas_agree_with_the_reader(
    good: Release | RolloutPlan, data: st.DataObject, value: Any
) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = json.loads(good.to_json())
    document[data.draw(st.sampled_from([*document, "other"]))] = value
    if any(isinstance(item, float) and item.is_integer() for item in document.values()):
        return  # 1.0 is an integer to JSON Schema; ours is stricter, on purpose
    kind = RELEASE_TYPE if isinstance(good, Release) else ROLLOUT_PLAN
    is_valid = jsonschema.Draft202012Validator(
        json.loads(json_schemas()[f"{kind.name}.schema.json"])
    ).is_valid
    try:
        kind.of(document)
    except RejectedError:
        assert not is_valid(document)
    else:
        assert is_valid(document)


def test_a_position_is_the_hash_that_the_document_says() -> None:
    # sha256 of b"r-2/car-1", written out so that another implementation can be checked against it
    assert (
        rollout_position("r-2", "car-1") == "863e7e4f3ac0f37713807a5310647fd3d0454ea1eb71be367531fbd5bdb301bd"
    )


@given(st.integers(0, 200))
def test_a_vehicle_is_in_the_first_wave_above_its_position(number: int) -> None:
    vehicle = f"car-{number}"
    position = rollout_position("r-2", vehicle)
    expected = (
        1 if position < PLAN.waves[0].threshold_hex else 2 if position < PLAN.waves[1].threshold_hex else None
    )
    assert PLAN.wave_of(vehicle) == expected


def test_tags_include_and_exclude_decide_before_the_position() -> None:
    inside = next(f"car-{n}" for n in range(100) if PLAN.wave_of(f"car-{n}") == 2)
    outside = next(f"car-{n}" for n in range(100) if PLAN.wave_of(f"car-{n}") is None)
    assert replace(PLAN, exclude=(inside,)).wave_of(inside) is None
    assert replace(PLAN, include=(outside,)).wave_of(outside) == 1
    tagged = replace(PLAN, tags=("north", "new"))
    assert tagged.wave_of(inside, {"north"}) is None
    assert tagged.wave_of(inside, {"north", "new", "red"}) == 2


def test_each_release_orders_the_vehicles_anew() -> None:
    vehicles = [f"car-{n}" for n in range(50)]
    orders = {tuple(sorted(vehicles, key=lambda v: rollout_position(r, v))) for r in ("r-1", "r-2")}
    assert len(orders) == 2


RELEASED_KEYS = {
    "plans": {
        "format", "plan_id", "release_id", "state", "waves", "tags", "include", "exclude", "health",
        "previous_release_id",
    },
    "releases": {
        "format", "release_id", "model_name", "model_digest", "model_target", "model_bytes", "contract_digest", "gate",
        "created_time_ns", "notes",
    },
}  # fmt: skip
"""What a vehicle of the first release knows; it distrusts a whole list for one key more."""


@pytest.mark.parametrize("key", ["plans", "releases"])
def test_vehicles_of_the_first_release_read_only_keys_and_roles_that_they_know(key: str) -> None:
    good = PLAN if key == "plans" else RELEASE
    other = replace(good, role="shadow", release_id="shadow-1")
    targets = index_targets(key, [good, other])  # type: ignore[type-var,list-item]
    old = json.loads(targets["index.json"])
    assert old["format"] == 1
    assert [set(row) for row in old[key]] == [RELEASED_KEYS[key]]
    assert [row["format"] for row in old[key]] == [1]
    kind = ROLLOUT_PLAN if key == "plans" else RELEASE_TYPE
    assert [each.role for each in read_index(targets["index-2.json"], key, kind).read] == [  # type: ignore[attr-defined]
        "serving",
        "shadow",
    ]
