"""From the broker's log to a better model, with the commands that a person would type."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetloop.demo.lab import Lab
from foundation.errors import GuaranteeBrokenError
from foundation.files import read_json


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the stages wrote."""

    dataset: dict[str, Any]
    manifest: dict[str, Any]
    label: dict[str, Any]
    validation: dict[str, Any]
    evaluation: dict[str, Any]
    gate: dict[str, Any]
    package: dict[str, Any]
    again_digest: str


def learn(lab: Lab, label_budget: int) -> Learnt:
    """Label within a budget, curate, judge, version, train, quantise, evaluate, pass the gate, package.

    Raises:
        GuaranteeBrokenError: the gate refused, so there is nothing to release.
    """
    with lab.step("label", f"Asking the label desk for at most {label_budget} labels"):
        label = lab.run("label", "--budget", str(label_budget), "--desk", lab.labels)
        lab.say(f"{label['answered']} labels at a cost of {label['cost']:g}")
    with lab.step("curate", "Curating the dataset (Beam) and judging it (Great Expectations)"):
        lab.run("dataset", "lock")
        lab.run_plain("dataset", "repro", "curate", "validate")
        manifest = _read(lab.workspace / "datasets" / "current" / "manifest.json")
        validation = _read(lab.workspace / "reports" / "validation.json")
    with lab.step("rebuild", "Curating again with two workers: the same digest, or it is no version"):
        shutil.rmtree(
            lab.workspace / ".fleetloop" / "cache", ignore_errors=True
        )  # nothing measured before is reused
        again = lab.run("curate", "--workers", "2")
    with lab.step("dataset", "Recording the dataset version (DVC, git, local remote)"):
        dataset = lab.run("dataset", "commit", "-m", "first journey")
        lab.say(f"dataset {dataset['id']}, {manifest['rows']} images, digest {dataset['digest'][:16]}")
    with lab.step("train", "Fine-tuning, quantising, evaluating, packaging (dvc repro)"):
        lab.run_plain("dataset", "repro")
    evaluation, gate = (_read(lab.workspace / "reports" / f"{name}.json") for name in ("evaluation", "gate"))
    lab.say(f"the gate {'[green]passes' if gate['passed'] else '[red]refuses'}[/]: {gate['reason']}")
    if not gate["passed"]:
        raise GuaranteeBrokenError(
            f"the gate refused the new model, so there is nothing to release: {gate['reason']}"
        )
    package = _read(lab.workspace / "models" / "package" / "package.json")
    with lab.step("record", "Recording the model beside its dataset (DVC push)"):
        lab.run("dataset", "commit", "-m", "first journey, with its model")
    return Learnt(dataset, manifest, label, validation, evaluation, gate, package, str(again["digest"]))


def _read(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise GuaranteeBrokenError(f"{path} holds no JSON object")
    return document
