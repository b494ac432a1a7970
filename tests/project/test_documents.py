"""The documents tell the truth: links lead somewhere, named tests exist, named commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_test_that_is_named_exists(page: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
        if name:
            assert f"def {name}(" in (ROOT / path).read_text(), f"{page.name} names {path}::{name}"


TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")))


def unknown_tests(text: str) -> list[str]:
    """Bare test names in backticks (a `::` or a path is not bare) that no file under tests/ defines."""
    named = re.findall(r"`(test_\w+)(?:\[[^`]*\])?`", text)
    return [name for name in named if not re.search(rf"^\s*(async )?def {name}\(", TESTS, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_bare_test_name_is_that_of_a_test(page: Path) -> None:
    assert unknown_tests(page.read_text()) == [], f"{page.name} names tests that do not exist"


def test_the_check_of_bare_names_finds_a_wrong_one() -> None:
    known = test_the_check_of_bare_names_finds_a_wrong_one.__name__
    assert unknown_tests(f"`{known}` and `test_that_nobody_wrote[case]` and `tests/project`") == [
        "test_that_nobody_wrote"
    ]


def test_every_command_of_the_table_says_what_it_does() -> None:
    from fleetloop.cli import COMMANDS

    done = subprocess.run(
        [sys.executable, "-m", "fleetloop", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for name in COMMANDS:
        assert re.search(rf"^\W*{name}\s", done.stdout, re.MULTILINE), name


def test_every_guarantee_names_the_faults_that_attack_it() -> None:
    from tests.torture.fault import find_faults

    sections = re.split(r"^## ", (ROOT / "docs" / "guarantees.md").read_text(), flags=re.MULTILINE)[1:]
    named = {}
    for section in sections:
        attacked = re.search(r"^Attacked by: (.+?)\.$", section, re.MULTILINE | re.DOTALL)
        named[section.split(".")[0]] = set(re.findall(r"`([a-z0-9-]+)`", attacked[1])) if attacked else set()
    faults = find_faults().values()
    for number in sorted({name for fault in faults for name in fault.guarantees}):
        assert named[number] == {fault.name for fault in faults if number in fault.guarantees}, number
