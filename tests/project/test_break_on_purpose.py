"""What docs/broken-on-purpose.md says was broken can still be broken: the texts, the tests and the page fit together."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "break_on_purpose", ROOT / "scripts" / "break_on_purpose.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_text_to_replace_is_there_once_and_every_test_is_promised(script: ModuleType) -> None:
    promised = (ROOT / "docs" / "guarantees.md").read_text()
    for each in script.BREAKS:
        assert each.old != each.new
        assert (ROOT / each.path).read_text().count(each.old) == 1, f"{each.change}: {each.path} has changed"
        assert f"`{each.test}`" in promised


def test_every_guarantee_that_is_built_is_broken(script: ModuleType) -> None:
    promised = set(re.findall(r"^## (G\d+)\.", (ROOT / "docs" / "guarantees.md").read_text(), re.MULTILINE))
    assert {each.guarantee for each in script.BREAKS} == promised - {"G7"}


def test_the_page_holds_every_change_and_each_was_noticed(script: ModuleType) -> None:
    page = (ROOT / "docs" / "broken-on-purpose.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| G")]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [
        (b.guarantee, b.change) for b in script.BREAKS
    ]
    assert {row[4] for row in rows} == {"yes"}


def test_a_text_that_is_gone_is_an_error_and_no_success(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "limits.py").write_text("a = 1\n")
    gone = script.Break("G1", "nothing", "limits.py", "b = 1\n", "", "tests/none.py::test_none")
    with pytest.raises(RuntimeError, match="holds 0 times, not once"):
        script.is_noticed(gone, tmp_path)


def test_a_test_that_sees_nothing_is_told_from_one_that_fails(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "limits.py").write_text("LIMIT = 1\nOTHER = 1\n")
    (tmp_path / "test_limits.py").write_text(
        "from pathlib import Path\n\n"
        "def test_limit():\n    assert 'LIMIT = 1' in Path('limits.py').read_text()\n"
    )
    seen = script.Break(
        "G1", "the limit is off", "limits.py", "LIMIT = 1\n", "LIMIT = 2\n", "test_limits.py::test_limit"
    )
    unseen = script.Break(
        "G1", "another thing", "limits.py", "OTHER = 1\n", "OTHER = 2\n", "test_limits.py::test_limit"
    )
    assert script.is_noticed(seen, tmp_path) is True
    assert script.is_noticed(unseen, tmp_path) is False
    assert (tmp_path / "limits.py").read_text() == "LIMIT = 1\nOTHER = 1\n", "the copy is whole again"
