"""What 1,000 labels teach, by who chose them: FleetLoop's coverage beside chance and beside each single strategy.

    python -m benchmarks.learning --seeds 5 --json out/bench/learning.json

German traffic signs (gtsrb32; see `data_folder`), cut into drives by the demo's own code. A seed is one world: a first
model that knows little (a fifth of the training drives, four frames of each track, three classes never seen), the rest
of the training drives as the pool (about 10,400 frames in about 1,050 tracks of ten near-identical frames), and the
half of the official test set as held-out drives. Every arm chooses 1,000 frames of the same pool with the product's
code, and the same network is fine-tuned with the same parameters. FleetLoop's arm is the strategy `coverage`, made for
many classes of which some are rare; `class_balanced` is what params.yaml ships. `whole_pool` has a label of every frame
and as many steps of training: no choice of 1,000 can be expected above it. Chosen by the product: the vehicle's scores
(`modelkit.scores` on the shipped int8 model), the label arms (`pipelines.curate.labelling.ask`), novelty (the
vehicle's policy). A label is told only after it was asked for, and nobody sees a test drive before the end.

Rare classes were fixed before any result was seen: the ten of 43 with the fewest tracks in the training file (seven to
ten tracks each, the first quarter; 360 of 6,315 test images).

Differences are paired by seed. The interval is the wider of Student's over the seeds and a bootstrap over the test
images. What is not product here: accuracy is that of the trained network before quantisation, and the pool skips the
broker and the lake.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.port import Measure, Step
from connectors.labels.ports import Label
from edge_agent.config import (
    AgentSettings,
    NoveltySettings,
    RandomSettings,
    SelectionSettings,
    SourceKind,
    SourceSettings,
    UncertaintySettings,
)
from edge_agent.perceive import build_policy
from edge_agent.selection.decision import ScoredObservation
from edge_agent.selection.novelty import NoveltyMemory
from edge_agent.selection.track_limit import TrackLimit
from fleetloop.demo.drives import DemoFrame, DriveShape, drive_frames, plan_drives, still_images
from fleetloop.demo.sources import ImageSource, load_gtsrb
from foundation.files import write_json_atomic
from modelkit.images import condition_of, decode_image
from modelkit.predictor import Prediction
from modelkit.runtimes import open_predictor
from modelkit.scores import score
from modelkit.tasks import TASKS
from pipelines.curate.labelling import ask
from pipelines.curate.params import LabelParams, Params, Strategy, load_params
from pipelines.curate.row_states import KEPT, UNLABELLED
from pipelines.curate.split import split_of
from schemas.reasons import Split
from training.initial import train_initial
from training.intervals import bootstrap_difference
from training.params import TrainParams
from training.rows import REFERENCE, Row, TrainingSet, make_training_set

ROOT = Path(__file__).parents[1]
BUDGET = 1_000
BASE_SHARE, BASE_FRAMES_A_TRACK, BASE_EPOCHS = 0.2, 4, 24
EPOCHS, BATCH = 60, 32
"""On the development seed 101 chance reaches 77 % right after 14 epochs, 86 after 30 and 90 after 60."""
RARE_CLASSES = 10
NO_LIMIT = 1_000_000
VEHICLES = 3
PROCESSES = 2
OURS, CHANCE = "fleetloop", "random"
SINGLE = ("entropy", "margin", "least_confidence", "novelty", "diverse", "class_balanced")
LIMIT = "whole_pool"
ARMS = (CHANCE, *SINGLE, OURS, LIMIT)
EXTRA = (
    "random_one_a_track",
    "fleetloop_by_vehicle",
    "random_whole_tracks",
    "fleetloop_whole_tracks",
)
"""Not of the comparison: what holds the others. `..._whole_tracks` uses each label for every frame of its track (which
the product does not do), with as many steps of training."""
AIM_POINTS, AIM_RARE_POINTS, AIM_NEVER_BELOW = 3.0, 10.0, -0.5
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's 97.5 % quantile for so many seeds."""
JUDGED = (
    "modelkit/scores.py", "pipelines/curate/scores.py", "edge_agent/selection/policy.py",
    "edge_agent/selection/novelty.py", "edge_agent/selection/random_arm.py", "edge_agent/selection/track_limit.py",
    "fleetloop/demo/drives.py", "training/fit.py", "training/augment.py", "training/network.py", "training/initial.py",
    "training/quantise.py",
)  # fmt: skip
JUDGED_OURS = (*JUDGED, "pipelines/curate/coverage.py", "pipelines/curate/selection.py", "params.yaml")
"""What decides the result: a finished training is used again only when none of these and no part of the recipe has
changed."""


