from __future__ import annotations

import errno
import json
import threading
from dataclasses import dataclass, field

import pytest

from edge_agent.jobs import Job, JobRunner, LaneThread
from edge_agent.spool.writer import SpoolWriter
from edge_agent.state_folder import StateFolder, publish_json
from edge_agent.step import Failed, Idle, Ok
from edge_agent.telemetry import SENT_WAIT_S, TelemetryJob, draw_epoch, remember_epoch
from edge_agent.time_quality import FIRST_POSSIBLE_TIME_NS
from foundation import syscalls
from foundation.clock import ManualClock, SystemClock
from foundation.errors import CorruptError, RetryLaterError
from foundation.events import EventLog
from schemas.codec import decode_telemetry
from schemas.enrolment import EnrolledKey, Enrolment
from schemas.identity import Identity
from schemas.reasons import ModelState, NotAcceptedReason
from schemas.records import Telemetry
from schemas.signing import VehicleKey, verify
from schemas.wire import TOPICS
from tests.edge_agent.agent_bench import VEHICLE, WALL_NS, enrol, settings_for
from tests.fakes.kafka import FakeBroker, FakeSink


@dataclass
class Speaker:
    """A vehicle that has counted one frame, its telemetry job and the broker that hears it."""

    root: StateFolder
    key: VehicleKey
    clock: ManualClock = field(default_factory=lambda: ManualClock(WALL_NS))
    broker: FakeBroker = field(default_factory=FakeBroker)
    sinks: list[FakeSink] = field(default_factory=list)

    def __post_init__(self):
        self.job = TelemetryJob(self.root, VEHICLE, self.key, self.make_sink, self.clock, other_roles=())

    def make_sink(self) -> FakeSink:
        self.sinks.append(FakeSink(self.broker, clock=self.clock))
        return self.sinks[-1]

    def heard(self) -> list[Telemetry]:
        enrolled = EnrolledKey(VEHICLE, self.key.key_id, self.key.public_b64, WALL_NS, None)
        enrolment = Enrolment.of(enrolled)
        records = []
        for stored in self.broker.records(TOPICS.telemetry):
            identity = verify(stored.headers, stored.key, stored.value, "telemetry", enrolment)
            record = decode_telemetry(stored.value)
            assert identity == Identity(record.vehicle_id, record.epoch, record.seq)
            records.append(record)
        return records


@pytest.fixture
def speaker(tmp_path) -> Speaker:
    settings = settings_for(tmp_path)
    root = StateFolder(settings.state_folder)
    key = enrol(root.root)
    root.make()
    clock = ManualClock(WALL_NS)
    with SpoolWriter.open(root.spool, settings.spool, VEHICLE, key, clock, EventLog(None)) as writer:
        writer.not_accepted(NotAcceptedReason.UNREADABLE_IMAGE)
    publish_json(
        root.status_path("perceive"),
        {"frames_seen": 7, "health": {"error_count": 1, "nan_count": 2, "last_error": "x"}},
    )
    return Speaker(root, key)


def test_telemetry_is_signed_and_says_all_that_happened_since_enrolment(speaker):
    assert isinstance(speaker.job.step(), Ok)
    (record,) = speaker.heard()
    assert (record.vehicle_id, record.seq, record.previous_epoch, record.frames_seen) == (VEHICLE, 0, "", 7)
    assert (record.model_name, record.model_state) == ("tiny", ModelState.SERVING)
    assert dict(record.ledger.not_accepted) == {"unreadable_image": 1}
    assert (record.health.error_count, record.health.nan_count) == (1, 2)
    assert [event.event for event in record.model_events] == ["installed"]


def test_a_restart_of_deliver_names_the_epoch_before_it(speaker):
    speaker.job.step()
    again = Speaker(speaker.root, speaker.key, broker=speaker.broker)
    again.job.step()
    first, second = sorted(again.heard(), key=lambda record: record.previous_epoch)
    assert second.previous_epoch == first.epoch
    assert second.seq == 0
    assert second.start_number > first.start_number > 0


def refuse_to_write(_fd, _data):
    raise OSError(errno.ENOSPC, "No space left on device")


NOW_NS = FIRST_POSSIBLE_TIME_NS + 10**15


def start(path, now_ns):
    drawn = draw_epoch(path, ManualClock(now_ns))
    remember_epoch(path, drawn)
    return drawn.start_number


def test_the_number_of_a_start_rises_with_a_clock_set_back_and_after_the_file_is_lost(tmp_path):
    path = tmp_path / "deliver-epoch.json"
    first, second = start(path, NOW_NS), start(path, 0)
    path.unlink()
    assert first < second < start(path, NOW_NS + 60 * 10**9)


def test_a_clock_far_ahead_does_not_carry_the_number_away(tmp_path):
    path = tmp_path / "deliver-epoch.json"
    first = start(path, NOW_NS)
    assert start(path, NOW_NS + 80 * 365 * 86_400 * 10**9) == first + 1


