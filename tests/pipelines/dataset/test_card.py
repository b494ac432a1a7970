"""The card shows the manifest's numbers, draws the same pictures every time, and loads nothing from anywhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from PIL import Image

from foundation.web_page import CONTENT_POLICY_TAG
from pipelines.dataset.make import curate
from tests.pipelines.curate_lake import fleet_rows, label_rows, make_workspace, reference_rows


def test_the_card_of_one_dataset_is_the_same_twice_and_shows_its_numbers(tmp_path: Path) -> None:
    rows = fleet_rows(6, 4)
    found = []
    for name in ("a", "b"):
        workspace = make_workspace(
            tmp_path / name, rows, label_rows(rows, every=2), reference_rows(), files=1 + len(found)
        )
        found.append(curate(workspace))
    one, two = found
    pictures = sorted(path.name for path in (one.path / "pictures").iterdir())
    assert pictures == [
        "class-000.png",
        "class-001.png",
        "class-002.png",
        "classes.png",
        "light.png",
        "rows.png",
    ]
    for name in pictures:
        digests = {
            hashlib.sha256((run.path / "pictures" / name).read_bytes()).hexdigest() for run in (one, two)
        }
        assert len(digests) == 1, name
        assert Image.open(one.path / "pictures" / name).width > 300
    html, text = (one.path / "card.html").read_text(), (one.path / "card.md").read_text()
    counts = one.manifest["counts"]
    assert isinstance(counts, dict)
    for page in (html, text):
        assert str(one.manifest["digest"]) in page
        assert f"{counts['kept']:,}" in page and "unlabelled" in page
    assert not re.search(r"(src|href)=.(https?:)?//", html)
    for linked in re.findall(r'src="([^"]+)"', html) + re.findall(r"\]\(([^)]+)\)", text):
        assert (one.path / linked).is_file(), linked


def test_names_in_the_data_cannot_become_markup(tmp_path: Path) -> None:
    rows = fleet_rows(4, 3)
    workspace = make_workspace(tmp_path / "ws", rows, label_rows(rows))
    (workspace.root / "fleetloop.toml").write_text('name = "<script>alert(1)</script>"\n')
    from workspace.layout import Workspace

    found = curate(Workspace.open(workspace.root)).path
    page, text = (found / "card.html").read_text(), (found / "card.md").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "\\<script\\>" in text


def test_names_of_a_vehicle_and_an_annotator_are_text_on_both_cards_and_the_page_may_run_nothing(
    tmp_path: Path,
) -> None:
    evil = "<img src=x onerror=alert(1)>\u202e|[x](javascript:alert)`\n# title"
    rows = [row | {"model_name": evil, "sensor_id": evil} for row in fleet_rows(4, 3)]
    labels = [label | {"labeller": evil} for label in label_rows(rows)]
    found = curate(make_workspace(tmp_path / "ws", rows, labels)).path
    page, text = (found / "card.html").read_text(), (found / "card.md").read_text()
    assert "&lt;img src=x" in page and "\\<img src=x" in text
    for each in (page, text):
        assert "<img src=x" not in each.replace("\\<", "")
        assert "\u202e" not in each
    assert "\n# title" not in text
    assert "](javascript" not in text.replace("\\]", "")
    assert CONTENT_POLICY_TAG in page
    assert page.index(CONTENT_POLICY_TAG) < page.index("<style>")
