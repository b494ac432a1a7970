"""Convert the samples of a batch into Arrow columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import attrgetter

import numpy as np
import pyarrow as pa

from connectors.lake.schema import SAMPLE_FIELDS
from schemas.codec import FLAT_SCORES
from schemas.predictions import ModelPrediction, flat_prediction, to_json_plain
from schemas.reasons import WindowRole
from schemas.records import Sample

_PLAIN = tuple(field.name for field in SAMPLE_FIELDS if field.name in Sample.__slots__)
_plain_values = attrgetter(*_PLAIN)


def sample_columns(samples: Sequence[Sample]) -> dict[str, object]:
    """Return every column of `SAMPLE_FIELDS` by name, one value per sample in the order given."""
    if not samples:
        return {}
    columns: dict[str, object] = dict(
        zip(_PLAIN, zip(*map(_plain_values, samples), strict=True), strict=True)
    )
    columns["time_quality"] = [sample.time_quality.value for sample in samples]
    columns["provenance"] = [sample.provenance.value for sample in samples]
    columns["value_class"] = [sample.value_class.label for sample in samples]
    for name in ("encoding", "span_ns", "items"):
        columns[f"content_{name}"] = [getattr(sample.content, name) for sample in samples]
    incidents = [sample.incident for sample in samples]
    columns["incident_id"] = [one and one.incident_id for one in incidents]
    columns["incident_stream"] = [one and one.stream for one in incidents]
    columns["window_role"] = [(one.role if one else WindowRole.SINGLE).value for one in incidents]
    return columns | _prediction_columns([sample.predictions for sample in samples])


def _prediction_columns(predictions: Sequence[tuple[ModelPrediction, ...]]) -> dict[str, object]:
    flat = [flat_prediction(of_sample) for of_sample in predictions]
    answers = [one.classification if one else None for one in flat]
    columns: dict[str, object] = {
        "model_name": [one and one.model_name for one in flat],
        "model_digest": [one and one.model_digest for one in flat],
        "predicted_class": [one and one.class_name for one in answers],
        "probabilities": _vectors([one.probabilities if one else () for one in answers]),
        "embedding": _vectors([one.embedding if one else () for one in flat]),
        "predictions_json": [_json(*pair) for pair in zip(predictions, flat, strict=True)],
    }
    for name in FLAT_SCORES:
        columns[f"score_{name}"] = [one and one.scores.get(name) for one in flat]
    return columns


def _json(predictions: Sequence[ModelPrediction], flat: ModelPrediction | None) -> str:
    """Return the predictions as JSON; the vectors of `flat` are left out because they have columns of their own."""
    documents = []
    for one in predictions:
        document = to_json_plain(one)
        if one is flat:
            document["embedding"] = ()
            if document["classification"]:
                document["classification"]["probabilities"] = ()
        documents.append(document)
    return json.dumps(documents, ensure_ascii=False)


def _vectors(vectors: Sequence[Sequence[float]]) -> pa.Array:
    lengths = list(map(len, vectors))
    flat = np.fromiter(chain.from_iterable(vectors), np.float32, sum(lengths))
    ends = pa.array(list(accumulate(lengths, initial=0)), pa.int32())
    kind = pa.list_(pa.field("element", pa.float32()))
    return pa.ListArray.from_arrays(ends, pa.array(flat), type=kind)