def test_a_vehicle_that_lost_the_file_under_a_clock_in_1970_is_heard_once_the_clock_is_right(speaker):
    speaker.job.step()
    speaker.root.deliver_epochs_path.unlink()
    lost = Speaker(speaker.root, speaker.key, clock=ManualClock(0), broker=speaker.broker)
    lost.job.step()
    lost.clock.jump_wall(WALL_NS / 1e9 + 3600)
    lost.job.step()
    lost.job.step()
    heard = sorted(lost.heard(), key=lambda record: (record.start_number, record.seq))
    assert heard[0].start_number == 1, "said under the doubtful clock"
    assert [record.seq for record in heard[-2:]] == [0, 1]
    assert heard[-1].start_number > heard[1].start_number > 1
    assert heard[-1].previous_epoch == heard[0].epoch


def test_a_full_disk_stops_neither_deliver_nor_telemetry(speaker, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(syscalls, "write", refuse_to_write)
        again = Speaker(speaker.root, speaker.key, broker=speaker.broker)
        again.job.step()
        assert "No space left" in again.job.last_error
    assert len(again.heard()) == 1
    again.clock.advance(10)
    again.job.step()
    assert json.loads(again.root.deliver_epochs_path.read_text())["epoch"] == again.heard()[0].epoch


def test_numbers_have_no_gap_while_the_broker_is_away_and_nothing_piles_up(speaker):
    speaker.broker.stop()
    for _ in range(5):
        speaker.job.step()
        speaker.clock.advance(10)
    assert len(speaker.sinks[0].sent) == 1
    speaker.broker.start()
    speaker.sinks[0].pump()
    speaker.job.step()
    assert [record.seq for record in speaker.heard()] == [0, 1]


def test_a_sink_that_never_answers_is_dropped(speaker):
    speaker.broker.stop()
    speaker.job.step()
    speaker.clock.advance(SENT_WAIT_S + 1)
    speaker.job.step()
    assert speaker.sinks[0].is_closed
    assert len(speaker.sinks) == 2


def test_a_refused_record_is_a_failure_and_no_acknowledgement(speaker):
    sink = FakeSink(speaker.broker, clock=speaker.clock)
    sink.fail_next(RetryLaterError("certificate refused"))
    sinks = iter([sink, speaker.make_sink()])
    job = TelemetryJob(speaker.root, VEHICLE, speaker.key, lambda: next(sinks), speaker.clock, other_roles=())
    job.step()
    assert job.acknowledged == 0
    job.step()
    assert sink.is_closed
    assert job.acknowledged == 1


def test_the_last_word_is_said_at_the_end(speaker):
    speaker.job.step()
    speaker.job.finish(1.0)
    assert [record.seq for record in speaker.heard()] == [0, 1]
    assert speaker.sinks[0].is_closed


def runner(clock: ManualClock, *jobs: Job) -> JobRunner:
    return JobRunner(jobs, clock, EventLog(None))


def test_a_job_runs_at_its_interval_and_only_while_it_is_wanted():
    clock, calls, wanted = ManualClock(), [], [True]
    job = Job("d", lambda: calls.append(clock.monotonic_ns()) or Idle(0.0), lambda: wanted[0], 2.0)
    rounds = runner(clock, job)
    for _ in range(10):
        rounds.run_due()
        clock.advance(0.5)
    assert len(calls) == 3
    wanted[0] = False
    for _ in range(10):
        rounds.run_due()
        clock.advance(0.5)
    assert len(calls) == 3


def test_a_failing_job_is_reported_once_and_delays_no_other(tmp_path):
    clock, other = ManualClock(), []

    def fails():
        raise CorruptError("broken", path="x")

    events = EventLog(tmp_path / "events.jsonl", clock, "test")
    jobs = (
        Job("bad", fails, lambda: True, 0.0),
        Job("slow", lambda: Failed("no broker", 5.0), lambda: True, 0.0),
        Job("good", lambda: other.append(1) or Ok(1, 1), lambda: True, 0.0),
    )
    rounds = JobRunner(jobs, clock, events)
    for _ in range(20):
        assert 0.0 <= rounds.run_due() <= 0.5
        clock.advance(0.1)
    assert len(other) == 20
    assert (tmp_path / "events.jsonl").read_text().count("duty_failed") == 2


def test_a_defect_in_a_lane_stops_the_process_and_is_not_swallowed():
    stop = threading.Event()

    def defect():
        raise ZeroDivisionError

    lane = LaneThread("x", runner(SystemClock(), Job("d", defect, lambda: True, 0.0)), stop)
    lane.start()
    assert stop.wait(5)
    assert lane.join(5)
    assert isinstance(lane.failure, ZeroDivisionError)
