"""The fields of samples as Arrow columns, for a whole batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from operator import attrgetter

import numpy as np
import pyarrow as pa

from connectors.lake.schema import SAMPLE_FIELDS
from schemas.records import Sample

_SCORES = ("entropy", "margin", "least_confidence", "novelty")
_VECTORS = ("probabilities", "embedding")
_WORDS = ("time_quality", "window_role", "provenance")
_PLAIN = tuple(
    field.name
    for field in SAMPLE_FIELDS
    if field.name not in (*_VECTORS, *_WORDS, "value_class") and not field.name.startswith("score_")
)
_plain_values = attrgetter(*_PLAIN)


def sample_columns(samples: Sequence[Sample]) -> dict[str, object]:
    """Every column of `SAMPLE_FIELDS`, one value a sample, in their order."""
    if not samples:
        return {}
    columns: dict[str, object] = {}
    columns.update(zip(_PLAIN, zip(*map(_plain_values, samples), strict=True), strict=True))
    for name in _WORDS:
        columns[name] = [getattr(sample, name).value for sample in samples]
    columns["value_class"] = [sample.value_class.label for sample in samples]
    for name in _SCORES:
        columns[f"score_{name}"] = [getattr(sample.scores, name) for sample in samples]
    for name in _VECTORS:
        columns[name] = _vectors([getattr(sample, name) for sample in samples])
    return columns


def _vectors(vectors: Sequence[Sequence[float]]) -> pa.Array:
    lengths = list(map(len, vectors))
    flat = np.fromiter(chain.from_iterable(vectors), np.float32, sum(lengths))
    ends = pa.array(list(accumulate(lengths, initial=0)), pa.int32())
    kind = pa.list_(pa.field("element", pa.float32()))
    return pa.ListArray.from_arrays(ends, pa.array(flat), type=kind)
