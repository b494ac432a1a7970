"""What an annotator or a vehicle wrote runs in nobody's browser: Data Docs show it as text, load nothing and run nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from foundation.web_page import CONTENT_POLICY_TAG
from pipelines.curate.rules import Rule
from pipelines.validate.expectations import judge_with_expectations
from pipelines.validate.safe_docs import safe_page

EVIL = "<img src=x onerror=alert(1)>\"'&"


@pytest.mark.slow
def test_markup_in_values_classes_and_promises_is_text_and_changes_no_verdict(tmp_path: Path) -> None:
    name: Any = "class_known"
    rule = Rule(
        name=name,
        promise=f"is one of {EVIL}",
        columns=("name",),
        fails=pl.col("name") != EVIL,
        expectation="ExpectColumnValuesToBeInSet",
        arguments={"column": "name", "value_set": ["good", EVIL]},
    )
    rows = pl.DataFrame({"name": [EVIL, "good", f"{EVIL} bad", "bad"]})
    (verdict,) = judge_with_expectations(rows, [rule], allowed_ratio=0.0, docs=tmp_path / "docs")
    assert (verdict.failing_rows, verdict.success) == (2, False), (
        "the value that is allowed is allowed as it is"
    )
    pages = {page.name: page.read_text() for page in (tmp_path / "docs").rglob("*.html")}
    assert {"index.html", "dataset.html"} <= set(pages)
    for name, page in pages.items():
        assert "<img src=x" not in page, name
        assert CONTENT_POLICY_TAG in page, name
        assert not re.search(r"<script|<(?:link|img)[^>]+https?://", page, re.IGNORECASE), name
    shown = "".join(pages.values())
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    assert re.search(r"href=\"[^\"]*validations", pages["index.html"]), "the pages still lead to one another"


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "<SCRIPT src=//x.example/a.js></SCRIPT >",
        "<script>never closed",
        '<link rel="stylesheet" href="https://x.example/a.css">',
        "<img src='//x.example/pixel.png'>",
        '<iframe src="https://x.example"></iframe>',
    ],
)
def test_a_page_keeps_no_script_and_nothing_of_another_server(evil: str) -> None:
    page = safe_page(f"<html><head><title>t</title></head><body><p>kept</p>{evil}</body></html>")
    assert "<script" not in page.lower() and "x.example" not in page
    assert "<p>kept</p>" in page
    assert page.index(CONTENT_POLICY_TAG) < page.index("<title>")
