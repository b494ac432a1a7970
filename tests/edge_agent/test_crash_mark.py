"""An observation that crashed the process twice is passed over, counted and told; a model under suspicion is blamed first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent import look
from edge_agent.config import RandomSettings
from edge_agent.crash_mark import REMEMBERED, CrashMark, observation_key
from edge_agent.models.model_set import ModelSet
from foundation.framing import scan
from tests.edge_agent.agent_bench import Vehicle1, make_frame, settings_for
from tests.edge_agent.test_frame_loop import counts, samples, selection

FRAMES = [make_frame(number) for number in range(8)]
DEADLY = FRAMES[3]


class Crashed(BaseException):
    """SIGSEGV, as far as a test can play it."""


@pytest.fixture
def vehicle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vehicle1:
    real = look.decode_image

    def decode(payload: bytes, *more: object) -> object:
        if payload == DEADLY.payload:
            raise Crashed
        return real(payload, *more)

    monkeypatch.setattr(look, "decode_image", decode)
    return Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))


def live(vehicle: Vehicle1, lives: int) -> int:
    """Play from the place on, as often as the process crashes, at most `lives` times; how often it did."""
    for crashes in range(lives):
        frame_id = vehicle.frame_id
        try:
            vehicle.play(*FRAMES[0 if frame_id is None else int(frame_id[-5:]) + 1 :])
            vehicle.end_source()
            return crashes
        except Crashed:
            vehicle.kill()
            vehicle.has_crashed = True
            vehicle.start()
    return lives


def test_an_observation_that_crashed_the_process_twice_is_passed_over_counted_and_told(
    vehicle: Vehicle1,
) -> None:
    assert live(vehicle, 5) == 2
    assert counts(vehicle) == {"accepted": 7, "crashed": 1}
    assert vehicle.progress.frames_seen == len(FRAMES)
    assert [sample.frame_id for sample in samples(vehicle)] == [
        frame.frame_id for frame in FRAMES if frame is not DEADLY
    ]
    lines = (vehicle.state.events / "bench.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines if "observation_passed_over" in line]
    assert [line["frame_id"] for line in told] == [DEADLY.frame_id]
    vehicle.kill()
    vehicle.start()
    assert counts(vehicle) == {"accepted": 7, "crashed": 1}, "and it stays counted"


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


def test_while_a_model_may_be_to_blame_no_observation_is(
    vehicle: Vehicle1, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelSet, "is_suspect", True)
    assert live(vehicle, 4) == 4
    monkeypatch.setattr(ModelSet, "is_suspect", False)
    assert live(vehicle, 5) == 2, "from then on the count begins"


def test_a_process_that_was_killed_blames_nothing_and_only_so_many_observations_are_remembered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mark"
    keys = [observation_key("front", str(number), 0) for number in range(REMEMBERED + 1)]
    for key in keys:
        for _ in range(2):
            assert CrashMark(path, has_crashed=True).begin(key)
    last = CrashMark(path, has_crashed=True)
    assert [last.begin(key) for key in keys] == [True, *[False] * REMEMBERED]
    killed = observation_key("front", "killed", 0)
    for _ in range(3):
        assert CrashMark(path, has_crashed=False).begin(killed)
