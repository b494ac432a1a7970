"""Bytes that crash, hang or bloat a decoder cost themselves, and nothing around them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundation.errors import RetryLaterError
from modelkit.confined import Confined, Failed, ItemLimits
from pipelines.curate.picture import Measured
from tests.fakes.decoders import Told
from tests.pipelines.curate_lake import picture

LIMITS = ItemLimits(memory_bytes=400_000_000, cpu_s=1, wall_s=30)
TASK = "tests.fakes.decoders:obey"


@pytest.fixture(scope="module")
def work() -> Iterator[Confined[Told]]:
    with Confined(TASK, Told, LIMITS) as made:
        yield made


def told(work: Confined[Told], *items: str) -> list[Told | Failed]:
    return work.run([item.encode() for item in items])


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ("die", "SIGSEGV, also alone"),
        ("leave", "exit status 3, also alone"),
        ("spin", "processor time"),
        ("hog", "more than the 400000000 bytes of memory"),
        ("fail palette", "AssertionError: palette"),
        ("flood", "the limit is 65536"),
    ],
)
def test_an_item_that_breaks_the_process_has_its_reason_and_its_neighbours_their_results(
    work: Confined[Told], item: str, why: str
) -> None:
    first, broken, last = told(work, "before", item, "after")
    assert (first, last) == (Told("before"), Told("after"))
    assert isinstance(broken, Failed)
    assert why in broken.why


def test_an_item_that_waits_for_ever_is_ended_at_the_wall_time() -> None:
    with Confined(TASK, Told, ItemLimits(wall_s=1)) as work:
        before, broken = told(work, "before", "sleep")
    assert before == Told("before")
    assert isinstance(broken, Failed)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["good", "die", "fail x"]), min_size=1, max_size=8))
def test_any_batch_has_a_result_for_each_item_in_order(work: Confined[Told], items: list[str]) -> None:
    found = told(work, *items)
    assert [isinstance(each, Failed) for each in found] == [item != "good" for item in items]


def test_an_item_that_dies_of_what_an_earlier_one_did_is_not_blamed(
    work: Confined[Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "earlier"
    attempts = work._attempt

    def attempt(batch: list[bytes]) -> object:
        found = attempts(batch)
        mark.touch()
        return found

    monkeypatch.setattr(work, "_attempt", attempt)
    assert told(work, f"die-once {mark}", "after") == [Told(f"die-once {mark}"), Told("after")]


def test_the_process_reaches_no_network_writes_no_file_and_starts_no_program(
    work: Confined[Told], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = told(work, f"connect {port}", f"write {tmp_path / 'file'}", "run true")
    assert [isinstance(each, Failed) and "PermissionError" in each.why for each in found] == [True] * 3
    assert not (tmp_path / "file").exists()


def test_a_process_that_cannot_start_blames_no_item() -> None:
    with pytest.raises(RetryLaterError, match="no_such_task"):
        Confined("tests.fakes.decoders:no_such_task", Told).run([b"good"])


def test_an_answer_of_another_form_is_a_failure() -> None:
    @dataclass(frozen=True, slots=True)
    class Other:
        number: int

    with Confined(TASK, Other, LIMITS) as work:
        (found,) = work.run([b"good"])
    assert isinstance(found, Failed)


def test_pictures_are_measured_as_in_this_process_in_batches_and_one_process() -> None:
    from pipelines.curate.picture import measured

    payloads = {str(number): picture(number) for number in range(130)}
    with Confined("pipelines.curate.picture:measured", Measured) as work:
        found = dict(work.each(payloads.items()))
        assert work.starts == 1
    assert found == {name: measured(payload) for name, payload in payloads.items()}
