"""The ground layers stay small: foundation adds msgspec to the standard library, schemas Avro and signatures."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "foundation": {"foundation", "msgspec"},
    "schemas": {"schemas", "foundation", "fastavro", "cryptography", "msgspec"},
}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_ground_layer_imports_only_what_it_may(package: str) -> None:
    files = list((ROOT / package).glob("*.py"))
    assert len(files) >= 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            roots = {name.partition(".")[0] for name in names}
            extra = roots - ALLOWED[package] - set(sys.stdlib_module_names)
            assert not extra, f"{path.name} imports {sorted(extra)}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_ground_layer_never_evaluates_or_unpickles(package: str) -> None:
    for path in (ROOT / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, path.name
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "marshal", "shelve"}, path.name
