from __future__ import annotations

import json
import struct
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_agent.config import (
    BudgetSettings,
    CaptureSettings,
    NoveltySettings,
    PictureSettings,
    RandomSettings,
    SelectionSettings,
    UncertaintySettings,
)
from edge_agent.progress import Place
from edge_agent.released_progress import KIND_SNAPSHOT, KIND_STEP
from edge_agent.spool.reader import SpoolReader
from edge_agent.spool.snapshot import read_ledger
from foundation import syscalls
from foundation.events import EventLog
from foundation.framing import encode_frame
from schemas.codec import decode_sample
from schemas.reasons import Modality, TimeQuality, WindowRole
from schemas.records import Content, Sample
from tests.edge_agent.agent_bench import SOURCE, VEHICLE, Vehicle1, enrol, make_frame, png, settings_for
from tests.fakes.models import FakeBackend, raw_outputs


def selection(**changes: object) -> SelectionSettings:
    base = SelectionSettings(
        uncertainty=UncertaintySettings(enabled=False),
        random=RandomSettings(probability=0.3),
    )
    return replace(base, **changes)


def samples(vehicle: Vehicle1) -> list[Sample]:
    """Every accepted sample, as it would go on the wire, in order of acceptance."""
    reader = SpoolReader.open(
        vehicle.state.spool, vehicle.settings.spool, VEHICLE, vehicle.clock, EventLog(None)
    )
    with reader:
        leased = list(iter(lambda: reader.lease(10**9), []))
    decoded = [decode_sample(record.wire.value) for batch in leased for record in batch]
    order = {row.epoch: place for place, row in enumerate(read_ledger(vehicle.state.spool).epochs)}
    return sorted(decoded, key=lambda sample: (order[sample.epoch], sample.seq))


def counts(vehicle: Vehicle1) -> dict[str, int]:
    found = read_ledger(vehicle.state.spool).counts
    return {"accepted": found.accepted, **found.not_accepted}


def drive(vehicle: Vehicle1, frames) -> None:
    vehicle.play(*frames)


def test_every_frame_is_accepted_or_counted_by_reason(tmp_path):
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection()))
    frames = [make_frame(number) for number in range(60)]
    frames[7] = make_frame(7, payload=b"no picture at all")
    drive(vehicle, frames)
    vehicle.end_source()
    found = counts(vehicle)
    assert found["unreadable_image"] == 1
    assert 5 < found["accepted"] < 35
    assert sum(found.values()) == 60 == vehicle.progress.frames_seen
    assert vehicle.place.has_ended


def test_a_picture_that_takes_more_memory_than_there_is_is_counted_and_the_next_one_goes_on(
    tmp_path, monkeypatch
):
    real = Image.open

    def opened(stream, *arguments, **options):
        if stream.getvalue() == png(1):
            raise MemoryError
        return real(stream, *arguments, **options)

    monkeypatch.setattr(Image, "open", opened)
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))
    drive(vehicle, [make_frame(number) for number in range(3)])
    vehicle.end_source()
    assert counts(vehicle) == {"accepted": 2, "unreadable_image": 1}


def test_a_picture_larger_than_the_bound_of_the_sensors_is_counted_before_a_decoder_sees_it(
    tmp_path, monkeypatch
):
    sizes, real = [], Image.open

    def opened(*arguments, **options):
        image = real(*arguments, **options)
        sizes.append(image.size)
        return image

    monkeypatch.setattr(Image, "open", opened)
    bounds = PictureSettings(max_pixels=32 * 32)
    chosen = selection(random=RandomSettings(probability=1.0))
    vehicle = Vehicle1(settings_for(tmp_path, selection=chosen, pictures=bounds))
    drive(vehicle, [make_frame(0), make_frame(1, payload=png(1, size=64)), make_frame(2)])
    vehicle.end_source()
    assert counts(vehicle) == {"accepted": 2, "unreadable_image": 1}
    assert set(sizes) == {(32, 32)}


def test_a_sample_says_where_it_is_from_and_why_it_was_taken(tmp_path):
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))
    vehicle.play(make_frame(1, track="t9"))
    vehicle.end_source()
    (sample,) = samples(vehicle)
    assert (sample.vehicle_id, sample.drive_id, sample.track_id) == (VEHICLE, "drive-1", "t9")
    assert (sample.rule_id, sample.selection_probability) == ("random", 1.0)
    said = sample.serving
    assert said is not None
    assert (said.model_digest, said.model_name) == (vehicle.serving.digest, "tiny")
    assert sample.incident is None
    assert sample.payload == png(1)
    assert said.embedding
    assert "entropy" in said.scores
    assert (sample.consent_ref, sample.subject_refs, sample.campaign_id) == ("", (), "")
    assert sample.time_quality is TimeQuality.OK


