"""Draws docs/images/accuracy.svg from a demo's result.json. Run: python scripts/readme_plot.py [out/demo/result.json]"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fleetloop.demo.charts import accuracy_chart
from fleetloop.demo.report import chart_rows

TARGET = Path(__file__).parent.parent / "docs" / "images" / "accuracy.svg"


def main() -> None:
    """Write the plot."""
    result = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo/result.json").read_text())
    accuracy = result["accuracy"]
    rows = chart_rows(accuracy["by_class"]) + chart_rows(
        {f"condition {name}": found for name, found in accuracy["by_condition"].items()}
    )
    note = f"fleetloop demo --seed {result['seed']}, {result['labels_used']} labels"
    svg = accuracy_chart(rows, "Before and after one turn of the loop", note)
    TARGET.write_text(svg.rstrip() + "\n", encoding="utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