def data_folder() -> Path:
    """Where the signs are: `gtsrb32` in FLEETLOOP_DATA, or beside the project."""
    return Path(os.environ.get("FLEETLOOP_DATA", ROOT.parent / "shared" / "data")) / "gtsrb32"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One size of the comparison; `cut` keeps every so-many-th drive and test image (1: all)."""

    budget: int = BUDGET
    base: tuple[float, int] = (BASE_SHARE, BASE_FRAMES_A_TRACK)
    batch: int = BATCH
    base_epochs: int = BASE_EPOCHS
    epochs: int = EPOCHS
    cut: int = 1


QUICK = Recipe(budget=100, base_epochs=2, epochs=1, cut=8)


@dataclass(frozen=True, slots=True)
class World:
    """What all arms of one seed share. `rows` is what curation hands to the label desk."""

    frames: Sequence[DemoFrame]
    predictions: Sequence[Prediction]
    rows: pl.DataFrame
    truth: dict[str, str]
    base: TrainingSet
    pool: TrainingSet
    test: TrainingSet
    made: Any
    params: Params
    base_right: NDArray[np.bool_]


class Desk:
    """The annotators: they tell a label only of what they are asked, and count it."""

    def __init__(self, truth: dict[str, str]) -> None:
        self._truth = truth
        self.asked: list[str] = []

    def request(self, payload_sha256s: Sequence[str]) -> list[Label]:
        """One label each."""
        self.asked += payload_sha256s
        return [Label(sha, self._truth[sha], "desk", 0, 1.0) for sha in payload_sha256s]


def rare_classes(source: ImageSource) -> tuple[str, ...]:
    """The classes with the fewest tracks in the training file, of equally many the first by name."""
    tracks = Counter(name for _, name in {(i.scene_id, i.class_name) for i in source.images if i.is_sequence})
    return tuple(sorted(tracks, key=lambda name: (tracks[name], name))[:RARE_CLASSES])


def make_world(source: ImageSource, seed: int, recipe: Recipe, scratch: Path) -> World:
    """Drives, first model, pool with the vehicle's predictions, and test, of one seed."""
    params = load_params(ROOT / "params.yaml")
    shape = DriveShape(bootstrap_ratio=BASE_SHARE)
    plan = plan_drives(source, lambda drive: split_of(drive, params.split), shape, seed)
    known = [
        f for f in still_images(plan.bootstrap[:: recipe.cut]) if f.class_name not in source.untrained_classes
    ]
    places: Counter[str] = Counter()
    thinned = []
    for frame in known:
        places[frame.track_id] += 1
        if (places[frame.track_id] - 1) % 3 == 0 and places[frame.track_id] <= 3 * BASE_FRAMES_A_TRACK:
            thinned.append(frame)
    base_rows = [row for row in map(_reference, thinned) if row.condition != "dark"]
    frames = [f for d in plan.fleet[:: recipe.cut] for f in drive_frames(d, source, shape, seed, "first")]
    held_out = still_images(plan.test)[:: recipe.cut]
    made = train_initial(
        scratch, base_rows, name="signs-v1", classes=source.classes, split_of=lambda d: split_of(d, params.split),
        params=_train_params(seed, recipe.base_epochs),
    )  # fmt: skip
    contract = made.model.contract
    predictor = open_predictor(made.model)
    pool = _training_set(frames, contract)
    predictions = predictor.predict(list(pool.pixels))
    test = _training_set(held_out, contract)
    right = [
        p.output.class_name == label
        for p, label in zip(predictor.predict(list(test.pixels)), test.labels, strict=True)
    ]
    rows = pl.concat([_reference_rows(base_rows), _pool_rows(frames, predictions, made.model.digest, params)])
    base = make_training_set(base_rows, contract)
    truth = {f.payload_sha256: f.class_name for f in frames}
    return World(frames, predictions, rows, truth, base, pool, test, made, params, right)


def _train_params(seed: int, epochs: int) -> TrainParams:
    return TrainParams(seed=seed, epochs=epochs, batch_size=BATCH)


def _reference(frame: DemoFrame) -> Row:
    image = decode_image(frame.payload)
    names = (frame.payload_sha256, frame.class_name, frame.drive_id, frame.track_id)
    return Row(image, *names, condition_of(image), REFERENCE)


