"""One network in each runtime that is installed: the speed of a run beside the bare library, and where the work ran.

    python -m benchmarks.runtimes MODEL.onnx [--runs 200] [--threads 1]

MODEL.onnx is a classifier: one input (N, 3, height, width), one output (N, classes) of logits. OpenVINO's form is made from it.
A row is printed only for a device that ran at least 95 % of the multiply-accumulate operations.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from modelkit.bundle import CONTRACT_FILE, read_bundle
from modelkit.contract import ModelContract
from modelkit.embed import embed_contract, parse_model
from modelkit.placement import require_claim, state_placement
from modelkit.runtime import RuntimeOptions
from modelkit.runtimes import open_runtime
from modelkit.specs import InputSpec
from modelkit.verify import VerifiedModel, verify_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    data = chosen.model.read_bytes()
    contract = _contract(data)
    batch = np.random.default_rng(7).random(
        (1, 3, contract.input.height, contract.input.width), dtype=np.float32
    )
    options = RuntimeOptions(threads=chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        models = (verify_model(embed_contract(data, contract), None), _openvino(data, contract, Path(folder)))
        loaded = [open_runtime().load(model, options) for model in models]
        inputs = {contract.input.name: batch}
        calls = {"onnxruntime, bare": _bare_onnx(data, contract, batch, chosen.threads)}
        calls["openvino, bare"] = _bare_openvino(data, batch, chosen.threads)
        for model in loaded:
            require_claim(state_placement(model, (model.provider,)), model.provider)
            calls[model.provider] = partial(model.run, inputs)
        _report(calls, chosen.runs)
        first, second = (model.run(inputs)["logits"] for model in loaded)
        Console().print(f"largest difference of a logit: {np.abs(first - second).max():.2g}", markup=False)


def _report(calls: dict[str, Callable[[], object]], runs: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 10):  # in turns, so that what else the machine does meets all alike
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn >= 10:
                times[name].append((time.perf_counter() - began) * 1e3)
    for name, found in times.items():
        p50, p99 = np.percentile(found, [50, 99])
        Console().print(f"{name:24} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms", markup=False)


def _bare_onnx(
    data: bytes, contract: ModelContract, batch: NDArray[np.float32], threads: int
) -> Callable[[], object]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    return partial(session.run, [contract.outputs["logits"]], {contract.input.name: batch})


def _bare_openvino(data: bytes, batch: NDArray[np.float32], threads: int) -> Callable[[], object]:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(io.BytesIO(data)), "CPU", settings).create_infer_request()
    return partial(request.infer, [batch], share_inputs=True)


def _contract(data: bytes) -> ModelContract:
    proto = parse_model(data)
    initialised = {tensor.name for tensor in proto.graph.initializer}
    (image,) = (value for value in proto.graph.input if value.name not in initialised)
    sizes = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    logits = next(value for value in proto.graph.output if len(value.type.tensor_type.shape.dim) == 2)
    classes = tuple(f"class{number}" for number in range(logits.type.tensor_type.shape.dim[1].dim_value))
    return ModelContract(
        name="benchmark",
        classes=classes,
        trained_classes=(),
        input=InputSpec(image.name, height=sizes[2], width=sizes[3], batch=max(sizes[0], 0)),
        outputs={"logits": logits.name},
        embedding_size=0,
    )


def _openvino(data: bytes, contract: ModelContract, folder: Path) -> VerifiedModel:
    import openvino

    network = openvino.Core().read_model(io.BytesIO(data))
    openvino.save_model(network, folder / "model.xml", compress_to_fp16=False)
    there = dataclasses.replace(contract, allowed_providers=("openvino-cpu",))
    (folder / CONTRACT_FILE).write_text(there.to_json(), "utf-8")
    return read_bundle(folder).verified()


if __name__ == "__main__":
    main()
