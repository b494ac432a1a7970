"""The table of tasks: what a model is for, and everything that follows from it.

A task owns its output, how raw outputs become it, its selection scores, agreement, loss, metrics, labels,
shard columns and how a labelled picture is drawn on a card. Nothing outside this package picks the best class.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from modelkit.tasks.classification import Classification
from modelkit.tasks.detection import Detection
from modelkit.tasks.embedding import Embedding
from modelkit.tasks.regression import Regression
from modelkit.tasks.segmentation import Segmentation
from modelkit.tasks.task import Task

TASKS: Final[Mapping[str, Task[Any, Any]]] = MappingProxyType(
    {task.name: task for task in (Classification(), Detection(), Segmentation(), Embedding(), Regression())}
)
LEARNED: Final[Mapping[str, Task[Any, Any]]] = MappingProxyType(
    {name: task for name, task in TASKS.items() if task.learns}
)
"""The tasks that a workspace can have."""

__all__ = ["LEARNED", "TASKS", "Task"]