def _training_set(frames: Sequence[DemoFrame], contract: Any) -> TrainingSet:
    rows = (dataclasses.replace(_reference(frame), origin="fleet") for frame in frames)
    return make_training_set(rows, contract)


_SCHEMA = {
    "payload_sha256": pl.String, "identity": pl.String, "drive_id": pl.String, "track_id": pl.String,
    "split": pl.String, "state": pl.String, "class_name": pl.String, "predicted_class": pl.String,
    "model_digest": pl.String, "score_entropy": pl.Float64, "score_margin": pl.Float64,
    "score_least_confidence": pl.Float64, "embedding": pl.List(pl.Float32),
}  # fmt: skip


def _reference_rows(rows: Sequence[Row]) -> pl.DataFrame:
    """The first model's pictures as curation sees them: labelled, without a prediction."""
    known = [
        {"payload_sha256": r.payload_sha256, "identity": r.payload_sha256, "drive_id": r.drive_id,
         "track_id": r.track_id, "split": str(Split.TRAIN), "state": KEPT, "class_name": r.label}
        for r in rows
    ]  # fmt: skip
    return pl.DataFrame(known, schema=_SCHEMA)


def _pool_rows(
    frames: Sequence[DemoFrame], said: Sequence[Prediction], digest: str, params: Params
) -> pl.DataFrame:
    """What landed of the pool: everything that a vehicle says of a frame, no label."""
    rows = []
    for frame, prediction in zip(frames, said, strict=True):
        scores = score(prediction, None)
        rows.append(
            {"payload_sha256": frame.payload_sha256, "identity": frame.frame_id, "drive_id": frame.drive_id,
             "track_id": frame.track_id, "split": str(split_of(frame.drive_id, params.split)), "state": UNLABELLED,
             "class_name": None, "predicted_class": prediction.output.class_name, "model_digest": digest,
             "score_entropy": scores["entropy"], "score_margin": scores["margin"],
             "score_least_confidence": scores["least_confidence"], "embedding": list(prediction.embedding)}
        )  # fmt: skip
    return pl.DataFrame(rows, schema=_SCHEMA)


def kept_by_vehicles(world: World, selection: SelectionSettings) -> list[str]:
    """The payloads that the vehicles keep when they drive the pool with these settings, in order of capture."""
    kept: list[str] = []
    drives = sorted({f.drive_id for f in world.frames})
    for number in range(VEHICLES):
        settings = AgentSettings(
            f"vehicle-{number}", Path(), SourceSettings(SourceKind.PARQUET, Path()), selection=selection
        )
        tracks, memory = TrackLimit(selection.track_limit), NoveltyMemory(selection.novelty.memory_frames)
        policy = build_policy(settings, tracks)
        digest, mine = world.made.model.digest, set(drives[number::VEHICLES])
        memory.use_model(digest)
        for frame, said in zip(world.frames, world.predictions, strict=True):
            if frame.drive_id not in mine:
                continue
            scores = score(
                said, memory.compared_with(len(said.embedding)) if selection.novelty.enabled else None
            )
            seen = ScoredObservation(
                frame.frame_id, frame.drive_id, frame.track_id, len(frame.payload), scores
            )
            found = policy.select(seen, affordable=True)
            if found.trigger is None:
                continue
            kept.append(frame.payload_sha256)
            if selection.novelty.enabled:
                memory.remember(said.embedding, digest)
            if found.by_rule:
                tracks.count(frame.drive_id, frame.track_id)
    return kept


def choose(world: World, arm: str, seed: int, recipe: Recipe) -> list[str]:
    """The payloads that this arm has labelled, at most the budget."""
    arm = arm.removesuffix("_whole_tracks")
    if arm == LIMIT:
        return list(world.truth)
    alone = LabelParams(Strategy.RANDOM, NO_LIMIT, 0.0, 0.0, seed)
    shipped = dataclasses.replace(world.params.label, seed=seed)
    coverage = dataclasses.replace(shipped, strategy=Strategy.COVERAGE)
    rows = world.rows
    if arm == OURS:
        label = coverage
    elif arm == "class_balanced":
        label = shipped
    elif arm == "fleetloop_by_vehicle":
        label = coverage
        demo = SelectionSettings(
            UncertaintySettings(threshold=0.25), NoveltySettings(enabled=True, threshold=0.12),
            RandomSettings(0.06, seed), max_per_track=2,
        )  # fmt: skip
        rows = _only(rows, kept_by_vehicles(world, demo))
    elif arm == "novelty":
        label = alone
        rows = _only(rows, _novel(world, recipe.budget))
    elif arm == "random_one_a_track":
        label = dataclasses.replace(alone, at_most_per_track=1)
    else:
        label = dataclasses.replace(alone, strategy=Strategy(arm))
    desk = Desk(world.truth)
    ask(rows, desk, recipe.budget, dataclasses.replace(world.params, label=label))
    return desk.asked


