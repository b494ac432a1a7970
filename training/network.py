"""The project's own networks: a small convolutional network with an embedding, and a head per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foundation.errors import MisconfiguredError, RejectedError
from modelkit.contract import ModelContract
from modelkit.specs import HeadSpec, InputSpec, Preprocessing

Weights = dict[str, NDArray[np.generic]]
GRID_STRIDE: Final = 8
"""Pixels of the input per cell of the last features: stem and two poolings halve the resolution."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """All that is needed to rebuild the network, except its weights. Written to model.json.

    `kind` is a key of NETWORKS; `height` and `width` of the input are 0 where the network accepts any.
    """

    widths: tuple[int, ...] = (32, 48, 96, 128)
    embedding_size: int = 64
    classes: int = 2
    kind: str = "trafficnet"
    height: int = 0
    width: int = 0

    def as_json(self) -> dict[str, object]:
        """Return plain values for model.json."""
        found = {**asdict(self), "widths": list(self.widths)}
        return found if self.height else {k: v for k, v in found.items() if k not in ("height", "width")}

    @classmethod
    def from_json(cls, document: object) -> Architecture:
        """Read what `as_json` wrote; raises RejectedError(bad_architecture) for anything else."""
        match document:
            case {
                "widths": [*widths],
                "embedding_size": int(size),
                "classes": int(classes),
                "kind": str(kind),
                **more,
            } if (
                kind in NETWORKS
                and 2 <= len(widths) <= 6
                and all(isinstance(w, int) and 1 <= w <= 1024 for w in widths)
                and 1 <= size <= 4096
                and 1 <= classes <= 10_000
            ):
                height, width = more.get("height", 0), more.get("width", 0)
                if isinstance(height, int) and isinstance(width, int) and 0 <= height <= 4096 >= width >= 0:
                    return cls(tuple(widths), size, classes, kind, height, width)
        raise RejectedError(f"unknown architecture {str(document)[:200]}", reason="bad_architecture")


class Network(nn.Module):
    """Input float32 (N, 3, H, W); returns one tensor per name in `roles`, in that order."""

    roles: tuple[str, ...]


class TrafficNet(Network):
    """Returns logits (N, classes) and embedding (N, embedding_size)."""

    roles = ("logits", "embedding")

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.features = _backbone(architecture.widths)
        self.embed = nn.Linear(architecture.widths[-1], architecture.embedding_size)
        self.classify = nn.Linear(architecture.embedding_size, architecture.classes)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and embedding."""
        embedding = self.embed(self.features(image).mean(dim=(2, 3)))
        return self.classify(torch.relu(embedding)), embedding


class GridNet(Network):
    """An anchor-free detector: every cell of a grid predicts edges and class of the object at its centre.

    Returns boxes (N, cells, 4) as edges in pixels of the input, scores (N, cells, classes) in (0, 1) and
    embedding (N, embedding_size), the mean of the features.
    """

    roles = ("boxes", "scores", "embedding")

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.widths[-1]
        self.features = _backbone(architecture.widths)
        # Dilated: to find the edges of a large object, a cell needs more than its own 36 pixels.
        self.context = nn.Sequential(*_block(width, width, dilation=2), *_block(width, width, dilation=3))
        self.edges = nn.Conv2d(width, 4, 1)
        self.classify = nn.Conv2d(width, architecture.classes, 1)
        nn.init.constant_(self.edges.bias, 1.0)
        nn.init.constant_(self.classify.bias, -4.0)
        rows, columns = architecture.height // GRID_STRIDE, architecture.width // GRID_STRIDE
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = (torch.stack([x, y], dim=2).reshape(1, -1, 2).float() + 0.5) * GRID_STRIDE
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes, scores and embedding."""
        features = self.features(image)
        seen = self.context(features)
        far = torch.nn.functional.softplus(self.edges(seen)).flatten(2).transpose(1, 2) * GRID_STRIDE
        boxes = torch.cat([self.centres - far[..., :2], self.centres + far[..., 2:]], dim=2)
        scores = torch.sigmoid(self.classify(seen)).flatten(2).transpose(1, 2)
        return boxes, scores, features.mean(dim=(2, 3))


NETWORKS: Final[Mapping[str, type[Network]]] = MappingProxyType(
    {"trafficnet": TrafficNet, "gridnet": GridNet}
)
_OF_TASK: Final = {"classification": "trafficnet", "detection": "gridnet"}
_DETECTOR_WIDTHS: Final = (16, 24, 48, 64)
DETECTOR_STEP: Final = 32
"""Sides of a detector's input are multiples of it, in pixels."""
DETECTOR_MIN_SCORE: Final = 0.05
"""Low, because average precision also counts boxes of low confidence."""


