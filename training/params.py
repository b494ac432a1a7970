"""The sections of params.yaml that training reads: checked once, immutable.

Each stage reads its own section only, so that DVC re-runs exactly the stages that a change affects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from foundation.errors import MisconfiguredError
from foundation.settings import setting

_CPU = "CPUExecutionProvider"
_PROVIDER = re.compile(r"[A-Z][A-Za-z0-9]{1,60}ExecutionProvider")


@dataclass(frozen=True, slots=True)
class TrainParams:
    """Stage `train`. One thread and one seed make the weights reproducible on one machine."""

    seed: int = setting(0, min=0, max=2**31 - 1)
    epochs: int = setting(20, min=1, max=1000)
    batch_size: int = setting(64, min=2, max=4096)
    learning_rate: float = setting(3e-3, min=1e-7, max=1.0)
    weight_decay: float = setting(1e-4, min=0.0, max=1.0)
    label_smoothing: float = setting(0.05, min=0.0, max=0.5)
    balance_power: float = setting(0.5, min=0.0, max=1.0, help="0: as the rows come; 1: every class as often")
    replay_ratio: float = setting(
        0.3, min=0.0, max=0.9, help="share of reference rows drawn while fine-tuning"
    )
    threads: int = setting(1, min=1, max=64)
    input_pixels: int = setting(
        48_000,
        min=1_024,
        max=4_000_000,
        help="about so many pixels has the input of a first detector, in the shape of its pictures",
    )
    name: str = setting(
        "", help="name of the new model; empty: the base model's with its number raised by one"
    )


@dataclass(frozen=True, slots=True)
class QuantiseParams:
    """Stage `quantise`: one artefact per target. Calibration rows are of the train split, never of test.

    `allowed_providers` and `cpu_fallback` go into the model's contract, which every vehicle obeys. Without a list
    they are the target's: the CPU for `cpu`; QNN for `npu`, and the CPU after it unless a fall-back is refused.
    """

    target: Literal["cpu", "npu"] = "cpu"
    allowed_providers: tuple[str, ...] = setting(
        (), help="execution providers, best first; empty: the target's"
    )
    cpu_fallback: Literal["allow", "refuse"] = setting(
        "allow", help="whether a vehicle may run on the CPU what its first provider cannot take"
    )
    calibration_rows: int = setting(512, min=16, max=100_000)
    parity_rows: int = setting(512, min=16, max=100_000)
    seed: int = setting(0, min=0, max=2**31 - 1)

    def __post_init__(self) -> None:
        for name in self.allowed_providers:
            if not _PROVIDER.fullmatch(name):
                raise MisconfiguredError(
                    f"allowed_providers holds {name[:100]!r}; an execution provider is named like "
                    "CPUExecutionProvider"
                )
        if self.cpu_fallback == "refuse" and _CPU in self.allowed_providers[1:]:
            raise MisconfiguredError(
                f"allowed_providers {list(self.allowed_providers)} names the CPU to fall back to, and cpu_fallback "
                "is refuse: leave one of them out"
            )


@dataclass(frozen=True, slots=True)
class EvaluateParams:
    """Stage `evaluate`. `confidence` is that of every interval (two-sided) and bound (one-sided)."""

    confidence: float = setting(0.95, min=0.5, max=0.999)
    bootstrap_samples: int = setting(2000, min=100, max=100_000)
    seed: int = setting(0, min=0, max=2**31 - 1)
    cluster: Literal["track", "drive", "row"] = "track"
    latency_runs: int = setting(200, min=10, max=100_000)


@dataclass(frozen=True, slots=True)
class GateParams:
    """The gate. Ratios are 0..1; `margin` is how much worse a slice may be, in the task's metric."""

    margin: float = setting(0.05, min=0.0, max=0.5)
    n_min: int = setting(50, min=2, max=1_000_000)
    max_model_bytes: int = setting(2_000_000, min=1)
    max_latency_ratio: float = setting(1.5, min=0.1, max=100.0)
    min_parity_agreement: float = setting(0.98, min=0.0, max=1.0)
    target_slices: tuple[str, ...] = setting(
        (),
        help="slices that must get better, such as class:yellow; empty: "
        "what the base model was not trained on",
    )
