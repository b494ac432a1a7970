"""The vehicle scores a detector's count against those just before it on the same stream and drive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.look import Viewer
from edge_agent.models.role_model import Served
from edge_agent.prediction_log import PredictionLog
from edge_agent.selection.novelty import NoveltyMemory
from foundation.clock import ManualClock
from foundation.events import EventLog
from modelkit.predictor import Prediction
from schemas.predictions import Box, ClassificationOutput, DetectionOutput
from tests.edge_agent.agent_bench import make_frame


class Says:
    """Models of a vehicle that give these answers, one after the other."""

    def __init__(self, answers: list[Prediction]) -> None:
        self._answers = iter(answers)

    def remember(self, payload: bytes) -> None:
        """Keep nothing."""

    def predict(self, _images: object) -> list[Served]:
        return [Served([next(self._answers)], "m", "0" * 64, 1)]

    def recorded(self, answers: list[Served]) -> tuple[()]:
        assert not answers
        return ()


def viewer(folder: Path, answers: list[Prediction]) -> Viewer:
    clock = ManualClock()
    events = EventLog(folder / "events.jsonl", clock, "perceive")
    models: Any = Says(answers)
    return Viewer(models, NoveltyMemory(0), PredictionLog(None), clock, events)


def found(count: int) -> Prediction:
    boxes = tuple(Box("car", 0.9, 0.0, 0.0, 8.0, 8.0) for _ in range(count))
    return Prediction("detection", DetectionOutput(boxes), (), True, {"count": 0.0})


def test_a_count_that_drops_for_one_frame_is_scored_and_a_new_drive_begins_anew(tmp_path: Path) -> None:
    counts = [2, 2, 0, 2, 0]
    one = viewer(tmp_path, [found(count) for count in counts])
    frames = [*(make_frame(number) for number in range(4)), make_frame(4, drive="another")]
    scores = [one.look(frame, lap=0).predictions[0].scores.get("count_flicker") for frame in frames]
    assert scores == [None, None, 1.0, 0.0, None]


def test_what_has_no_count_has_no_flicker(tmp_path: Path) -> None:
    answers = [Prediction("classification", ClassificationOutput("red", (1.0,)), (), True)] * 4
    one = viewer(tmp_path, answers)
    looked = [one.look(make_frame(number), lap=0) for number in range(4)]
    assert [dict(each.predictions[0].scores) for each in looked] == [{}] * 4
