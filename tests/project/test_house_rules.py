"""What our own code never does: load pickles, evaluate text, start a shell, load torch objects or YAML tags."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "schemas",
    "foundation",
    "modelkit",
    "connectors",
    "edge_agent",
    "pipelines",
    "training",
    "rollout",
    "fleetloop",
)
FILES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def wrongs(source: str) -> list[str]:
    """Each forbidden use in a module's text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"imports {n}" for n in names if n.split(".")[0] in FORBIDDEN_IMPORTS]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in {"eval", "exec", "os.system", "os.popen"}:
            found.append(f"calls {name}")
        if name == "yaml.load" or (name == "torch.load" and keywords.get("weights_only") != "True"):
            found.append(f"calls {name}")
        if name in {"np.load", "numpy.load"} and keywords.get("allow_pickle") == "True":
            found.append("loads pickled arrays")
        if keywords.get("shell") == "True":
            found.append("starts a shell")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_runs_or_unpacks_what_it_was_given(path: Path) -> None:
    assert wrongs(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from dill import loads", "eval('1')", "exec('1')", "yaml.load(x)", "torch.load(x)",
     "subprocess.run('ls', shell=True)", "np.load(x, allow_pickle=True)", "os.system('ls')"],
)  # fmt: skip
def test_the_check_itself_finds_each_of_them(text: str) -> None:
    assert wrongs(text)


def test_no_data_of_others_and_nothing_large_is_in_the_repository() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            assert path.suffix not in {".parquet", ".onnx", ".whl", ".npz", ".jpg"}, name
            assert path.stat().st_size < 2_000_000, name
