"""A label is requested only for selected frames, paid for once, and stored with its cost and its request.

    current lake -> rows that would be kept -> those without a label -> shortlist, scored again by our own model
    -> (selection -> label desk) x rounds -> one commit to `labels`

The answers are appended in one commit on exactly the table version that the selection read: two concurrent runs
cannot both pay for a frame. What was requested, by which arm and why, is written to reports/label_requests.
Refuses answers that were not requested.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import polars as pl
import pyarrow as pa

from connectors.labels.ports import Label, LabelDesk
from connectors.lake.schema import LABELS
from connectors.lake.table import LakeTable
from foundation.documents import DocumentType
from foundation.errors import MisconfiguredError, RejectedError
from foundation.files import MAX_FILE_BYTES, write_document
from foundation.full_disk import naming_the_disk
from pipelines.curate.labels import AnyTask, problems, value_problem
from pipelines.curate.own_scores import Disagreement, Scorer, score_again
from pipelines.curate.params import Params, Strategy, load_params
from pipelines.curate.rarest_class import with_rarest_class
from pipelines.curate.row_states import UNLABELLED
from pipelines.curate.run import payloads_of, resolve_lake
from pipelines.curate.selection import select
from pipelines.runner import RunnerSettings
from pipelines.steps import reached
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class LabelResult:
    """What one request asked for, what was answered, and what it cost. `arms` counts the requested frames per arm.

    `payload_bytes` is the encoded size of the answered frames: what the annotators had to look at. `scored_by` is the digest of
    the model that scored the shortlist here, "" where the vehicles' own scores were believed; `vehicles` says how far each
    vehicle's claims were from it (`own_scores.Disagreement`).
    """

    request_id: str
    candidates: int
    asked: int
    answered: int
    cost: float
    payload_bytes: int
    arms: dict[str, int]
    classes: dict[str, int]
    labels_version: int
    scored_by: str = ""
    vehicles: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


LABEL_REQUEST: Final = DocumentType.first("label request", LabelResult, max_bytes=MAX_FILE_BYTES)
"""Its file also has `frames`: what was requested, by which arm and why."""
MOST_FRAMES: Final = MAX_FILE_BYTES // 5120
"""A request for more is refused before anybody is asked: a frame's lines in that file have less than 5 KiB."""
_SIZED: Final = ("payload_sha256", "width_pixels", "height_pixels")


def label(
    workspace: Workspace,
    desk: LabelDesk,
    budget: int,
    runner: RunnerSettings | None = None,
    scorer: Scorer | None = None,
) -> LabelResult:
    """Spend at most `budget` labels on the lake as it is now, with the section `label` of params.yaml.

    Without a scorer the vehicles' own scores are believed, each within its vehicle's share.

    Raises:
        MisconfiguredError: a budget below 0 or above MOST_FRAMES, no lake, a bad parameter.
        RejectedError: (reason unasked_label) the desk answered for a payload that was not requested.
        DiskError: the disk refuses; what was asked and not appended is in no table.
        StaleSnapshotError: labels were added meanwhile; nothing was added here, run it again.
    """
    if budget > MOST_FRAMES:
        raise MisconfiguredError(
            f"the labelling budget is {budget}, must be at most {MOST_FRAMES} per request"
        )
    with naming_the_disk(workspace.root):
        return _label(workspace, desk, budget, runner, scorer)


def _label(
    workspace: Workspace, desk: LabelDesk, budget: int, runner: RunnerSettings | None, scorer: Scorer | None
) -> LabelResult:
    params = load_params(workspace.params_path)
    table = LakeTable.create(workspace.labels_uri, LABELS)
    rows, lock = resolve_lake(workspace, runner)
    candidates = _askable(rows, params)
    again = None
    if scorer is not None and params.label.shortlist_factor:
        again = Rescoring(scorer, partial(payloads_of, workspace, lock))
    chosen, answers = ask(rows, desk, budget, params, again)
    asked = chosen["payload_sha256"].to_list()
    request_id = hashlib.sha256("\n".join([str(lock["labels"].version), *asked]).encode()).hexdigest()[:16]
    reached("label.answered")
    expected_version = lock["labels"].version
    result = LabelResult(
        request_id=request_id,
        candidates=candidates.height,
        asked=len(asked),
        answered=len(answers),
        cost=sum(answer.cost for answer in answers),
        payload_bytes=_payload_bytes(rows, answers),
        arms=dict(chosen.group_by("arm", maintain_order=True).len().rows()),
        classes=_count(answers, params.task),
        labels_version=expected_version + bool(answers),
        scored_by="" if again is None else again.scorer.digest,
        vehicles={} if again is None else {name: each.to_json() for name, each in again.told.items()},
    )
    folder = workspace.reports_path / "label_requests"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{request_id}.json"
    # Before the answers, so that none is ever without its request. A run that dies or is stale here leaves a
    # request that no answer refers to.
    write_document(record, LABEL_REQUEST, {**result.to_json(), "frames": chosen.to_dicts()})
    reached("label.recorded")
    asked_of = dict(candidates.select("payload_sha256", "identity").iter_rows())
    _append(table, answers, params.task.label_column, asked_of, request_id, expected_version)
    reached("label.appended")
    return result


@dataclass(frozen=True, slots=True)
class Rescoring:
    """How a shortlist is scored again; `told` gains each vehicle's disagreement."""

    scorer: Scorer
    payloads: Callable[[pl.DataFrame], Iterable[tuple[str, bytes]]]
    told: dict[str, Disagreement] = field(default_factory=dict)


