"""Spend a labelling budget: select what is worth labelling and request exactly that from the label desk."""

from __future__ import annotations

from pathlib import Path

from connectors.labels.desk import FileLabelDesk
from foundation.errors import MisconfiguredError
from pipelines.curate import labelling
from pipelines.curate.labelling import LabelResult
from pipelines.curate.own_scores import ModelScorer, Scorer
from pipelines.curate.params import Params, load_params
from pipelines.runner import RunnerSettings
from schemas.roles import SERVING
from workspace.layout import Workspace
from workspace.served_models import served_models


def label(
    place: Workspace,
    budget: int,
    runner: RunnerSettings,
    *,
    desk: Path | None = None,
    cost_per_label: float | None = None,
) -> LabelResult:
    """Request at most `budget` labels and append the answers to the lake with their cost.

    Args:
        desk: Parquet, JSON-lines or (for classes) CSV file that stands for the annotators, instead of the workspace's.
        cost_per_label: label units per answer, instead of the workspace's.

    Raises:
        MisconfiguredError: no label desk, an answer of it that is not a label of params.yaml's task and classes, a
            negative budget, no lake.
        RejectedError: the desk answered for a payload that was not requested.
        StaleSnapshotError: labels were added meanwhile; nothing was added here, run it again.
    """
    known = place.settings.label_desk
    file = desk or (place.path(known.file) if known.file else None)
    if file is None:
        raise MisconfiguredError(
            "no label desk: give --desk FILE, or set file in [label_desk] of fleetloop.toml"
        )
    cost = known.cost if cost_per_label is None else cost_per_label
    params = load_params(place.params_path)
    column = params.task.label_column
    answers = FileLabelDesk(file, classes=params.classes, column=column, labeller=known.labeller, cost=cost)
    scorer = serving_scorer(place, params) if params.label.shortlist_factor else None
    return labelling.label(place, answers, budget, runner, scorer)


def serving_scorer(place: Workspace, params: Params) -> Scorer | None:
    """Return the model that the fleet is served, loaded to score frames here; None where none serves, or of another task.

    Raises RejectedError or CorruptError for a registered model that is damaged.
    """
    from modelkit.runtimes import open_predictor
    from training.registry import load_model, why_not_registered

    served = served_models(place).get(SERVING)
    if served is None or why_not_registered(place.registry_path, served.name, served.digest):
        return None
    model = load_model(place.registry_path, served.name, served.digest).model
    if model.contract.task != params.task_name:
        return None
    return ModelScorer(served.name, served.digest, open_predictor(model))
