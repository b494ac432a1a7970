"""Labels go to the classes with the fewest distinct examples; a track gets a second label only if its class is rare.

Two frames of one track teach less than frames of two tracks: the n-th label of a track counts n^0.3 -
(n-1)^0.3 towards its class. The next frame is always the one with the highest (what it adds) / (1 + what its class
has). The class of a track is that of its own label, else that of the labelled track whose mean embedding is nearest,
else (or for a class without any label) the model's prediction. The label of a frame is never used before it was
paid for. Of equal tracks the one with the least certain frames comes first; within it the frame is drawn at random:
measured on traffic signs, the least certain frame of each track (far, dark, blurred) taught less than a random frame
of it (86.4 against 87.4 % correct; ADR 13).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.curate.fair_shares import DRIVE, VEHICLE, Shares
from pipelines.curate.near_pairs import rounded_unit
from pipelines.curate.scores import embedding_form, has_form
from schemas.reasons import Split

DIMINISHING_POWER = 0.3
"""Why: at 0.5 rare tracks are asked for so often that common classes lose tracks (see ADR 13)."""
MIN_LIKENESS = 0.5
"""Cosine similarity below which the class of one track says nothing about the other's."""
_BLOCK_TRACKS = 1024
_NOWHERE = ""


def cover(
    frames: pl.DataFrame, labelled: pl.DataFrame, budget: int, limit: int, repeats: int, shares: Shares
) -> list[int]:
    """Return the row numbers of at most `budget` of `frames`, the most valuable first.

    Args:
        frames: candidates with `track_key`, `used` (labels their track has), `worth`, `chance`, and the prediction.
        labelled: frames with `class_name` and `track_key`; those of test drives do not count as examples.
        limit: labels that any track may have.
        repeats: further labels that a track may have whose class is known from a label.
        shares: how many labels each vehicle and drive may get.
    """
    examples = labelled.filter(pl.col("split") != str(Split.TEST))
    known = _classes_of_tracks(examples, "class_name")
    classes = _classes_of_tracks(frames, "predicted_class")
    has_labels = set(known.values())
    for track, name in _nearest(frames, examples, known).items():
        # No track can be near to a class without a label: there the prediction is the better source.
        if classes.get(track) is None or classes[track] in has_labels:
            classes[track] = name
    rows: dict[str, list[int]] = {}
    used: dict[str, int] = {}
    by_chance = frames.select("track_key", "used", "chance", row=pl.int_range(pl.len()))
    for track, labels, _, row in by_chance.sort("chance", descending=True).iter_rows():
        rows.setdefault(track, []).append(row)
        used[track] = labels
    doubt = dict(frames.group_by("track_key").agg(-pl.col("worth").mean().round(6)).iter_rows())
    most = {track: limit + (repeats if track in known else 0) for track in rows}
    has = _has(examples, known)
    heaps: dict[str, list[tuple[float, float, str, str]]] = {}
    chances = frames["chance"]
    for track, left in rows.items():
        if used[track] < most[track]:
            name = known.get(track) or classes.get(track, _NOWHERE)
            heaps.setdefault(name, []).append((-_adds(used[track]), doubt[track], chances[left[-1]], track))
    for heap in heaps.values():
        heapq.heapify(heap)
    chosen: list[int] = []
    owners = dict(zip(frames["track_key"], zip(frames[VEHICLE], frames[DRIVE], strict=True), strict=True))
    ledger = shares.ledger()
    while heaps and len(chosen) < budget:
        name = max(sorted(heaps), key=lambda name: -heaps[name][0][0] / (1.0 + has.get(name, 0.0)))
        adds, _, chance, track = heapq.heappop(heaps[name])
        if ledger.has_room(*owners[track]):
            ledger.spend(*owners[track])
            chosen.append(rows[track].pop())
            has[name] = has.get(name, 0.0) - adds
            used[track] += 1
            if rows[track] and used[track] < most[track]:
                heapq.heappush(heaps[name], (-_adds(used[track]), doubt[track], chance, track))
        if not heaps[name]:
            del heaps[name]
    return chosen


def _adds(used: int) -> float:
    """Return what one more label of a track with `used` labels adds to its class."""
    return float((used + 1) ** DIMINISHING_POWER - used**DIMINISHING_POWER)


def _has(examples: pl.DataFrame, known: Mapping[str, str]) -> dict[str, float]:
    """Return what every class has: the sum over its tracks of labels^power."""
    has: Counter[str] = Counter()
    for track, labels in examples.group_by("track_key").len().sort("track_key").iter_rows():
        has[known[track]] += labels**DIMINISHING_POWER
    return dict(has)


def _classes_of_tracks(frames: pl.DataFrame, column: str) -> dict[str, str]:
    """Return the most frequent class of each track; of equally frequent ones the first by name."""
    counts = frames.filter(pl.col(column).is_not_null()).group_by("track_key", column).len()
    first = counts.sort("track_key", "len", column, descending=[False, True, False])
    return dict(
        first.unique("track_key", keep="first", maintain_order=True).select("track_key", column).rows()
    )


def _nearest(frames: pl.DataFrame, examples: pl.DataFrame, known: Mapping[str, str]) -> dict[str, str]:
    """Return, for each track without a label, the class of the nearest labelled track, if it is near enough.

    Nearness is the cosine similarity of mean embeddings, all of the form that most vehicles sent; tracks without one
    are left out.
    """
    form = embedding_form(frames)
    if form is None:
        return {}
    everything = pl.concat(
        [part.filter(has_form(form)).select("track_key", "embedding") for part in (frames, examples)]
    )
    tracks, means = _mean_embeddings(everything)
    is_known = np.array([track in known for track in tracks], dtype=np.bool_)
    if not is_known.any():
        return {}
    names = [known[track] for track in tracks if track in known]
    unknown = np.flatnonzero(~is_known)
    found: dict[str, str] = {}
    for start in range(0, len(unknown), _BLOCK_TRACKS):
        block = unknown[start : start + _BLOCK_TRACKS]
        # Rounded, so that the last bits of a sum can never decide between two tracks.
        likeness = np.round(means[block] @ means[is_known].T, 6)
        for row, alike in zip(block.tolist(), likeness, strict=True):
            best = int(alike.argmax())
            if alike[best] >= MIN_LIKENESS:
                found[tracks[row]] = names[best]
    return found


def _mean_embeddings(frames: pl.DataFrame) -> tuple[Sequence[str], npt.NDArray[np.float64]]:
    """Return the tracks by name and their mean embeddings, all of one size, as unit vectors of shape (tracks, size)."""
    frames = frames.sort("track_key")
    if frames.is_empty():
        return [], np.zeros((0, 0))
    rounded = rounded_unit(np.array(frames["embedding"].to_list(), dtype=np.float32)).astype(np.float64)
    tracks, begins = np.unique(frames["track_key"].to_numpy(), return_index=True)
    sums = np.add.reduceat(rounded, begins, axis=0)  # whole numbers: exact in any order
    length = np.sqrt((sums**2).sum(axis=1, keepdims=True))
    unit = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    directed = length[:, 0] > 0
    return [str(track) for track in tracks[directed]], unit[directed]
