"""An int8 artefact for CPUs gives the same sums on every processor, with and without VNNI.

x86 without VNNI adds two products of an unsigned and a signed byte in 16 bits, which saturate. The arithmetic is
emulated here, so that the test finds a wrong format on any processor; where a tool can hide newer instructions
(FLEETLOOP_AS_CPU, or shared/tools/as-cpu beside the repository), the runtime itself is asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from modelkit.embed import embed_contract, parse_model
from modelkit.prepare import as_input
from modelkit.runtime import RuntimeOptions
from modelkit.runtimes import open_runtime
from modelkit.verify import VerifiedModel, verify_model
from tests.fakes.models import tiny_contract, tiny_proto
from training.quantise import quantise

AS_CPU = Path(os.environ.get("FLEETLOOP_AS_CPU", Path(__file__).parents[3] / "shared" / "tools" / "as-cpu"))
INT16 = np.iinfo(np.int16)
PICTURES = np.stack([np.full((32, 32, 3), level, dtype=np.uint8) for level in range(0, 256, 5)])


def fp32() -> VerifiedModel:
    """A classifier whose first product has the largest sum there can be: every weight is alike."""
    contract = tiny_contract()
    model = tiny_proto(contract)
    for tensor in model.graph.initializer:
        if tensor.name == "to_embedding":
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 0.1, np.float32), tensor.name))
    return verify_model(embed_contract(model.SerializeToString(), contract), None)


def int8_weights(model: VerifiedModel) -> list[np.ndarray]:
    found = [numpy_helper.to_array(tensor) for tensor in parse_model(model.data).graph.initializer]
    return [tensor for tensor in found if tensor.dtype == np.int8 and tensor.ndim >= 2]


def pairs_in_16_bits(activations: np.ndarray, weights: np.ndarray) -> int:
    """The sum as x86 without VNNI makes it: products added two by two in 16 saturating bits, then in 32."""
    products = activations.astype(np.int64) * weights.astype(np.int64)
    return int(np.clip(products[0::2] + products[1::2], INT16.min, INT16.max).sum())


def test_no_pair_of_products_leaves_16_bits_whatever_the_picture() -> None:
    weights = int8_weights(quantise(fp32(), PICTURES, "cpu"))
    assert weights
    for tensor in weights:
        for column in tensor.reshape(-1, tensor.shape[-1]).T:
            even = column[: len(column) // 2 * 2]
            for worst in (np.where(even > 0, 255, 0), np.where(even < 0, 255, 0), np.full(len(even), 255)):
                assert pairs_in_16_bits(worst, even) == int((worst.astype(np.int64) * even).sum())


def test_the_emulation_saturates_where_weights_fill_all_8_bits() -> None:
    full = np.full(64, 127, dtype=np.int8)
    white = np.full(64, 255)
    assert pairs_in_16_bits(white, full) == 32 * INT16.max == 1_048_544
    assert int((white * full.astype(np.int64)).sum()) == 2_072_640


def largest_difference() -> float:
    """Of a logit, as a share of the largest: int8 against fp32, in the runtime, on pictures from black to white."""
    models = (fp32(), quantise(fp32(), PICTURES, "cpu"))
    inputs = {"image": as_input(PICTURES, models[0].contract)}
    a, b = (open_runtime().load(model, RuntimeOptions()).run(inputs)["logits"] for model in models)
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize("level", ["sse42", "avx2", "avx512", "vnni"])
def test_the_runtime_agrees_with_fp32_on_older_processors(level: str) -> None:
    if not AS_CPU.is_file():
        pytest.skip(f"no tool that hides instructions at {AS_CPU}")
    code = f"from {__name__} import largest_difference; print(largest_difference())"
    done = subprocess.run(
        [str(AS_CPU), level, sys.executable, "-c", code],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"this machine cannot be shown as {level}")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.03


def test_the_runtime_agrees_with_fp32_on_this_processor() -> None:
    assert largest_difference() < 0.03
