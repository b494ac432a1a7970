from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from edge_agent.config import SourceKind, SourceSettings, source_id
from edge_agent.sources import SourceFailedError, open_source, played
from foundation.errors import CorruptError, MisconfiguredError
from foundation.events import EventLog
from tests.edge_agent.agent_bench import make_frame
from tests.fakes.sensors import ListFrameSource


def numbers(source, resume_after=None, lap=0, *, loop=False, events=None):
    playing = played(source, resume_after, lap, loop=loop, events=events or EventLog(None))
    return [(int(frame.frame_id[-5:]), turn) for frame, turn in islice(playing, 7)]


def recording(count: int = 3) -> ListFrameSource:
    return ListFrameSource([make_frame(number) for number in range(count)])


def test_a_recording_is_played_from_its_place_to_its_end():
    assert numbers(recording()) == [(0, 0), (1, 0), (2, 0)]
    assert numbers(recording(), "frame-00000") == [(1, 0), (2, 0)]
    assert numbers(recording(), "frame-00002") == []


def test_a_looped_recording_says_its_lap_and_goes_on_from_its_end():
    assert numbers(recording(), loop=True) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]
    assert numbers(recording(), "frame-00002", 4, loop=True)[0] == (0, 5)


def test_an_empty_loop_ends():
    assert numbers(recording(0), loop=True) == []


def test_a_place_that_is_gone_is_told_and_played_from_the_beginning(tmp_path):
    events = EventLog(tmp_path / "events.jsonl")
    assert numbers(recording(), "frame-00077", events=events) == [(0, 0), (1, 0), (2, 0)]
    assert "place_unknown" in (tmp_path / "events.jsonl").read_text()


def test_a_recording_that_is_damaged_in_the_middle_fails_as_a_source():
    class Damaged:
        def observations(self, resume_after=None):
            yield make_frame(0)
            raise CorruptError("half a row group", path="drive.parquet")

        def close(self):
            pass

    with pytest.raises(SourceFailedError, match=r"drive.parquet: half a row group"):
        numbers(Damaged())


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MisconfiguredError, match=r"source.path is .*none.*must exist"):
        open_source(SourceSettings(kind=SourceKind.PARQUET, path=tmp_path / "none"))


def test_another_replay_id_is_another_playing():
    one = SourceSettings(kind=SourceKind.PARQUET, path=Path("a"), replay_id="1")
    two = SourceSettings(kind=SourceKind.PARQUET, path=Path("a"), replay_id="2")
    assert source_id(one) != source_id(two)
