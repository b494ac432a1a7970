"""A workspace whose later stages keep their names, inputs and outputs, and only write them; curate and validate are real."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pyarrow as pa
import yaml

from connectors.lake.schema import ARRIVALS, LABELS
from connectors.lake.table import LakeTable
from services.init import make_workspace
from tests.pipelines.curate_lake import CLASSES, fleet_rows, label_rows
from workspace.layout import Workspace

LATER = ("train", "quantise", "evaluate", "package")
WRITER = """\
import pathlib, sys
for name in sys.argv[1:]:
    path = pathlib.Path(name)
    if name == "models/package":
        path.mkdir(parents=True, exist_ok=True)
        path = path / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode() * 99)
"""


def workspace_with_stubs(root: Path, script: str) -> Workspace:
    """A new workspace with a small lake; `script` (a path inside it) is what its later stages run."""
    place = make_workspace(root, classes=CLASSES)
    rows = fleet_rows(6, 4)
    for name, schema, part in (("arrivals", ARRIVALS, rows), ("labels", LABELS, label_rows(rows))):
        LakeTable.create(place.lake_path / name, schema).append(pa.Table.from_pylist(part, schema))
    (root / script).write_text(WRITER)
    path = root / "dvc.yaml"
    document = yaml.safe_load(path.read_text())
    for stage in LATER:
        outs = [out if isinstance(out, str) else next(iter(out)) for out in document["stages"][stage]["outs"]]
        document["stages"][stage]["cmd"] = f"{shlex.quote(sys.executable)} {script} {' '.join(outs)}"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return place
