"""What one 50 kB sample costs on its way: encode, sign, frame, scan, verify, decode. One core, no disk.

    python -m benchmarks.record_path [--records 2000] [--payload-bytes 50000] [--embedding 64]

Prints microseconds a record, the median of five rounds. A number says nothing without its machine: give both.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from foundation.framing import encode_frame, scan
from schemas.codec import decode_sample, encode_sample
from schemas.identity import new_epoch
from schemas.predictions import ClassificationOutput
from schemas.records import Sample
from schemas.signing import EnrolledKey, Enrolment, VehicleKey, sign_record, verify
from schemas.topics import TOPICS
from tests.samples import PREDICTION, sample_of

ROUNDS = 5


def sample(payload_bytes: int, embedding: int) -> Sample:
    """A sample as a camera gives it: the payload does not compress."""
    rng = random.Random(1)  # noqa: S311 - the same bytes at every run
    payload = rng.randbytes(payload_bytes)
    said = replace(
        PREDICTION,
        embedding=tuple(rng.random() for _ in range(embedding)),
        classification=ClassificationOutput("red", (0.5, 0.25, 0.125, 0.125)),
    )
    now_ns = 1_790_000_000_000_000_000
    return sample_of(
        payload,
        vehicle_id="car-1",
        epoch=new_epoch(rng),
        predictions=(said,),
        capture_time_ns=now_ns,
        spool_time_ns=now_ns,
    )


def microseconds(call: Callable[[], object], records: int) -> float:
    """Microseconds of one `call`, the median of ROUNDS rounds of `records` calls."""
    rounds = []
    for _ in range(ROUNDS):
        start_ns = time.perf_counter_ns()
        for _ in range(records):
            call()
        rounds.append((time.perf_counter_ns() - start_ns) / records / 1000)
    return statistics.median(rounds)


def main() -> None:
    """Print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--payload-bytes", type=int, default=50_000)
    parser.add_argument("--embedding", type=int, default=64)
    options = parser.parse_args()
    one = sample(options.payload_bytes, options.embedding)
    key = VehicleKey.generate()
    fleet = Enrolment.of(EnrolledKey("car-1", key.key_id, key.public_b64, 0))
    value = encode_sample(one)
    wire = sign_record(TOPICS.samples, "sample", one.identity, value, key)
    segment = encode_frame(1, b"car-1", value) * 100
    steps: dict[str, Callable[[], object]] = {
        "encode_sample": lambda: encode_sample(one),
        "sign": lambda: sign_record(TOPICS.samples, "sample", one.identity, value, key),
        "encode_frame": lambda: encode_frame(1, b"car-1", value),
        "verify": lambda: verify(wire.headers, wire.key, wire.value, "sample", fleet),
        "decode_sample": lambda: decode_sample(value),
        "decode_sample, payload not hashed": lambda: decode_sample(value, check_payload=False),
    }
    print(f"{len(value)} bytes a record")
    for name, call in steps.items():
        print(f"{microseconds(call, options.records):9.1f} us  {name}")
    scanned = microseconds(lambda: list(scan(segment)), max(1, options.records // 100)) / 100
    print(f"{scanned:9.1f} us  scan, a frame")
    heads = (
        microseconds(lambda: list(scan(segment, check_bodies=False)), max(1, options.records // 100)) / 100
    )
    print(f"{heads:9.1f} us  scan without bodies, a frame")


if __name__ == "__main__":
    main()
