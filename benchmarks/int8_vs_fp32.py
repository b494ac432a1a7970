"""int8 against fp32 on the CPU: speed of the shipped artefact beside its own fp32 export, and its accuracy.

    python benchmarks/int8_vs_fp32.py --data DIR/gtsrb32 --out out/bench/int8_vs_fp32.json

Both artefacts are of one network, trained here on the traffic signs of DIR (train.parquet, test.parquet;
all 43 classes) and run by onnxruntime with the same threads, in turn, so that a busy machine is equally
busy for both. Aim: at least twice as fast, at most 0.5 points lost. The accuracy is on every picture of
test.parquet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from foundation.files import write_json_atomic
from modelkit.digest import sha256_hex
from modelkit.images import condition_of, decode_image
from modelkit.onnx_backend import OnnxRuntimeBackend
from modelkit.predictor import Predictor
from modelkit.runtime import LoadedModel, RuntimeOptions
from modelkit.verify import VerifiedModel, verify_model
from schemas.reasons import Split
from training.initial import train_initial
from training.intervals import PairedCounts, paired_difference, z_of
from training.params import TrainParams
from training.rows import REFERENCE, Row

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
            model.run(data)
            if number >= 20:
                seconds.append(time.perf_counter() - started)
    return found


def speed(fp32: VerifiedModel, int8: VerifiedModel, threads: int, batch: int, runs: int) -> dict[str, object]:
    """One row of the result: medians, their ratio and its spread over five parts of the run."""
    backend, options = OnnxRuntimeBackend(), RuntimeOptions(threads=threads)
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


def accuracy(fp32: VerifiedModel, int8: VerifiedModel, rows: list[Row]) -> dict[str, object]:
    """Accuracy of both on the same pictures, and the paired difference with its 95 % interval."""
    right = []
    for model in (fp32, int8):
        predictor = Predictor(OnnxRuntimeBackend().load(model, RuntimeOptions()), model.contract)
        answers = predictor.predict([row.image for row in rows])
        right.append(np.array([a.class_name == r.class_name for a, r in zip(answers, rows, strict=True)]))
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("FLEETLOOP_DATA", "../shared/data")) / "gtsrb32"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench/int8_vs_fp32.json"))
    options = parser.parse_args()
    if not (options.data / "train.parquet").is_file():
        print(f"skipped: there is no {options.data / 'train.parquet'}; name it with --data")
        return
    with tempfile.TemporaryDirectory() as scratch:
        params = TrainParams(seed=options.seed, epochs=options.epochs)
        fp32, int8 = train(options.data, Path(scratch), options.rows, params)
    results = [speed(fp32, int8, threads, batch, options.runs) for threads in (1, 2) for batch in (1, 16)]
    results.append(accuracy(fp32, int8, list(rows_of(options.data / "test.parquet", None, 0))))
    document = {
        "command": f"python benchmarks/int8_vs_fp32.py --rows {options.rows} --epochs {options.epochs}",
        "seed": options.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "bytes": {"fp32": len(fp32.data), "int8": len(int8.data)},
        "data_sha256": hashlib.sha256((options.data / "test.parquet").read_bytes()).hexdigest(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(options.out, document)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
