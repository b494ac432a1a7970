"""The trial catches what only running can show, in a process that may die of it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_agent.models.frames import TrialFrames
from edge_agent.models.settings import TrialLimits
from edge_agent.models.trial import SLOT_DAMAGED, TrialResult
from edge_agent.models.trial_run import TrialRun
from fleetloop.demo.bad_models import return_nan_when_dark
from foundation.clock import ManualClock, SystemClock
from modelkit.digest import sha256_hex
from modelkit.embed import embed_contract, parse_model
from schemas.reasons import RefuseReason
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto
from tests.waiting import until

LIMITS = TrialLimits(min_runs=3, wall_s=20, cpu_s=20)


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def run(
    folder: Path, data: bytes, limits: TrialLimits = LIMITS, frames: tuple[bytes, ...] = ()
) -> TrialResult:
    path = folder / "model.onnx"
    path.write_bytes(data)
    shots = folder / "frames"
    shots.mkdir(exist_ok=True)
    for number, payload in enumerate(frames):
        (shots / f"{number:04d}.frame").write_bytes(payload)
    return TrialRun(path, sha256_hex(data), shots, limits, SystemClock()).wait(60)


def with_long_work(rounds: int) -> bytes:
    """A valid model whose graph multiplies matrices for a long time before it answers: milliseconds a round."""
    from onnx import TensorProto, helper, numpy_helper

    contract = tiny_contract(name="slow")
    model = tiny_proto(contract)
    graph = model.graph
    size = 1024
    constants = {
        "shape": np.array([size, size], dtype=np.int64),
        "low": np.array(0.0, dtype=np.float32),
        "high": np.array(1.0, dtype=np.float32),
        "zero": np.array(0.0, dtype=np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    graph.node[-1].output[0] = "clean_logits"
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["state_0"], value=half))
    for number in range(rounds):
        before, product, after = f"state_{number}", f"product_{number}", f"state_{number + 1}"
        graph.node.append(helper.make_node("MatMul", [before, before], [product]))
        graph.node.append(helper.make_node("Clip", [product, "low", "high"], [after]))
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [f"state_{rounds}"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["clean_logits", "nothing"], ["logits"]),
        ]
    )
    return embed_contract(model.SerializeToString(), contract)


def with_huge_tensor(gigabytes: int) -> bytes:
    """A small file whose graph asks for a tensor of so many gigabytes when it runs."""
    from onnx import helper, numpy_helper

    contract = tiny_contract(name="greedy")
    model = tiny_proto(contract)
    shape = np.array([gigabytes * 1024, 1024, 256], dtype=np.int64)
    model.graph.initializer.append(numpy_helper.from_array(shape, "shape"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"))
    model.graph.node[-1].output[0] = "clean_logits"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["clean_logits"], ["seed"], keepdims=0),
            helper.make_node("Mul", ["seed", "zero"], ["seed_zero"]),
            helper.make_node("Expand", ["seed_zero", "shape"], ["huge"]),
            helper.make_node("ReduceMax", ["huge"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["clean_logits", "nothing"], ["logits"]),
        ]
    )
    return embed_contract(model.SerializeToString(), contract)


def test_a_sound_model_passes_on_the_vehicles_own_frames(tmp_path: Path) -> None:
    result = run(tmp_path, tiny_model(), frames=(png(90), png(200)))
    assert result.passed, result
    assert (result.reason, result.frames) == ("", 2)
    assert 0 < result.latency_p50_ns <= result.latency_p99_ns


def test_not_a_number_on_a_recorded_frame_is_refused(tmp_path: Path) -> None:
    bad = return_nan_when_dark(tiny_model(), below_luma=50.0)
    assert run(tmp_path, bad, frames=(png(90),)).passed
    result = run(tmp_path, bad, frames=(png(90), png(10)))
    assert (result.passed, result.reason) == (False, "not_finite")


def test_an_unreadable_recorded_frame_says_nothing_about_the_model(tmp_path: Path) -> None:
    assert run(tmp_path, tiny_model(), frames=(b"not a picture", png(90))).frames == 1


def test_a_slow_model_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, tiny_model(), replace(LIMITS, max_latency_p50_ns=1))
    assert (result.passed, result.reason) == (False, "too_slow")


@pytest.mark.slow
def test_a_model_that_does_not_come_back_is_ended_by_its_own_limits(tmp_path: Path) -> None:
    result = run(tmp_path, with_long_work(3600), replace(LIMITS, wall_s=6, cpu_s=4))
    assert (result.passed, result.reason) == (False, "too_slow")


@pytest.mark.slow
def test_a_model_that_asks_for_more_memory_than_it_may_is_refused(tmp_path: Path) -> None:
    result = run(tmp_path, with_huge_tensor(20))
    assert not result.passed
    assert result.reason in ("run_failed", "out_of_memory", "crashed")


def test_bytes_of_another_digest_are_refused_inside_the_trial_too(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model(seed=1))
    result = TrialRun(path, "0" * 64, tmp_path, LIMITS, SystemClock()).wait(60)
    assert (result.passed, result.reason) == (False, "wrong_hash")


def test_a_trial_process_that_dies_is_a_refusal(tmp_path: Path) -> None:
    trial = TrialRun(write(tmp_path), sha256_hex(tiny_model()), tmp_path, LIMITS, SystemClock())
    trial._process.kill()
    trial._process.wait()
    result = trial.poll()
    assert result is not None
    assert (result.passed, result.reason) == (False, "crashed")
    assert "SIGKILL" in result.detail


def test_the_confined_process_reaches_no_network_and_starts_no_program() -> None:
    code = (
        "import json, socket, subprocess\n"
        "from edge_agent.models.settings import TrialLimits\n"
        "from edge_agent.models.trial import confine\n"
        "confine(TrialLimits())\n"
        "refused = []\n"
        "for name, call in (('net', lambda: socket.create_connection(('127.0.0.1', 9), 1)),\n"
        "                   ('run', lambda: subprocess.run(['true']))):\n"
        "    try:\n        call()\n"
        "    except PermissionError:\n        refused.append(name)\n"
        "print(json.dumps(refused))\n"
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert json.loads(done.stdout) == ["net", "run"]


def test_a_vehicle_keeps_a_bounded_ring_of_frames_for_trials(tmp_path: Path) -> None:
    ring = TrialFrames(tmp_path / "ring", count=3, every=2)
    kept = [ring.offer(png(level)) for level in range(10)]
    assert sum(kept) == 5
    assert sorted(path.name for path in (tmp_path / "ring").iterdir()) == [
        "0000.frame",
        "0001.frame",
        "0002.frame",
    ]
    assert not TrialFrames(tmp_path / "none", count=0, every=1).offer(png(1))


def test_a_file_in_place_of_the_folder_of_trial_frames_costs_the_frames_only(tmp_path: Path) -> None:
    (tmp_path / "trial_frames").write_text("a file")
    frames = TrialFrames(tmp_path / "trial_frames", count=4, every=1)
    assert not frames.offer(b"a frame")
    (tmp_path / "trial_frames").unlink()
    assert frames.offer(b"a frame")


class StillRuns:
    """A trial process that has not ended."""

    def __init__(self, arguments: list[str], **_options: object) -> None:
        self.limits = json.loads(arguments[-1])["limits"]
        self.stdout = None

    def poll(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self) -> None: ...


def test_a_large_model_has_time_to_be_hashed_and_the_time_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "onnx").mkdir(parents=True)
    with (bundle / "onnx" / "weights.data").open("wb") as stream:
        stream.truncate(4 * 1024**3)  # without blocks on the disk: 4 GiB, hashed in minutes by a slow vehicle
    monkeypatch.setattr(subprocess, "Popen", StillRuns)
    clock = ManualClock()
    trial = TrialRun(bundle, "0" * 64, tmp_path, LIMITS, clock)
    limits = trial._process.limits  # type: ignore[attr-defined]
    assert limits["wall_s"] - LIMITS.wall_s == limits["cpu_s"] - LIMITS.cpu_s == 512
    clock.advance(LIMITS.wall_s + 500)
    assert trial.poll() is None
    clock.advance(30)
    result = trial.poll()
    assert result is not None
    assert result.reason == "too_slow"
    assert f"within {LIMITS.wall_s + 512} s" in result.detail


def test_a_small_model_has_no_more_time_than_the_limits_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", StillRuns)
    clock = ManualClock()
    trial = TrialRun(path, sha256_hex(tiny_model()), tmp_path, LIMITS, clock)
    clock.advance(LIMITS.wall_s + 10)
    assert trial.poll() is not None


def test_a_slot_that_cannot_be_used_is_told_as_such_by_the_trial(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    result = TrialRun(bundle, "0" * 64, tmp_path, LIMITS, SystemClock()).wait(60)
    assert (result.passed, result.reason) == (False, SLOT_DAMAGED)


def test_a_model_that_fails_the_real_trial_is_refused_once_and_reported(bench: Bench) -> None:
    frames = bench.slots.path / "trial_frames"
    frames.mkdir()
    (frames / "0000.frame").write_bytes(png(5))
    bench.release("r2", 2, data=return_nan_when_dark(tiny_model(tiny_contract(name="r2")), below_luma=50.0))
    bench.plan("r2")
    fetcher = bench.fetcher(real_trial=True)
    steps = bench.run(fetcher, limit=2)
    until(lambda: steps.append(fetcher.step()) or fetcher.status().phase != "trial", "the trial ends")
    assert steps[-1].outcome == "failed"
    assert bench.slots.read_fetch().refused == {"r2": "not_finite"}
    assert bench.slots.read_candidate() is None
    again = bench.fetcher(real_trial=True)
    assert bench.run(again)[-1].outcome == "idle"
    assert [event.event for event in bench.slots.read_fetch().events] == ["refused"]


def write(folder: Path, data: bytes | None = None) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data or tiny_model())
    return path


def test_the_models_parser_and_contract_are_checked_before_anything_runs(tmp_path: Path) -> None:
    data = tiny_proto(tiny_contract()).SerializeToString()
    assert run(tmp_path, data).reason == "no_contract"
    assert parse_model(data).graph.node


def for_npu_only(name: str = "r2") -> bytes:
    """A model whose contract forbids the CPU, of which this machine has nothing else."""
    contract = replace(
        tiny_contract(name=name), allowed_providers=("QNNExecutionProvider",), cpu_fallback="refuse"
    )
    return tiny_model(contract)


def test_a_trial_says_which_nodes_ran_where(tmp_path: Path) -> None:
    result = run(tmp_path, tiny_model())
    assert set(result.nodes) == {"CPUExecutionProvider"}
    assert sum(result.nodes.values()) >= 2


def test_a_release_that_forbids_the_cpu_is_refused_where_there_is_nothing_else(bench: Bench) -> None:
    bench.release("r2", 2, data=for_npu_only())
    bench.plan("r2")
    fetcher = bench.fetcher(real_trial=True)
    bench.run(fetcher, limit=2)
    until(lambda: fetcher.step() and fetcher.status().phase != "trial", "the trial ends")
    assert bench.slots.read_fetch().refused == {"r2": RefuseReason.CPU_FALLBACK}
    (event,) = bench.slots.read_fetch().events
    assert "QNNExecutionProvider" in event.reason
    assert bench.slots.read_candidate() is None


def test_a_trial_refuses_a_fall_back_where_the_vehicle_does(tmp_path: Path) -> None:
    data = tiny_model(
        replace(tiny_contract(), allowed_providers=("QNNExecutionProvider", "CPUExecutionProvider"))
    )
    path, frames = write(tmp_path, data), tmp_path / "frames"
    trials = [
        TrialRun(path, sha256_hex(data), frames, LIMITS, SystemClock(), (), word)
        for word in ("flag", "refuse")
    ]
    flagged, refused = (trial.wait(60) for trial in trials)
    assert flagged.passed and flagged.nodes
    assert (refused.passed, refused.reason) == (False, RefuseReason.CPU_FALLBACK)
    assert "serving.model.cpu_fallback" in refused.detail


def test_a_release_that_allows_none_of_the_vehicles_providers_fails_its_trial(tmp_path: Path) -> None:
    path = write(tmp_path)
    wish = ("QNNExecutionProvider",)
    digest = sha256_hex(path.read_bytes())
    result = TrialRun(path, digest, tmp_path / "frames", LIMITS, SystemClock(), wish).wait(60)
    assert (result.passed, result.reason) == (False, RefuseReason.NO_ALLOWED_PROVIDER)
    assert "serving.model.providers" in result.detail
