"""What a task owns is written in modelkit/tasks and nowhere else: which class is best, softmax, cross-entropy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = (
    "foundation", "schemas", "modelkit", "connectors", "devservers", "workspace", "edge_agent", "pipelines",
    "training", "rollout", "services", "fleetloop", "benchmarks", "scripts",
)  # fmt: skip
OWNED = (
    "argmax",
    "softmax",
    "log_softmax",
    "cross_entropy",
    "CrossEntropyLoss",
    "nll_loss",
    "binary_cross_entropy",
)
"""Names of functions, as called on anything."""
ALLOWED = {
    ("pipelines/curate/coverage.py", "argmax"): "the nearest labelled track by cosine; no output of a model",
    ("pipelines/curate/scores.py", "argmax"): "the picture farthest from all others; no output of a model",
}


def uses(path: Path) -> Iterator[str]:
    """Every owned name that the file uses as an attribute, a name or an import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name) if name in OWNED:
                yield name


def found_outside() -> set[tuple[str, str]]:
    return {
        (path.relative_to(ROOT).as_posix(), name)
        for package in PRODUCT
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.is_relative_to(ROOT / "modelkit" / "tasks")
        for name in uses(path)
    }


def test_best_class_softmax_and_cross_entropy_are_the_tasks_business_alone() -> None:
    assert found_outside() == set(ALLOWED)


def test_the_search_finds_them_where_they_belong() -> None:
    inside = {name for path in (ROOT / "modelkit" / "tasks").rglob("*.py") for name in uses(path)}
    assert {"argmax", "cross_entropy"} <= inside
