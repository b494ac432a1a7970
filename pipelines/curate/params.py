"""The parameters of curation, labelling and validation: read once from params.yaml, checked, immutable.

params.yaml is their only source, so that DVC sees every change. Sections of other stages are not read here.
Refuses an unknown key, a value outside its bounds and ratios that leave nothing for training.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from foundation.errors import MisconfiguredError
from foundation.settings import setting
from modelkit.tasks import TASKS, Task
from schemas.predictions import CLASSIFICATION
from workspace.params_file import load_classes, load_section, load_task


@dataclass(frozen=True, slots=True)
class SplitParams:
    """Shares of the drives (not of the frames). Train gets the rest."""

    validation_ratio: float = setting(0.1, min=0.0, max=0.5)
    test_ratio: float = setting(0.3, min=0.0, max=0.5)
    salt: str = ""
    """A secret of the workspace: who does not know it cannot tell, or choose, the split of a name."""
    per_vehicle: bool = False
    """Whether a drive of the fleet is named by its vehicle as well, so that two vehicles never share one."""

    def as_json(self) -> dict[str, object]:
        """Return the values for a manifest, of a salt only a digest; as released datasets have them without the newer ones."""
        salt = hashlib.sha256(self.salt.encode()).hexdigest()[:16] if self.salt else ""
        newer = {"per_vehicle": True} if self.per_vehicle else {}
        ratios = {"validation_ratio": self.validation_ratio, "test_ratio": self.test_ratio}
        return {**ratios, "salt": salt, **newer}


@dataclass(frozen=True, slots=True)
class QualityParams:
    """Bounds within which a frame is kept. Luma is 0..255, sharpness as `modelkit.images.sharpness` measures it."""

    min_luma: float = setting(6.0, min=0.0, max=255.0)
    max_luma: float = setting(249.0, min=0.0, max=255.0)
    min_sharpness: float = setting(0.005, min=0.0)
    min_side_pixels: int = setting(8, min=1)


@dataclass(frozen=True, slots=True)
class NearDuplicateParams:
    """How far apart two frames may be and still count as near-duplicates."""

    max_distance_bits: int = setting(29, min=0, max=128)
    """Of 256 bits of the perceptual hash."""
    max_embedding_distance: float = setting(0.0, min=0.0, max=1.0)
    """Cosine distance between embeddings of the same model; 0 compares none."""


@dataclass(frozen=True, slots=True)
class ShardParams:
    """How the frames are distributed over files. It changes no digest."""

    target_bytes: int = setting(268_435_456, min=1_048_576, max=536_870_912)
    row_group_rows: int = setting(1024, min=16, max=65_536)


@dataclass(frozen=True, slots=True)
class QuarantineParams:
    """When nothing of a vehicle is trained on."""

    max_failing_ratio: float = setting(0.02, min=0.0, max=1.0)
    """Share of a vehicle's labelled rows that may break one rule on what it says of itself (times, scores)."""
    lifted: dict[str, str] = field(default_factory=dict)
    """Vehicle to the reason why: of such a vehicle only the rows that break a rule are in quarantine."""

    def __post_init__(self) -> None:
        for vehicle, why in self.lifted.items():
            if not why.strip():
                raise MisconfiguredError(f"quarantine.lifted.{vehicle} is {why!r}; it must say why")


@dataclass(frozen=True, slots=True)
class CurateParams:
    """The parameters of the stage `curate`."""

    quality: QualityParams = field(default_factory=QualityParams)
    near_duplicates: NearDuplicateParams = field(default_factory=NearDuplicateParams)
    shards: ShardParams = field(default_factory=ShardParams)
    quarantine: QuarantineParams = field(default_factory=QuarantineParams)

    def as_json(self) -> dict[str, object]:
        """Return the values for a manifest, as released datasets have them without a quarantine that is not the default."""
        values = asdict(self)
        if self.quarantine == QuarantineParams():
            del values["quarantine"]
        return values


