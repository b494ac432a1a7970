"""Make the int8 artefact of one target: QDQ, unsigned activations, per-channel weights, calibrated on training rows.

For a CPU a small head stays fp32: int8 would cost more than it saves.

Weights for a CPU are limited to -64..64: x86 without VNNI adds two 8-bit products in 16 bits, where 2 x 255 x 127
overflows. In this range the sums are exact on every processor, so one artefact is correct on all of them, and the
parity that is measured here holds there (ADR 9).

Symmetric int8 activations are excluded by construction: correct on a CPU, they are wrong on an NPU without an error.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from modelkit.contract import ModelContract
from modelkit.embed import embed_contract, parse_model
from modelkit.prepare import normalise
from modelkit.verify import VerifiedModel, verify_model

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_BATCH: Final = 32
SMALL_HEAD_WEIGHTS: Final = 100_000
_GLOBAL_POOLING: Final = ("GlobalAveragePool", "ReduceMean")
_STANDARD: Final = ("", "ai.onnx")
_PROVIDERS: Final[dict[str, tuple[str, ...]]] = {
    "cpu": ("CPUExecutionProvider",),
    "npu": ("QNNExecutionProvider", "CPUExecutionProvider"),
}


def providers_for(
    target: Literal["cpu", "npu"], wanted: tuple[str, ...], cpu_fallback: Literal["allow", "refuse"]
) -> tuple[str, ...]:
    """Return the execution providers for the contract: `wanted`, or the target's own without a refused fall-back."""
    if wanted:
        return wanted
    own = _PROVIDERS[target]
    return own if cpu_fallback == "allow" else own[:1]


def quantise(
    fp32: VerifiedModel,
    pixels: NDArray[np.uint8],
    target: Literal["cpu", "npu"],
    name: str | None = None,
    *,
    allowed_providers: tuple[str, ...] = (),
    cpu_fallback: Literal["allow", "refuse"] = "allow",
) -> VerifiedModel:
    """Return the int8 form of a verified fp32 model for `target`; pixels are uint8 (N, H, W, 3) at the input's size.

    The contract says where it may run: `allowed_providers` (empty: the target's own) and `cpu_fallback`.

    Raises:
        RejectedError: the quantised graph does not fit the contract any more.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize, quantize_static
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    contract = fp32.contract
    reader = _reader(contract, pixels)
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        source, out = Path(scratch) / "fp32.onnx", Path(scratch) / "int8.onnx"
        source.write_bytes(fp32.data)
        if target == "npu":
            settings = get_qnn_qdq_config(
                source, reader, activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8
            )
            quantize(source, out, settings)
        else:
            plain = _folded(fp32.data, Path(scratch))
            source.write_bytes(plain.SerializeToString())
            quantize_static(
                source,
                out,
                reader,
                nodes_to_exclude=small_head(plain),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
        data = out.read_bytes()
    made = dataclasses.replace(
        contract,
        target=target,
        allowed_providers=providers_for(target, allowed_providers, cpu_fallback),
        cpu_fallback=cpu_fallback,
        name=name if name is not None else contract.name,
    )
    return verify_model(_with_contract_only(data, made), None)


def _folded(data: bytes, scratch: Path) -> ModelProto:
    """Return the graph with constants folded and paddings merged into convolutions, by standard operators only.

    The quantiser sees the graph as written, not as a runtime optimises it: computed bounds of a Clip keep a convolution
    from its int8 form (efficientnet_lite0: as slow as fp32, and 1.9 times as fast once folded).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(scratch / "folded.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    model = parse_model((scratch / "folded.onnx").read_bytes())
    if any(node.domain not in _STANDARD for node in model.graph.node):
        return parse_model(data)
    used = [opset for opset in model.opset_import if opset.domain in _STANDARD]
    del model.opset_import[:]
    model.opset_import.extend(used)
    return model


def small_head(model: ModelProto) -> list[str]:
    """Return the names of the nodes from the global pooling after the last convolution on, if their weights are few.

    On a CPU they take longer in int8 than in fp32: a few hundred numbers are quantised and dequantised for a product
    that takes a microsecond. Empty when there are more weights than SMALL_HEAD_WEIGHTS, or no such pooling.
    """
    nodes = list(model.graph.node)
    last = max((place for place, node in enumerate(nodes) if node.op_type == "Conv"), default=-1)
    first = next((at for at in range(last + 1, len(nodes)) if nodes[at].op_type in _GLOBAL_POOLING), None)
    if last < 0 or first is None:
        return []
    used = {name for node in nodes[first:] for name in node.input}
    weights = sum(int(np.prod(item.dims)) for item in model.graph.initializer if item.name in used)
    return [node.name for node in nodes[first:]] if weights <= SMALL_HEAD_WEIGHTS else []


def pick_rows(count: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return at most `wanted` of `count` row numbers, drawn by `seed`, in order."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(count, size=min(count, wanted), replace=False)).astype(np.int64)


def _with_contract_only(data: bytes, contract: ModelContract) -> bytes:
    model = parse_model(data)
    del model.metadata_props[:]
    return embed_contract(model.SerializeToString(deterministic=True), contract)


def _reader(contract: ModelContract, pixels: NDArray[np.uint8]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Yields the pictures in batches, preprocessed as on the vehicle."""

        def __init__(self) -> None:
            self.starts = iter(range(0, len(pixels), CALIBRATION_BATCH))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            start = next(self.starts, None)
            if start is None:
                return None
            batch = pixels[start : start + CALIBRATION_BATCH]
            return {contract.input.name: normalise(batch, contract.preprocessing)}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice to pre-process the model, which the exporter has already done."""
    root = logging.getLogger()

    def keep(record: logging.LogRecord) -> bool:
        return "before quantization" not in record.getMessage()

    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)
