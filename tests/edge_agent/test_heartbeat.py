"""A sign of life costs no disk, and never the process that gives it."""

from __future__ import annotations

import os

from edge_agent.heartbeat import Activity, Heartbeat, read_beat
from foundation.clock import ManualClock


def test_each_beat_is_seen_by_another_reader_with_what_the_process_does(tmp_path):
    clock = ManualClock()
    heart = Heartbeat(tmp_path / "perceive.beat", clock)
    first = read_beat(tmp_path / "perceive.beat")
    assert first is not None
    assert (first.pid, first.count, first.activity) == (os.getpid(), 1, Activity.STARTING)
    clock.advance(2.0)
    heart.beat(Activity.MODEL)
    second = read_beat(tmp_path / "perceive.beat")
    assert second is not None
    assert (second.count, second.activity) == (2, Activity.MODEL)
    assert second.monotonic_ns - first.monotonic_ns == 2_000_000_000


def test_a_disk_that_takes_no_file_is_said_and_keeps_nobody_from_working(tmp_path):
    heart = Heartbeat(tmp_path / "no folder" / "perceive.beat", ManualClock())
    heart.beat()
    assert "No such file" in heart.error


def test_what_is_no_heartbeat_is_none(tmp_path):
    path = tmp_path / "perceive.beat"
    assert read_beat(path) is None
    for damaged in (b"", b"short", b"\xff" * 32, b"\0" * 4096):
        path.write_bytes(damaged)
        assert read_beat(path) is None
