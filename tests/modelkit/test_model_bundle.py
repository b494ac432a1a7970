"""A model of several files is what its list says, stays inside its folder, and is loaded whole by the runtime."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from foundation.documents import build
from foundation.errors import FleetLoopError, RejectedError
from modelkit.bundle import Bundle, read_bundle
from modelkit.runtimes import open_predictor
from modelkit.verify import verify_model
from schemas.bundle import (
    KIND_LIMITS,
    MAX_BUNDLE_BYTES,
    MAX_FILES,
    BundleFile,
    bundle_digest,
    check_bundle,
)
from tests.fakes.models import tiny_contract, tiny_model
from tests.modelkit.bundle_rig import DATA_NAME, write_bundle

PICTURE = np.full((40, 40, 3), 90, dtype=np.uint8)
SHA = "a" * 64


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(RejectedError) as caught:
        act()
    return caught.value.reason


def scores(bundle: Bundle) -> list[float]:
    (prediction,) = open_predictor(bundle.verified()).predict([PICTURE])
    return [float(number) for number in prediction.embedding]


@pytest.mark.parametrize("graph", ["model.onnx", "onnx/decoder/model.onnx"])
def test_tensors_beside_the_graph_are_loaded_by_the_runtime(tmp_path: Path, graph: str) -> None:
    bundle = write_bundle(tmp_path, "b1", 3, graph=graph)
    assert [file.kind for file in bundle.files] == ["onnx", "external_data", "tokenizer"]
    whole = open_predictor(verify_model(tiny_model(tiny_contract(name="b1"), seed=3), None))
    assert scores(bundle) == [float(number) for number in whole.predict([PICTURE])[0].embedding]
    assert bundle.verified().digest == bundle_digest(bundle.files) != bundle.files[0].sha256
    other = write_bundle(tmp_path / "other", "b1", 4, graph=graph)
    assert scores(other) != scores(bundle), "they are the tensors of the files, not of the graph"


@pytest.mark.parametrize(
    "location",
    [
        *(
            "../outside",
            "/etc/passwd",
            "sub/../../outside",
            "absent.bin",
            "model.onnx",
            "Model.onnx.data",
            "",
        ),
        *("tokenizer.json", f"./{DATA_NAME}", f"{DATA_NAME}\0", "x" * 5000),
    ],
)
def test_a_tensor_that_lies_elsewhere_than_in_external_data_of_its_bundle_is_refused(
    tmp_path: Path, location: str
) -> None:
    (tmp_path / "outside").write_bytes(bytes(100_000))
    sound = write_bundle(tmp_path / "bundle")
    hostile = write_bundle(tmp_path / "bundle", location=location)
    listed = tuple(
        replace(file, kind="external_data") if file.path == DATA_NAME else file for file in hostile.files
    )
    assert [file.path for file in listed] == [file.path for file in sound.files]
    assert refusal(Bundle(hostile.folder, listed).verified) == "external_data"


def key_of(tensor: int, key: str, value: str) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        for entry in model.graph.initializer[tensor].external_data:
            if entry.key == key:
                entry.value = value

    return edit


def said_twice(model: ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value=DATA_NAME)


def kept_twice(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"1234"


@pytest.mark.parametrize(
    "edit",
    [
        key_of(0, "offset", "100000"),
        key_of(0, "offset", "-4"),
        key_of(0, "offset", "9" * 30),
        key_of(0, "length", "4"),
        key_of(0, "length", "1e3"),
        key_of(1, "length", ""),
        said_twice,
        kept_twice,
        lambda model: model.graph.initializer[0].external_data.add(key="of_tomorrow", value="1"),
        lambda model: model.graph.initializer[0].ClearField("data_location"),
    ],
)
def test_a_tensor_whose_place_is_no_part_of_its_file_is_refused(
    tmp_path: Path, edit: Callable[[ModelProto], None]
) -> None:
    assert refusal(write_bundle(tmp_path, edit=edit).verified) == "external_data"


def test_only_tensors_of_the_outermost_graph_may_lie_outside(tmp_path: Path) -> None:
    def moved(model: ModelProto) -> None:
        model.graph.node[0].attribute.add(name="value", type=4).t.CopyFrom(model.graph.initializer[0])

    assert refusal(write_bundle(tmp_path, edit=moved).verified) == "external_data"


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def as_hard_link(path: Path) -> None:
    os.link(path, path.with_name("second_name"))


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (changed, "wrong_hash"),
        (lambda path: path.write_bytes(path.read_bytes() + b"1"), "bad_bundle"),
        (Path.unlink, "bad_bundle"),
        (as_link, "bad_bundle"),
        (as_hard_link, "bad_bundle"),
        (as_pipe, "bad_bundle"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", DATA_NAME, "tokenizer.json"])
def test_a_file_that_is_not_the_listed_one_is_refused(
    tmp_path: Path, name: str, act: Callable[[Path], object], reason: str
) -> None:
    bundle = write_bundle(tmp_path)
    act(tmp_path / name)
    assert refusal(bundle.verified) == reason


@pytest.mark.parametrize("name", [".hidden", "a b", "ä.bin", "a/b/c/d/e.bin", "-x"])
def test_a_folder_with_a_name_that_no_bundle_has_is_refused(tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"1")
    assert refusal(lambda: read_bundle(tmp_path)) == "bad_bundle"


def test_a_folder_that_a_link_leads_out_of_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    (tmp_path / "outside").mkdir()
    (tmp_path / "bundle" / "more").symlink_to(tmp_path / "outside", target_is_directory=True)
    assert refusal(lambda: read_bundle(tmp_path / "bundle")) == "bad_bundle"


def test_a_folder_needs_one_graph(tmp_path: Path) -> None:
    assert refusal(lambda: read_bundle(tmp_path)) == "bad_bundle"
    write_bundle(tmp_path)
    (tmp_path / "second.onnx").write_bytes((tmp_path / "model.onnx").read_bytes())
    assert refusal(lambda: read_bundle(tmp_path)) == "bad_bundle"


@pytest.mark.parametrize("kind", sorted(KIND_LIMITS))
def test_each_kind_has_its_limit_and_the_refusal_names_it(kind: str) -> None:
    limit = KIND_LIMITS[kind]
    graph = BundleFile("z.onnx", "onnx", 1, SHA)

    def files(length: int) -> list[BundleFile]:
        other = BundleFile("a", kind, length, SHA)  # type: ignore[arg-type]
        contract, weights = BundleFile("b", "contract", 1, SHA), BundleFile("c", "openvino_weights", 1, SHA)
        beside = {
            "onnx": [],
            "openvino": [contract, weights],
            "tflite": [contract],
            "pte": [contract],
            "contract": [BundleFile("d", "pte", 1, SHA)],
            "openvino_weights": [contract, BundleFile("d", "openvino", 1, SHA)],
        }
        return [other, *beside.get(kind, [graph])]

    check_bundle(files(limit))
    with pytest.raises(RejectedError, match=f"{limit + 1} bytes.*kind {kind} is {limit}"):
        check_bundle(files(limit + 1))


def test_all_files_together_have_a_limit_too() -> None:
    size = KIND_LIMITS["weights"]
    files = [BundleFile(f"w{number}", "weights", size, SHA) for number in range(MAX_BUNDLE_BYTES // size)]
    with pytest.raises(RejectedError, match=f"the limit is {MAX_BUNDLE_BYTES}"):
        check_bundle([*files, BundleFile("z.onnx", "onnx", 1, SHA)])


PARTS = st.sampled_from(
    ["a", "A", "b", "..", ".", "", ".x", "a.bin", "A.BIN", "c\\d", "/", "\n", "\u017f", "x" * 101]
)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("/".join)
ROWS = st.fixed_dictionaries(
    {
        "path": PATHS,
        "kind": st.sampled_from(["onnx", "external_data", "tokenizer", "weights", "exe"]),
        "length_bytes": st.sampled_from([-1, 0, 1, 10, 2**36, 2**50]),
        "sha256": st.sampled_from([SHA, "A" * 64, "b" * 64, ""]),
    }
)


@given(st.lists(ROWS, max_size=6), st.booleans())
def test_no_list_that_is_accepted_leads_out_of_its_folder_or_names_a_place_twice(
    rows: list[dict[str, object]], sort: bool
) -> None:
    rows = sorted(rows, key=lambda row: str(row["path"])) if sort else rows
    try:
        files = [build(BundleFile, row, "file") for row in rows]
        check_bundle(files)
    except FleetLoopError:
        return
    folder = Path("/somewhere/bundle")
    places = [os.path.normpath(folder / file.path) for file in files]
    assert all(place.startswith(f"{folder}/") for place in places)
    folded = [place.lower() for place in places]
    assert len(set(folded)) == len(folded) <= MAX_FILES
    assert not any(one.startswith(f"{other}/") for one in folded for other in folded)
    assert sum(file.kind == "onnx" for file in files) == 1
    assert bundle_digest(files) == bundle_digest(files[::-1])


GOOD = [BundleFile("a.onnx", "onnx", 1, SHA), BundleFile("b", "weights", 2, SHA)]


@pytest.mark.parametrize(
    "other",
    [
        [GOOD[0], replace(GOOD[1], path="c")],
        [GOOD[0], replace(GOOD[1], kind="external_data")],
        [GOOD[0], replace(GOOD[1], length_bytes=3)],
        [GOOD[0], replace(GOOD[1], sha256="b" * 64)],
        GOOD[:1],
        [*GOOD, replace(GOOD[1], path="c")],
    ],
)
def test_every_fact_of_a_list_is_in_its_digest(other: list[BundleFile]) -> None:
    assert bundle_digest(other) != bundle_digest(GOOD)


def test_a_bundle_of_one_is_its_file() -> None:
    assert bundle_digest(GOOD[:1]) == GOOD[0].sha256


def test_a_large_file_is_never_held_in_memory(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        bundle = read_bundle(tmp_path)
        bundle.verified()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