def test_a_clock_in_1970_is_flagged_and_nothing_else_changes(tmp_path):
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))
    vehicle.clock.jump_wall(-vehicle.clock.now_ns() / 1e9 + 60)
    vehicle.play(make_frame(1))
    vehicle.clock.jump_wall(1.79e9)
    vehicle.play(make_frame(2))
    vehicle.end_source()
    assert [s.time_quality for s in samples(vehicle)] == [
        TimeQuality.BEFORE_BUILD,
        TimeQuality.UNSYNCHRONISED,
    ]
    assert [s.seq for s in samples(vehicle)] == [0, 1]


def test_the_random_arm_of_a_window_carries_the_chance_of_the_window(tmp_path):
    capture = CaptureSettings(pre_s=0.001, post_s=0.0015)
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(), capture=capture))
    drive(vehicle, [make_frame(number) for number in range(200)])
    vehicle.end_source()
    kept = samples(vehicle)
    assert {round(s.selection_probability, 9) for s in kept} <= {round(1 - 0.7**n, 9) for n in (2, 3)}
    assert len({s.frame_id for s in kept}) == len(kept)
    roles = {s.incident.role for s in kept if s.incident}
    assert roles == {WindowRole.PRE, WindowRole.TRIGGER, WindowRole.POST}
    assert all(s.incident for s in kept)


