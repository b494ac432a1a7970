"""Documents are decoded strictly, within bounds; a fault is named by place, value and bound, and spoils only itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.documents import (
    MAX_DEPTH,
    DocumentType,
    Meta,
    Version,
    build,
    decode,
    encode_json,
    parse_json,
    parse_toml,
    plain,
    read_rows,
)
from foundation.errors import CorruptError, FleetLoopError, MisconfiguredError, RejectedError


class State(StrEnum):
    RUNNING = "running"
    HALTED = "halted"


@dataclass(frozen=True, slots=True)
class Wave:
    number: Annotated[int, Meta(ge=1, le=100)]
    share_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    plan_id: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,9}$(?!\n)")]
    waves: Annotated[tuple[Wave, ...], Meta(min_length=1, max_length=3)]
    state: State = State.RUNNING
    kind: Literal["a", "b"] = "a"
    is_open: bool = False
    by_name: Mapping[str, Wave] = field(default_factory=dict)
    previous: Annotated[str, Meta(max_length=5)] | None = None
    pair: tuple[int, str] = (1, "x")


GOOD: dict[str, Any] = {"plan_id": "p-1", "waves": [{"number": 1}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plan_id": "P"}, ["plan.plan_id", "'P'", "of the form ^[a-z0-9-]{1,9}$"]),
        ({"plan_id": "p\n"}, ["plan.plan_id", "of the form"]),
        ({"plan_id": 3}, ["plan.plan_id", "3", "text"]),
        ({"waves": []}, ["plan.waves", "1 to 3 items", "not 0"]),
        ({"waves": {}}, ["plan.waves", "a list"]),
        ({"waves": [{"number": 1}, {"number": 101}]}, ["plan.waves[1].number", "101", "[1, 100]"]),
        ({"waves": [{"number": True}]}, ["plan.waves[0].number", "True", "whole number"]),
        ({"waves": [{"number": 1.0}]}, ["plan.waves[0].number", "1.0", "whole number"]),
        ({"waves": [{"number": 1, "share_ratio": 10**400}]}, ["plan.waves[0].share_ratio", "finite"]),
        ({"waves": [3]}, ["plan.waves[0]", "3", "a table of keys"]),
        ({"waves": [{}]}, ["plan.waves[0].number", "missing"]),
        ({"state": "paused"}, ["plan.state", "'paused'", "one of running, halted"]),
        ({"state": 3}, ["plan.state", "3", "one of running, halted"]),
        ({"kind": "c"}, ["plan.kind", "'c'", "one of 'a', 'b'"]),
        ({"is_open": 1}, ["plan.is_open", "true or false"]),
        ({"by_name": {"x": {"number": 1}, "y": {"number": 0}}}, ["plan.by_name.y.number", "0", "[1, 100]"]),
        ({"previous": "toolong"}, ["plan.previous", "0 to 5 characters"]),
        ({"previous": 3}, ["plan.previous", "3", "text"]),
        ({"pair": [1]}, ["plan.pair", "a list of 2"]),
        ({"pair": [1, 2]}, ["plan.pair[1]", "2", "text"]),
    ],
)
def test_a_wrong_value_is_named_with_place_value_and_bound(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(CorruptError) as caught:
        decode(Plan, json.dumps({**GOOD, **change}), "plan")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' is given twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "Infinity"),
        (b'{"a": [1, 1e400]}', r"document\.a\[1\] is inf; it must be a finite number"),
        (b"9" * 5000, "not JSON"),
        (b'"\\ud800"', "not JSON"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (b'{"a":' * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_what_leaves_the_bounds_of_json_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(CorruptError, match=words) as caught:
        parse_json(data, "document")
    assert len(str(caught.value)) < 500


def test_more_bytes_than_the_bound_are_not_even_parsed() -> None:
    for parse in (parse_json, parse_toml):
        with pytest.raises(RejectedError, match="release has 5 bytes; the limit is 4"):
            parse(b"[[[[[", "release", family=RejectedError, max_bytes=4)


def test_a_key_that_is_not_known_is_skipped_unless_it_must_be_understood() -> None:
    newer = {**GOOD, "colour": 3, "waves": [{"number": 1, "region": "north"}]}
    assert build(Plan, newer, "plan") == build(Plan, GOOD, "plan")
    assert build(Plan, {**newer, "must_understand": ["plan_id"]}, "plan") == build(Plan, GOOD, "plan")
    with pytest.raises(CorruptError, match=r"plan\.colour is 3; it must be understood"):
        build(Plan, {**newer, "must_understand": ["colour"]}, "plan")
    wave = {"number": 1, "region": "north", "must_understand": ["region"]}
    with pytest.raises(CorruptError, match=r"plan\.waves\[0\]\.region is 'north'; it must be understood"):
        build(Plan, {**GOOD, "waves": [wave]}, "plan")
    with pytest.raises(CorruptError, match="must be understood"):
        build(Plan, {**GOOD, "must_understand": 7}, "plan")


def test_where_a_person_types_every_unknown_key_is_refused_beside_the_known_ones() -> None:
    with pytest.raises(MisconfiguredError, match=r"^waves\[0\]\.numbre is 1; .*no such key .*number, share"):
        build(
            Plan,
            {**GOOD, "waves": [{"number": 1, "numbre": 1}]},
            "",
            family=MisconfiguredError,
            refuse_unknown=True,
        )


def test_an_unreadable_row_is_told_and_spoils_only_itself() -> None:
    rows = [{"number": 1}, {"number": 0}, "x", {"number": 3, "new": 1}]
    found = read_rows(rows, lambda row: build(Wave, row, "wave"), "waves")
    assert found.read == (Wave(1), Wave(3))
    assert [(bad.index, "wave" in bad.why) for bad in found.unreadable] == [(1, True), (2, True)]
    with pytest.raises(CorruptError, match="waves is 'x'; it must be a list"):
        read_rows("x", lambda row: row, "waves")


@dataclass(frozen=True)
class OldWave:
    percent: Annotated[int, Meta(ge=0, le=100)]


WAVE: DocumentType[Wave] = DocumentType(
    "wave",
    {1: Version(OldWave, lambda old: Wave(1, old.percent / 100)), 2: Version(Wave, lambda wave: wave)},
    family=RejectedError,
)


def test_every_released_version_is_read_and_an_unknown_one_is_named() -> None:
    assert WAVE.read('{"format_version": 1, "percent": 50}') == Wave(1, 0.5)
    assert WAVE.read('{"format_version": 2, "number": 1, "share_ratio": 0.5}') == Wave(1, 0.5)
    for number in ("3", "true", "1.0", "null", '"1"'):
        with pytest.raises(RejectedError, match=r"wave\.format_version is .*supported version \(1, 2\)"):
            WAVE.read(f'{{"format_version": {number}}}')
    with pytest.raises(RejectedError, match=r"wave\.percent is 101; it must be in \[0, 100\]"):
        WAVE.read('{"format_version": 1, "percent": 101}')
    with pytest.raises(RejectedError, match="a table of keys"):
        WAVE.read("[]")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from([*Plan.__dataclass_fields__, "other", "must_understand"]), json_values)
def test_the_exported_schema_agrees_with_the_reader(name: str, value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    if isinstance(value, float) and value.is_integer():
        return  # 1.0 is an integer to JSON Schema; the reader is stricter, on purpose
    kind: DocumentType[Plan] = DocumentType("plan", {1: Version(Plan, lambda plan: plan)})
    schema = kind.schema(1, title="Plan")
    document = {**GOOD, "format_version": 1, name: value}
    try:
        kind.of(document)
    except FleetLoopError as error:
        assert not jsonschema.Draft202012Validator(schema).is_valid(document) or "understood" in str(error)
    else:
        assert jsonschema.Draft202012Validator(schema).is_valid(document)


@given(json_values, st.sampled_from(sorted(Plan.__dataclass_fields__)))
def test_no_value_raises_anything_but_our_errors(value: Any, name: str) -> None:
    for tree in (value, {**GOOD, name: value}):
        try:
            build(Plan, tree, "plan")
        except CorruptError as error:
            assert len(str(error)) < 1000


def test_what_is_written_is_read_back() -> None:
    plan = Plan("p", (Wave(1, 0.5),), State.HALTED, by_name={"é": Wave(2)})
    text = encode_json(plan, format_version=1)
    assert (
        text
        == (
            json.dumps({**plain(plan), "format_version": 1}, sort_keys=True, indent=2, ensure_ascii=False)
            + "\n"
        ).encode()
    )
    assert decode(Plan, text, "plan") == plan