class Strategy(StrEnum):
    """Which frames are worth a label."""

    RANDOM = "random"
    ENTROPY = "entropy"
    MARGIN = "margin"
    LEAST_CONFIDENCE = "least_confidence"
    CLASS_BALANCED = "class_balanced"
    COVERAGE = "coverage"
    DIVERSE = "diverse"


@dataclass(frozen=True, slots=True)
class LabelParams:
    """How a labelling budget is spent. The arms: the strategy, a random draw, and a random draw of test drives."""

    strategy: Strategy = Strategy.CLASS_BALANCED
    at_most_per_track: int = setting(1, min=1)
    random_ratio: float = setting(0.1, min=0.0, max=1.0)
    """Share of the budget drawn at random among training and validation drives: the baseline."""
    test_ratio: float = setting(0.15, min=0.0, max=1.0)
    """Share of the budget drawn at random among test drives, so that the test set stays an unbiased sample."""
    seed: int = setting(0, min=0)
    salt: str = ""
    """A secret of the workspace, so that no vehicle can choose bytes that are drawn by chance."""
    shortlist_factor: int = setting(3, min=0, max=1000)
    """Frames per label that are scored again by the fleet's serving model before they are chosen; 0 believes the vehicles."""
    repeats_per_track: int = setting(3, min=0)
    """coverage only: further labels for a track whose class, known from a label, has few."""
    rounds: int = setting(5, min=1, max=100)
    """coverage only: parts of the budget, each selected with the labels of the parts before it."""


@dataclass(frozen=True, slots=True)
class ValidateParams:
    """How many rows may fail before the stage fails."""

    max_failing_ratio: float = setting(0.02, min=0.0, max=1.0)
    """Per rule. Rows in quarantine are never trained on, whatever the value."""
    max_failing_vehicles_ratio: float = setting(0.2, min=0.0, max=1.0)
    """Share of the vehicles that may be in quarantine; one may in any fleet of two or more."""
    min_rows: int = setting(1, min=0)


@dataclass(frozen=True, slots=True)
class Params:
    """The sections of params.yaml that this layer reads."""

    classes: tuple[str, ...]
    split: SplitParams
    curate: CurateParams
    label: LabelParams
    validate: ValidateParams
    task_name: str = CLASSIFICATION

    @property
    def task(self) -> Task[Any, Any]:
        """The task, which defines what a label is."""
        return TASKS[self.task_name]

    def as_json(self) -> dict[str, object]:
        """Return the parameters that decide what is in a dataset (not how it is labelled or validated).

        Classification is not named: released datasets have the same parameters from before there was another task.
        """
        named = {} if self.task_name == CLASSIFICATION else {"task": self.task_name}
        found = {
            "classes": list(self.classes),
            "split": self.split.as_json(),
            "curate": self.curate.as_json(),
        }
        return {**named, **found}


def load_params(path: Path) -> Params:
    """Read params.yaml.

    Raises MisconfiguredError naming the file, the key, the value and the bound.
    """
    params = Params(
        classes=load_classes(path),
        split=load_section(path, "split", SplitParams),
        curate=load_section(path, "curate", CurateParams),
        label=load_section(path, "label", LabelParams),
        validate=load_section(path, "validate", ValidateParams),
        task_name=load_task(path).name,
    )
    _check_together(params, path)
    return params


def _check_together(params: Params, path: Path) -> None:
    kept_back = params.split.validation_ratio + params.split.test_ratio
    if kept_back >= 1.0:
        raise MisconfiguredError(
            f"{path}: split.validation_ratio + split.test_ratio is {kept_back}, "
            "must be below 1, or nothing is left to train on"
        )
    if params.label.random_ratio + params.label.test_ratio > 1.0:
        raise MisconfiguredError(
            f"{path}: label.random_ratio + label.test_ratio is "
            f"{params.label.random_ratio + params.label.test_ratio}, must be at most 1"
        )
    quality = params.curate.quality
    if quality.min_luma >= quality.max_luma:
        raise MisconfiguredError(
            f"{path}: curate.quality.min_luma {quality.min_luma} must be below max_luma {quality.max_luma}"
        )
