"""The soak convicts a process that leaks, whatever it leaks, and lets one pass that only works."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.growth import BOUNDS, MEGABYTE, Record
from tests.soak.processes import count_files, held

LEAKS = {
    "memory": "kept.append(bytearray(8_000_000))",
    "descriptors": "kept += [open('/dev/null') for _ in range(8)]",
    "threads": "[threading.Thread(target=threading.Event().wait, daemon=True).start() for _ in range(4)]",
    "files": "[open(f'{sys.argv[1]}/{len(kept)}-{n}', 'w').close() for n in range(20)]; kept.append(0)",
    "": "bytearray(8_000_000); [open('/dev/null').close() for _ in range(20)]",
}
WORK = """
import sys, threading
kept = []
print(flush=True)
for _ in sys.stdin:
    {leak}
    print(flush=True)
"""


def soak(leak: str, folder: Path, turns: int = 12) -> Record:
    """A process that does one piece of work at each turn, measured as the soak measures, as if a turn were a minute."""
    record = Record()
    child = subprocess.Popen(
        [sys.executable, "-c", WORK.format(leak=leak), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdout.readline()
        for turn in range(turns):
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
            found = held(child.pid)
            assert found is not None
            record.add("work memory", turn * 60.0, found.memory)
            record.add("work descriptors", turn * 60.0, found.descriptors)
            record.add("work threads", turn * 60.0, found.threads)
            record.add("work files", turn * 60.0, count_files(folder))
        child.stdin.close()
    return record


@pytest.mark.parametrize("what", LEAKS, ids=lambda what: what or "nothing")
def test_a_process_that_leaks_is_convicted_of_what_it_leaks_and_of_nothing_else(
    what: str, tmp_path: Path
) -> None:
    failures = soak(LEAKS[what], tmp_path).failures()
    assert [why.split(" grows")[0] for why in failures] == ([f"work {what}"] if what else [])


def made(values: Callable[[int], float], name: str = "x memory", count: int = 60) -> Record:
    record = Record()
    for minute in range(count):
        record.add(name, minute * 60.0, values(minute))
    return record


def test_caches_that_fill_at_the_beginning_and_single_peaks_are_no_leak() -> None:
    assert made(lambda minute: 300 * MEGABYTE * min(1, minute / 15)).failures() == []
    assert made(lambda minute: 10**9 if minute % 20 == 19 else 100 * MEGABYTE).failures() == []


def test_a_slow_leak_is_found_by_a_run_that_is_long_enough_and_the_table_says_from_which_size_on() -> None:
    per_hour = 60 * MEGABYTE
    short, long = (made(lambda minute: per_hour * minute / 60, count=count) for count in (10, 120))
    (series,) = short.series.values()
    assert short.failures() == [] and series.smallest_leak > per_hour
    (series,) = long.series.values()
    assert long.failures() and series.smallest_leak < per_hour
    assert f"{series.smallest_leak:,.1f}" in long.table()[1]


def test_a_telemetry_record_beyond_its_bound_fails_at_once() -> None:
    assert made(lambda minute: 2001 if minute == 30 else 900, "telemetry bytes").failures()


@given(st.lists(st.floats(0, 10**9), min_size=3, max_size=40))
def test_a_verdict_is_given_for_any_values_and_a_series_that_falls_is_never_convicted(
    values: list[float],
) -> None:
    falling = sorted(values, reverse=True)
    for words in BOUNDS:
        record = made(lambda minute: falling[minute] % 2000, f"x {words}", len(falling))
        record.table()
        record.failures()
    assert made(lambda minute: falling[minute], "x memory", len(falling)).failures() == []


def test_a_process_that_is_gone_is_told_from_one_that_holds_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    deadline = time.monotonic() + 10
    while held(child.pid) is not None:
        assert time.monotonic() < deadline