def test_the_byte_budget_of_a_drive_is_never_passed_and_the_rest_is_counted(tmp_path):
    size = len(png(0))
    budget = BudgetSettings(per_drive_bytes=5 * size + size // 2)
    chosen = selection(random=RandomSettings(probability=1.0), budget=budget)
    vehicle = Vehicle1(settings_for(tmp_path, selection=chosen))
    drive(vehicle, [make_frame(0, payload=png(0)) for _ in range(9)])
    drive(vehicle, [make_frame(0, drive="drive-2", payload=png(0))])
    vehicle.end_source()
    assert counts(vehicle) == {"accepted": 6, "over_budget": 4}


def red_or_green(batch):
    """Embeddings of red pictures point one way, those of green ones the other."""
    means = batch.mean(axis=(2, 3), dtype=np.float32)
    embedding = np.zeros((len(batch), 8), np.float32)
    embedding[:, 0] = means[:, 0] - means[:, 1]
    embedding[:, 1] = 0.01
    return raw_outputs(np.tile(means, 1).astype(np.float32), embedding)


def picture(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_novelty_keeps_what_is_unlike_everything_kept(tmp_path):
    chosen = selection(
        novelty=NoveltySettings(enabled=True, threshold=0.5), random=RandomSettings(probability=0.0)
    )
    vehicle = Vehicle1(settings_for(tmp_path, selection=chosen), backend=FakeBackend(red_or_green))

    def colour(red: int, green: int) -> bytes:
        return picture(np.full((32, 32, 3), (red, green, 0)))

    payloads = [colour(250, 5), colour(240, 10), colour(5, 250), colour(8, 240), colour(244, 9)]
    drive(vehicle, [make_frame(n, payload=p) for n, p in enumerate(payloads)])
    vehicle.end_source()
    assert [s.frame_id for s in samples(vehicle)] == ["frame-00000", "frame-00002"]
    assert {s.rule_id for s in samples(vehicle)} == {"novelty"}


def test_a_frame_that_the_spool_refused_stands_in_no_later_frames_way(tmp_path):
    chosen = selection(
        novelty=NoveltySettings(enabled=True, threshold=0.5),
        random=RandomSettings(probability=0.0),
        max_per_track=1,
    )
    base = settings_for(tmp_path, selection=chosen)
    small = replace(base, spool=replace(base.spool, max_record_bytes=3000))
    vehicle = Vehicle1(small, backend=FakeBackend(red_or_green))
    noise = np.random.default_rng(0).integers(0, 9, (64, 64, 3))
    too_large = picture(noise + np.array((240, 0, 0)))
    alike = picture(np.full((32, 32, 3), (240, 5, 0)))
    assert len(too_large) > 3000 > len(alike)
    sizes = (too_large, alike, alike)
    drive(vehicle, [make_frame(n, payload=p, track="sign-1") for n, p in enumerate(sizes)])
    vehicle.end_source()
    assert counts(vehicle) == {"accepted": 1, "oversize": 1, "not_selected": 1}
    assert [s.frame_id for s in samples(vehicle)] == ["frame-00001"]
    assert len(vehicle.running.memory) == len(vehicle.progress.memory) == 1
    assert vehicle.running.tracks.to_rows() == vehicle.progress.tracks.to_rows()


def test_a_model_that_answers_nothing_is_counted_and_the_loop_goes_on(tmp_path):
    def nan(batch):
        bad = np.full((len(batch), 3), np.nan, np.float32)
        return raw_outputs(bad, np.zeros((len(batch), 8), np.float32))

    vehicle = Vehicle1(settings_for(tmp_path, selection=selection()), backend=FakeBackend())
    vehicle.backend.rule = nan
    drive(vehicle, [make_frame(number) for number in range(3)])
    vehicle.backend.rule = None
    drive(vehicle, [make_frame(number) for number in range(3, 6)])
    vehicle.end_source()
    found = counts(vehicle)
    assert found["model_error"] == 3
    assert sum(found.values()) == 6


def test_an_oversize_frame_is_counted_and_costs_no_budget(tmp_path):
    chosen = selection(random=RandomSettings(probability=1.0), budget=BudgetSettings(total_bytes=1_000_000))
    base = settings_for(tmp_path, selection=chosen)
    vehicle = Vehicle1(replace(base, spool=replace(base.spool, max_record_bytes=3000)))
    vehicle.play(make_frame(1, payload=png(1, size=64)))
    vehicle.play(make_frame(2, payload=png(2, size=16)))
    vehicle.end_source()
    assert counts(vehicle) == {"accepted": 1, "oversize": 1}
    assert vehicle.running.budget.total_bytes == len(png(2, size=16))


def test_an_empty_drive_is_counted(tmp_path):
    vehicle = Vehicle1(settings_for(tmp_path))
    vehicle.loop.empty_drive()
    vehicle.end_source()
    assert counts(vehicle) == {"accepted": 0, "empty_drive": 1}


class Killed(BaseException):
    """SIGKILL, as far as a test can play it."""


WHERE = ("between frames", "before append", "after append", "before commit", "after commit")


def arm_kill(vehicle: Vehicle1, where: str) -> None:
    """Let the next append or commit be the last thing that this life does, or leave undone."""
    if where == "between frames":
        return
    when, name = where.split()
    real = getattr(vehicle.writer, name)

    def deadly(*arguments):
        if when == "after":
            real(*arguments)
        raise Killed

    setattr(vehicle.writer, name, deadly)


@pytest.mark.slow
@given(
    kills=st.lists(
        st.tuples(st.integers(0, 39), st.sampled_from([0.0, 0.3]), st.sampled_from(WHERE)), max_size=4
    ),
    window=st.sampled_from([(0.0, 0.0), (0.002, 0.0015)]),
    arm=st.sampled_from([0.15, 0.6]),
    buffer_bytes=st.sampled_from([1_000, 16_000_000]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_after_a_kill_no_accepted_frame_is_captured_again_and_none_is_skipped(
    tmp_path_factory, kills, window, arm, buffer_bytes
):
    """The frames that a vehicle keeps are the same whether or not it was killed, and each is kept once."""
    chosen = selection(
        random=RandomSettings(probability=arm),
        budget=BudgetSettings(per_drive_bytes=30_000),
        novelty=NoveltySettings(enabled=True, threshold=0.001, memory_frames=8),
        max_per_track=2,
    )
    frames = [make_frame(n, track=f"t{n // 5}", drive=f"d{n // 20}") for n in range(40)]

    def run(folder, kill_at):
        base = settings_for(folder, selection=chosen, capture=CaptureSettings(*window))
        vehicle = Vehicle1(replace(base, spool=replace(base.spool, buffer_bytes=buffer_bytes)))
        for place, wait_s, where in kill_at:
            begin = resume(vehicle)
            try:
                for number in range(begin, len(frames)):
                    if number >= place:
                        if where == "between frames":
                            break
                        arm_kill(vehicle, where)
                    vehicle.play(frames[number])
                    vehicle.clock.advance(wait_s)
            except Killed:
                pass
            vehicle.kill()
            vehicle.start()
        drive(vehicle, frames[resume(vehicle) :])
        vehicle.end_source()
        return vehicle

    def resume(vehicle):
        frame_id = vehicle.frame_id
        return 0 if frame_id is None else int(frame_id.removeprefix("frame-")) + 1

    def story(vehicle):
        return [
            (s.frame_id, s.rule_id, s.incident, round(s.selection_probability, 9)) for s in samples(vehicle)
        ]

    whole = run(tmp_path_factory.mktemp("whole"), [])
    killed = run(tmp_path_factory.mktemp("killed"), kills)
    assert story(killed) == story(whole)
    assert killed.progress.frames_seen == len(frames)
    assert counts(killed) == counts(whole)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_frames_seen_are_accepted_plus_not_accepted_after_a_kill_at_any_call_of_the_disk(
    tmp_path, monkeypatch, call
):
    """Frames of two value classes and refused ones; a frame that no commit knows of is looked at again."""
    frames = [make_frame(n, payload=b"no picture" if n % 3 == 1 else None) for n in range(9)]
    chosen = selection(random=RandomSettings(probability=0.4))
    real = getattr(syscalls, call)

    def run(folder, deadly):
        vehicle = Vehicle1(settings_for(folder, selection=chosen, capture=CaptureSettings(pre_s=0.001)))
        calls = 0

        def counted(*arguments):
            nonlocal calls
            calls += 1
            if calls == deadly:
                raise Killed
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(syscalls, call, counted)
            try:
                drive(vehicle, frames[:6])
                vehicle.loop.pause()
                drive(vehicle, frames[6:])
                vehicle.loop.pause()
            except Killed:
                pass
        vehicle.kill()
        vehicle.start()
        frame_id = vehicle.frame_id
        drive(vehicle, frames[0 if frame_id is None else int(frame_id[-5:]) + 1 :])
        vehicle.end_source()
        return vehicle, calls

    _, calls = run(tmp_path / "whole", -1)
    assert calls > 1
    for deadly in range(1, calls + 1):
        vehicle, _ = run(tmp_path / str(deadly), deadly)
        found = counts(vehicle)
        assert found["unreadable_image"] == 3
        assert sum(found.values()) == len(frames) == vehicle.progress.frames_seen
        assert len({sample.frame_id for sample in samples(vehicle)}) == found["accepted"]


def test_a_step_whose_sample_was_refused_gives_its_number_to_the_next(tmp_path):
    chosen = selection(random=RandomSettings(probability=1.0))
    base = settings_for(tmp_path, selection=chosen)
    vehicle = Vehicle1(replace(base, spool=replace(base.spool, max_record_bytes=3000)))
    frames = [make_frame(1, payload=png(1, size=64)), make_frame(2, payload=png(2, size=16))]
    drive(vehicle, frames)
    vehicle.writer.commit()
    vehicle.kill()
    vehicle.start()
    assert vehicle.frame_id == "frame-00002"
    assert vehicle.progress.budget.total_bytes == len(frames[1].payload)


def test_a_snapshot_that_is_no_progress_is_told_and_costs_only_the_place(tmp_path):
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))
    drive(vehicle, [make_frame(n) for n in range(6)])
    vehicle.loop.pause()
    vehicle.durable.snapshot = lambda is_short=False: {"format": 3, "boot_id": 7}
    vehicle.kill()
    vehicle.writer._log.rewrite()
    vehicle.start()
    assert "boot_id" in vehicle.trouble
    assert vehicle.frame_id is None
    assert counts(vehicle)["accepted"] == 6


@pytest.mark.parametrize("content", [b"", b"nothing like a journal" * 10])
def test_a_released_progress_file_that_is_none_is_told_and_stops_nothing(tmp_path, content):
    root = tmp_path / "state"
    enrol(root)
    (root / "progress.journal").write_bytes(content)
    vehicle = Vehicle1(settings_for(tmp_path))
    assert vehicle.trouble
    assert vehicle.frame_id is None


def test_the_ledger_stays_small_and_keeps_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_agent.spool.statelog._LEAST_BYTES", 5_000)
    chosen = selection(
        random=RandomSettings(probability=1.0), novelty=NoveltySettings(enabled=True, memory_frames=4)
    )
    vehicle = Vehicle1(settings_for(tmp_path, selection=chosen))
    for number in range(300):
        vehicle.play(make_frame(number))
        vehicle.clock.advance(0.25)
    assert vehicle.writer._log.size_bytes < 40_000
    vehicle.loop.pause()
    kept = vehicle.progress.memory.matrix().tolist()
    vehicle.kill()
    vehicle.start()
    assert vehicle.frame_id == "frame-00299"
    assert vehicle.progress.memory.matrix().tolist() == kept != []


def test_a_clock_that_was_mended_is_believed_again_once_it_kept_pace_for_a_while(tmp_path):
    vehicle = Vehicle1(settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0))))
    vehicle.play(make_frame(0))
    vehicle.clock.jump_wall(30.0)
    qualities = [vehicle.loop._wall.judge(make_frame(1).capture_time_ns, make_frame(1).provenance)]
    for _ in range(7):
        vehicle.clock.advance(10.0)
        qualities.append(vehicle.loop._wall.judge(make_frame(1).capture_time_ns, make_frame(1).provenance))
    assert qualities == [TimeQuality.UNSYNCHRONISED] * 6 + [TimeQuality.OK] * 2


