"""int8 against fp32 on the CPU: speed of the shipped artefact beside its own fp32 export, and its accuracy.

    python -m benchmarks.int8_vs_fp32 [--quick] [--seed 7]

Both artefacts are of one network, trained here on the traffic signs of FLEETLOOP_DATA (train.parquet, test.parquet;
all 43 classes) and run by onnxruntime with the same threads, in turn, so that a busy machine is equally
busy for both. Aim: at least twice as fast, at most 0.5 points lost. The accuracy is on every picture of
test.parquet.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.bench_vehicle import DATA as SHARED
from benchmarks.bench_vehicle import LITE0, lite0_bytes, pixels_of
from benchmarks.port import Measure, Step
from modelkit.digest import sha256_hex
from modelkit.images import condition_of, decode_image
from modelkit.runtime import LoadedModel, RuntimeOptions
from modelkit.runtimes import open_predictor, open_runtime
from modelkit.verify import VerifiedModel, verify_model
from schemas.reasons import Split
from training.initial import train_initial
from training.intervals import PairedCounts, paired_difference, z_of
from training.params import TrainParams
from training.quantise import quantise
from training.rows import REFERENCE, Row

DATA = SHARED / "gtsrb32"
AIM_RATIO = 2.0
AIM_LOST_POINTS = 0.5


def rows_of(path: Path, count: int | None, seed: int) -> Iterator[Row]:
    """`count` rows of a file drawn by `seed`, or all."""
    table = pq.read_table(path, columns=["png", "class_id", "track"])
    order = np.random.default_rng(seed).permutation(table.num_rows)[:count]
    for number in order.tolist():
        payload = table["png"][number].as_py()
        image = decode_image(payload)
        name = f"class-{table['class_id'][number].as_py():02d}"
        track = table["track"][number].as_py()
        yield Row(image, sha256_hex(payload), name, f"drive-{track}", track, condition_of(image), REFERENCE)


def train(data: Path, scratch: Path, rows: int, params: TrainParams) -> tuple[VerifiedModel, VerifiedModel]:
    """fp32 and int8 of one network."""
    made = train_initial(
        scratch,
        list(rows_of(data / "train.parquet", rows, params.seed)),
        name="bench",
        classes=[f"class-{i:02d}" for i in range(43)],
        split_of=lambda _drive: Split.TRAIN,
        params=params,
    )
    return verify_model((made.folder / "fp32.onnx").read_bytes(), None), made.model


def times(models: tuple[LoadedModel, LoadedModel], batch: int, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of each run, the two models in turn."""
    spec = models[0].contract.input
    rng = np.random.default_rng(0)
    data = rng.normal(size=(batch, spec.channels, spec.height, spec.width)).astype(np.float32)
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 20):
        for model, seconds in zip(models, found, strict=True):
            started = time.perf_counter()
            model.run({spec.name: data})
            if number >= 20:
                seconds.append(time.perf_counter() - started)
    return found


def speed(fp32: VerifiedModel, int8: VerifiedModel, threads: int, batch: int, runs: int) -> dict[str, Any]:
    """One row of the result: medians, their ratio and its spread over five parts of the run."""
    backend, options = open_runtime(), RuntimeOptions(threads=threads)
    found = times((backend.load(fp32, options), backend.load(int8, options)), batch, runs)
    parts = [np.array_split(np.array(seconds), 5) for seconds in found]
    ratios = sorted(float(np.median(a) / np.median(b)) for a, b in zip(*parts, strict=True))
    ratio = float(np.median(found[0]) / np.median(found[1]))
    return {
        "step": f"int8, {threads} thread(s), batch {batch}",
        "beside": "fp32, same runtime and threads",
        "fp32_p50_us": float(np.median(found[0])) * 1e6,
        "int8_p50_us": float(np.median(found[1])) * 1e6,
        "ratio": ratio,
        "spread": [ratios[0], ratios[-1]],
        "aim": AIM_RATIO,
        "met": ratio >= AIM_RATIO,
    }