def _only(rows: pl.DataFrame, kept: Sequence[str]) -> pl.DataFrame:
    return rows.filter((pl.col("state") == KEPT) | pl.col("payload_sha256").is_in(list(kept)))


def _novel(world: World, budget: int) -> list[str]:
    """What the novelty selector keeps at the highest threshold that keeps the budget."""
    for threshold in (0.2, 0.16, 0.12, 0.09, 0.06, 0.03, 0.01, 0.0):
        novelty = NoveltySettings(enabled=True, threshold=threshold)
        alone = SelectionSettings(
            UncertaintySettings(enabled=False), novelty, RandomSettings(0.0), limits_tracks=False
        )
        kept = kept_by_vehicles(world, alone)
        if len(kept) >= budget:
            break
    return kept


def of_whole_tracks(world: World, asked: Sequence[str]) -> list[str]:
    """The payloads of every track of which a frame was asked for."""
    wanted = set(asked)
    tracks = {f.track_id for f in world.frames if f.payload_sha256 in wanted}
    return [f.payload_sha256 for f in world.frames if f.track_id in tracks]


def teach(world: World, asked: Sequence[str], seed: int, recipe: Recipe) -> NDArray[np.bool_]:
    """Fine-tune the first model on its own pictures and the labelled ones; which test images it then gets right."""
    from training.fit import fit, infer
    from training.network import Architecture, build
    from training.weights import load_weights

    wanted = set(asked)
    numbers = [i for i, f in enumerate(world.frames) if f.payload_sha256 in wanted]
    is_validation = [
        split_of(world.frames[i].drive_id, world.params.split) is Split.VALIDATION for i in numbers
    ]
    train = [i for i, held in zip(numbers, is_validation, strict=True) if not held]
    validation = [i for i, held in zip(numbers, is_validation, strict=True) if held]
    architecture = Architecture.from_json(world.made.record.architecture)
    weights = load_weights(world.made.folder / "weights.npz", world.made.record.weights_digest)
    both = world.base.joined(world.pool.take(train))
    # Where more rows are used, fewer epochs: every arm is trained with as many steps.
    epochs = max(
        1, round(recipe.epochs * (len(world.base) + recipe.budget) / (len(world.base) + len(numbers)))
    )
    found = fit(
        build(architecture, weights, seed),
        both,
        world.pool.take(validation),
        world.made.model.contract,
        _train_params(seed, epochs),
    )
    contract = world.made.model.contract
    raw = infer(build(architecture, found.weights), world.test.pixels, contract)
    said = TASKS[contract.task].decode(raw, contract, world.test.placed)
    return np.array(
        [a is not None and a.class_name == label for a, label in zip(said, world.test.labels, strict=True)]
    )


Say = Callable[[str], None]