def test_a_block_of_signals_is_kept_as_context_of_a_camera_and_needs_no_prediction(tmp_path):
    capture = CaptureSettings(pre_s=0.002, post_s=0.0025)
    vehicle = Vehicle1(
        settings_for(tmp_path, selection=selection(random=RandomSettings(probability=1.0)), capture=capture)
    )
    block = replace(
        make_frame(1),
        frame_id="block-1",
        sensor_id="can0",
        modality=Modality.SIGNALS,
        content_type="application/vnd.apache.arrow.stream",
        content=Content("", 1_000_000, 50),
        payload=b"columns",
    )
    vehicle.play(
        block, make_frame(2), replace(block, frame_id="block-9", capture_time_ns=block.capture_time_ns * 2)
    )
    vehicle.end_source()
    kept = {one.frame_id: one for one in samples(vehicle)}
    assert set(kept) == {"block-1", "frame-00002"}
    context = kept["block-1"]
    assert (context.modality, context.predictions, context.content.items) == ("signals", (), 50)
    assert context.incident is not None
    assert (context.incident.role, context.incident.stream) == (WindowRole.PRE, "front")
    assert context.incident.incident_id == kept["frame-00002"].incident.incident_id
    assert counts(vehicle)["not_selected"] == 1


def test_a_place_of_the_first_format_is_read_and_its_source_goes_on(tmp_path):
    """As an agent before this release left it: one source, and windows that counted frames."""
    root = tmp_path / "state"
    enrol(root)
    budget = {"total_bytes": 77, "drives": [["d", 77]], "minutes": []}
    snapshot = {
        "format": 1, "boot_id": "b", "source_id": SOURCE, "frame_id": "frame-00003", "lap": 2, "has_ended": False,
        "frames_seen": 4, "refused": {"counts": {"not_selected": 3}, "bytes": 9}, "budget": budget, "tracks": [],
        "tails": [{"sensor_id": "front", "drive_id": "d", "last_index": 3, "trigger_index": None,
                   "incident_id": None, "rule_id": "", "past_probabilities": [0.5]}],
        "memory": {"model_digest": "", "shape": [0, 0]},
    }  # fmt: skip
    step = {"epoch": "0" * 16, "seq": -1, "frame_id": "frame-00007", "lap": 2, "frames_seen": 8,
            "has_ended": True, "tails": snapshot["tails"]}  # fmt: skip
    data = b""
    for kind, document in ((KIND_SNAPSHOT, snapshot), (KIND_STEP, step)):
        text = json.dumps(document).encode()
        data += encode_frame(kind, struct.pack("<I", len(text)), text)
    (root / "progress.journal").write_bytes(data)
    vehicle = Vehicle1(settings_for(tmp_path))
    assert not vehicle.trouble
    assert vehicle.place == Place("frame-00007", 2, has_ended=True)
    assert (vehicle.progress.frames_seen, vehicle.progress.budget.total_bytes) == (8, 77)
    assert counts(vehicle) == {"accepted": 0, "not_selected": 3}
    vehicle.kill()
    (root / "progress.journal").write_bytes(b"not looked at any more")
    vehicle.start()
    assert not vehicle.trouble
    assert vehicle.place == Place("frame-00007", 2, has_ended=True), "the spool carries it now"
