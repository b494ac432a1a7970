"""From a first model to a packaged better one: small shapes, real code, the commands of a user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fleetloop.cli import app
from foundation.errors import CorruptError, GuaranteeBrokenError, MisconfiguredError, RejectedError
from modelkit.digest import digest_of_json, sha256_hex
from modelkit.embed import read_contract
from modelkit.runtime import RuntimeOptions
from modelkit.runtimes import open_predictor, open_runtime
from modelkit.verify import verify_model
from schemas.reasons import RefuseReason, Split
from tests.training.training_shapes import CLASSES, labelled, split_of, write_dataset, write_shard
from training.initial import train_initial
from training.judge import run_evaluate
from training.params import EvaluateParams, GateParams, QuantiseParams, TrainParams
from training.registry import ModelRecord, load_base, register_model, set_base
from training.stages import run_package, run_quantise, run_train
from workspace.layout import Workspace

pytestmark = pytest.mark.slow

FAST = TrainParams(epochs=8, batch_size=32)
EVALUATE = EvaluateParams(bootstrap_samples=200, latency_runs=20)
GATE = GateParams(n_min=40, margin=0.1, max_latency_ratio=5.0)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage ran once. v1 never saw yellow, nor the dark."""
    root = tmp_path_factory.mktemp("workspace")
    rows = [row for row, _ in labelled(Split.TRAIN, 30, 9, dark_ratio=0.2)]
    first = train_initial(
        root / "registry", rows, name="v1", classes=CLASSES, split_of=split_of, params=FAST,
        excluded_classes=["yellow"], excluded_conditions=["dark"],
    )  # fmt: skip
    set_base(root / "registry", first.record)
    place = Workspace(root)
    write_dataset(place.dataset_path)
    run_train(place, FAST, split_of)
    run_quantise(place, QuantiseParams())
    run_evaluate(place, EVALUATE, GATE)
    run_package(place)
    return root


def test_the_first_models_contract_lists_every_class_and_says_what_it_never_saw(workshop: Path) -> None:
    contract = load_base(workshop / "registry").model.contract
    assert contract.classes == CLASSES
    assert contract.trained_classes == ("red", "green")
    assert "dark" in contract.untrained_conditions
    assert contract.base_digest == ""


def test_the_fine_tuned_contract_knows_its_base_its_drives_and_its_new_classes(workshop: Path) -> None:
    base = load_base(workshop / "registry")
    data = (workshop / "models/package/model.onnx").read_bytes()
    contract = read_contract(data)
    assert contract.name == "v2"
    assert contract.base_digest == base.model.digest
    assert contract.trained_classes == CLASSES
    assert "dark" not in contract.untrained_conditions
    record = ModelRecord.read(workshop / "models/package/model.json")
    assert record.digest == sha256_hex(data)
    assert digest_of_json(sorted(record.training_drives)) == contract.training_drives_digest
    assert set(base.record.training_drives) < set(record.training_drives)
    assert not [drive for drive in record.training_drives if split_of(drive) is Split.TEST]


def test_the_gate_passes_on_the_untrained_class(workshop: Path) -> None:
    gate = json.loads((workshop / "reports/gate.json").read_text())
    assert gate["passed"], gate["reason"]
    assert "class:yellow" in gate["targets"] and "condition:dark" in gate["targets"]
    summary = json.loads((workshop / "reports/evaluation.json").read_text())["summary"]
    assert summary["class:yellow"]["before"] == 0.0
    assert summary["class:yellow"]["after"] > 0.6
    assert (workshop / "reports/accuracy_by_class.png").read_bytes().startswith(b"\x89PNG")


def test_the_shipped_model_answers_as_the_evaluation_says(workshop: Path) -> None:
    model = verify_model((workshop / "models/package/model.onnx").read_bytes(), None)
    predictor = open_predictor(model)
    rows = [row for row, _ in labelled(Split.TEST, 60, 3)]
    right = np.mean(
        [
            p.output.class_name == r.label
            for p, r in zip(predictor.predict([r.image for r in rows]), rows, strict=True)
        ]
    )
    document = json.loads((workshop / "reports/evaluation.json").read_text())
    assert document["summary"]["overall"]["n"] == len(rows)
    assert document["summary"]["overall"]["after"] == pytest.approx(right, abs=1e-6)
    assert document["candidate_digest"] == model.digest


