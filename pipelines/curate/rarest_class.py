"""The one class that a frame counts for when a labelling budget is spent: of several the rarest, "" for none.

Strategies that balance classes compare `class_name` (of labels) with `predicted_class` (of the vehicle's prediction).
Where a label is one class, the rows have both already. Elsewhere the task says which classes a label, or the serving
model's output, names, and which of them has the fewest frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from foundation.documents import parse_json
from foundation.errors import CorruptError
from pipelines.curate.labels import AnyTask
from schemas.predictions import from_plain, of_role
from schemas.roles import SERVING

LABEL, PREDICTION = "class_name", "predicted_class"


def with_rarest_class(
    candidates: pl.DataFrame, labelled: pl.DataFrame, task: AnyTask, classes: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return both tables with `class_name` of labels and `predicted_class` of predictions; null where there is none.

    A predicted class that the contract does not have is none: a vehicle may claim any name, a new one in each frame.
    """
    if task.label_is_class:
        is_known = pl.col(PREDICTION).is_in(list(classes))
        return candidates.with_columns(pl.when(is_known).then(PREDICTION).alias(PREDICTION)), labelled
    labels = [task.label_of(value) for value in labelled[task.label_column].to_list()]
    said = [_said(text, task) for text in candidates["predictions_json"].to_list()]
    known = [label for label in said if label is not None]
    numbers = iter(task.groups([*labels, *known], classes).tolist())
    names = [*classes, ""]
    of_labels = [names[next(numbers)] for _ in labels]
    of_said = [None if label is None else names[next(numbers)] for label in said]
    none = pl.lit(None, pl.String)
    return (
        candidates.with_columns(none.alias(LABEL), pl.Series(PREDICTION, of_said, dtype=pl.String)),
        labelled.with_columns(pl.Series(LABEL, of_labels, dtype=pl.String), none.alias(PREDICTION)),
    )


def _said(predictions_json: str | None, task: AnyTask) -> Any | None:
    """Return the serving model's prediction as a label; None when there is none of this task."""
    try:
        predictions = [from_plain(each) for each in parse_json(predictions_json or "[]", "predictions_json")]
    except (AttributeError, CorruptError, KeyError, TypeError, ValueError):
        return None
    serving = of_role(predictions, SERVING)
    output = None if serving is None else task.from_wire(serving)
    return None if output is None else task.as_label(output)
