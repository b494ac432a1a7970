"""Detectors as people export them: each is imported with what its owner knows of it, and sees the boxes that it must see.

The models are made by hand, so that the right boxes are known exactly; they lie outside of this repository.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from foundation.errors import FleetLoopError
from modelkit.images import decode_image
from modelkit.runtimes import open_predictor
from modelkit.verify import verify_model
from schemas.predictions import ClassificationOutput, DetectionOutput
from services.foreign_contract import ImportRequest
from services.model_import import import_model
from tests.pipelines.curate_lake import make_workspace

CASES = Path(os.environ.get("FLEETLOOP_CASES", Path(__file__).parents[3] / "shared" / "cases"))
KINDS = (
    "C-03-letterbox-odd",
    "C-04-exif-turned",
    "C-05-box-conventions",
    "C-06-ssd-four-outputs",
    "C-08-yolox-input-and-grid",
    "C-09-yolo-axes-and-objectness",
    "C-10-nms-ties-classes-cut",
    "C-11-rows-after-suppression",
    "C-12-detr-no-object",
    "C-13-original-size-input",
    "C-15-black-picture",
)
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"needs the foreign models of {CASES}")


def runs() -> list[Any]:
    found = []
    for kind in KINDS if CASES.is_dir() else ():
        document = json.loads((CASES / kind / "expected.json").read_text())
        found += [pytest.param(kind, run, id=f"{kind[:4]} {run['name']}") for run in document["runs"]]
    return found or [pytest.param("", {}, id="no cases")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a case with its models and pictures."""

    @cache
    def folder(kind: str) -> Path:
        place = tmp_path_factory.mktemp(kind)
        subprocess.run([sys.executable, str(CASES / kind / "make.py"), str(place)], check=True)
        return place

    return folder


def request_of(said: dict[str, Any], file: Path) -> ImportRequest:
    """What the owner says, in our words. `outputs` names graph outputs by role."""
    values = said["range"]
    order = {("w", "h"): "width-height", ("h", "w"): "height-width"}
    return ImportRequest(
        file=file,
        classes=tuple(said["classes"]),
        name="foreign",
        task=said["task"],
        head=said["head"],
        size=tuple(said["size"]) if "size" in said else None,
        color=said.get("colour", "rgb"),
        values=values if isinstance(values, str) else "",
        mean=() if isinstance(values, str) else tuple(values["mean"]),
        std=() if isinstance(values, str) else tuple(values["std"]),
        fit=said.get("fit", "stretch"),
        pad=said.get("pad", 114),
        input=said.get("input", ""),
        outputs=said.get("outputs", {}),
        size_input=said.get("size_input", ""),
        size_order=order[tuple(said.get("size_order", "hw"))],  # type: ignore[index]
        size_of=said.get("size_of", "original"),
        boxes=said.get("boxes", ""),
        first_class=said.get("first_class", 1 if said.get("no_object") == "first" else 0),
        min_score=said.get("score", 0.25),
        suppression=said.get("nms", ""),
        max_overlap=said.get("iou", 0.5),
        max_boxes=said.get("max", 300),
        strides=tuple(said.get("strides", ())),
        columns=tuple(said.get("columns", ())),
    )


@needs_cases
@pytest.mark.parametrize(("kind", "run"), runs())
def test_a_detector_of_others_sees_what_it_must_or_is_refused_by_name(
    kind: str, run: dict[str, Any], made: Any, tmp_path: Path
) -> None:
    folder, expect = made(kind), run["expect"]
    names = run.get("pictures", [run.get("picture")])
    request = request_of(run["contract"], folder / run["model"])
    place = make_workspace(tmp_path / "ws", [])
    if "refused" in expect:
        with pytest.raises(FleetLoopError) as caught:
            import_model(place, request, folder / names[0])
        assert all(word in str(caught.value) for word in expect["must_name"])
        return
    found = import_model(place, request, folder / names[0])
    if "warned" in expect:
        told = " ".join((*found.warnings, *found.taken))
        assert all(word in told for word in expect.get("must_name", ())), told
        assert found.warnings or found.taken
    predictor = open_predictor(verify_model(found.path.read_bytes(), found.digest))
    for name, wanted in zip(names, expect.get("several", [expect]), strict=True):
        (answer,) = predictor.predict([decode_image((folder / name).read_bytes())])
        check(answer.output, wanted, float(expect.get("tolerance", 0.05)))


def check(output: Any, wanted: dict[str, Any], tolerance: float) -> None:
    if "invalid" in wanted:
        assert output is None
    elif "count" in wanted:
        assert len(output.boxes) == wanted["count"]
    elif "classes" in wanted:
        assert isinstance(output, ClassificationOutput)
        assert output.probabilities == pytest.approx(tuple(wanted["classes"].values()), abs=5e-3)
    elif "detections" in wanted:
        assert isinstance(output, DetectionOutput)
        assert [box.class_name for box in output.boxes] == [each["class"] for each in wanted["detections"]]
        for box, each in zip(output.boxes, wanted["detections"], strict=True):
            assert box.score == pytest.approx(each["score"], abs=2e-3)
            edges = (box.left, box.top, box.right, box.bottom)
            assert edges == pytest.approx(each["box"], abs=wanted.get("tolerance", tolerance))
