"""docs/reliability.md, made from what the full campaign and the broken builds left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.torture.broken import Seen
from tests.torture.campaign import machine
from tests.torture.fault import Fault

INTRODUCTION = """# Reliability

What `make torture-full` counted: each fault tried again and again on the running parts, and judged by checkers that import
nothing of the product. A script wrote this page from the results (`python -m tests.torture page`). `make torture` goes round
the same faults in ten minutes; `make torture-broken` runs each of them on builds that break one promise each, and every such
build must be noticed. A commit with "+" had changes that were not committed yet.
"""


ATTACKED = re.compile(r"^Attacked by: .+?\.$", re.MULTILINE | re.DOTALL)


def merge_broken(file: Path, seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """What is known of broken builds after these were tried: earlier tries of other faults are kept."""
    known = json.loads(file.read_text()) if file.exists() else []
    tried = {each.fault.name for each in seen}
    kept = [row for row in known if row["fault"] not in tried]
    return kept + [
        {
            "fault": each.fault.name,
            "change": each.build.change,
            "path": each.build.path,
            "noticed": each.noticed,
            "evidence": each.evidence[:300],
        }
        for each in seen
    ]


def reliability(out: Path) -> str:
    """The page as Markdown. Raises FileNotFoundError when the full campaign was never run."""
    rows = json.loads((out / "full.json").read_text())
    first = rows[0]
    commits = sorted({commit for row in rows for commit in row["commits"]})
    dates = sorted({date for row in rows for date in row["dates"]})
    lines = [
        INTRODUCTION,
        f"Command `{first['command']}`, seed {first['seed']}, {', '.join(dates)}, {machine()}; commits {', '.join(commits)}.",
        "",
        "| | fault | guarantee | tries | survived | what was counted |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['group']} | {row['fault']} | {row['guarantee']} | {_tries(row)} | {row['survived']:,} | {_counted(row)} |"
        for row in rows
    ]
    lines += ["", "## What each fault does, and what of it is real", ""]
    for row in rows:
        lines += [
            f"- **{row['fault']}** ({row['guarantee']}). {row['what']} A try is {row['one_try']}. {row['real']}."
        ]
    failures = [(row["fault"], text) for row in rows for text in row["failures"]]
    if failures:
        lines += ["", "## Not survived", ""] + [f"- {name}: {_one_line(text)}" for name, text in failures]
    broken = json.loads((out / "broken.json").read_text()) if (out / "broken.json").exists() else []
    if broken:
        lines += [
            "",
            "## Broken builds",
            "",
            "| fault | what was broken | where | noticed |",
            "|---|---|---|---|",
        ]
        order = {row["fault"]: number for number, row in enumerate(rows)}
        for each in sorted(broken, key=lambda row: order.get(row["fault"], len(order))):
            lines.append(
                f"| {each['fault']} | {each['change']} | `{each['path']}` | {'yes' if each['noticed'] else '**no**'} |"
            )
    return "\n".join(lines) + "\n"


def name_the_faults(guarantees: str, faults: Sequence[Fault]) -> str:
    """The page of guarantees with one line in each section that names the faults that attack it."""
    parts = re.split(r"(?m)^(?=## G)", guarantees)
    for place, part in enumerate(parts):
        number = re.match(r"## (G\d+)\.", part)
        names = [
            f"`{fault.name}`" for fault in faults if number is not None and number[1] in fault.guarantees
        ]
        if not names:
            continue
        line = f"Attacked by: {', '.join(names)}."
        if ATTACKED.search(part):
            part = ATTACKED.sub(line, part)
        elif "\nNot covered yet:" in part:
            part = part.replace("\nNot covered yet:", f"\n{line}\n\nNot covered yet:", 1)
        else:
            part = f"{part.rstrip()}\n\n{line}\n\n"
        parts[place] = part
    return "".join(parts).rstrip() + "\n"


def _tries(row: dict[str, Any]) -> str:
    if row["skipped"] and not row["tries"]:
        return f"none ({row['skipped']})"
    return f"{row['tries']:,}" if row["tries"] >= row["of"] else f"{row['tries']:,} of {row['of']:,}"


def _counted(row: dict[str, Any]) -> str:
    parts = []
    for what, value in row["counted"].items():
        name = what.replace("_", " ")
        if isinstance(value, dict):
            parts.append(f"{name}: median {value['median']:g}, largest {value['max']:g}")
        else:
            parts.append(f"{value:,} {name}")
    return "; ".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
