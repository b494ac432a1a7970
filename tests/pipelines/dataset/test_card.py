"""The card shows the manifest's numbers, draws the same pictures every time, and loads nothing from anywhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from PIL import Image

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

    page = (curate(Workspace.open(workspace.root)).path / "card.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
