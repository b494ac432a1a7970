"""Labelled pictures that did not come through the vehicles: a held-out test, what a first model was trained on."""

from __future__ import annotations

from pathlib import Path

from pipelines.curate.params import load_params
from pipelines.dataset import reference
from pipelines.dataset.reference import Added
from workspace.layout import Workspace


def add_reference(place: Workspace, file: Path) -> Added:
    """Append the pictures of a file that the lake does not have yet, checked against the classes of params.yaml.

    See `pipelines.dataset.reference.add_reference` for the columns and the errors.
    """
    return reference.add_reference(place, file, load_params(place.params_path).classes)
