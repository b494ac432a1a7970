"""Train a network on the CPU so that the same rows, parameters and seed give the same weights.

Deterministic algorithms, a fixed number of threads, and one generator for everything random; the epoch that
is best on the validation rows is kept. Nothing here has ever seen a test row.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from foundation.errors import MisconfiguredError
from modelkit.contract import Preprocessing
from modelkit.prepare import normalise
from training.augment import AugmentParams, augment
from training.network import TrafficNet, Weights, weights_of
from training.params import TrainParams
from training.rows import TrainingSet

OnEpoch = Callable[["EpochReport"], None]


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One epoch: mean loss, and recall averaged over the classes of validation (None without rows)."""

    epoch: int
    train_loss: float
    validation_recall: float | None
    validation_loss: float | None


@dataclass(frozen=True, slots=True)
class Fit:
    """The chosen weights, their epoch, and how it went. `selected_by` is `validation` or `last epoch`."""

    weights: Weights
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    selected_by: str
    seconds: float


def fit(
    network: TrafficNet,
    train: TrainingSet,
    validation: TrainingSet,
    how: Preprocessing,
    params: TrainParams,
    on_epoch: OnEpoch | None = None,
    augmentation: AugmentParams | None = None,
) -> Fit:
    """Train `network` in place and return its best weights.

    Raises:
        MisconfiguredError: there are no rows to train on, or the loss is no longer a number.
    """
    if len(train) < 2:
        raise MisconfiguredError(f"{len(train)} training rows: at least 2 are needed")
    started = time.monotonic()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(params.threads)
    rng = np.random.default_rng(params.seed)
    chances = sampling_chances(train, params)
    steps = max(1, -(-len(train) // params.batch_size))
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=params.learning_rate, total_steps=steps * params.epochs, pct_start=0.2
    )
    reports: list[EpochReport] = []
    best: tuple[tuple[float, float], int, Weights] | None = None
    for epoch in range(1, params.epochs + 1):
        network.train()
        total = 0.0
        for _ in range(steps):
            rows = rng.choice(len(train), size=min(params.batch_size, len(train)), p=chances)
            batch = _tensor(normalise(augment(train.pixels[rows], rng, augmentation), how))
            logits, _embedding = network(batch)
            target = torch.from_numpy(train.labels[rows])
            loss = functional.cross_entropy(logits, target, label_smoothing=params.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        if not np.isfinite(total):
            raise MisconfiguredError(
                f"the loss of epoch {epoch} is {total}; learning_rate {params.learning_rate} is too high"
            )
        recall, validation_loss = _validate(network, validation, how)
        report = EpochReport(epoch, total / steps, recall, validation_loss)
        reports.append(report)
        if on_epoch is not None:
            on_epoch(report)
        worth = (
            (0.0, float(epoch)) if recall is None or validation_loss is None else (recall, -validation_loss)
        )
        if best is None or worth > best[0]:
            best = (worth, epoch, weights_of(network))
    assert best is not None  # noqa: S101 - params.epochs is at least 1
    selected_by = "validation" if len(validation) else "last epoch"
    return Fit(best[2], tuple(reports), best[1], selected_by, time.monotonic() - started)


def sampling_chances(train: TrainingSet, params: TrainParams) -> NDArray[np.float64]:
    """How likely each row is drawn: rare classes more often, reference rows `replay_ratio` of the time."""
    counts = np.bincount(train.labels)
    chances = 1.0 / counts[train.labels].astype(np.float64) ** params.balance_power
    reference = train.is_reference
    if reference.any() and not reference.all():
        chances[reference] *= params.replay_ratio / chances[reference].sum()
        chances[~reference] *= (1.0 - params.replay_ratio) / chances[~reference].sum()
    return np.asarray(chances / chances.sum(), dtype=np.float64)


def infer(network: TrafficNet, pixels: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.float32]:
    """Logits (N, classes) of the network in evaluation mode; leaves it in that mode."""
    network.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(pixels), 256):
            logits, _embedding = network(_tensor(normalise(pixels[start : start + 256], how)))
            found.append(logits.numpy())
    return np.concatenate(found) if found else np.zeros((0, network.classify.out_features), dtype=np.float32)


def _tensor(batch: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(batch).to(memory_format=torch.channels_last)


def _validate(
    network: TrafficNet, rows: TrainingSet, how: Preprocessing
) -> tuple[float | None, float | None]:
    if not len(rows):
        return None, None
    logits = infer(network, rows.pixels, how)
    right = logits.argmax(axis=1) == rows.labels
    recalls = [float(right[rows.labels == label].mean()) for label in np.unique(rows.labels)]
    loss = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(rows.labels))
    return float(np.mean(recalls)), float(loss)
