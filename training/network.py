"""The demo's own network: a small plain convnet with a 64-number embedding, about 0.2 million weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foundation.errors import RejectedError

Weights = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """All that is needed to build the network again, beside its weights. Written into model.json."""

    widths: tuple[int, ...] = (32, 48, 96, 128)
    embedding_size: int = 64
    classes: int = 2
    kind: str = "trafficnet"

    def as_json(self) -> dict[str, object]:
        """Plain values for model.json."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_json(cls, document: object) -> Architecture:
        """Raises RejectedError(bad_architecture) for anything but what `as_json` wrote."""
        match document:
            case {
                "widths": [*widths],
                "embedding_size": int(size),
                "classes": int(classes),
                "kind": "trafficnet",
            } if (
                2 <= len(widths) <= 6
                and all(isinstance(w, int) and 1 <= w <= 1024 for w in widths)
                and 1 <= size <= 4096
                and 2 <= classes <= 10_000
            ):
                return cls(tuple(widths), size, classes)
            case _:
                raise RejectedError(f"unknown architecture {str(document)[:200]}", reason="bad_architecture")


class TrafficNet(nn.Module):
    """Input float32 (N, 3, H, W); returns logits (N, classes) and embedding (N, embedding_size)."""

    roles = ("logits", "embedding")

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        first, *others = architecture.widths
        # Why 4 x 4 with stride 2: a 3 x 3 stem at full size took a third of the int8 model's time.
        layers: list[nn.Module] = [nn.Conv2d(3, first, 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(first), nn.ReLU()]
        channels = first
        for place, width in enumerate(others):
            layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            if place < len(others) - 1:
                layers.append(nn.MaxPool2d(2))
            channels = width
        self.features = nn.Sequential(*layers)
        self.embed = nn.Linear(channels, architecture.embedding_size)
        self.classify = nn.Linear(architecture.embedding_size, architecture.classes)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and embedding."""
        embedding = self.embed(self.features(image).mean(dim=(2, 3)))
        return self.classify(torch.relu(embedding)), embedding


def weights_of(network: TrafficNet) -> Weights:
    """A copy of every weight and statistic, as numpy arrays by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def build(architecture: Architecture, weights: Weights | None = None, seed: int = 0) -> TrafficNet:
    """The network with these weights, or with fresh ones drawn from `seed`.

    Raises:
        RejectedError: reason `wrong_weights`; names, shapes or types are not this architecture's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TrafficNet(architecture)
    if weights is not None:
        state = network.state_dict()
        wrong = sorted(set(state) ^ set(weights)) or [
            name for name, value in state.items() if tuple(value.shape) != weights[name].shape
        ]
        if wrong:
            raise RejectedError(f"weights do not fit the architecture: {wrong[:5]}", reason="wrong_weights")
        network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    return network.to(memory_format=torch.channels_last)
