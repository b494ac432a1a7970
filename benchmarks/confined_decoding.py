"""Decoding in a confined process beside decoding in this one: pictures per second, in turn, best of three.

python -m benchmarks.confined_decoding
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from modelkit.confined import Confined
from pipelines.curate.picture import Measured, measured

KINDS = ((32, 32, 4000, "PNG"), (64, 96, 3000, "PNG"), (640, 480, 200, "JPEG"), (1920, 1080, 40, "JPEG"))
TASK = "pipelines.curate.picture:measured"
_TURNS = 3


def pictures(width: int, height: int, count: int, kind: str) -> list[bytes]:
    """Return encoded pictures of smooth noise."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(count):
        small = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(small).resize((width, height)).save(data, kind)
        found.append(data.getvalue())
    return found


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def _here(payloads: Sequence[bytes]) -> list[Measured]:
    return [measured(payload) for payload in payloads]


def line(payloads: Sequence[bytes]) -> str:
    """Measure both ways in turn and say what came out."""
    with Confined(TASK, Measured) as work:
        started_s = _seconds(lambda: work.run(payloads[:1]))
        turns = [
            (_seconds(lambda: _here(payloads)), _seconds(lambda: list(work.each(enumerate(payloads)))))
            for _ in range(_TURNS)
        ]
    here_s, confined_s = (min(column) for column in zip(*turns, strict=True))
    return (
        f"here {len(payloads) / here_s:.0f}/s, confined {len(payloads) / confined_s:.0f}/s, "
        f"ratio {here_s / confined_s:.2f}; first picture after {started_s:.2f} s"
    )


def main() -> None:
    """Print one line per kind of picture, also how long the first picture takes with the start of the process."""
    for width, height, count, kind in KINDS:
        print(f"{width} x {height} {kind}: {line(pictures(width, height, count, kind))}")


if __name__ == "__main__":
    main()
