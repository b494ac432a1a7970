"""What every runtime promises, on the fake and on each that is installed: same pictures, same answers, same refusals."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.artefacts import check_artefact
from modelkit.bundle import read_bundle
from modelkit.devices import check_ports
from modelkit.litert_backend import Compiled
from modelkit.placement import CPU_DEVICES, require_claim, state_placement
from modelkit.runtime import LoadedModel, RuntimeOptions
from modelkit.runtimes import RUNTIMES, open_predictor, open_runtime
from modelkit.specs import ExtraInput, InputSpec
from modelkit.verify import VerifiedModel, shape_of
from modelkit.versions import Requirement
from schemas.reasons import RefuseReason
from tests.fakes.artefacts import artefact_of, contract_of, skip_without, write_artefact, write_openvino
from tests.fakes.models import tiny_contract, tiny_proto

TOLERANCE = 1e-5
"""Of a logit or an embedding between two runtimes on the CPU in float32; logits are about 3."""
ALL = ("fake", "onnx", "openvino", "litert")
REAL = ALL[1:]
OTHERS = ALL[2:]


@pytest.fixture(scope="module")
def models() -> dict[str, VerifiedModel]:
    return {}


@pytest.fixture
def model(
    request: pytest.FixtureRequest,
    models: dict[str, VerifiedModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> VerifiedModel:
    runtime: str = request.param
    skip_without(runtime)
    if runtime not in models:
        models[runtime] = artefact_of(runtime, tmp_path_factory.mktemp(runtime))
    return models[runtime]


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (30 + 7 * i, 40, 3)).astype(np.uint8) for i in range(count)]


def load(model: VerifiedModel, **changed: object) -> LoadedModel:
    contract = dataclasses.replace(model.contract, **changed)  # type: ignore[arg-type]
    return open_runtime().load(dataclasses.replace(model, contract=contract), RuntimeOptions())


def on_runtimes(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("model", names, indirect=True)


@on_runtimes(*OTHERS)
def test_the_same_pictures_get_the_same_answers_on_every_runtime(model: VerifiedModel) -> None:
    reference = open_predictor(artefact_of("onnx", Path()))
    found = open_predictor(model).predict(pictures(5))
    for one, other in zip(found, reference.predict(pictures(5)), strict=True):
        assert one.output.class_name == other.output.class_name
        assert np.allclose(one.embedding, other.embedding, atol=TOLERANCE)
        assert np.allclose(one.output.probabilities, other.output.probabilities, atol=TOLERANCE)


@on_runtimes(*REAL)
def test_other_weights_give_other_answers(model: VerifiedModel, tmp_path: Path) -> None:
    runtime = next(name for name in REAL if contract_of(name) == model.contract)
    other = open_predictor(artefact_of(runtime, tmp_path, seed=1)).predict(pictures(1))
    assert not np.allclose(
        open_predictor(model).predict(pictures(1))[0].embedding, other[0].embedding, atol=0.01
    )


@on_runtimes(*REAL)
def test_answers_do_not_depend_on_what_ran_before_or_beside_them(model: VerifiedModel) -> None:
    predictor = open_predictor(model)
    together = predictor.predict(pictures(5))
    for picture, one in zip(reversed(pictures(5)), reversed(together), strict=True):
        alone = predictor.predict([picture])[0]
        assert np.allclose(alone.embedding, one.embedding, atol=TOLERANCE)


@on_runtimes(*REAL)
def test_an_answer_stays_what_it_was_when_the_model_runs_again(model: VerifiedModel) -> None:
    loaded, spec = load(model), model.contract.input
    shape = (1, spec.height, spec.width, 3) if spec.layout == "NHWC" else (1, 3, spec.height, spec.width)
    first = loaded.run({"image": np.ones(shape, np.float32)})
    kept = {role: array.copy() for role, array in first.items()}
    loaded.run({"image": np.zeros(shape, np.float32)})
    assert all(np.array_equal(first[role], kept[role]) for role in kept)


@on_runtimes(*ALL)
def test_each_runtime_says_where_every_node_runs_and_all_of_the_work_is_accounted_for(
    model: VerifiedModel,
) -> None:
    loaded = load(model)
    found = state_placement(loaded, model.contract.allowed_providers)
    assert len(loaded.placement()) >= 2
    assert {node.provider for node in loaded.placement()} == {loaded.provider} <= CPU_DEVICES
    assert found.work == {loaded.provider: 1.0}
    assert (loaded.is_fallen_back, found.is_fallen_back, found.cpu_ratio) == (False, False, 1.0)
    require_claim(found, loaded.provider)


ACCELERATOR = {"onnx": "QNNExecutionProvider", "openvino": "openvino-npu", "litert": "litert-npu"}


@on_runtimes(*REAL)
def test_an_accelerator_that_is_not_there_is_never_named_and_the_fall_back_is_flagged_or_refused(
    model: VerifiedModel,
) -> None:
    (cpu,) = model.contract.allowed_providers
    wanted = ACCELERATOR[next(name for name in REAL if contract_of(name) == model.contract)]
    flagged = load(model, allowed_providers=(wanted, cpu))
    found = state_placement(flagged, (wanted, cpu))
    assert (flagged.is_fallen_back, flagged.provider, found.is_fallen_back, found.work) == (
        True,
        cpu,
        True,
        {cpu: 1.0},
    )
    with pytest.raises(MisconfiguredError, match=r"ran 0\.0% of the work"):
        require_claim(found, wanted)
    for providers in ((wanted, cpu), (wanted,)):
        with pytest.raises(RejectedError) as caught:
            load(model, allowed_providers=providers, cpu_fallback="refuse")
        assert caught.value.reason == RefuseReason.CPU_FALLBACK
    only = load(model, allowed_providers=(wanted,))
    assert (only.provider, only.is_fallen_back) == (cpu, True)


@on_runtimes(*ALL)
def test_what_is_not_the_contracts_input_is_refused(model: VerifiedModel) -> None:
    loaded = load(model)
    for batch in (
        np.zeros((1, 3, 31, 32), np.float32),
        np.zeros((1, 3, 32, 32), np.float64),
        np.zeros((0, 3), np.float32),
    ):
        with pytest.raises(RejectedError) as caught:
            loaded.run({"image": batch})
        assert caught.value.reason == RefuseReason.WRONG_IO
    with pytest.raises(RejectedError, match="no batch"):
        loaded.run({})


@on_runtimes(*OTHERS)
@pytest.mark.parametrize(
    "changed",
    [
        {"outputs": {"logits": "scores"}, "embedding_size": 0},
        {"input": InputSpec(name="pixels")},
        {"input": InputSpec(height=48)},
        {"input": InputSpec(dtype="float16")},
    ],
)
def test_a_contract_that_is_not_the_files_is_refused_at_the_load(
    model: VerifiedModel, changed: dict[str, object]
) -> None:
    spec = changed.get("input")
    if isinstance(spec, InputSpec):
        changed = {
            "input": dataclasses.replace(
                spec, layout=model.contract.input.layout, batch=model.contract.input.batch
            )
        }
    with pytest.raises(RejectedError) as caught:
        load(model, **changed)
    assert caught.value.reason == RefuseReason.WRONG_IO


@on_runtimes(*REAL)
def test_a_provider_of_another_runtime_is_refused_by_name(model: VerifiedModel) -> None:
    with pytest.raises(MisconfiguredError, match="FakeExecutionProvider"):
        open_runtime().load(model, RuntimeOptions(providers=("FakeExecutionProvider",)))


@pytest.mark.parametrize("kind", sorted(RUNTIMES))
def test_a_runtime_loads_nothing_but_a_verified_model(kind: str) -> None:
    with pytest.raises(MisconfiguredError, match="VerifiedModel, not bytes"):
        RUNTIMES[kind]().load(b"", RuntimeOptions())  # type: ignore[arg-type]
    with pytest.raises(MisconfiguredError, match="VerifiedModel, not bytes"):
        open_runtime().load(b"", RuntimeOptions())  # type: ignore[arg-type]


@on_runtimes(*OTHERS)
def test_a_file_that_is_cut_or_scrambled_inside_is_refused_and_ends_nothing(model: VerifiedModel) -> None:
    half = len(model.data) // 2
    rng = np.random.default_rng(5)
    scrambled = model.data[:half] + rng.bytes(len(model.data) - half)
    for data in (model.data[:half], scrambled):
        with pytest.raises(RejectedError) as caught:
            open_runtime().load(dataclasses.replace(model, data=data), RuntimeOptions())
        assert caught.value.reason == RefuseReason.LOAD_FAILED


@on_runtimes(*REAL)
def test_a_runtime_that_is_absent_or_of_another_version_is_named_with_both_versions(
    model: VerifiedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lambda _name: "0.9.1")
    with pytest.raises(
        MisconfiguredError, match=r"0\.9\.1 is installed; .* >= \d+\.\d+, < \d+\.\d+ is needed \(fleetloop\["
    ):
        load(model)
    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(MisconfiguredError, match=r"is not installed; .* >= \d+\.\d+, < \d+\.\d+ is needed"):
        load(model)


@pytest.mark.parametrize(
    ("version", "is_fine"),
    [
        ("2.3", True),
        ("2.3.0", True),
        ("2.3.7rc1", True),
        ("2.4.0", False),
        ("2.2.99", False),
        ("10.0", False),
        ("x", False),
    ],
)
def test_a_range_of_versions_is_compared_as_numbers(
    version: str, is_fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: version)
    requirement = Requirement("thing", "2.3", "2.4", "extra")
    if is_fine:
        assert requirement.installed() == version
        return
    with pytest.raises(MisconfiguredError, match="thing"):
        requirement.installed()


# Traps that these runtimes set.


def test_openvino_is_never_asked_to_choose_a_device() -> None:
    # AUTO:NPU,CPU answers (CPU) without an error where there is no NPU.
    skip_without("openvino")
    import openvino

    from modelkit.openvino_backend import DEVICES

    assert set(DEVICES.values()).isdisjoint({"AUTO", "MULTI", "HETERO"})
    network = openvino.Core().read_model(tiny_proto(tiny_contract()).SerializeToString())
    assert openvino.Core().compile_model(network, "AUTO:NPU,CPU").get_property("EXECUTION_DEVICES") == [
        "(CPU)"
    ]


def test_litert_calls_a_model_on_the_cpu_fully_accelerated_and_is_not_believed() -> None:
    skip_without("litert")
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator

    from tests.fakes.tflite import tiny_tflite

    data = tiny_tflite(contract_of("litert"))
    both = CompiledModel.from_buffer(data, HardwareAccelerator.NPU | HardwareAccelerator.CPU)
    assert both.is_fully_accelerated(), "the trap is gone: the backend may ask again"
    with pytest.raises(RuntimeError, match="not accelerated"):
        Compiled(data, "NPU")


def test_litert_on_an_accelerator_answers_like_its_interpreter(tmp_path: Path) -> None:
    # The code of an NPU or a GPU, on the one accelerator that is here.
    skip_without("litert")
    model = artefact_of("litert", tmp_path)
    batch = np.random.default_rng(3).random((1, 32, 32, 3), dtype=np.float32)
    found = Compiled(model.data, "CPU").run({"image": batch})
    expected = open_runtime().load(model, RuntimeOptions()).run({"image": batch})
    assert np.allclose(found["logits"], expected["logits"], atol=TOLERANCE)
    assert np.allclose(found["embedding"], expected["embedding"], atol=TOLERANCE)


# Files of other runtimes, before any runtime reads them.


@pytest.fixture(scope="module")
def ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without("openvino")
    folder = tmp_path_factory.mktemp("ir")
    write_artefact("openvino", folder, contract_of("openvino"))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "reason", "words"),
    [
        (b'offset="16" size="1536"', b'offset="999999" size="1536"', "external_data", "999999"),
        (b'offset="16" size="1536"', b'offset="16" size="1532"', "bad_tensor", "1536"),
        (b'offset="16"', b'offset="-16"', "bad_artefact", "-16"),
        (b'<net ', b'<!DOCTYPE net [<!ENTITY a "b">]><net ', "bad_artefact", "document type"),
        (b'version="11"', b'version="99"', "bad_artefact", "99"),
        (b'type="AvgPool" version="opset1"', b'type="AvgPool" version="mine"', "foreign_domain", "mine"),
        (b'type="Result"', b'type="Relu"', "bad_artefact", "0 outputs"),
        (b"</net>", b"", "bad_artefact", "no element"),
    ],
)  # fmt: skip
def test_a_hostile_openvino_file_is_refused_before_openvino_sees_it(
    ir: Path, old: bytes, new: bytes, reason: str, words: str
) -> None:
    data = (ir / "model.xml").read_bytes()
    assert old in data
    with pytest.raises(RejectedError, match=words) as caught:
        check_artefact("openvino", data.replace(old, new), (ir / "model.bin").stat().st_size)
    assert caught.value.reason == reason


@pytest.mark.parametrize("kind", ["tflite", "pte"])
@pytest.mark.parametrize(
    "data", [b"", b"TFL3", b"\x18\0\0\0ONNX" + bytes(32), b"\xff\xff\xff\0TFL3" + bytes(32)]
)
def test_bytes_that_are_no_file_of_their_kind_are_refused(kind: str, data: bytes) -> None:
    with pytest.raises(RejectedError) as caught:
        check_artefact(kind, data, 0)
    assert caught.value.reason == RefuseReason.BAD_ARTEFACT


def test_the_contract_and_the_weights_belong_to_the_digest_of_the_bundle(ir: Path) -> None:
    bundle = read_bundle(ir)
    assert [(file.path, file.kind) for file in bundle.files] == [
        ("contract.json", "contract"), ("model.bin", "openvino_weights"), ("model.xml", "openvino"),
    ]  # fmt: skip
    (ir / "contract.json").write_text(contract_of("openvino", "other").to_json(), "utf-8")
    assert read_bundle(ir).digest != bundle.digest
    with pytest.raises(RejectedError) as caught:
        bundle.verified()
    assert caught.value.reason in (RefuseReason.WRONG_HASH, RefuseReason.BAD_BUNDLE)


@pytest.mark.parametrize("missing", ["contract.json", "model.bin"])
def test_a_bundle_without_its_contract_or_its_weights_is_refused_by_kind(
    ir: Path, tmp_path: Path, missing: str
) -> None:
    for path in ir.iterdir():
        if path.name != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(RejectedError, match=r"0 files of kind (contract|openvino_weights)") as caught:
        read_bundle(tmp_path)
    assert caught.value.reason == RefuseReason.BAD_BUNDLE


def test_weights_that_change_after_the_list_was_made_are_refused(tmp_path: Path) -> None:
    skip_without("openvino")
    write_openvino(tmp_path, tiny_proto(tiny_contract()).SerializeToString())
    (tmp_path / "contract.json").write_text(contract_of("openvino").to_json(), "utf-8")
    bundle = read_bundle(tmp_path)
    data = bytearray((tmp_path / "model.bin").read_bytes())
    data[100] ^= 1
    (tmp_path / "model.bin").write_bytes(bytes(data))
    with pytest.raises(RejectedError) as caught:
        bundle.verified()
    assert caught.value.reason == RefuseReason.WRONG_HASH


def test_further_inputs_are_compared_as_the_contract_says_them() -> None:
    contract = dataclasses.replace(
        tiny_contract(),
        extra_inputs=(
            ExtraInput("limit", "constant", "float32", (), (0.5,)),
            ExtraInput("scale", "scale"),
        ),
    )
    spec = contract.input
    picture = (spec.name, spec.dtype, (spec.batch or -1, *shape_of(spec)))
    scale, limit = ("scale", "float32", (spec.batch or -1, 2)), ("limit", "float32", ())
    outputs = list(contract.outputs.values())
    check_ports(contract, [picture, scale, limit], outputs)
    for wrong in (
        [picture, scale],
        [picture, scale, ("limit", "float32", (3,))],
        [picture, limit, ("scale", "float32", (2,))],
    ):
        with pytest.raises(RejectedError) as told:
            check_ports(contract, wrong, outputs)
        assert told.value.reason == RefuseReason.WRONG_IO
