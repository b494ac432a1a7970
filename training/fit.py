"""Train a network on the CPU so that the same rows, parameters and seed give the same weights.

Deterministic algorithms, a fixed number of threads, and one generator for everything random; validation rows decide
which epoch is kept. No test row is used here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundation.errors import MisconfiguredError
from modelkit.contract import ModelContract
from modelkit.geometry import Placed
from modelkit.prepare import normalise
from modelkit.tasks import TASKS
from training.augment import AugmentParams, augment, draw_zooms, zoomed
from training.network import Network, Weights, weights_of
from training.params import TrainParams
from training.rows import TrainingSet

OnEpoch = Callable[["EpochReport"], None]


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One epoch: mean loss, and the task's quality on the validation rows (None without rows)."""

    epoch: int
    train_loss: float
    validation_quality: float | None
    validation_loss: float | None


@dataclass(frozen=True, slots=True)
class Fit:
    """The chosen weights, their epoch, and all epochs. `selected_by` is `validation` or `last epoch`."""

    weights: Weights
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    selected_by: str
    seconds: float


def fit(
    network: Network,
    train: TrainingSet,
    validation: TrainingSet,
    contract: ModelContract,
    params: TrainParams,
    on_epoch: OnEpoch | None = None,
    augmentation: AugmentParams | None = None,
) -> Fit:
    """Train `network` in place and return the weights of the chosen epoch.

    Raises:
        MisconfiguredError: fewer than 2 rows to train on, or the loss is not finite.
    """
    if len(train) < 2:
        raise MisconfiguredError(f"there are {len(train)} training rows, must be at least 2")
    started = time.monotonic()
    # Why not use_deterministic_algorithms: it also imports the compiler, which takes longer than a small training.
    torch.set_deterministic_debug_mode("error")
    torch.set_num_threads(params.threads)
    rng = np.random.default_rng(params.seed)
    task = TASKS[contract.task]
    targets = [task.target(*pair) for pair in _with_contract(train, contract)]
    augmentation = augmentation or AugmentParams(max_shift_pixels=3 if task.moves_pictures else 0)
    chances = sampling_chances(train, task.groups(train.labels, contract.classes), params)
    steps = max(1, -(-len(train) // params.batch_size))
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=params.learning_rate, total_steps=steps * params.epochs, pct_start=0.2
    )
    reports: list[EpochReport] = []
    chosen, weights = 0, weights_of(network)
    for epoch in range(1, params.epochs + 1):
        network.train()
        total = 0.0
        for _ in range(steps):
            rows = rng.choice(len(train), size=min(params.batch_size, len(train)), p=chances)
            pixels, truth = train.pixels[rows], [targets[i] for i in rows.tolist()]
            if not task.moves_pictures:
                height, width = pixels.shape[1:3]
                zooms = draw_zooms(len(rows), height, width, rng, augmentation.max_zoom)
                pixels = zoomed(pixels, zooms)
                truth = [task.moved(*pair, contract) for pair in zip(truth, zooms, strict=True)]
            outputs = _run(network, normalise(augment(pixels, rng, augmentation), contract.preprocessing))
            loss = task.loss(outputs, truth, contract, params.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        if not np.isfinite(total):
            raise MisconfiguredError(
                f"the loss of epoch {epoch} is {total}; learning_rate {params.learning_rate} is too high"
            )
        quality, validation_loss = _validate(network, validation, contract)
        report = EpochReport(epoch, total / steps, quality, validation_loss)
        reports.append(report)
        if on_epoch is not None:
            on_epoch(report)
        if choose_epoch([each.validation_quality for each in reports], len(validation)) == epoch:
            chosen, weights = epoch, weights_of(network)
    selected_by = "validation" if len(validation) else "last epoch"
    return Fit(weights, tuple(reports), chosen, selected_by, time.monotonic() - started)


def choose_epoch(qualities: Sequence[float | None], validation_rows: int) -> int:
    """Return the number, from 1, of the last epoch whose quality is within one standard error of the best.

    A few dozen validation rows tell the epochs of one training apart by chance only, and towards its end the learning rate
    falls to zero: so a later epoch is preferred until it is plainly worse. Without validation rows the last one is chosen.
    """
    # The largest standard error that a share of so many rows can have.
    doubt = 0.5 / math.sqrt(validation_rows) if validation_rows else 1.0
    known = [quality or 0.0 for quality in qualities]
    return max(number for number, each in enumerate(known, 1) if each >= max(known) - doubt)


def sampling_chances(
    train: TrainingSet, groups: NDArray[np.int64], params: TrainParams
) -> NDArray[np.float64]:
    """Return each row's probability of being drawn: rare groups more, reference rows `replay_ratio` in sum."""
    counts = np.bincount(groups)
    chances = 1.0 / counts[groups].astype(np.float64) ** params.balance_power
    reference = train.is_reference
    if reference.any() and not reference.all():
        chances[reference] *= params.replay_ratio / chances[reference].sum()
        chances[~reference] *= (1.0 - params.replay_ratio) / chances[~reference].sum()
    return np.asarray(chances / chances.sum(), dtype=np.float64)


def infer(network: Network, pixels: NDArray[np.uint8], contract: ModelContract) -> dict[str, NDArray[Any]]:
    """Return raw outputs by role, in evaluation mode (which stays on); `pixels` uint8 (N, H, W, 3) at the input's size."""
    network.eval()
    parts: list[dict[str, NDArray[Any]]] = []
    with torch.no_grad():
        for start in range(0, max(len(pixels), 1), 64):
            batch = normalise(pixels[start : start + 64], contract.preprocessing)
            parts.append({name: value.numpy() for name, value in _run(network, batch).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in network.roles}


def _run(network: Network, batch: NDArray[np.float32]) -> dict[str, torch.Tensor]:
    tensor = torch.from_numpy(batch).to(memory_format=torch.channels_last)
    return dict(zip(network.roles, network(tensor), strict=True))


def _with_contract(rows: TrainingSet, contract: ModelContract) -> list[tuple[Any, ModelContract, Placed]]:
    return [(label, contract, placed) for label, placed in zip(rows.labels, rows.placed, strict=True)]


def _validate(
    network: Network, rows: TrainingSet, contract: ModelContract
) -> tuple[float | None, float | None]:
    if not len(rows):
        return None, None
    task = TASKS[contract.task]
    raw = infer(network, rows.pixels, contract)
    outputs = task.decode(raw, contract, rows.placed)
    tensors = {name: torch.from_numpy(value) for name, value in raw.items()}
    targets = [task.target(*pair) for pair in _with_contract(rows, contract)]
    loss = task.loss(tensors, targets, contract, 0.0)
    return task.quality(rows.labels, outputs, contract.classes), float(loss)