def first_contract(
    task: str, classes: Sequence[str], sizes: Sequence[tuple[int, ...]], input_pixels: int
) -> ModelContract | None:
    """Return head, input and preprocessing of the project's own network for pictures of these (height, width) in pixels.

    None: as `train_initial` does without. A detector's input has the pictures' shape and about `input_pixels` pixels, or
    their size where they are smaller.
    """
    if task != "detection" or not sizes:
        return None
    height, width = (float(np.median([size[axis] for size in sizes])) for axis in (0, 1))
    scale = min((input_pixels / (height * width)) ** 0.5, 1.0) / DETECTOR_STEP
    rows, columns = (max(1, round(side * scale)) * DETECTOR_STEP for side in (height, width))
    return ModelContract(
        name="like",
        classes=tuple(classes),
        trained_classes=(),
        task=task,
        head=HeadSpec(kind="parts", boxes="xyxy-px", strides=(GRID_STRIDE,), min_score=DETECTOR_MIN_SCORE),
        input=InputSpec(height=rows, width=columns),
        preprocessing=Preprocessing(fit="letterbox-centre"),
        outputs={"boxes": "boxes", "scores": "scores", "embedding": "embedding"},
    )


def architecture_for(contract: ModelContract) -> Architecture:
    """Return the project's own network for this task and input.

    Raises:
        MisconfiguredError: there is none for the task, its head or the size of its input.
    """
    kind = _OF_TASK.get(contract.task)
    if kind == "trafficnet" and contract.head.kind == "softmax":
        return Architecture(classes=len(contract.classes), embedding_size=contract.embedding_size)
    spec = contract.input
    is_whole = spec.height % GRID_STRIDE == 0 and spec.width % GRID_STRIDE == 0
    if kind == "gridnet" and contract.head.kind == "parts" and contract.head.boxes == "xyxy-px" and is_whole:
        size = _DETECTOR_WIDTHS[-1]
        return Architecture(_DETECTOR_WIDTHS, size, len(contract.classes), kind, spec.height, spec.width)
    raise MisconfiguredError(
        f"FleetLoop has no network for {contract.task} with the head {contract.head.kind} on "
        f"{spec.width} x {spec.height} pixels (sides must be multiples of {GRID_STRIDE})"
    )


def _backbone(widths: tuple[int, ...]) -> nn.Sequential:
    first, *others = widths
    # Why 4 x 4 with stride 2: a 3 x 3 stem at full size took a third of the int8 model's time.
    layers: list[nn.Module] = [nn.Conv2d(3, first, 4, stride=2, padding=1, bias=False)]
    layers += [nn.BatchNorm2d(first), nn.ReLU()]
    channels = first
    for place, width in enumerate(others):
        layers += _block(channels, width)
        if place < len(others) - 1:
            layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers)


def _block(channels: int, width: int, dilation: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU()]


def weights_of(network: Network) -> Weights:
    """Return a copy of every weight and statistic, as numpy arrays by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in network.state_dict().items()}


def build(architecture: Architecture, weights: Weights | None = None, seed: int = 0) -> Network:
    """Build the network with these weights, or with new ones drawn from `seed`.

    Raises:
        RejectedError: reason `wrong_weights`; names, shapes or types are not this architecture's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[architecture.kind](architecture)
    if weights is not None:
        state = network.state_dict()
        wrong = sorted(set(state) ^ set(weights)) or [
            name for name, value in state.items() if tuple(value.shape) != weights[name].shape
        ]
        if wrong:
            raise RejectedError(f"weights do not fit the architecture: {wrong[:5]}", reason="wrong_weights")
        network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()})
    return network.to(memory_format=torch.channels_last)
