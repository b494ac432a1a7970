"""Releases for other runtimes than ONNX Runtime: fetched, tried in the confined process and served like any other."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge_agent.models.settings import TrialLimits
from edge_agent.models.slot_documents import FILES, BundleList
from edge_agent.models.slots import BUNDLE_LIST
from edge_agent.models.trial import TrialResult
from edge_agent.models.trial_run import TrialRun
from foundation.clock import SystemClock
from foundation.files import write_document
from modelkit.bundle import read_bundle
from modelkit.digest import sha256_hex
from modelkit.embed import embed_contract
from modelkit.placement import CPU
from modelkit.predictor import CPU_SCORE
from modelkit.qnn import QNN, compile_context
from modelkit.runtimes import open_predictor, open_runtime
from modelkit.specs import InputSpec
from modelkit.verify import verify_model
from rollout.release import GateReport, publish_release
from schemas.reasons import RefuseReason
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.artefacts import contract_of, skip_without, write_artefact
from tests.fakes.models import tiny_contract, tiny_model, tiny_proto
from tests.waiting import until

OTHERS = ("openvino", "litert")
LIMITS = TrialLimits(min_runs=5, wall_s=240)
PICTURE = np.full((40, 40, 3), 90, dtype=np.uint8)


def trial_of(folder: Path) -> TrialResult:
    bundle = read_bundle(folder)
    write_document(folder / BUNDLE_LIST, FILES, BundleList(bundle.files))
    return TrialRun(folder, bundle.digest, folder / "none", LIMITS, SystemClock()).wait(280)


@pytest.mark.parametrize("runtime", OTHERS)
def test_a_release_for_another_runtime_is_fetched_tried_and_serves(bench: Bench, runtime: str) -> None:
    skip_without(runtime)
    made = bench.state.parent / "made"
    write_artefact(runtime, made, contract_of(runtime, "b1"), seed=3)
    release = publish_release(
        bench.repository, read_bundle(made), GateReport(True, ""), bench.clock, release_id="b1"
    )
    bench.releases = [*bench.releases, release]
    bench.plan("b1", is_bundle=True)
    duty = bench.fetcher(real_trial=True, trial=LIMITS)
    until(
        lambda: duty.step().outcome == "failed" or bench.slots.read_candidate() is not None,
        "the trial ends",
        280.0,
    )
    assert bench.slots.read_candidate() is not None, (duty.status(), bench.slots.read_fetch().refused)
    serving = bench.serving(open_runtime())
    assert serving.poll() is not None
    assert (serving.name, serving.digest) == ("b1", release.model_digest)
    (said,) = serving.predict([PICTURE]).predictions
    same = open_predictor(verify_model(tiny_model(tiny_contract(name="b1"), seed=3), None))
    assert np.allclose(said.embedding, same.predict([PICTURE])[0].embedding, atol=1e-5)
    assert serving.health().work == {contract_of(runtime).allowed_providers[0]: 1.0}
    assert CPU_SCORE not in said.scores


@pytest.mark.parametrize("runtime", OTHERS)
def test_a_model_that_answers_nan_in_another_runtime_fails_its_trial(tmp_path: Path, runtime: str) -> None:
    skip_without(runtime)
    write_artefact(runtime, tmp_path, contract_of(runtime))
    rng = np.random.default_rng(0)
    rng.normal(size=(48, 8))
    matrix = (3.0 * rng.normal(size=(8, 3))).astype(np.float32)
    weights = (matrix if runtime == "openvino" else matrix.T).tobytes()
    path = tmp_path / {"openvino": "model.bin", "litert": "model.tflite"}[runtime]
    assert weights in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(weights, np.full(24, np.nan, np.float32).tobytes()))
    assert trial_of(tmp_path).reason == RefuseReason.NOT_FINITE


@pytest.mark.parametrize("runtime", OTHERS)
def test_a_file_that_its_runtime_cannot_read_fails_its_trial_and_nothing_else(
    tmp_path: Path, runtime: str
) -> None:
    skip_without(runtime)
    write_artefact(runtime, tmp_path, contract_of(runtime))
    if runtime == "openvino":
        path = tmp_path / "model.xml"
        path.write_bytes(path.read_bytes().replace(b'type="AvgPool"', b'type="NoPool"'))
    else:
        path = tmp_path / "model.tflite"
        path.write_bytes(path.read_bytes()[:-500])
    result = trial_of(tmp_path)
    assert (result.passed, result.reason) == (False, RefuseReason.LOAD_FAILED)


def test_a_release_whose_runtime_is_not_here_is_refused_and_names_both_versions(tmp_path: Path) -> None:
    # A machine without the runtime: the tests' own folder hides it from the trial's process.
    from unittest import mock

    from edge_agent.models.trial import run_trial
    from modelkit.versions import metadata

    skip_without("openvino")
    write_artefact("openvino", tmp_path, contract_of("openvino"))
    bundle = read_bundle(tmp_path)
    write_document(tmp_path / BUNDLE_LIST, FILES, BundleList(bundle.files))
    with mock.patch.object(metadata, "version", lambda _name: "2024.1.0"):
        result = run_trial(tmp_path, bundle.digest, tmp_path / "none", LIMITS)
    assert (result.passed, result.reason) == (False, RefuseReason.NO_RUNTIME)
    assert (
        result.detail
        == "openvino 2024.1.0 is installed; openvino >= 2026.4, < 2026.5 is needed (fleetloop[openvino])"
    )


@pytest.mark.skipif(
    find_spec("onnxruntime_qnn") is None,
    reason="the Hexagon emulator is not installed (make runtimes RUNTIMES=qnn)",
)
def test_a_model_compiled_for_an_npu_passes_its_trial_on_that_npu_only(tmp_path: Path) -> None:
    contract = replace(
        tiny_contract(), input=InputSpec(batch=1), allowed_providers=(QNN, CPU), cpu_fallback="refuse"
    )
    proto = tiny_proto(contract)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    data = compile_context(verify_model(embed_contract(proto.SerializeToString(), contract), None), 75)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    trials = [
        TrialRun(path, sha256_hex(data), tmp_path / "none", LIMITS, SystemClock(), (), "flag", arch)
        for arch in (75, 81, 0)
    ]
    same, other, none = (trial.wait(280) for trial in trials)
    assert (same.passed, dict(same.nodes)) == (True, {QNN: 1}), same
    assert (other.passed, other.reason) == (False, RefuseReason.WRONG_TARGET)
    assert (none.passed, none.reason) == (False, RefuseReason.CPU_FALLBACK)
