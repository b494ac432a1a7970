"""An observation that crashed the process twice is passed over, counted and told; a model at work is blamed first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from connectors.sensors.ports import Observation
from edge_agent import crash_mark, look
from edge_agent.config import CaptureSettings, RandomSettings
from edge_agent.crash_mark import CrashMark, observation_key
from edge_agent.heartbeat import Activity
from edge_agent.models.model_set import ModelSet
from foundation.framing import scan
from tests.edge_agent.agent_bench import Vehicle1, make_frame, settings_for
from tests.edge_agent.test_frame_loop import counts, samples, selection

FRAMES = [make_frame(number) for number in range(20)]
DEADLY = FRAMES[3]


class Crashed(BaseException):
    """SIGSEGV, as far as a test can play it."""


def crash_at(monkeypatch: pytest.MonkeyPatch, deadly: list[Observation]) -> None:
    """From now on each of these crashes the process."""
    real, payloads = look.decode_image, {frame.payload for frame in deadly}

    def decode(payload: bytes, *more: object) -> object:
        if payload in payloads:
            raise Crashed
        return real(payload, *more)

    monkeypatch.setattr(look, "decode_image", decode)


def made(tmp_path: Path, **changes: object) -> Vehicle1:
    return Vehicle1(
        settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0)), **changes)
    )


@pytest.fixture
def vehicle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vehicle1:
    crash_at(monkeypatch, [DEADLY])
    return made(tmp_path)


def live(vehicle: Vehicle1, lives: int, activity: Activity = Activity.WORKING) -> int:
    """Play from the place on, as often as the process crashes, at most `lives` times; how often it did."""
    for crashes in range(lives):
        frame_id = vehicle.frame_id
        try:
            vehicle.play(*FRAMES[0 if frame_id is None else int(frame_id[-5:]) + 1 :])
            vehicle.end_source()
            return crashes
        except Crashed:
            vehicle.kill()
            vehicle.crashed_in = activity
            vehicle.start()
    return lives


def test_an_observation_that_crashed_the_process_twice_is_passed_over_counted_and_told(
    vehicle: Vehicle1,
) -> None:
    assert live(vehicle, 5) == 2
    assert counts(vehicle) == {"accepted": 19, "crashed": 1}
    assert vehicle.progress.frames_seen == len(FRAMES)
    assert [sample.frame_id for sample in samples(vehicle)] == [
        frame.frame_id for frame in FRAMES if frame is not DEADLY
    ]
    lines = (vehicle.state.events / "bench.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines if "observation_passed_over" in line]
    assert [line["frame_id"] for line in told] == [DEADLY.frame_id]
    vehicle.kill()
    vehicle.start()
    assert counts(vehicle) == {"accepted": 19, "crashed": 1}, "and it stays counted"


def test_no_frame_of_the_ledger_has_the_reason_where_a_released_agent_would_refuse_it(
    vehicle: Vehicle1,
) -> None:
    live(vehicle, 5)
    vehicle.writer._log.rewrite()
    data = (vehicle.state.spool / "ledger.journal").read_bytes()
    frames = [json.loads(data[each.body_offset : each.end]) for each in scan(data)]
    found = [frame["counts"] for frame in frames if "counts" in frame]
    assert found
    assert all("crashed" not in each["not_accepted"] and each["later"] == {"crashed": 1} for each in found)


@pytest.mark.parametrize("pre_s", [0.0, 1.0])
@pytest.mark.parametrize("remembered", [crash_mark.REMEMBERED, 8])
def test_many_deadly_observations_in_a_row_cost_themselves_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int, pre_s: float
) -> None:
    """Also where fewer are remembered than follow each other."""
    monkeypatch.setattr(crash_mark, "REMEMBERED", remembered)
    crash_at(monkeypatch, FRAMES[3:13])
    vehicle = made(tmp_path, capture=CaptureSettings(pre_s=pre_s))
    assert live(vehicle, 50) == 20
    assert counts(vehicle) == {"accepted": 10, "crashed": 10}


def test_a_model_that_may_be_to_blame_is_blamed_first_but_no_observation_is_tried_for_ever(
    vehicle: Vehicle1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelSet, "is_suspect", True)
    assert vehicle.settings.serving.model.max_unconfirmed_starts + 1 < 6, "the model gave way before"
    assert live(vehicle, 20, Activity.MODEL) == 6
    assert counts(vehicle) == {"accepted": 19, "crashed": 1}


def test_a_crash_while_no_model_was_at_work_is_the_observation_s(
    vehicle: Vehicle1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelSet, "is_suspect", True)
    assert live(vehicle, 5, Activity.WORKING) == 2


@pytest.mark.parametrize("crashed_in", [None, Activity.STARTING, Activity.LOADING])
def test_a_process_that_was_killed_or_ended_before_it_looked_at_anything_blames_no_observation(
    tmp_path: Path, crashed_in: Activity | None
) -> None:
    key = observation_key("front", "1", 0)
    for _ in range(7):
        assert CrashMark(tmp_path / "mark", crashed_in=crashed_in, is_model_suspect=False).begin(key)


def test_only_so_many_observations_are_remembered_and_the_oldest_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_mark, "REMEMBERED", 8)
    path = tmp_path / "mark"
    keys = [observation_key("front", str(number), 0) for number in range(9)]
    for key in keys:
        for _ in range(2):
            assert CrashMark(path, crashed_in=Activity.WORKING, is_model_suspect=False).begin(key)
    last = CrashMark(path, crashed_in=Activity.WORKING, is_model_suspect=False)
    assert [last.begin(key) for key in keys] == [True, *[False] * 8]
