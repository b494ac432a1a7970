"""Write report.html, the readable result of a run: one file, no script, no network."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.compute as pc
from markupsafe import Markup
from PIL import Image

from connectors.lake.table import LakeTable
from fleetloop.demo.charts import accuracy_chart
from fleetloop.demo.lab import Lab
from foundation.files import write_atomic
from foundation.web_page import CONTENT_POLICY_TAG, page_text

FRAMES_SHOWN = 20
MAX_CLASS_ROWS = 12


def write_report(lab: Lab, result: dict[str, Any]) -> Path:
    """Render the template beside this module into `lab.out`/report.html."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: page_text(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
    )
    note = f"fleetloop demo --dataset {result['dataset']['name']} --seed {lab.seed}"
    accuracy = result["accuracy"]
    charts = {
        "by_class": accuracy_chart(chart_rows(accuracy["by_class"]), "By class", note),
        "by_condition": accuracy_chart(chart_rows(accuracy["by_condition"]), "By condition", note),
    }
    text = environment.get_template("report.html.j2").render(
        policy=Markup(CONTENT_POLICY_TAG),  # noqa: S704 - a constant
        result=result,
        charts=charts,
        by_class=accuracy["by_class"],
        held=sum(bool(g["held"]) for g in result["guarantees"]),
        pct=lambda ratio: "-" if ratio is None else f"{100 * ratio:.1f} %",
        size=_size,
        total=lambda value: sum(value.values()) if isinstance(value, dict) else value,
        reasons=lambda value: (
            ", ".join(f"{k.replace('_', ' ')} {n}" for k, n in sorted(value.items())) or "none"
        ),
        history=[{**e, "time": _time(int(e["time_ns"]))} for e in result["model_history"]],
        commands=lab.commands,
        frames=_chosen_frames(lab),
        card=_link(lab, "workspace/datasets/current/card.html"),
        data_docs=_link(lab, "workspace/reports/data_docs/index.html"),
    )
    path = lab.out / "report.html"
    write_atomic(path, text.encode())
    return path


def chart_rows(slices: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows for `accuracy_chart`; of more than MAX_CLASS_ROWS slices those that gained most."""
    names = sorted(slices)
    if len(names) > MAX_CLASS_ROWS:
        names = sorted(names, key=lambda n: slices[n]["before"] - slices[n]["after"])[:MAX_CLASS_ROWS]
    return [
        {
            "name": name,
            "n": slices[name]["n"],
            "before": slices[name]["before"],
            "after": slices[name]["after"],
            "before_interval": slices[name]["interval_before"],
            "after_interval": slices[name]["interval"],
        }
        for name in names
    ]


def _chosen_frames(lab: Lab) -> list[dict[str, str]]:
    """Return some landed frames with the rule that selected each, the same ones for the same run."""
    table = LakeTable.open(lab.place.arrivals_uri)
    rows = table.snapshot().read(
        columns=["payload", "payload_sha256", "rule_id", "predicted_class", "score_entropy"],
        filter=pc.field("outcome") == "landed",
    )
    order = pc.sort_indices(rows, sort_keys=[("payload_sha256", "ascending")])
    shown: list[dict[str, str]] = []
    per_rule: dict[str, int] = {}
    for index in order.to_pylist():
        rule = str(rows["rule_id"][index].as_py())
        if per_rule.get(rule, 0) >= FRAMES_SHOWN // 2 or len(shown) >= FRAMES_SHOWN:
            continue
        per_rule[rule] = per_rule.get(rule, 0) + 1
        with Image.open(io.BytesIO(rows["payload"][index].as_py())) as image:
            small = image.convert("RGB")
            small.thumbnail((96, 96))
            buffer = io.BytesIO()
            small.save(buffer, format="PNG")
        said = rows["predicted_class"][index].as_py()
        shown.append({"png": base64.b64encode(buffer.getvalue()).decode(), "rule": rule, "said": str(said)})
    return shown


def _link(lab: Lab, relative: str) -> str:
    return relative if (lab.out / relative).is_file() else ""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} kB"


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=UTC).strftime("%H:%M:%S") + "Z"
