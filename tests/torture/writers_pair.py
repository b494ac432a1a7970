"""Two writers in two processes that begin at the same instant; how each ended, and whether they overlapped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.torture.pipeline_fork import Child, Ended

REFUSALS = ("is held by process", "planned on version", "replayed on version", "is at ", "became version",
            "other committers were first", "complete or halt it first", "is already model",
            "was built from another lake.lock; run")  # fmt: skip
"""What a clear refusal says: who holds it, or what it is stale against."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends, and for how long both were at work."""

    ends: tuple[Ended, Ended]
    overlap_s: float

    def wrong(self, *, refusals: int = 1) -> list[str]:
        """Nobody may fail without a clear refusal, and not more than `refusals` may be refused."""
        refused = [each.error for each in self.ends if each.error]
        found = [f"a writer failed without a clear word: {said}" for said in refused if not is_clear(said)]
        if any(each.was_killed for each in self.ends):
            found.append("a writer was killed")
        if len(refused) > refusals:
            found.append(f"{len(refused)} writers were refused: {refused}")
        if self.overlap_s <= 0:
            found.append("the writers did not overlap")
        return found

    @property
    def refused(self) -> int:
        """How many were refused."""
        return sum(bool(each.error) for each in self.ends)


def is_clear(error: str) -> bool:
    """Whether a refusal names the holder, or what it is stale against."""
    return any(words in error for words in REFUSALS)


def at_once(
    one: Callable[[Callable[[], object]], Any],
    other: Callable[[Callable[[], object]], Any],
    *,
    limit_s: float = 300.0,
) -> Pair:
    """Run both in forks. Each is given `ready`, which it calls once it is warm and which returns when both are."""
    gate, opened = os.pipe()
    told, tell = os.pipe()

    def timed(action: Callable[[Callable[[], object]], Any]) -> Callable[[], Any]:
        def work() -> Any:
            begin = [time.monotonic()]

            def ready() -> None:
                os.write(tell, b"r")
                os.read(gate, 1)
                begin[0] = time.monotonic()

            try:
                return {"value": action(ready), "begin": begin[0], "end": time.monotonic()}
            except BaseException as error:
                error.args = (f"{error} @{begin[0]} {time.monotonic()}@",)
                raise

        return work

    children = [Child(timed(one)), Child(timed(other))]
    for _ in children:
        os.read(told, 1)
    os.write(opened, b"gg")
    ends = [child.result(limit_s) for child in children]
    for each in (gate, opened, told, tell):
        os.close(each)
    times = [_times(each) for each in ends]
    overlap_s = min(end for _, end in times) - max(begin for begin, _ in times)
    return Pair((ends[0], ends[1]), overlap_s)


def _times(ended: Ended) -> tuple[float, float]:
    if ended.value:
        return ended.value["begin"], ended.value["end"]
    parts = ended.error.split("@")
    if len(parts) < 3:
        return 0.0, 0.0
    begin, end = parts[1].split()
    return float(begin), float(end)
