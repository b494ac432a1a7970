"""Rows, weights, records and parameters: what training refuses to start from."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import modelkit.images
import modelkit.prepare
import training.fit
import training.quantise
import training.rows
from foundation.errors import CorruptError, GuaranteeBrokenError, MisconfiguredError, RejectedError
from modelkit.digest import digest_of_json, sha256_hex
from modelkit.prepare import normalise, preprocess
from schemas.reasons import Split
from tests.fakes.models import tiny_contract, tiny_model
from tests.training.training_shapes import CLASSES, labelled, split_of, write_dataset, write_shard
from training.augment import AugmentParams, augment
from training.params import (
    EvaluateParams,
    GateParams,
    QuantiseParams,
    TrainParams,
)
from training.registry import (
    ModelRecord,
    check_lineage,
    check_training_drives,
    load_base,
    next_name,
    register_model,
    set_base,
)
from training.rows import dataset_digest, drives_of, iter_rows, load_training_set, make_training_set
from training.weights import load_weights, pack_weights, weights_digest
from workspace.params_file import load_classes, load_section

CONTRACT = tiny_contract(CLASSES)


def test_training_prepares_pictures_with_the_vehicles_own_functions() -> None:
    assert training.fit.normalise is modelkit.prepare.normalise
    assert training.quantise.normalise is modelkit.prepare.normalise
    assert training.rows.fit_in is modelkit.prepare.fit_in
    assert training.rows.condition_of is modelkit.images.condition_of


def test_what_training_sees_is_what_the_vehicle_feeds_its_model() -> None:
    rows = [row for row, _ in labelled(Split.TRAIN, 4, 0)]
    contract = tiny_contract(CLASSES)
    made = make_training_set(rows, contract)
    assert np.array_equal(
        normalise(made.pixels, contract.preprocessing), preprocess([r.image for r in rows], contract)
    )


def test_a_split_is_read_whole_and_in_order(tmp_path: Path) -> None:
    rows = labelled(Split.TRAIN, 6, 0)
    write_shard(tmp_path, Split.TRAIN, rows)
    found = [row for batch in iter_rows(tmp_path, Split.TRAIN, 5) for row in batch]
    assert [r.payload_sha256 for r in found] == [r.payload_sha256 for r, _ in rows]
    assert drives_of(tmp_path, Split.TRAIN) == tuple(sorted({r.drive_id for r, _ in rows}))
    assert drives_of(tmp_path, Split.TEST) == ()


def test_a_payload_that_is_not_what_its_hash_says_is_corrupt(tmp_path: Path) -> None:
    (row, payload), *rest = labelled(Split.TRAIN, 1, 0)
    path = write_shard(
        tmp_path, Split.TRAIN, [(dataclasses.replace(row, payload_sha256="0" * 64), payload), *rest]
    )
    with pytest.raises(CorruptError, match="not what its hash says") as caught:
        list(iter_rows(tmp_path, Split.TRAIN))
    assert caught.value.path == str(path)


def test_an_unreadable_picture_a_missing_label_and_a_torn_shard_are_corrupt(tmp_path: Path) -> None:
    (row, payload), *_ = labelled(Split.TRAIN, 1, 0)
    junk = b"no picture"
    write_shard(tmp_path, Split.TRAIN, [(dataclasses.replace(row, payload_sha256=sha256_hex(junk)), junk)])
    with pytest.raises(CorruptError, match="unreadable image"):
        list(iter_rows(tmp_path, Split.TRAIN))
    path = write_shard(tmp_path, Split.TRAIN, [(dataclasses.replace(row, label=""), payload)])
    with pytest.raises(CorruptError, match="no label"):
        list(iter_rows(tmp_path, Split.TRAIN))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptError, match="cannot be read as a shard"):
        list(iter_rows(tmp_path, Split.TRAIN))


def test_the_test_split_is_never_handed_to_training(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4)
    with pytest.raises(MisconfiguredError, match="test split"):
        load_training_set(tmp_path, Split.TEST, CONTRACT)


def test_a_class_outside_the_contract_and_a_missing_dataset_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, 4)
    with pytest.raises(
        MisconfiguredError, match=r"the label of \w+: class 'yellow' is not in \['red', 'green'\]"
    ):
        load_training_set(tmp_path, Split.TRAIN, tiny_contract(("red", "green")))
    with pytest.raises(MisconfiguredError, match="no dataset"):
        load_training_set(tmp_path / "none", Split.TRAIN, CONTRACT)
    assert dataset_digest(tmp_path) == "d" * 64
    assert dataset_digest(tmp_path / "none") == ""


@given(st.integers(0, 2**32 - 1))
def test_augmented_pictures_are_repeatable_and_stay_pictures(seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    before = pixels.copy()
    found = augment(pixels, np.random.default_rng(seed))
    assert found.shape == pixels.shape and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 255
    assert np.array_equal(pixels, before)
    assert np.array_equal(found, augment(pixels, np.random.default_rng(seed)))


def test_without_changes_augmentation_is_the_picture_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    nothing = AugmentParams(0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert np.array_equal(augment(pixels, np.random.default_rng(0), nothing), pixels.astype(np.float32))


WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(7, dtype=np.int64)}


def test_weights_survive_the_disk_and_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(pack_weights(WEIGHTS))
    found = load_weights(path, weights_digest(WEIGHTS))
    assert weights_digest(found) == weights_digest(WEIGHTS)
    assert pack_weights(dict(reversed(WEIGHTS.items()))) == path.read_bytes()


def test_weights_digest_sees_name_shape_type_and_value() -> None:
    a = WEIGHTS["a"]
    others = [{"c": a}, {"a": a.reshape(3, 2)}, {"a": a.view(np.int32)}, {"a": a + 1}, {"a": a}]
    assert len({weights_digest(o) for o in others}) == 5


def test_a_pickle_damage_a_bomb_and_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    out = io.BytesIO()
    np.savez(out, a=np.array([{"x": 1}], dtype=object))
    good = pack_weights(WEIGHTS)
    for data in (
        out.getvalue(),
        b"",
        b"junk",
        good[: len(good) // 2],
        pack_weights({"a": WEIGHTS["a"]}),
    ):
        path.write_bytes(data)
        with pytest.raises(CorruptError):
            load_weights(path, weights_digest(WEIGHTS))
    path.write_bytes(pack_weights({"a": np.zeros(100_000)}))
    with pytest.raises(CorruptError, match=r"unpacks to 800128 bytes, must be at most 1000"):
        load_weights(path, weights_digest(WEIGHTS), max_bytes=1000)
    with pytest.raises(CorruptError):
        load_weights(tmp_path / "none", weights_digest(WEIGHTS))


class Opens:
    """What a pickle may do to whoever unpacks it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_pickle_among_the_weights_is_never_unpacked(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.savez(out, a=np.array([Opens(tmp_path / "touched")], dtype=object))
    (tmp_path / "w.npz").write_bytes(out.getvalue())
    with pytest.raises(CorruptError):
        load_weights(tmp_path / "w.npz", weights_digest(WEIGHTS))
    assert not (tmp_path / "touched").exists()


def registered(folder: Path, drives: list[str], **changes: object) -> None:
    contract = dataclasses.replace(
        tiny_contract(name="v1"), training_drives_digest=digest_of_json(sorted(drives))
    )
    model = tiny_model(contract)
    record = ModelRecord("v1", sha256_hex(model), weights_digest(WEIGHTS), {}, tuple(drives), "", "")
    register_model(folder, model, pack_weights(WEIGHTS), record)
    set_base(folder, record)
    path = folder / "models" / "v1" / "model.json"
    document = {k: v for k, v in {**json.loads(path.read_text()), **changes}.items() if v is not None}
    path.write_text(json.dumps(document))


def test_a_base_with_a_clean_record_may_be_trained_further(tmp_path: Path) -> None:
    registered(tmp_path, ["train-1", "validation-1"])
    base = load_base(tmp_path)
    check_lineage(base, split_of, ["test-1"])
    assert weights_digest(base.weights()) == base.record.weights_digest


def refused(folder: Path, test_drives: tuple[str, ...] = ()) -> str:
    with pytest.raises(RejectedError) as caught:
        check_lineage(load_base(folder), split_of, test_drives)
    return caught.value.reason


def test_a_base_that_saw_a_test_drive_is_refused(tmp_path: Path) -> None:
    registered(tmp_path, ["train-1", "test-9"])
    assert refused(tmp_path) == "saw_test_drive"


def test_a_base_that_saw_a_drive_of_this_test_split_is_refused(tmp_path: Path) -> None:
    registered(tmp_path, ["train-1"])
    assert refused(tmp_path, ("train-1",)) == "saw_test_drive"


def test_a_base_without_a_record_or_without_its_drives_is_refused(tmp_path: Path) -> None:
    registered(tmp_path, ["train-1"], training_drives=None)
    assert refused(tmp_path) == "no_training_record"
    (tmp_path / "models" / "v1" / "model.json").unlink()
    assert refused(tmp_path) == "no_training_record"


def test_a_record_that_hides_a_drive_is_refused(tmp_path: Path) -> None:
    registered(tmp_path, ["train-1", "test-9"], training_drives=["train-1"])
    assert refused(tmp_path) == "no_training_record"


def test_other_model_bytes_than_base_json_names_are_refused(tmp_path: Path) -> None:
    registered(tmp_path, ["train-1"])
    (tmp_path / "models" / "v1" / "model.onnx").write_bytes(tiny_model(seed=5))
    assert refused(tmp_path) == "wrong_hash"


def test_a_damaged_record_and_a_strange_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="no base model yet"):
        load_base(tmp_path)
    registered(tmp_path, ["train-1"], weights_digest=7)
    with pytest.raises(CorruptError, match="model record"):
        load_base(tmp_path)
    (tmp_path / "base.json").write_text(json.dumps({"name": "../../etc", "digest": "0" * 64}))
    with pytest.raises(CorruptError, match=r"base\.json: model name\.name is .* of the form"):
        load_base(tmp_path)


