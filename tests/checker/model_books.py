"""Says whether a vehicle answered every frame by a model that might serve. Imports nothing of the product.

It reads what the serving process wrote for each frame (its number, the digest of the model that answered, whether the
answer was finite), and the vehicle's files as bytes. What might serve it is told by who made the models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of the serving process. `model` is empty when no model answered."""

    frame: int
    model: str
    is_finite: bool
    time_s: float


def read_answers(file: Path) -> list[Answer]:
    """Every whole line; a last line that a kill tore is no answer."""
    if not file.exists():
        return []
    whole = file.read_bytes().rpartition(b"\n")[0]
    rows = [json.loads(line) for line in whole.splitlines()]
    return [Answer(row["frame"], row["model"], row["finite"], row["time_s"]) for row in rows]


def answer_violations(
    answers: Sequence[Answer], may_serve: Collection[str], serves_at_last: str, max_gap_s: float
) -> list[str]:
    """Empty when each frame was answered once, in order, finite, by a model that may serve; the last by the given one."""
    wrong = []
    if not answers:
        return ["no frame was answered at all"]
    for before, after in pairwise(answers):
        if after.frame != before.frame + 1:
            wrong.append(f"after frame {before.frame} came frame {after.frame}")
        if after.time_s - before.time_s > max_gap_s:
            wrong.append(f"{after.time_s - before.time_s:.1f} s without an answer before frame {after.frame}")
    wrong += [f"frame {each.frame} was answered by no model" for each in answers if not each.model]
    wrong += [
        f"frame {each.frame} was answered by {each.model[:12]}, which must not serve"
        for each in answers
        if each.model and each.model not in may_serve
    ]
    wrong += [
        f"the answer to frame {each.frame} is not finite"
        for each in answers
        if each.model and not each.is_finite
    ]
    if answers[-1].model != serves_at_last:
        wrong.append(f"at last {answers[-1].model[:12]} serves, not {serves_at_last[:12]}")
    return wrong


def folder_violations(state: Path, may_serve: Collection[str]) -> list[str]:
    """Empty when what the vehicle's files name as serving or next may serve, and its slots hold those bytes."""
    wrong = []
    named = {}
    for file, key in (("active.json", "active"), ("candidate.json", "slot"), ("factory.json", "")):
        path = state / "models" / ("" if file == "factory.json" else "roles/serving") / file
        if not path.exists():
            continue
        document: dict[str, Any] = json.loads(path.read_text())
        named[file] = (document[key] if key else document)["digest"]
    if "active.json" not in named and "factory.json" not in named:
        return ["neither active.json nor factory.json is there"]
    for file, digest in named.items():
        slot = state / "models" / "slots" / f"{digest}.onnx"
        if digest not in may_serve:
            wrong.append(f"{file} names {digest[:12]}, which must not serve")
        elif slot.is_symlink() or not slot.is_file():
            wrong.append(f"{file} names {digest[:12]}, whose slot is no file")
        elif hashlib.sha256(slot.read_bytes()).hexdigest() != digest:
            wrong.append(f"{file} names {digest[:12]}, whose slot holds other bytes")
    return wrong


def events_of(state: Path, word: str) -> list[str]:
    """The digests in `active.json` to which something happened, such as `activated`, oldest first."""
    document = json.loads((state / "models" / "roles" / "serving" / "active.json").read_text())
    return [event["model_digest"] for event in document["events"] if event["event"] == word]