def run_arms(
    source: ImageSource,
    seeds: Sequence[int],
    arms: Sequence[str],
    recipe: Recipe,
    parts: Path | None,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Every seed and arm: `SEED/ARM` to what it asked for and which test images it got right, kept in `parts`."""
    done = finished(parts, recipe)
    rare = rare_classes(source)
    for seed in seeds:
        left = [arm for arm in arms if f"{seed}/{arm}" not in done]
        if not left:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            world = make_world(source, seed, recipe, Path(scratch))
            is_rare = np.isin(world.test.labels, list(rare))
            for arm in left:
                started = time.process_time()
                asked = choose(world, arm, seed, recipe)
                used = of_whole_tracks(world, asked) if arm.endswith("_whole_tracks") else asked
                right = teach(world, used, seed, recipe)
                tracks = {f.track_id for f in world.frames if f.payload_sha256 in set(asked)}
                done[f"{seed}/{arm}"] = {
                    "inputs": inputs_digest(recipe, arm),
                    "asked": len(asked),
                    "tracks": len(tracks),
                    "pool_frames": len(world.frames),
                    "pool_tracks": len({f.track_id for f in world.frames}),
                    "rare_labels": sum(world.truth[sha] in rare for sha in asked),
                    "base_accuracy": float(world.base_right.mean()),
                    "accuracy": float(right.mean()),
                    "rare_accuracy": float(right[is_rare].mean()),
                    "right": np.packbits(right).tobytes().hex(),
                    "is_rare": np.packbits(is_rare).tobytes().hex(),
                    "images": len(right),
                    "cpu_s": time.process_time() - started,
                }
                if parts is not None:
                    parts.parent.mkdir(parents=True, exist_ok=True)
                    write_json_atomic(parts, done)
                found = done[f"{seed}/{arm}"]
                say(
                    f"seed {seed} {arm}: accuracy {100 * found['accuracy']:.2f} rare {100 * found['rare_accuracy']:.2f} "
                    f"({found['asked']} labels, {found['tracks']} tracks, {found['rare_labels']} rare; "
                    f"{found['cpu_s']:.0f} s)"
                )
    return done


@functools.cache  # of the code as it was when this process began
def inputs_digest(recipe: Recipe, arm: str) -> str:
    """Of the code and parameters that decide this arm's result, and of this size of it."""
    found = hashlib.sha256(repr(recipe).encode())
    for name in JUDGED_OURS if arm.startswith((OURS, "class_balanced")) else JUDGED:
        found.update(hashlib.sha256((ROOT / name).read_bytes()).digest())
    return found.hexdigest()[:16]


def finished(parts: Path | None, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The trainings that earlier runs on the same code and recipe left, by `SEED/ARM`."""
    if parts is None or not parts.is_file():
        return {}
    kept = json.loads(parts.read_text())
    digests = {arm: inputs_digest(recipe, arm) for arm in (*ARMS, *EXTRA)}
    return {key: part for key, part in kept.items() if part["inputs"] == digests[key.partition("/")[2]]}


@dataclass(frozen=True, slots=True)
class Difference:
    """Points of accuracy, ours minus another's, over the seeds: mean, 95 % interval, each seed's."""

    mean: float
    low: float
    high: float
    each: tuple[float, ...]


def difference(
    done: dict[str, dict[str, Any]], seeds: Sequence[int], ours: str, other: str, *, rare: bool
) -> Difference:
    """Paired by seed and by image; the interval is the wider of Student's over seeds and a bootstrap over images."""
    rows = []
    for seed in seeds:
        mine, theirs = (done[f"{seed}/{arm}"] for arm in (ours, other))
        kept = _bits(mine, "is_rare") if rare else np.ones(mine["images"], dtype=np.bool_)
        rows.append(100.0 * (_bits(mine, "right").astype(float) - _bits(theirs, "right").astype(float))[kept])
    each = tuple(float(row.mean()) for row in rows)
    mean = statistics.fmean(each)
    half = T_975[len(each)] * statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else 100.0
    flat = np.concatenate(rows)
    # An image has the same number in every seed, so that all its answers are drawn together.
    images = np.concatenate([np.arange(len(row)) for row in rows])
    low, high = np.quantile(bootstrap_difference(flat, images, 2000, 0), [0.025, 0.975])
    return Difference(mean, min(mean - half, float(low)), max(mean + half, float(high)), each)


def _bits(part: dict[str, Any], name: str) -> NDArray[np.bool_]:
    packed = np.frombuffer(bytes.fromhex(part[name]), dtype=np.uint8)
    return np.unpackbits(packed, count=part["images"]).astype(np.bool_)


def measures(
    done: dict[str, dict[str, Any]], seeds: Sequence[int], arms: Sequence[str], note: str
) -> list[Measure]:
    """Ours beside chance (mean, rare, worst seed) and beside every other arm."""
    rows = []
    for arm in arms:
        if arm in (OURS, LIMIT):
            continue
        for rare in (False, True):
            found = difference(done, seeds, OURS, arm, rare=rare)
            key = "rare_accuracy" if rare else "accuracy"
            aim = (AIM_RARE_POINTS if rare else AIM_POINTS) if arm == CHANCE else 0.0
            mine, theirs = (
                statistics.fmean(100 * done[f"{seed}/{name}"][key] for seed in seeds) for name in (OURS, arm)
            )
            rows.append(
                Measure(
                    step=f"learning, {'rare classes' if rare else 'all classes'}, labels chosen by coverage",
                    beside=f"{arm}, the same {done[f'{seeds[0]}/{arm}']['asked']:,} labels, {len(seeds)} seeds",
                    ratio=None,
                    aim=f">= {aim:+.0f} points",
                    met=found.mean >= aim,
                    spread=(min(found.each), max(found.each)),
                    figures={
                        "product_accuracy_percent": mine,
                        "beside_accuracy_percent": theirs,
                        **_of_limit(done, seeds, key, theirs),
                        "difference_points": found.mean,
                        "difference_low_95_points": found.low,
                        "difference_high_95_points": found.high,
                    },
                    note=note,
                )
            )
    worst = difference(done, seeds, OURS, CHANCE, rare=False)
    rows.append(
        Measure(
            step="learning, all classes, the worst seed",
            beside="random, the same labels",
            ratio=None,
            aim=">= -0.5 points",
            met=min(worst.each) >= AIM_NEVER_BELOW,
            spread=(min(worst.each), max(worst.each)),
            figures={"difference_points": min(worst.each)},
            note=note,
        )
    )
    return rows


def _of_limit(
    done: dict[str, dict[str, Any]], seeds: Sequence[int], key: str, theirs: float
) -> dict[str, float]:
    """How far a label of every frame is above the other arm: what a choice could win at most."""
    if any(f"{seed}/{LIMIT}" not in done for seed in seeds):
        return {}
    return {
        "whole_pool_above_it_points": statistics.fmean(100 * done[f"{seed}/{LIMIT}"][key] for seed in seeds)
        - theirs
    }


def run_seed(seed: int, arms: Sequence[str], recipe: Recipe, parts: Path | None) -> dict[str, dict[str, Any]]:
    """One seed in a process of its own, for seeds share nothing."""
    return run_arms(
        load_gtsrb(data_folder()), (seed,), arms, recipe, parts, lambda text: print(text, flush=True)
    )


def run_seeds(
    seeds: Sequence[int], arms: Sequence[str], recipe: Recipe, folder: Path | None
) -> tuple[dict[str, dict[str, Any]], int]:
    """All seeds, two at a time; how many trainings an earlier run on the same code had left in `folder`."""
    files = [None if folder is None else folder / f"learning.seed-{seed}.json" for seed in seeds]
    wanted = {f"{seed}/{arm}" for seed in seeds for arm in arms}
    reused = sum(len(wanted & finished(file, recipe).keys()) for file in files)
    done: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = [
            pool.submit(run_seed, seed, arms, recipe, file) for seed, file in zip(seeds, files, strict=True)
        ]
        for task in tasks:
            done |= task.result()
    return done, reused


def run(seed: int, quick: bool) -> list[Measure]:
    """Five seeds from `seed` + 1 on; trainings that nothing has changed since are used again and the note says so."""
    if quick:
        few, two = (seed + 1, seed + 2), (CHANCE, OURS)
        done, _ = run_seeds(few, two, QUICK, None)
        return measures(done, few, two, "quick: shows only that it runs")
    arms, seeds = ARMS, tuple(range(seed + 1, seed + 6))
    done, reused = run_seeds(seeds, arms, Recipe(), ROOT / "out" / "bench")
    note = (
        f"{reused} of {len(seeds) * len(arms)} trainings are of an earlier run on the same code"
        if reused
        else ""
    )
    return measures(done, seeds, arms, note)


def _needs() -> str | None:
    path = data_folder() / "train.parquet"
    return None if path.is_file() else f"there is no {path}; set FLEETLOOP_DATA"


STEPS = (Step("learning", run, _needs),)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument(
        "--first-seed", type=int, default=1, help="1 to 5 are reported; 101 on are for development"
    )
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--json", type=Path, default=Path("out/bench/learning.json"))
    options = parser.parse_args()
    if reason := _needs():
        print(f"skipped: {reason}")
        return
    arms, seeds = options.arms.split(","), range(options.first_seed, options.first_seed + options.seeds)
    done, reused = run_seeds(seeds, arms, Recipe(), options.json.parent)
    rows = measures(done, seeds, arms, "") if {OURS, CHANCE} <= set(arms) else []
    by_arm = {
        f"{seed}/{arm}": {k: v for k, v in done[f"{seed}/{arm}"].items() if k not in ("right", "is_rare")}
        for seed in seeds
        for arm in arms
    }
    command = f"python -m benchmarks.learning --seeds {options.seeds} --first-seed {options.first_seed} --arms {options.arms}"
    document = {
        "command": command,
        "inputs": inputs_digest(Recipe(), OURS),
        "seeds": list(seeds),
        "reused": reused,
    }
    write_json_atomic(
        options.json, {**document, "arms": by_arm, "measures": [dataclasses.asdict(row) for row in rows]}
    )
    for row in rows:
        print(f"{row.step} | {row.beside} | {row.figures} | {row.aim} | met {row.met}")


if __name__ == "__main__":
    main()
