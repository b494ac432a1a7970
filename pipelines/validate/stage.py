"""A dataset passes only if polars and Great Expectations agree, no shard row breaks a rule and quarantine is small.

What a vehicle says of its own frames (times, scores) is judged vehicle by vehicle: one that breaks such a rule too often is
in quarantine by name, with its count, and fails nothing for the others; too many such vehicles fail the stage. Curation left
all rows of such a vehicle out (`not_trained_on` counts them), unless its quarantine was `lifted` with a reason.
All rows that had a label are checked: those of the shards and those in quarantine. Polars and Great Expectations
must count the same failing rows; when they do not, one of them is wrong and neither is trusted. Distances to test
frames are computed again here, from the hashes in the rows, not taken from curation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from foundation.documents import DocumentType
from foundation.errors import GuaranteeBrokenError, MisconfiguredError, RejectedError
from foundation.files import write_document
from pipelines.curate.near_bands import near_hash_pairs
from pipelines.curate.near_pairs import pairs_frame, test_distances
from pipelines.curate.params import Params, load_params
from pipelines.curate.perceptual_hash import as_words
from pipelines.curate.rules import (
    Rule,
    broken_by_vehicles,
    failing_counts,
    failing_of_vehicles,
    prepare,
    rules_for,
    with_label_problems,
)
from pipelines.dataset.manifest import dataset_digest, read_manifest, read_rows, task_of
from schemas.reasons import QuarantineReason, Split
from workspace.layout import Workspace

REPORT_NAME = "validation.json"
DOCS_NAME = "data_docs"
Report = dict[str, Any]
_SHOWN_VEHICLES = 5


@dataclass(frozen=True, slots=True)
class _Report:
    """The keys of validation.json that FleetLoop reads."""

    success: bool
    failures: tuple[str, ...]
    rows: dict[str, int]


VALIDATION: Final = DocumentType.whole("validation report", _Report)


def validate(workspace: Workspace, *, with_expectations: bool = True) -> Report:
    """Validate datasets/current; write reports/validation.json and, with Great Expectations, reports/data_docs.

    Raises:
        MisconfiguredError: there is no dataset.
        RejectedError: (reason validation_failed) too many rows fail; the report is written first.
        GuaranteeBrokenError: the two engines disagree, or the shards do not have the manifest's digest.
    """
    folder = workspace.dataset_path
    if not (folder / "manifest.json").is_file():
        raise MisconfiguredError(f"there is no dataset at {folder}; run `fleetloop curate` first")
    params = load_params(workspace.params_path)
    manifest = read_manifest(folder)
    if (made := task_of(manifest)) is not params.task:
        raise MisconfiguredError(
            f"the dataset in {folder} is of the task {made.name}, but params.yaml says {params.task.name}; run "
            "`fleetloop curate`"
        )
    found = dataset_digest(folder)
    if found != manifest["digest"]:
        raise GuaranteeBrokenError(
            f"the shards in {folder} have the digest {found}, but the manifest says {manifest['digest']}"
        )
    docs = workspace.reports_path / DOCS_NAME if with_expectations else None
    quarantined = pl.read_parquet(folder / "quarantine.parquet")
    report = judge(read_rows(folder), quarantined, params, docs=docs, lifted=_lifted(manifest))
    report["digest"] = manifest["digest"]
    workspace.reports_path.mkdir(exist_ok=True)
    write_document(workspace.reports_path / REPORT_NAME, VALIDATION, report)
    if not report["success"]:
        raise RejectedError(
            f"the dataset does not pass: {'; '.join(report['failures'])}", reason="validation_failed"
        )
    return report


def judge(
    kept: pl.DataFrame,
    quarantined: pl.DataFrame,
    params: Params,
    *,
    docs: Path | None,
    lifted: Mapping[str, str] | None = None,
) -> Report:
    """Return the report on rows with the columns of a shard (without payloads). Without `docs` only polars judges.

    `lifted` says of which vehicles the quarantine was lifted when the dataset was made, and why: they fail nothing.

    Raises GuaranteeBrokenError when the two engines count different failing rows.
    """
    rules = rules_for(params.task, params.classes, params.curate.near_duplicates.max_distance_bits)
    rows = pl.concat([kept, quarantined.select(pl.col(n).cast(k) for n, k in kept.schema.items())])
    of_vehicle = quarantined.filter(
        pl.col("rules").list.contains(str(QuarantineReason.VEHICLE_IN_QUARANTINE))
    )
    prepared = _prepared(rows, rows.join(of_vehicle, on="identity", how="anti"), params)
    counts = failing_counts(prepared.lazy(), rules)
    vehicles = vehicles_judged(prepared, rules, params.validate.max_failing_ratio)
    vehicles["not_trained_on"] = dict(of_vehicle.group_by("vehicle_id").len().sort("vehicle_id").iter_rows())
    vehicles["lifted"] = dict(lifted or {})
    # What a row follows is decided among all rows that were judged, as in curation: without those in quarantine a row
    # would follow another one, and one wrong clock would break rows that are right.
    in_shards = failing_counts(prepared.head(kept.height).lazy(), rules)
    allowed = params.validate.max_failing_ratio
    failures = [
        f"{rule.name}: {counts[rule.name]} of {rows.height} rows fail, at most {allowed:.2%} may"
        for rule in rules
        if not rule.is_said_by_vehicle and counts[rule.name] > allowed * rows.height
    ]
    failures += _vehicle_failures(vehicles, params.validate.max_failing_vehicles_ratio)
    failures += [
        f"{rule.name}: {in_shards[rule.name]} rows in the shards fail, none may"
        for rule in rules
        if in_shards[rule.name]
    ]
    if kept.height < params.validate.min_rows:
        failures.append(f"min_rows: {kept.height} rows, must be at least {params.validate.min_rows}")
    expectations = _second_opinion(prepared, rules, counts, allowed, docs)
    return {
        "success": not failures,
        "failures": failures,
        "rows": {"judged": rows.height, "in_shards": kept.height, "in_quarantine": quarantined.height},
        "max_failing_ratio": allowed,
        "vehicles": vehicles,
        "rules": [
            {
                "rule": rule.name,
                "promise": rule.promise,
                "failing_rows": counts[rule.name],
                "failing_in_shards": in_shards[rule.name],
                "great_expectations_failing_rows": expectations.get(rule.name),
            }
            for rule in rules
        ],
    }


def vehicles_judged(prepared: pl.DataFrame, rules: tuple[Rule, ...], allowed: float) -> dict[str, Any]:
    """Return how many vehicles were judged, and name each that breaks a rule on what it says in more than `allowed` rows.

    Each entry of `in_quarantine` has the vehicle, the rule, its failing rows and all its rows that were judged.
    """
    counted = failing_of_vehicles(prepared.lazy(), rules)
    return {"judged": counted.height, "in_quarantine": broken_by_vehicles(counted, allowed)}


def _vehicle_failures(vehicles: dict[str, Any], allowed: float) -> list[str]:
    names = sorted(
        {each["vehicle_id"] for each in vehicles["in_quarantine"]} - set(vehicles["lifted"])
        | set(vehicles["not_trained_on"])
    )
    most = max(min(1, vehicles["judged"] - 1), int(allowed * vehicles["judged"]))
    if len(names) <= most:
        return []
    broken = ", ".join(
        f"{each['vehicle_id']} ({each['rule']}: {each['failing_rows']} of {each['rows']} rows)"
        for each in vehicles["in_quarantine"][:_SHOWN_VEHICLES]
    )
    return [f"vehicles: {len(names)} of {vehicles['judged']} are in quarantine, at most {most} may: {broken}"]


def _lifted(manifest: Mapping[str, Any]) -> dict[str, str]:
    quarantine = manifest["made_from"]["parameters"]["curate"].get("quarantine", {})
    return dict(quarantine.get("lifted", {}))


def _prepared(rows: pl.DataFrame, believed: pl.DataFrame, params: Params) -> pl.DataFrame:
    """Return `rows` with what rules need. Distances to test are those of `believed` among themselves.

    A vehicle of which nothing is trained on has neither training rows nor test rows.
    """
    bits = params.curate.near_duplicates.max_distance_bits
    judged = with_label_problems(rows, params.task, params.classes)
    return prepare(judged, test_distances(believed, pairs_with_test(believed, bits)))


def pairs_with_test(rows: pl.DataFrame, max_distance_bits: int) -> pl.DataFrame:
    """Return all pairs of a test row and another row at most `max_distance_bits` apart, from their hashes."""
    hashed = rows.filter(pl.col("image_hash").is_not_null())
    is_test = (hashed["split"] == str(Split.TEST)).fill_null(False).to_numpy()
    a, b, distance = near_hash_pairs(as_words(hashed["image_hash"].to_list()), max_distance_bits)
    mixed = is_test[a] != is_test[b]
    return pairs_frame(hashed["payload_sha256"], a[mixed], b[mixed], distance[mixed], "hash")


def _second_opinion(
    prepared: pl.DataFrame, rules: tuple[Rule, ...], counts: dict[str, int], allowed: float, docs: Path | None
) -> dict[str, int]:
    if docs is None or prepared.is_empty():
        return {}
    from pipelines.validate.expectations import judge_with_expectations

    verdicts = judge_with_expectations(prepared, rules, allowed_ratio=allowed, docs=docs)
    for verdict in verdicts:
        if verdict.failing_rows != counts[verdict.rule]:
            raise GuaranteeBrokenError(
                f"rule {verdict.rule}: polars counts {counts[verdict.rule]} failing rows, "
                f"Great Expectations counts {verdict.failing_rows}"
            )
    return {verdict.rule: verdict.failing_rows for verdict in verdicts}
