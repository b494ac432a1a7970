from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.prediction_log import FLUSH_EVERY_LINES, PredictionLog
from foundation.errors import MisconfiguredError


def write(log: PredictionLog, number: int) -> None:
    log.write(
        frame_id=f"f{number}", drive_id="d", lap=0, model_digest="m", predicted_class="red", time_ns=number
    )


def test_a_line_that_a_kill_tore_is_taken_away_and_the_log_goes_on(tmp_path):
    path = tmp_path / "log" / "predictions.jsonl"
    log = PredictionLog(path)
    write(log, 1)
    log.close()
    with path.open("a") as file:
        file.write('{"drive_id": "d", "fra')
    log = PredictionLog(path)
    write(log, 2)
    log.close()
    assert [json.loads(line)["frame_id"] for line in path.read_text().splitlines()] == ["f1", "f2"]


def test_a_log_that_is_one_torn_line_begins_anew(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"drive_id"')
    log = PredictionLog(path)
    write(log, 1)
    log.close()
    assert len(path.read_text().splitlines()) == 1


def test_a_full_disk_stops_the_log_and_never_the_vehicle(tmp_path):
    log = PredictionLog(tmp_path / "predictions.jsonl")

    class Full:
        def write(self, _text):
            raise OSError(28, "No space left on device")

        flush = close = lambda self: self.write("")

    log._stream.close()
    log._stream = Full()
    write(log, 1)
    log.close()
    assert log.lost_lines == 3


def test_no_path_no_log(tmp_path):
    log = PredictionLog(None)
    write(log, 1)
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_opened_is_a_mistake_in_the_settings(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MisconfiguredError, match=r"serving\.prediction_log"):
        PredictionLog(tmp_path / "file" / "log.jsonl")


def test_a_disk_that_is_full_at_the_start_costs_lines_that_are_counted_and_no_more(tmp_path, monkeypatch):
    path = tmp_path / "logs" / "predictions.jsonl"

    def refuse(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "mkdir", refuse)
        log = PredictionLog(path)
    for number in range(FLUSH_EVERY_LINES):
        write(log, number)
    assert log.lost_lines == FLUSH_EVERY_LINES
    write(log, 999)
    log.close()
    assert log.lost_lines == FLUSH_EVERY_LINES
    assert len(path.read_text().splitlines()) == 1