def ask(
    rows: pl.DataFrame, desk: LabelDesk, budget: int, params: Params, again: Rescoring | None = None
) -> tuple[pl.DataFrame, list[Label]]:
    """Select among the rows of `resolve` and ask the desk, in rounds where the strategy learns from the answers.

    Returns the requested frames (the columns of `selection.SELECTED`) and all answers.

    Raises RejectedError when the desk answers for another payload (reason unasked_label), or with a label that the
    contract's classes or the picture's size do not allow (reason unknown_class): nothing is appended or paid for.
    """
    column = params.task.label_column
    usable = pl.col(column).is_not_null() & problems(rows, params.task, params.classes).is_null()
    labelled = rows.filter(usable).sort("payload_sha256", "identity")
    labelled = labelled.unique("payload_sha256", keep="first", maintain_order=True)
    candidates = _askable(rows, params)
    chosen = _select(candidates, labelled, 0 if budget > 0 else budget, params, {})
    if again is not None and budget > 0:
        candidates = _scored_again(candidates, labelled, budget, params, again)
    answers: list[Label] = []
    rounds = params.label.rounds if params.label.strategy is Strategy.COVERAGE else 1
    for number in range(rounds):
        part = -(-(budget - chosen.height) // (rounds - number))
        more = _select(candidates, labelled, part, params, Counter(chosen["vehicle_id"].to_list()))
        if more.is_empty():
            continue
        found = _request(
            desk,
            more.select("payload_sha256").join(candidates, "payload_sha256", maintain_order="left"),
            params,
        )
        answers += found
        labels = pl.DataFrame(
            {
                "payload_sha256": [answer.payload_sha256 for answer in found],
                column: [answer.value for answer in found],
            },
            schema={"payload_sha256": pl.String, column: rows.schema[column]},
        )
        answered = candidates.drop(column).join(labels, on="payload_sha256", maintain_order="left")
        labelled = pl.concat([labelled, answered.select(labelled.columns)])
        candidates = candidates.join(
            more.select("payload_sha256"), on="payload_sha256", how="anti", maintain_order="left"
        )
        chosen = pl.concat([chosen, more])
    return chosen, answers


def _scored_again(
    candidates: pl.DataFrame, labelled: pl.DataFrame, budget: int, params: Params, again: Rescoring
) -> pl.DataFrame:
    """Return the shortlist of the candidates with our own scores; what chance would draw is in it."""
    wanted = _select(candidates, labelled, budget * params.label.shortlist_factor, params, {})
    shortlist = candidates.join(wanted.select("payload_sha256"), on="payload_sha256", maintain_order="left")
    scored, told = score_again(shortlist, again.payloads(shortlist), again.scorer)
    again.told.update(told)
    return scored


def _select(
    candidates: pl.DataFrame,
    labelled: pl.DataFrame,
    budget: int,
    params: Params,
    taken: Mapping[str, int],
) -> pl.DataFrame:
    """Run `selection.select` on one class per frame: its own, or of several the rarest."""
    frames = with_rarest_class(candidates, labelled, params.task, params.classes)
    return select(*frames, budget, params.label, taken)


def _askable(rows: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Return the rows without a label, and those whose label is unusable, which a corrected desk may answer again."""
    column = params.task.label_column
    unusable = problems(rows, params.task, params.classes).is_not_null() & pl.col("reason").is_null()
    wanted = rows.filter((pl.col("state") == UNLABELLED) | unusable)
    return wanted.with_columns(pl.lit(None, rows.schema[column]).alias(column)).sort("payload_sha256")


def _request(desk: LabelDesk, asked: pl.DataFrame, params: Params) -> list[Label]:
    sizes = {sha: size for sha, *size in asked.select(*_SIZED).iter_rows()}
    answers = desk.request(list(sizes))
    for answer in answers:
        size = sizes.get(answer.payload_sha256, [None])
        problem = value_problem(answer.value, params.task, params.classes, None if None in size else size)
        if problem:
            raise RejectedError(
                f"the label desk answers {str(answer.value)[:80]!r} for {answer.payload_sha256}: {problem[:200]}; "
                f"params.yaml has the classes {', '.join(params.classes)}",
                reason="unknown_class",
            )
    unasked = sorted({answer.payload_sha256 for answer in answers} - set(sizes))
    if unasked:
        raise RejectedError(
            f"the label desk answered for the payload {unasked[0]}, which was not requested",
            reason="unasked_label",
        )
    return answers


def _append(
    table: LakeTable,
    answers: list[Label],
    column: str,
    asked_of: Mapping[str, str],
    request_id: str,
    expected_version: int,
) -> None:
    rows = [
        {
            "payload_sha256": answer.payload_sha256,
            column: answer.value,
            "labeller": answer.labeller,
            "labelled_time_ns": answer.labelled_time_ns,
            "cost": answer.cost,
            "request_id": request_id,
            "identity": asked_of.get(answer.payload_sha256),
        }
        for answer in answers
    ]
    if rows:
        table.append(pa.Table.from_pylist(rows, LABELS), expected_version=expected_version)


def _payload_bytes(rows: pl.DataFrame, answers: list[Label]) -> int:
    answered = rows.filter(pl.col("payload_sha256").is_in([answer.payload_sha256 for answer in answers]))
    return int(answered.unique("payload_sha256")["payload_bytes"].sum())


def _count(answers: list[Label], task: AnyTask) -> dict[str, int]:
    """Count the answers that name each class, by name."""
    counts = Counter(name for each in answers for name in task.classes_of(task.label_of(each.value)))
    return dict(sorted(counts.items()))