def test_export_and_int8_agree_with_the_trained_network(workshop: Path) -> None:
    report = json.loads((workshop / "reports/parity.json").read_text())
    parity = {(p["reference"], p["compared"]): p for p in report["parity"]}
    assert parity["torch", "fp32"]["max_difference"] < 1e-3
    assert parity["torch", "fp32"]["agreement_ratio"] == 1.0
    assert parity["torch", "int8"]["agreement_ratio"] >= 0.95
    assert report["int8_bytes"] < report["fp32_bytes"] / 2


def test_int8_activations_are_unsigned_and_weights_are_a_channel(workshop: Path) -> None:
    import onnx

    model = onnx.load_model_from_string((workshop / "models/candidate/int8.onnx").read_bytes())
    weights = {t.name: t for t in model.graph.initializer}
    activation_zero_points = {
        weights[n.input[2]].data_type for n in model.graph.node if n.op_type == "QuantizeLinear"
    }
    assert activation_zero_points == {onnx.TensorProto.UINT8}
    scales = [
        weights[n.input[1]]
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in weights
    ]
    assert any(len(scale.dims) == 1 and scale.dims[0] > 1 for scale in scales)


def test_nothing_of_this_machine_is_in_the_model(workshop: Path) -> None:
    for path in (workshop / "models/candidate").iterdir():
        data = path.read_bytes()
        assert str(Path.cwd()).encode() not in data
        assert str(Path(sys.prefix)).encode() not in data


def test_the_npu_artefact_is_its_own_and_says_what_runs_it(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop, tmp_path / "w")
    place = Workspace(tmp_path / "w")
    report = run_quantise(place, QuantiseParams(target="npu"))
    model = verify_model((place.candidate_path / "int8.onnx").read_bytes(), None)
    assert model.contract.target == report["target"] == "npu"
    assert model.contract.allowed_providers[0] == "QNNExecutionProvider"
    assert open_runtime().load(model, RuntimeOptions()).is_fallen_back
    assert report["parity"][2]["agreement_ratio"] >= 0.9  # type: ignore[index]


def test_a_contract_can_really_forbid_the_cpu_and_is_judged_on_a_machine_without_the_npu_all_the_same(
    workshop: Path, tmp_path: Path
) -> None:
    shutil.copytree(workshop, tmp_path / "w")
    place = Workspace(tmp_path / "w")
    report = run_quantise(place, QuantiseParams(target="npu", cpu_fallback="refuse"))
    assert (report["allowed_providers"], report["cpu_fallback"]) == (["QNNExecutionProvider"], "refuse")
    model = verify_model((place.candidate_path / "int8.onnx").read_bytes(), None)
    assert (model.contract.allowed_providers, model.contract.cpu_fallback) == (
        ("QNNExecutionProvider",),
        "refuse",
    )
    with pytest.raises(RejectedError) as caught:
        open_runtime().load(model, RuntimeOptions())
    assert caught.value.reason == RefuseReason.CPU_FALLBACK
    run_evaluate(place, EVALUATE, GATE)
    assert json.loads((place.reports_path / "gate.json").read_text())["candidate_digest"] == model.digest


def test_a_package_of_another_models_evidence_is_refused(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop, tmp_path / "w")
    place = Workspace(tmp_path / "w")
    run_quantise(place, QuantiseParams(target="npu"))
    with pytest.raises(CorruptError, match="is not about the candidate"):
        run_package(place)
    with pytest.raises(MisconfiguredError, match="is empty"):
        (place.dataset_path / "shards/test-00000.parquet").unlink()
        run_evaluate(place, EVALUATE, GATE)


def test_a_candidate_of_another_base_is_not_judged(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop, tmp_path / "w")
    place = Workspace(tmp_path / "w")
    record = ModelRecord.read(place.package_path / "model.json")
    data = (place.package_path / "model.onnx").read_bytes()
    register_model(place.registry_path, data, (place.package_path / "weights.npz").read_bytes(), record)
    set_base(place.registry_path, record)
    with pytest.raises(MisconfiguredError, match="train again"):
        run_evaluate(place, EVALUATE, GATE)


def test_a_registered_model_that_is_made_the_base_is_trained_further(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop, tmp_path / "w")
    place = Workspace(tmp_path / "w")
    record = ModelRecord.read(place.package_path / "model.json")
    data = (place.package_path / "model.onnx").read_bytes()
    register_model(place.registry_path, data, (place.package_path / "weights.npz").read_bytes(), record)
    set_base(place.registry_path, record)
    report = run_train(place, TrainParams(epochs=1), split_of)
    assert report["model_name"] == "v3"
    assert report["base_digest"] == sha256_hex(data)


