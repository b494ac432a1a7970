"""A newcomer installs exactly what was tested: pinned, hashed, and from wherever their own index is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(p for p in (ROOT / "requirements").glob("*.txt"))


def blocks(path: Path) -> list[str]:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    return [b for b in re.split(r"\n(?=\S)", text) if b.strip()]


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.name)
def test_every_requirement_is_pinned_and_hashed(path: Path) -> None:
    assert blocks(path)
    for block in blocks(path):
        assert re.match(r"^[A-Za-z0-9._\[\],-]+==\S+", block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


@pytest.mark.parametrize("path", [*LOCKS, ROOT / "pyproject.toml"], ids=lambda p: p.name)
def test_no_download_address_is_written_down(path: Path) -> None:
    assert "://" not in path.read_text()


def test_the_vehicle_lock_names_nothing_of_the_cloud() -> None:
    names = {
        re.split(r"[=\[]", b, maxsplit=1)[0].lower() for b in blocks(ROOT / "requirements" / "agent.txt")
    }
    heavy = {"apache-beam", "torch", "dvc", "pandas", "polars", "deltalake", "great-expectations", "pyarrow"}
    assert not names & heavy


def test_all_lock_files_agree_on_versions() -> None:
    def pins(name: str) -> set[str]:
        return {b.split("\\")[0].split(";")[0].strip() for b in blocks(ROOT / "requirements" / f"{name}.txt")}

    assert pins("agent") <= pins("demo") <= pins("dev")
