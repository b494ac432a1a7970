"""A detector through every stage of training: first model, fine-tuning, export, int8, mAP by slice, gate, package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foundation.errors import CorruptError
from modelkit.embed import read_contract
from modelkit.runtimes import open_predictor
from modelkit.tasks import TASKS
from modelkit.verify import verify_model
from schemas.reasons import Split
from tests.training.training_boxes import CLASSES, LIKE, labelled, write_shard
from tests.training.training_shapes import split_of
from training.evaluation import answer, evaluate
from training.initial import train_initial
from training.judge import run_evaluate
from training.params import EvaluateParams, GateParams, QuantiseParams, TrainParams
from training.registry import set_base
from training.rows import iter_rows
from training.stages import run_package, run_quantise, run_train
from workspace.layout import Workspace

pytestmark = pytest.mark.slow

FAST = TrainParams(epochs=14, batch_size=32, learning_rate=5e-3)
TEST_ROWS = 80


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage ran once. v1 never saw a person."""
    root = tmp_path_factory.mktemp("workspace")
    rows = [row for row, _ in labelled(Split.TRAIN, 160, 9)]
    first = train_initial(
        root / "registry", rows, name="v1", classes=CLASSES, split_of=split_of, params=FAST,
        excluded_classes=["person"], like=LIKE,
    )  # fmt: skip
    set_base(root / "registry", first.record)
    place = Workspace(root)
    for split, count, seed in ((Split.TRAIN, 200, 1), (Split.VALIDATION, 32, 2), (Split.TEST, TEST_ROWS, 3)):
        write_shard(place.dataset_path, split, labelled(split, count, seed))
    (place.dataset_path / "manifest.json").write_text('{"digest": "' + "d" * 64 + '"}\n')
    run_train(place, FAST, split_of)
    run_quantise(place, QuantiseParams())
    run_evaluate(
        place,
        EvaluateParams(bootstrap_samples=200, latency_runs=20, cluster="drive"),
        GateParams(n_min=20, margin=0.2, max_latency_ratio=5.0, min_parity_agreement=0.9),
    )
    run_package(place)
    return root


def test_a_detector_learns_a_class_that_its_base_never_saw_and_passes_the_gate(workshop: Path) -> None:
    gate = json.loads((workshop / "reports/gate.json").read_text())
    assert gate["passed"], gate["reason"]
    assert "class:person" in gate["targets"]
    summary = json.loads((workshop / "reports/evaluation.json").read_text())["summary"]
    assert summary["class:person"]["before"] == 0.0
    assert summary["class:person"]["after"] > 0.6


def test_the_packaged_detector_is_of_the_same_task_and_names_what_it_saw(workshop: Path) -> None:
    contract = read_contract((workshop / "models/package/model.onnx").read_bytes())
    assert (contract.name, contract.task, contract.trained_classes) == ("v2", "detection", CLASSES)
    assert contract.head == LIKE.head


def test_the_int8_detector_finds_the_boxes_that_the_trained_network_finds(workshop: Path) -> None:
    report = json.loads((workshop / "reports/parity.json").read_text())
    parity = {(p["reference"], p["compared"]): p for p in report["parity"]}
    assert parity["torch", "fp32"]["agreement_ratio"] > 0.999
    assert parity["torch", "int8"]["agreement_ratio"] >= 0.9


def test_the_shipped_detectors_map_is_what_the_evaluation_says(workshop: Path) -> None:
    model = verify_model((workshop / "models/package/model.onnx").read_bytes(), None)
    rows = [row for row, _ in labelled(Split.TEST, TEST_ROWS, 3)]
    said = [p.output for p in open_predictor(model).predict([row.image for row in rows])]
    judged = TASKS["detection"].judge([row.label for row in rows], said, CLASSES)
    document = json.loads((workshop / "reports/evaluation.json").read_text())
    overall = document["summary"]["overall"]
    assert overall["after"] == pytest.approx(judged.values(None, np.ones((1, TEST_ROWS)))[0], abs=1e-6)
    assert overall["n"] == sum(len(row.label) for row in rows)
    assert document["candidate_digest"] == model.digest


def test_intervals_of_map_are_of_whole_drives(workshop: Path) -> None:
    place = Workspace(workshop)
    predictor = open_predictor(verify_model((workshop / "models/package/model.onnx").read_bytes(), None))
    rows = iter_rows(place.dataset_path, Split.TEST, task="detection")
    answers = answer(rows, predictor, predictor, "drive")
    found = evaluate(answers, EvaluateParams(bootstrap_samples=200, cluster="drive")).by_name("overall")
    assert found is not None
    assert found.clusters == TEST_ROWS // 5
    assert (found.difference.low, found.difference.estimate, found.difference.high) == (0.0, 0.0, 0.0)
    assert found.candidate.low <= found.candidate.estimate <= found.candidate.high


def test_a_row_that_nobody_looked_at_is_no_picture_without_objects(tmp_path: Path) -> None:
    write_shard(tmp_path, Split.TRAIN, labelled(Split.TRAIN, 8, 1))
    assert () in [row.label for part in iter_rows(tmp_path, Split.TRAIN, task="detection") for row in part]
    path = tmp_path / "shards/train-00000.parquet"
    table = pq.read_table(path)
    nobody = pa.array([None] * len(table), table.schema.field("boxes").type)
    pq.write_table(table.set_column(table.schema.get_field_index("boxes"), "boxes", nobody), path)
    with pytest.raises(CorruptError, match="no label of detection"):
        list(iter_rows(tmp_path, Split.TRAIN, task="detection"))
