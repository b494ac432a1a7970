"""The stage passes a good dataset, names what fails, and refuses to believe judges who disagree."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from foundation.errors import GuaranteeBrokenError, MisconfiguredError, RejectedError
from pipelines.dataset.make import curate
from pipelines.validate import stage
from pipelines.validate.expectations import Verdict
from pipelines.validate.stage import judge, pairs_with_test, validate
from tests.pipelines.curate_lake import PARAMS, fleet_rows, label_rows, make_workspace
from workspace.layout import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    rows = fleet_rows(6, 4)
    labels = label_rows(rows)
    labels[0]["class_name"] = "blue"
    place = make_workspace(
        tmp_path / "ws", rows, labels, params=PARAMS | {"validate": {"max_failing_ratio": 0.1}}
    )
    curate(place)
    return place


def test_a_dataset_with_little_in_quarantine_passes_and_says_so(workspace: Workspace) -> None:
    report = validate(workspace, with_expectations=False)
    assert report["success"]
    assert report["rows"] == {"judged": 24, "in_shards": 23, "in_quarantine": 1}
    assert {rule["rule"]: rule["failing_rows"] for rule in report["rules"]}["class_name_known"] == 1
    assert json.loads((workspace.reports_path / "validation.json").read_text()) == {**report, "format": 1}


def test_too_much_in_quarantine_fails_the_stage_after_the_report_is_written(workspace: Workspace) -> None:
    workspace.params_path.write_text(workspace.params_path.read_text().replace("0.1", "0.01"))
    with pytest.raises(RejectedError, match=r"class_name_known: 1 of 24 rows fail, at most 1\.00% may"):
        validate(workspace, with_expectations=False)
    assert not json.loads((workspace.reports_path / "validation.json").read_text())["success"]


def test_a_test_twin_that_slipped_into_training_is_found_from_the_hashes_alone(workspace: Workspace) -> None:
    from pipelines.curate.params import load_params
    from pipelines.dataset.manifest import read_rows

    rows = read_rows(workspace.dataset_path)
    test = rows.filter(pl.col("split") == "test")["image_hash"][0]
    train = rows.filter(pl.col("split") == "train")["payload_sha256"][0]
    slipped = rows.with_columns(
        pl.when(pl.col("payload_sha256") == train)
        .then(pl.lit(test))
        .otherwise("image_hash")
        .alias("image_hash")
    )
    assert pairs_with_test(slipped, 24).height == 1
    nothing = pl.read_parquet(workspace.dataset_path / "quarantine.parquet").clear()
    report = judge(slipped, nothing, load_params(workspace.params_path), docs=None)
    assert any("test_distance_bits_in_range" in failure for failure in report["failures"])


def test_judges_who_disagree_stop_everything(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.validate import expectations

    def blind(_prepared: object, rules: tuple[stage.Rule, ...], **_: object) -> list[Verdict]:
        return [Verdict(rule.name, 0, True) for rule in rules]

    monkeypatch.setattr(expectations, "judge_with_expectations", blind)
    with pytest.raises(GuaranteeBrokenError, match="class_name_known: polars counts 1"):
        validate(workspace)


def test_shards_that_changed_after_the_manifest_are_refused(workspace: Workspace) -> None:
    shard = sorted((workspace.dataset_path / "shards").iterdir())[0]
    rows = pl.read_parquet(shard)
    rows.with_columns(pl.lit("red").alias("class_name")).write_parquet(shard)
    with pytest.raises(GuaranteeBrokenError, match="digest"):
        validate(workspace, with_expectations=False)


def test_no_dataset_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="fleetloop curate"):
        validate(make_workspace(tmp_path / "ws", []))


@pytest.mark.slow
def test_great_expectations_agrees_and_leaves_data_docs(workspace: Workspace) -> None:
    report = validate(workspace)
    assert all(rule["failing_rows"] == rule["great_expectations_failing_rows"] for rule in report["rules"])
    assert (workspace.reports_path / "data_docs" / "index.html").is_file()
