"""The same pictures through the trained network, its fp32 export and its int8 form: how far apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelkit.prepare import as_input
from modelkit.runtime import RuntimeOptions
from modelkit.runtimes import open_runtime
from modelkit.verify import VerifiedModel


@dataclass(frozen=True, slots=True)
class Parity:
    """Two forms of one model on `rows` pictures. Differences are of logits; agreement is of classes."""

    reference: str
    compared: str
    rows: int
    max_difference: float
    mean_difference: float
    agreement_ratio: float


def compare(reference: str, a: NDArray[np.float32], compared: str, b: NDArray[np.float32]) -> Parity:
    """Parity of two arrays of logits (N, classes); one that is not finite is infinitely different."""
    if a.shape != b.shape or not len(a):
        return Parity(reference, compared, 0, float("inf"), float("inf"), 0.0)
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    if not np.isfinite(difference).all():
        difference = np.full_like(difference, np.inf)
    same = (a.argmax(axis=1) == b.argmax(axis=1)) & np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    return Parity(
        reference, compared, len(a), float(difference.max()), float(difference.mean()), float(same.mean())
    )


def logits_of(model: VerifiedModel, pixels: NDArray[np.uint8], threads: int = 1) -> NDArray[np.float32]:
    """Logits (N, classes) through the vehicle's own runtime; pixels uint8 (N, H, W, 3), resized."""
    loaded = open_runtime().load(model, RuntimeOptions(threads=threads, off_vehicle=True))
    name = model.contract.input.name
    found = [
        loaded.run({name: as_input(pixels[start : start + 64], model.contract)})["logits"]
        for start in range(0, len(pixels), 64)
    ]
    return np.concatenate(found) if found else np.zeros((0, len(model.contract.classes)), dtype=np.float32)
