"""A label is asked for only when it was selected, paid once, and kept with its cost and the request it belongs to.

    current lake -> what would be kept -> those without a label -> (selection -> label desk) x rounds -> one
    commit to `labels`

The answers are appended in one commit on the very version of the table that the selection saw: two runs at
once cannot pay twice for a frame. What was asked, by which arm and why, is left in reports/label_requests. It
refuses answers that nobody asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import pyarrow as pa

from connectors.labels.ports import Label, LabelDesk
from connectors.lake.schema import LABELS
from connectors.lake.table import LakeTable
from foundation.documents import DocumentType
from foundation.errors import RejectedError
from foundation.files import write_document
from pipelines.curate.params import Params, Strategy, load_params
from pipelines.curate.resolve import UNLABELLED
from pipelines.curate.run import resolve_lake
from pipelines.curate.selection import select
from pipelines.runner import RunnerSettings
from pipelines.steps import reached
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class LabelResult:
    """What one request asked for, what came back, and what it cost. `arms` counts the asked frames by arm.

    `payload_bytes` is the size of the answered frames as they were recorded: what a person had to look at.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {name: getattr(self, name) for name in self.__slots__}


LABEL_REQUEST: Final = DocumentType.first("label request", LabelResult)
"""In its file, `frames` are also there: what was asked for, by which arm and why."""


def label(
    workspace: Workspace, desk: LabelDesk, budget: int, runner: RunnerSettings | None = None
) -> LabelResult:
    """Spend at most `budget` labels on the lake as it is now, with the section `label` of params.yaml.

    Raises:
        MisconfiguredError: a negative budget, no lake, a bad parameter.
        RejectedError: (reason unasked_label) the desk answered about a payload that it was not asked about.
        StaleSnapshotError: labels were added meanwhile; nothing was added here, run it again.
    """
    params = load_params(workspace.params_path)
    table = LakeTable.create(workspace.labels_uri, LABELS)
    rows, lock = resolve_lake(workspace, runner)
    candidates = _askable(rows, params)
    chosen, answers = ask(rows, desk, budget, params)
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
        classes=_count(answers),
        labels_version=expected_version + bool(answers),
    )
    folder = workspace.reports_path / "label_requests"
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{request_id}.json"
    # Before the answers, so that none is ever without its request. One that dies or is stale here leaves a
    # request that no answer names.
    write_document(record, LABEL_REQUEST, {**result.to_json(), "frames": chosen.to_dicts()})
    reached("label.recorded")
    _append(table, answers, request_id, expected_version)
    reached("label.appended")
    return result


def ask(rows: pl.DataFrame, desk: LabelDesk, budget: int, params: Params) -> tuple[pl.DataFrame, list[Label]]:
    """Choose among the rows that `resolve` gave and ask the desk, in rounds where the strategy learns from answers.

    Returns the columns of `selection.SELECTED` of all that was asked for, and all answers.

    Raises RejectedError when the desk answers about another payload (reason unasked_label), or with what is no class
    of the contract (reason unknown_class).
    """
    known = pl.col("class_name").is_in(list(params.classes))
    labelled = rows.filter(known).sort("payload_sha256", "identity")
    labelled = labelled.unique("payload_sha256", keep="first", maintain_order=True)
    candidates = _askable(rows, params)
    chosen = select(candidates, labelled, 0 if budget > 0 else budget, params.label)
    answers: list[Label] = []
    rounds = params.label.rounds if params.label.strategy is Strategy.COVERAGE else 1
    for number in range(rounds):
        part = -(-(budget - chosen.height) // (rounds - number))
        more = select(candidates, labelled, part, params.label)
        if more.is_empty():
            continue
        found = _request(desk, more["payload_sha256"].to_list(), params)
        answers += found
        told = pl.DataFrame(
            {
                "payload_sha256": [answer.payload_sha256 for answer in found],
                "class_name": [answer.class_name for answer in found],
            },
            schema={"payload_sha256": pl.String, "class_name": pl.String},
        )
        news = candidates.drop("class_name").join(told, on="payload_sha256", maintain_order="left")
        labelled = pl.concat([labelled, news.select(labelled.columns)])
        candidates = candidates.join(
            more.select("payload_sha256"), on="payload_sha256", how="anti", maintain_order="left"
        )
        chosen = pl.concat([chosen, more])
    return chosen, answers


def _askable(rows: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Rows without a label; and those whose label is no class of the contract, which a mended desk may answer again."""
    unknown = (~pl.col("class_name").is_in(list(params.classes))).fill_null(False) & pl.col(
        "reason"
    ).is_null()
    wanted = rows.filter((pl.col("state") == UNLABELLED) | unknown)
    return wanted.with_columns(pl.lit(None, pl.String).alias("class_name")).sort("payload_sha256")


def _request(desk: LabelDesk, asked: list[str], params: Params) -> list[Label]:
    answers = desk.request(asked)
    for answer in answers:
        if answer.class_name not in params.classes:
            raise RejectedError(
                f"the label desk answers {answer.class_name[:80]!r} for {answer.payload_sha256}; "
                f"params.yaml has the classes {', '.join(params.classes)}",
                reason="unknown_class",
            )
    unasked = sorted({answer.payload_sha256 for answer in answers} - set(asked))
    if unasked:
        raise RejectedError(
            f"the label desk answered about {unasked[0]}, which it was not asked about",
            reason="unasked_label",
        )
    return answers


def _append(table: LakeTable, answers: list[Label], request_id: str, expected_version: int) -> None:
    rows = [
        {
            "payload_sha256": answer.payload_sha256,
            "class_name": answer.class_name,
            "labeller": answer.labeller,
            "labelled_time_ns": answer.labelled_time_ns,
            "cost": answer.cost,
            "request_id": request_id,
        }
        for answer in answers
    ]
    if rows:
        table.append(pa.Table.from_pylist(rows, LABELS), expected_version=expected_version)


def _payload_bytes(rows: pl.DataFrame, answers: list[Label]) -> int:
    answered = rows.filter(pl.col("payload_sha256").is_in([answer.payload_sha256 for answer in answers]))
    return int(answered.unique("payload_sha256")["payload_bytes"].sum())


def _count(answers: list[Label]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for answer in sorted(answers, key=lambda answer: answer.class_name):
        counts[answer.class_name] = counts.get(answer.class_name, 0) + 1
    return counts