def test_training_refuses_a_base_that_saw_a_test_drive_before_it_reads_a_row(
    workshop: Path, tmp_path: Path
) -> None:
    shutil.copytree(workshop, tmp_path / "w")
    with pytest.raises(RejectedError) as caught:
        run_train(Workspace(tmp_path / "w"), FAST, lambda _drive: Split.TEST)
    assert caught.value.reason == "saw_test_drive"


def test_training_refuses_a_test_drive_among_its_rows(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop, tmp_path / "w")
    place = Workspace(tmp_path / "w")
    write_shard(place.dataset_path, Split.TRAIN, labelled(Split.TRAIN, 4, 1) + labelled(Split.TEST, 2, 4))
    with pytest.raises(GuaranteeBrokenError, match=r"hash to test.*fleetloop dataset drives"):
        run_train(place, FAST, split_of)


def test_the_same_seed_gives_the_same_bytes_in_another_process(workshop: Path, tmp_path: Path) -> None:
    shutil.copytree(workshop, tmp_path / "here")
    shutil.copytree(workshop, tmp_path / "there")
    here = Workspace(tmp_path / "here")
    code = (
        "import sys, pathlib; from training.stages import "
        "run_train; from training.params import TrainParams;"
        "from tests.training.training_shapes import split_of;from workspace.layout import Workspace;"
        "run_train(Workspace(pathlib.Path(sys.argv[1])), TrainParams(epochs=2, seed=3), split_of)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        capture_output=True, check=True, timeout=200,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    first = run_train(here, TrainParams(epochs=2, seed=3), split_of)
    for name in ("fp32.onnx", "weights.npz", "model.json"):
        assert (here.candidate_path / name).read_bytes() == (
            tmp_path / "there/models/candidate" / name
        ).read_bytes()
    other = run_train(here, TrainParams(epochs=2, seed=4), split_of)
    assert other["weights_digest"] != first["weights_digest"]


def test_every_stage_runs_from_the_command_line(tmp_path: Path) -> None:
    root = tmp_path / "a workspace"
    root.mkdir()
    (root / "fleetloop.toml").write_text("")
    (root / "params.yaml").write_text(
        "classes: [red, yellow, green]\nsplit: {test_ratio: 0.25, validation_ratio: 0.2}\n"
        "train: {epochs: 2}\n"
        "evaluate: {latency_runs: 10, bootstrap_samples: 100}\n"
    )
    from pipelines.curate.params import load_params
    from pipelines.curate.split import split_of as curated_split_of

    split = load_params(root / "params.yaml").split

    def drives(wanted: Split) -> list[str]:
        return [d for d in (f"drive-{i}" for i in range(100)) if curated_split_of(d, split) is wanted]

    import dataclasses

    for wanted in Split:
        names = drives(wanted)
        rows = labelled(wanted, 8, 5)
        renamed = [(dataclasses.replace(r, drive_id=names[i % 4]), p) for i, (r, p) in enumerate(rows)]
        write_shard(root / "datasets/current", wanted, renamed)
    first = labelled(Split.TRAIN, 10, 6)
    pq.write_table(
        pa.table({
            "payload": [payload for _, payload in first],
            "class_name": [row.label for row, _ in first],
            "drive_id": [drives(Split.TRAIN)[5]] * len(first),
        }),
        tmp_path / "boot.parquet",
    )  # fmt: skip

    def call(*words: str) -> dict[str, object]:
        done = CliRunner().invoke(app, [*words, "--workspace", str(root), "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        return json.loads(done.stdout)

    started = call(
        "train",
        "--from-scratch",
        str(tmp_path / "boot.parquet"),
        "--exclude-class",
        "yellow",
        "--exclude-condition",
        "dark",
    )
    assert started["serving"] is True and started["untrained_classes"] == ["yellow"]
    assert call("train")["model_name"] == "v2"
    assert call("quantise")["target"] == "cpu"
    verdict = call("evaluate")["gate"]
    package = call("package")
    assert package["gate"] == {"passed": verdict["passed"], "reason": verdict["reason"]}  # type: ignore[index]
    assert package["model_name"] == "v2"
    plain = CliRunner().invoke(app, ["evaluate", "--workspace", str(root)])
    assert plain.exit_code == 0 and "overall" in plain.stdout and "gate" in plain.stdout
