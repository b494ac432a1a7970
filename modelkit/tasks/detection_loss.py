"""The loss of a small anchor-free detector: cells near the centre of an object predict it.

Scores by focal loss (Lin et al., 2017), boxes by one minus their overlap. Of several objects that claim a cell
the smallest gets it. Imported only where torch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from modelkit.tasks.candidate_rows import grid

if TYPE_CHECKING:
    from modelkit.specs import ContractFields

REACH_CELLS: Final = 1.0
"""A cell whose centre is this near (in strides, along both axes) to an object's centre predicts it."""
_ALPHA: Final = 0.25
_GAMMA: Final = 2.0
_BOX_WEIGHT: Final = 2.0


def detection_loss(boxes: Any, scores: Any, targets: Sequence[Any], contract: ContractFields) -> Any:
    """Return the loss of boxes (B, N, 4; edges in pixels) and scores (B, N, C; 0..1) against rows of class and edges."""
    cells, strides = grid(contract)
    centres = torch.from_numpy(((cells + 0.5) * strides).astype(np.float32))
    reach = torch.from_numpy((strides[:, 0] * REACH_CELLS).astype(np.float32))
    wanted = torch.zeros_like(scores)
    places, truth = [], []
    for row, target in enumerate(torch.from_numpy(np.asarray(t, dtype=np.float32)) for t in targets):
        if not len(target):
            continue
        cell, which = _assign(target[:, 1:], centres, reach)
        wanted[row, cell, target[which, 0].long()] = 1.0
        places.append(torch.stack([torch.full_like(cell, row), cell]))
        truth.append(target[which, 1:])
    positives = max(sum(len(part) for part in truth), 1)
    loss = _focal(scores, wanted) / positives
    if places:
        place = torch.cat(places, dim=1)
        loss = (
            loss
            + _BOX_WEIGHT * (1.0 - _overlap(boxes[place[0], place[1]], torch.cat(truth))).sum() / positives
        )
    return loss


def _assign(edges: Any, centres: Any, reach: Any) -> tuple[Any, Any]:
    """Return the cells that predict an object, and which one; the nearest cell of every object always does."""
    middle = (edges[:, :2] + edges[:, 2:]) / 2
    away = (centres[:, None] - middle[None]).abs().amax(dim=2)
    claims = away <= reach[:, None] * 0.5 + 1e-6
    inside = (centres[:, None] > edges[None, :, :2]).all(2) & (centres[:, None] < edges[None, :, 2:]).all(2)
    claims |= inside & (away <= reach[:, None] * 1.5)
    claims[away.argmin(dim=0), torch.arange(len(edges))] = True
    size = (edges[:, 2:] - edges[:, :2]).prod(dim=1)
    owner = torch.where(claims, size[None], torch.inf).argmin(dim=1)
    cell = claims.any(dim=1).nonzero()[:, 0]
    return cell, owner[cell]


def _focal(scores: Any, wanted: Any) -> Any:
    p = scores.clamp(1e-6, 1 - 1e-6)
    found = -_ALPHA * (1 - p) ** _GAMMA * p.log() * wanted
    return (found - (1 - _ALPHA) * p**_GAMMA * (1 - p).log() * (1 - wanted)).sum()


def _overlap(a: Any, b: Any) -> Any:
    """Return the generalised IoU of pairs (Rezatofighi et al., 2019), which also pulls disjoint boxes together."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(dim=1) for box in (a, b)]
    union = areas[0] + areas[1] - shared + 1e-6
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1) + 1e-6
    return shared / union - (hull - union) / hull
