"""Turn the ingested samples into a better model: label, curate, train, evaluate, package."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleetloop.demo.lab import Lab
from foundation.errors import GuaranteeBrokenError
from foundation.files import read_json
from pipelines.curate.labelling import LabelResult
from services import curate, dataset
from services.dataset import Version
from services.label import label
from services.runners import runner_settings


@dataclass(frozen=True, slots=True)
class Learnt:
    """The outputs of the stages; `again_digest` is that of the same dataset made by two workers."""

    version: Version
    label: LabelResult
    evaluation: dict[str, Any]
    gate: dict[str, Any]
    package: dict[str, Any]
    again_digest: str

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the dataset version."""
        return self.version.manifest


def learn(lab: Lab, label_budget: int) -> Learnt:
    """Label within a budget, curate, validate, version, train, quantise, evaluate, pass the gate, package.

    Raises:
        GuaranteeBrokenError: the gate refused, so there is nothing to release.
    """
    place = lab.place
    with lab.step(
        "label",
        f"Asking the label desk for at most {label_budget} labels",
        f"label --budget {label_budget} --desk ../drives/labels.jsonl",
    ):
        labelled = label(place, label_budget, runner_settings(), desk=lab.labels)
        lab.say(f"{labelled.answered} labels at a cost of {labelled.cost:g}")
    with lab.step(
        "curate",
        "Curating the dataset (Beam) and validating it (Great Expectations)",
        "dataset lock",
        "dataset repro curate validate",
    ):
        dataset.lock(place)
        lab.repro("curate", "validate")
    with lab.step(
        "rebuild",
        "Curating again with two workers: the digest must be the same",
        "curate --workers 2",
    ):
        shutil.rmtree(place.private_path / "cache", ignore_errors=True)  # nothing measured before is reused
        again = curate.curate(place, runner_settings(workers=2)).manifest
    with lab.step(
        "dataset",
        "Recording the dataset version (DVC, git, local remote)",
        "dataset commit -m 'first journey'",
    ):
        version = dataset.commit(place, "first journey").version
        lab.say(f"dataset {version.id}, {version.manifest['rows']} images, digest {version.digest[:16]}")
    with lab.step("train", "Fine-tuning, quantising, evaluating, packaging (dvc repro)", "dataset repro"):
        lab.repro()
    evaluation, gate = (_read(place.reports_path / f"{name}.json") for name in ("evaluation", "gate"))
    lab.say(f"the gate {'passes' if gate['passed'] else 'refuses'}: {gate['reason']}")
    if not gate["passed"]:
        raise GuaranteeBrokenError(
            f"the gate refused the new model, so there is nothing to release: {gate['reason']}"
        )
    with lab.step(
        "record",
        "Recording the model beside its dataset (DVC push)",
        "dataset commit -m 'first journey, with its model'",
    ):
        dataset.commit(place, "first journey, with its model")
    package = _read(place.package_path / "package.json")
    return Learnt(version, labelled, evaluation, gate, package, str(again["digest"]))


def _read(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise GuaranteeBrokenError(f"{path} holds no JSON object")
    return document