def accuracy(fp32: VerifiedModel, int8: VerifiedModel, rows: list[Row]) -> dict[str, Any]:
    """Accuracy of both on the same pictures, and the paired difference with its 95 % interval."""
    right = []
    for model in (fp32, int8):
        predictor = open_predictor(model)
        answers = predictor.predict([row.image for row in rows])
        right.append(np.array([a.output.class_name == r.label for a, r in zip(answers, rows, strict=True)]))
    before, after = right
    pairs = PairedCounts(
        int((before & after).sum()),
        int((before & ~after).sum()),
        int((~before & after).sum()),
        int((~before & ~after).sum()),
    )
    found = paired_difference(pairs, z_of(0.95, two_sided=True))
    lost = -100 * found.estimate
    return {
        "step": "accuracy of int8, points lost",
        "beside": "fp32",
        "n": pairs.n,
        "fp32_accuracy": float(before.mean()),
        "int8_accuracy": float(after.mean()),
        "lost_points": lost,
        "spread": [-100 * found.high, -100 * found.low],
        "aim": AIM_LOST_POINTS,
        "met": lost <= AIM_LOST_POINTS,
    }


def run(seed: int, quick: bool) -> Sequence[Measure]:
    """Rows at one and two threads, batch 1 (a vehicle's) and 16, and the accuracy."""
    with tempfile.TemporaryDirectory() as scratch:
        params = TrainParams(seed=seed, epochs=1 if quick else 16)
        fp32, int8 = train(DATA, Path(scratch), 300 if quick else 4000, params)
    runs = 100 if quick else 1500
    rows = []
    for threads, batch in ((1, 1), (2, 1), (1, 16), (2, 16)):
        found = speed(fp32, int8, threads, batch, runs)
        low, high = found["spread"]
        rows.append(
            Measure(
                step=f"int8 against fp32, the demo's own network, {threads} thread(s), batch {batch}",
                beside="fp32, onnxruntime, same threads",
                ratio=found["ratio"],
                aim=f">= {AIM_RATIO:.2f}",
                met=found["met"],
                spread=(low, high),
                figures={name: found[name] for name in ("fp32_p50_us", "int8_p50_us")},
                note=(
                    "below 32 x 32 pixels and a batch of one, calls, quantising the input and pooling are a fixed part;"
                    " QOperator, unsigned weights and weights per tensor differed by a few percent, on a busy machine"
                ),
            )
        )
    test = list(rows_of(DATA / "test.parquet", 500 if quick else None, 0))
    found = accuracy(fp32, int8, test)
    lost = found["lost_points"]
    rows.append(
        Measure(
            step="int8 against fp32, the demo's own network: accuracy",
            beside="fp32 on the same pictures",
            ratio=None,
            aim=f"<= {AIM_LOST_POINTS:g} points lost",
            met=found["met"],
            spread=None,
            figures={
                "points_lost": lost,
                "points_lost_95_low": found["spread"][0],
                "points_lost_95_high": found["spread"][1],
                "fp32_accuracy": found["fp32_accuracy"],
                "int8_accuracy": found["int8_accuracy"],
                "pictures": found["n"],
            },
        )
    )
    return rows + ([] if not LITE0.is_file() else [_lite0(runs // 10, seed)])


def _lite0(runs: int, seed: int) -> Measure:
    """efficientnet_lite0, quantised by the same code on generated pictures: its speed says something, its accuracy not."""
    fp32 = verify_model(lite0_bytes(), None)
    int8 = quantise(
        fp32, np.stack([pixels_of(seed + at, 224, 224) for at in range(2 if runs < 50 else 16)]), "cpu"
    )
    found = speed(fp32, int8, 1, 1, runs)
    return Measure(
        step="int8 against fp32, efficientnet_lite0, 1 thread, batch 1",
        beside="fp32, onnxruntime, same threads",
        ratio=found["ratio"],
        aim=f">= {AIM_RATIO:.2f}",
        met=found["met"],
        spread=tuple(found["spread"]),
        figures={name: found[name] for name in ("fp32_p50_us", "int8_p50_us")},
        note="calibrated on generated pictures: only its speed is measured, no labelled ImageNet is here",
    )


def _missing() -> str | None:
    return None if (DATA / "train.parquet").is_file() else "there is no gtsrb32/train.parquet"


STEPS = (Step("int8-vs-fp32", run, _missing),)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    print(_missing() or "\n".join(str(row) for row in run(asked.seed, asked.quick)))


if __name__ == "__main__":
    main()
