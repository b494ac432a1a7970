"""Make the dataset from the locked lake."""

from __future__ import annotations

from pipelines.dataset.lock import write_lock
from pipelines.dataset.make import CurationResult
from pipelines.dataset.make import curate as make_dataset
from pipelines.runner import RunnerSettings
from workspace.layout import Workspace


def curate(place: Workspace, runner: RunnerSettings, *, with_lock: bool = False) -> CurationResult:
    """Make datasets/current from the versions in lake.lock; `with_lock` rewrites lake.lock first."""
    if with_lock:
        write_lock(place)
    return make_dataset(place, runner)