def test_a_name_is_taken_by_one_model_only(tmp_path: Path) -> None:
    registered(tmp_path, ["train-1"])
    registered(tmp_path, ["train-1"])
    with pytest.raises(RejectedError) as caught:
        registered(tmp_path, ["train-2"])
    assert caught.value.reason == "name_taken"


def test_a_test_drive_in_a_training_shard_breaks_a_guarantee() -> None:
    check_training_drives(["train-1", "validation-3"], split_of)
    with pytest.raises(GuaranteeBrokenError, match="test-4"):
        check_training_drives(["train-1", "test-4"], split_of)


@pytest.mark.parametrize(
    ("old", "new"), [("v1", "v2"), ("traffic-9", "traffic-10"), ("a1b", "a1b-2"), ("v1.9", "v1.10")]
)
def test_the_next_name_raises_the_last_number(old: str, new: str) -> None:
    assert next_name(old) == new


def test_params_have_defaults_and_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "classes: [a, b]\ntrain: {epochs: 3}\nquantise: {target: gpu}\ngate: {margn: 0.1}\nevaluate: 5\n"
    )
    assert load_section(path, "train", TrainParams).epochs == 3
    assert load_classes(path) == ("a", "b")
    for section, cls, words in (
        ("quantise", QuantiseParams, "gpu"),
        ("gate", GateParams, "margn"),
        ("evaluate", EvaluateParams, "mapping"),
    ):
        with pytest.raises(MisconfiguredError, match=words):
            load_section(path, section, cls)
    path.write_text("train: {epochs: 0}\ngate: {target_slices: [class:b]}\n")
    with pytest.raises(MisconfiguredError, match="epochs"):
        load_section(path, "train", TrainParams)
    assert load_section(path, "gate", GateParams).target_slices == ("class:b",)
    with pytest.raises(MisconfiguredError, match="classes"):
        load_classes(path, at_least=2)
    for text, words in (
        ("allowed_providers: [NPU]", "'NPU'"),
        ("cpu_fallback: perhaps", "perhaps"),
        (
            "{allowed_providers: [QNNExecutionProvider, CPUExecutionProvider], cpu_fallback: refuse}",
            "fall back to",
        ),
    ):
        path.write_text(f"quantise: {text if text[0] == '{' else '{' + text + '}'}\n")
        with pytest.raises(MisconfiguredError, match=words):
            load_section(path, "quantise", QuantiseParams)
    path.write_text("[1")
    with pytest.raises(MisconfiguredError, match="not YAML"):
        load_section(path, "train", TrainParams)
    with pytest.raises(MisconfiguredError, match="fleetloop init"):
        load_section(tmp_path / "none.yaml", "train", TrainParams)


@pytest.mark.parametrize(("classes", "has_head"), [(2, True), (5_000, False)])
def test_a_small_head_is_left_in_fp32_on_a_cpu_and_a_large_one_is_not(classes: int, has_head: bool) -> None:
    from modelkit.contract import ModelContract
    from modelkit.embed import parse_model
    from training.export import export_onnx
    from training.network import Architecture, build
    from training.quantise import small_head

    names = tuple(f"class-{number}" for number in range(classes))
    data = export_onnx(build(Architecture(classes=classes), None, 0), ModelContract("m", names, names))
    model = parse_model(data)
    kinds = {node.name: node.op_type for node in model.graph.node}
    head = [kinds[name] for name in small_head(model)]
    assert head == (["ReduceMean", "Gemm", "Relu", "Gemm"] if has_head else [])
