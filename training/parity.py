"""Compare the outputs of the trained network, its fp32 export and its int8 form on the same pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelkit.contract import ModelContract
from modelkit.geometry import Placed
from modelkit.prepare import as_input
from modelkit.runtime import RuntimeOptions
from modelkit.runtimes import open_runtime
from modelkit.tasks import TASKS
from modelkit.verify import VerifiedModel

Raw = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Parity:
    """Two forms of one model on `rows` pictures. Differences are of raw outputs; agreement is the task's, as row mean."""

    reference: str
    compared: str
    rows: int
    max_difference: float
    mean_difference: float
    agreement_ratio: float


def compare(
    reference: str, a: Raw, compared: str, b: Raw, contract: ModelContract, placed: Sequence[Placed]
) -> Parity:
    """Return the parity of two sets of raw outputs; one that is not finite differs infinitely and agrees with nothing."""
    roles = sorted(set(a) - {"embedding"})
    if not placed or any(a[role].shape != b[role].shape for role in roles):
        return Parity(reference, compared, 0, float("inf"), float("inf"), 0.0)
    differences = [np.abs(a[role].astype(np.float64) - b[role].astype(np.float64)) for role in roles]
    if not all(np.isfinite(difference).all() for difference in differences):
        differences = [np.full((1,), np.inf)]
    task = TASKS[contract.task]
    pairs = zip(task.decode(a, contract, placed), task.decode(b, contract, placed), strict=True)
    same = [0.0 if x is None or y is None else task.agreement(x, y) for x, y in pairs]
    return Parity(
        reference,
        compared,
        len(placed),
        float(max(difference.max() for difference in differences)),
        float(np.concatenate([difference.reshape(-1) for difference in differences]).mean()),
        float(np.mean(same)),
    )


def outputs_of(model: VerifiedModel, pixels: NDArray[np.uint8], threads: int = 1) -> dict[str, NDArray[Any]]:
    """Return raw outputs by role of the vehicle's runtime; pixels uint8 (N, H, W, 3) at the input's size, N at least 1."""
    loaded = open_runtime().load(model, RuntimeOptions(threads=threads, off_vehicle=True))
    name = model.contract.input.name
    found = [
        loaded.run({name: as_input(pixels[start : start + 64], model.contract)})
        for start in range(0, len(pixels), 64)
    ]
    return {role: np.concatenate([part[role] for part in found]) for role in model.contract.outputs}
