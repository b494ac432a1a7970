"""Says whether more vehicles were exposed to a release than the open waves hold. Imports nothing of the product.

It reads the documents as they were published (their bytes and when), and what each vehicle did: when it read which
document, when it began to serve the release, when it said that it was well. The rule by which a vehicle finds its wave is
written down again here: sha256("release/vehicle") below the wave's threshold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Did:
    """One thing that a vehicle did. `what` is read, serves or well; `document` is the number of the one it had read."""

    time_s: float
    vehicle: str
    what: str
    document: int


@dataclass(frozen=True, slots=True)
class Published:
    """One state of `rollouts/index.json`."""

    time_s: float
    data: bytes

    def plan(self, release: str) -> dict[str, object]:
        """The newest plan of the release in it."""
        return [row for row in json.loads(self.data)["plans"] if row["release_id"] == release][-1]  # type: ignore[no-any-return]


def exposure_violations(
    release: str,
    sizes: Sequence[int],
    enrolled: Collection[str],
    published: Sequence[Published],
    did: Sequence[Did],
) -> list[str]:
    """Empty when exposure never passed the open waves, and no wave opened before the ones before it were well.

    Args:
        enrolled: the vehicles that were enrolled when the rollout began: the waves hold these alone.
        published: oldest first. `did` may be in any order.
    """
    wrong: list[str] = []
    allowed = list(accumulate(sizes))
    plans = [each.plan(release) for each in published]
    opened = [len(plan["waves"]) for plan in plans]  # type: ignore[arg-type]
    position = {name: hashlib.sha256(f"{release}/{name}".encode()).hexdigest() for name in enrolled}
    is_free_s = next(
        (each.time_s for each, plan in zip(published, plans, strict=True) if plan["state"] == "complete"),
        float("inf"),
    )
    for wave, size in enumerate(sizes, 1):
        rows = [plan["waves"][wave - 1] for plan in plans if len(plan["waves"]) >= wave]  # type: ignore[arg-type,index]
        for row in [row for row in rows if row["exact_count"] != size]:
            wrong.append(f"wave {wave} says {row['exact_count']} vehicles, {size} were asked for")
        if rows and sum(each < rows[0]["threshold_hex"] for each in position.values()) != allowed[wave - 1]:
            wrong.append(f"the threshold of wave {wave} does not hold exactly {allowed[wave - 1]} vehicles")
    halted_at = next((n for n, plan in enumerate(plans) if plan["state"] == "halted"), None)
    exposed: dict[str, float] = {}
    well: dict[str, list[float]] = {}
    order = sorted(did, key=lambda each: each.time_s)
    for each in order:
        if each.what == "well":
            well.setdefault(each.vehicle, []).append(each.time_s)
        if each.what != "serves":
            continue
        exposed.setdefault(each.vehicle, each.time_s)
        now = max(number for number, one in enumerate(published) if one.time_s <= each.time_s)
        bound = allowed[max(opened[: now + 1]) - 1]
        if each.time_s < is_free_s and len(exposed) > bound:
            wrong.append(
                f"{len(exposed)} vehicles exposed at {each.time_s:.0f} s, the open waves hold {bound}"
            )
        if each.time_s < is_free_s and each.vehicle not in position:
            wrong.append(f"{each.vehicle} is exposed, although it enrolled after the waves were cut")
        if halted_at is not None and each.document >= halted_at:
            wrong.append(f"{each.vehicle} began to serve after it had read the halt")
    for number in range(1, len(published)):
        for wave in range(opened[number - 1], opened[number]):
            said = sum(any(time_s <= published[number].time_s for time_s in times) for times in well.values())
            if said < allowed[wave - 1]:
                wrong.append(
                    f"wave {wave + 1} opened when {said} of {allowed[wave - 1]} had said they were well"
                )
    return wrong
