"""Validate the dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import RejectedError
from foundation.files import read_document
from pipelines.validate.stage import DOCS_NAME, REPORT_NAME, VALIDATION
from pipelines.validate.stage import validate as judge
from workspace.layout import Workspace


@dataclass(frozen=True, slots=True)
class Judgement:
    """The contents of reports/validation.json; `failure` is the error to raise when the dataset does not pass."""

    report: dict[str, Any]
    failure: RejectedError | None
    docs: Path | None
    """The page of Great Expectations' Data Docs; None without them."""


def validate(place: Workspace, *, with_expectations: bool = True) -> Judgement:
    """Validate datasets/current with polars and, unless switched off, by the same rules with Great Expectations.

    Raises:
        MisconfiguredError: there is no dataset.
        GuaranteeBrokenError: the two engines disagree.
    """
    failure = None
    try:
        judge(place, with_expectations=with_expectations)
    except RejectedError as error:
        if error.reason != "validation_failed":
            raise
        failure = error
    report = read_document(place.reports_path / REPORT_NAME, VALIDATION)
    docs = place.reports_path / DOCS_NAME / "index.html" if with_expectations else None
    return Judgement(report, failure, docs)
