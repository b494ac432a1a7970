"""A disk that is full, over its quota or broken at any place where the agent writes: nothing is lost, all goes on.

Every place in the code from which a day of the agent (start, frames kept, segments, acknowledgements, a model fetched,
tried and swapped in, telemetry, status) writes or makes a file fails in turn. `make torture` (disk-full-everywhere) fails
every call in turn, also for once only, and also fsync and rename.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.edge_agent.agent_day import Call, Course
from tests.failing_disk import NAMES
from tests.torture.faults.power_loss import memory_folder

pytestmark = pytest.mark.slow
WRITES = frozenset({"write", "pwrite", "posix_fallocate"})


@pytest.fixture(scope="module")
def course() -> Iterator[Course]:
    with TemporaryDirectory(dir=memory_folder()) as folder:
        yield Course(Path(folder))


def places(course: Course) -> list[Call]:
    return [call for call in course.calls if call.is_first_of_its_place]


def test_no_file_of_the_vehicle_is_written_past_the_gate(course: Course) -> None:
    assert course.unseen == []
    assert len(places(course)) > 100


def test_a_full_disk_at_any_write_refuses_no_release_ends_no_process_and_delivery_goes_on(
    course: Course,
) -> None:
    wrong = []
    for number, call in enumerate(call for call in places(course) if call.what in WRITES):
        wrong += course.attempt(call, "pages", (errno.ENOSPC, errno.EDQUOT)[number % 2])
    assert wrong == []


def test_a_disk_without_inodes_at_any_new_name_refuses_no_release_and_delivery_goes_on(
    course: Course,
) -> None:
    wrong = []
    for call in places(course):
        if call.what in NAMES:
            wrong += course.attempt(call, "inodes", errno.ENOSPC)
    assert wrong == []


def test_one_failed_call_on_the_way_of_a_model_refuses_it_not_and_costs_one_restart_at_most(
    course: Course,
) -> None:
    """The disk works again at once, so that a wrong refusal would be written down."""
    wrong, is_knowledge = [], False
    for number, call in enumerate(places(course)):
        if not call.path.isdecimal():  # else of the file that a call before it opened
            is_knowledge = "candidate.json" in call.path or "fetch.json" in call.path
        if is_knowledge:
            wrong += course.attempt(call, "one", (errno.EIO, errno.ENOSPC)[number % 2])
    assert wrong == []
