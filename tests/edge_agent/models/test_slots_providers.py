"""Where a model runs is the vehicle's choice within the model's contract; a fall-back that it forbids is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_agent.models.settings import ServingSettings
from edge_agent.models.status import read_model_status
from foundation.errors import CorruptError, MisconfiguredError
from foundation.settings import load_settings
from modelkit.digest import sha256_hex
from modelkit.placement import CPU, PlacementStatement
from modelkit.predictor import CPU_SCORE, to_wire
from modelkit.runtime import Backend
from modelkit.runtimes import open_runtime
from schemas.reasons import RefuseReason
from tests.edge_agent.models.model_bench import Bench
from tests.fakes.models import FakeBackend, tiny_contract, tiny_model

QNN = "QNNExecutionProvider"
GREY = np.full((32, 32, 3), 128, np.uint8)


def npu_release(bench: Bench, cpu_fallback: str = "refuse") -> str:
    """A candidate that was made for an NPU; its trial was of a machine that has one. Returns its digest."""
    contract = replace(tiny_contract(name="r2"), allowed_providers=(QNN, CPU), cpu_fallback=cpu_fallback)
    data = tiny_model(contract, seed=2)
    bench.release("r2", 2, data=data)
    bench.plan("r2")
    bench.run(bench.fetcher())
    assert bench.slots.read_candidate() is not None
    return sha256_hex(data)


@pytest.mark.parametrize("backend", [FakeBackend(runs_on=(CPU,)), open_runtime()])
def test_a_candidate_that_would_fall_back_against_its_contract_is_refused_for_good(
    bench: Bench, backend: Backend
) -> None:
    npu_release(bench)
    serving = bench.serving(backend)
    event = serving.poll()
    assert event is not None
    assert (event.event, event.release_id) == ("refused", "r2")
    assert event.reason.startswith(f"{RefuseReason.CPU_FALLBACK}: ")
    assert serving.name == "v1"
    assert serving.poll() is None
    assert read_model_status(bench.state).blocked["r2"] == event.reason
    assert bench.run(bench.fetcher())[-1].outcome == "idle"
    assert bench.slots.read_candidate() is None
    assert bench.serving(backend).name == "v1"


def test_a_candidate_on_its_npu_serves_and_says_so(bench: Bench) -> None:
    npu_release(bench)
    backend = FakeBackend(runs_on=(QNN, QNN))
    serving = bench.serving(backend)
    serving.poll()
    assert serving.name == "r2"
    assert serving.placement == PlacementStatement((QNN, CPU), {QNN: 2}, False, "refuse", {QNN: 1.0})
    assert backend.options[-1].providers == (QNN, CPU)


def test_the_vehicles_choice_of_providers_reaches_the_runtime_and_what_it_got_is_told(bench: Bench) -> None:
    digest = npu_release(bench, cpu_fallback="allow")
    backend = FakeBackend(runs_on=(CPU,))
    serving = bench.serving(backend, providers=(CPU, QNN))
    serving.poll()
    assert serving.digest == digest
    assert backend.options[-1].providers == (CPU, QNN)
    chosen = bench.serving(open_runtime(), providers=(CPU,)).placement
    assert chosen is not None
    assert (chosen.wanted, set(chosen.nodes), chosen.is_fallen_back) == ((CPU,), {CPU}, False)
    missed = bench.serving(open_runtime(), providers=(QNN, CPU)).placement
    assert missed is not None
    assert (missed.wanted, set(missed.nodes), missed.is_fallen_back) == ((QNN, CPU), {CPU}, True)
    assert missed.cpu_fallback == "allow"


@pytest.mark.parametrize(("runs_on", "on_cpu"), [((QNN, QNN, QNN, CPU), 0.25), ((CPU,), 1.0)])
def test_a_fall_back_stands_in_status_telemetry_and_every_prediction(
    bench: Bench, runs_on: tuple[str, ...], on_cpu: float
) -> None:
    npu_release(bench, cpu_fallback="allow")
    serving = bench.serving(FakeBackend(runs_on=runs_on))
    before = serving.predict([GREY]).predictions[0]
    assert CPU_SCORE not in before.scores and not serving.health().is_fallen_back
    serving.poll()
    assert serving.placement is not None and serving.placement.is_fallen_back
    assert serving.health().is_fallen_back
    assert serving.health().work == serving.placement.work
    assert serving.placement.cpu_ratio == pytest.approx(on_cpu)
    said = to_wire(
        serving.predict([GREY]).predictions[0],
        serving.predict([GREY]).predictions[0].scores,
        role_name="serving",
        model_name=serving.name,
        model_digest=serving.digest,
    )
    assert said.scores[CPU_SCORE] == pytest.approx(on_cpu)


def test_a_vehicle_that_refuses_a_fall_back_keeps_its_model_whatever_the_contract_allows(
    bench: Bench,
) -> None:
    npu_release(bench, cpu_fallback="allow")
    serving = bench.serving(FakeBackend(runs_on=(CPU,)), cpu_fallback="refuse")
    event = serving.poll()
    assert event is not None and event.event == "refused"
    assert event.reason.startswith(f"{RefuseReason.CPU_FALLBACK}: {QNN} was wanted first")
    assert serving.name == "v1"


def test_the_setting_of_a_fall_back_has_two_values() -> None:
    with pytest.raises(MisconfiguredError, match="cpu_fallback is 'maybe'"):
        load_settings(ServingSettings, {"cpu_fallback": "maybe"}, env={})


def test_a_vehicle_whose_providers_its_only_model_does_not_allow_says_so(bench: Bench) -> None:
    with pytest.raises(CorruptError, match=r"no_allowed_provider|serving.model.providers"):
        bench.serving(providers=(QNN,))


@pytest.mark.parametrize("names", [("CPU",), ("CPUExecutionProvider", "CPUExecutionProvider"), ("",)])
def test_a_name_that_is_no_provider_is_refused_by_name(names: tuple[str, ...]) -> None:
    with pytest.raises(MisconfiguredError, match="providers"):
        load_settings(ServingSettings, {"providers": list(names)}, env={})
