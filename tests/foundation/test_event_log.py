"""Telling what happened never stops the one who tells, and what could not be told is counted."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from pathlib import Path

import pytest

from foundation import syscalls
from foundation.clock import ManualClock
from foundation.errors import MisconfiguredError
from foundation.events import EventLog
from foundation.settings import Secret


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_an_event_is_one_json_line_with_both_clocks(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl", ManualClock(5, 6), "uploader")
    log.emit("sent", records=3, path=Path("a/b"), digest=b"\x01\x02")
    log.close()
    log.emit("stopped", "warning")
    assert lines(tmp_path / "e.jsonl") == [
        {
            "time_ns": 5,
            "monotonic_ns": 6,
            "component": "uploader",
            "event": "sent",
            "level": "info",
            "records": 3,
            "path": "a/b",
            "digest": "0102",
        },
        {"time_ns": 5, "monotonic_ns": 6, "component": "uploader", "event": "stopped", "level": "warning"},
    ]


def test_a_full_disk_loses_events_counts_them_and_says_so_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(tmp_path / "e.jsonl")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(syscalls, "write", full)
        for _ in range(3):
            log.emit("lost")
    assert log.lost_events == 3
    log.emit("told")
    log.emit("told again")
    first, second = lines(tmp_path / "e.jsonl")
    assert first["lost_events"] == 3
    assert "lost_events" not in second


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_a_line_that_a_full_disk_cut_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.emit("before")
    real = syscalls.write
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(syscalls, "write", lambda fd, data: real(fd, data[:kept]))
            log.emit("cut")
    log.emit("after")
    readable = [line for line in (tmp_path / "e.jsonl").read_text().split("\n") if line.endswith("}")]
    assert [json.loads(line)["event"] for line in readable] == ["before", "after"]


def test_a_line_that_a_kill_cut_spoils_none_of_the_next_process(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"event": "whole"}\n{"event": "cu')
    EventLog(tmp_path / "e.jsonl").emit("next")
    assert (tmp_path / "e.jsonl").read_text().split("\n")[1] == '{"event": "cu'
    assert json.loads((tmp_path / "e.jsonl").read_text().split("\n")[2])["event"] == "next"


def test_a_folder_that_is_missing_stops_nobody(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "nowhere" / "e.jsonl")
    log.emit("x")
    assert log.lost_events == 1


def test_a_closed_stream_stops_nobody() -> None:
    stream = io.StringIO()
    log = EventLog(stream)
    stream.close()
    log.emit("x")
    assert log.lost_events == 1
    EventLog(None).emit("to nowhere")


@pytest.mark.parametrize("value", [float("nan"), {1: object()}, {("a", 1): 2}, "\ud800", {3, 1}])
def test_values_that_json_does_not_know_are_shown_anyway(tmp_path: Path, value: object) -> None:
    log = EventLog(tmp_path / "e.jsonl")
    log.emit("odd", value=value)
    assert log.lost_events == 0
    (line,) = (tmp_path / "e.jsonl").read_text("utf-8").splitlines()
    assert "value" in json.loads(line)
    assert "NaN" not in line


def test_secrets_are_masked_wherever_they_hide(tmp_path: Path) -> None:
    stream = io.StringIO()
    secret = Secret("hunter2")
    EventLog(stream).emit("x", a=secret, b=[secret], c={"d": (secret,)}, e=float("nan"))
    assert "hunter2" not in stream.getvalue()


def test_a_field_cannot_pretend_to_be_another_event() -> None:
    stream = io.StringIO()
    EventLog(stream).emit("x", time_ns=1, component="other")
    event = json.loads(stream.getvalue())
    assert event["component"] == "fleetloop"
    assert event["field_component"] == "other"


def test_an_unknown_level_is_the_callers_defect() -> None:
    with pytest.raises(MisconfiguredError, match="loud"):
        EventLog(None).emit("x", "loud")


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl", max_bytes=2000)
    for index in range(200):
        log.emit("tick", index=index)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"e.jsonl", "e.jsonl.1"}
    assert all(size <= 2000 for size in sizes.values())
    kept = [event["index"] for name in ("e.jsonl.1", "e.jsonl") for event in lines(tmp_path / name)]
    assert kept == list(range(200 - len(kept), 200))


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e.jsonl")

    def tell(name: str) -> None:
        for index in range(50):
            log.emit(name, text="x" * 200, index=index)

    threads = [threading.Thread(target=tell, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path / "e.jsonl")) == 200


def test_a_password_in_an_address_is_masked_in_events_errors_and_printed_settings(tmp_path: Path) -> None:
    from edge_agent.config import AgentSettings
    from foundation.errors import RetryLaterError
    from foundation.settings import load_settings, print_config

    address = "http://somebody:geheim@host:80/fleet"
    log = EventLog(tmp_path / "events.jsonl")
    log.emit("unreachable", url=address, reason=f"cannot reach {address}")
    table = {
        "vehicle_id": "car-1",
        "state_folder": "s",
        "source": {"kind": "image_folder", "path": "."},
        "updates": {"base_url": address},
    }
    told = [
        (tmp_path / "events.jsonl").read_text(),
        str(RetryLaterError(f"cannot reach {address}: mails to a@b go")),
        str(RetryLaterError("bootstrap is 'somebody:geheim@host'")),
        print_config(load_settings(AgentSettings, table)),
    ]
    assert not [text for text in told if "geheim" in text or "somebody" in text]
    assert "********@host:80/fleet: mails to a@b go" in told[1]
