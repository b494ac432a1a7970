"""Evaluate the same rules on the same rows with Great Expectations, and write its Data Docs.

Its import takes about 12 s and happens here, on the first call. Its usage statistics are switched off before the
import, so that nothing is sent to anyone. Refuses to keep rows (result_format SUMMARY): failing rows are in
quarantine.
"""

from __future__ import annotations

import html
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.curate.rules import Rule
from pipelines.validate.safe_docs import build_safe_docs


@dataclass(frozen=True, slots=True)
class Verdict:
    """What Great Expectations found about one rule."""

    rule: str
    failing_rows: int
    success: bool


def judge_with_expectations(
    prepared: pl.DataFrame,
    rules: Sequence[Rule],
    *,
    allowed_ratio: float,
    docs: Path | None,
    name: str = "dataset",
) -> list[Verdict]:
    """Return one verdict per rule, in the order of `rules`.

    Args:
        prepared: the rows of `rules.prepare`.
        rules: the rules to evaluate.
        allowed_ratio: share of failing rows (0..1) up to which a rule's verdict is still success.
        docs: folder for Data Docs (replaced); None writes none.
        name: heading in the Data Docs.
    """
    gx = _library()
    columns = sorted({column for rule in rules for column in rule.columns})
    frame = _as_pandas(prepared.select(columns))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    if docs is not None:
        shutil.rmtree(docs, ignore_errors=True)
        _add_docs_site(context, docs)
    batch = (
        context.data_sources.add_pandas("fleetloop")
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe("all")
    )
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for rule in rules:
        suite.add_expectation(_expectation(gx, rule, allowed_ratio))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=name, data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=name, validation_definitions=[definition], result_format="SUMMARY")
    )
    result = checkpoint.run(batch_parameters={"dataframe": frame})
    (run,) = result.run_results.values()
    found = {outcome.expectation_config.meta["rule"]: outcome for outcome in run.results}
    verdicts = [_verdict(rule, found[rule.name]) for rule in rules]
    if docs is not None:
        build_safe_docs(context, docs)
    return verdicts


def _library() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # its import sets INFO
    return gx


def _expectation(gx: Any, rule: Rule, allowed_ratio: float) -> Any:
    kind = getattr(gx.expectations, rule.expectation)
    arguments = dict(rule.arguments)
    if "mostly" in kind.model_fields if hasattr(kind, "model_fields") else "mostly" in kind.__fields__:
        arguments["mostly"] = 1.0 - allowed_ratio
    return kind(**arguments, meta={"rule": str(rule.name)}, description=html.escape(rule.promise))


def _as_pandas(rows: pl.DataFrame) -> Any:
    """Convert to pandas. NaN becomes infinity: pandas cannot tell NaN from a missing value, and NaN breaks a range."""
    floats = [name for name, kind in rows.schema.items() if kind.is_float()]
    clean = rows.with_columns(pl.col(name).fill_nan(float("inf")) for name in floats)
    integers = [name for name, kind in rows.schema.items() if kind.is_integer()]
    frame = clean.to_pandas()
    for name in integers:  # a missing value must not turn nanoseconds into floats
        frame[name] = clean[name].to_pandas(use_pyarrow_extension_array=True).astype("Int64")
    for name, kind in rows.schema.items():
        if kind == pl.String:
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def _verdict(rule: Rule, outcome: Any) -> Verdict:
    details = outcome.result or {}
    error = (outcome.exception_info or {}).get("raised_exception")
    if error is True or "unexpected_count" not in details:
        return Verdict(rule.name, -1, bool(outcome.success))
    return Verdict(rule.name, int(details["unexpected_count"]), bool(outcome.success))


def _add_docs_site(context: Any, docs: Path) -> None:
    site = {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
    }
    for name in list(context.get_site_names()):
        context.delete_data_docs_site(name)
    context.add_data_docs_site(site_name="reports", site_config=site)
