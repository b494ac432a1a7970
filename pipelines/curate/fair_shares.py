"""Share a labelling budget among vehicles, so that what one of them sends or claims costs the others nothing.

Every vehicle with frames to label gets the same number of labels (max-min fairness): what a vehicle cannot use goes to
the others in equal parts. Inside a vehicle's share, one drive gets at most DRIVE_SHARE of it while its other drives
have frames. Counts decide, never scores: a vehicle chooses its scores itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

DRIVE_SHARE = 0.5
"""The most of a vehicle's share that one drive of it may take while its other drives have frames left."""
VEHICLE, DRIVE = "vehicle_id", "drive_key"
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Shares:
    """How many labels each vehicle, and each drive of it, may get; together at most the seats that were shared out."""

    of_vehicle: Mapping[str, int]
    of_drive: Mapping[str, int]

    def within(self, ordered: pl.DataFrame) -> pl.DataFrame:
        """Return `ordered` without the frames beyond the share of their drive or vehicle; the order stays."""
        for column, shares in ((DRIVE, self.of_drive), (VEHICLE, self.of_vehicle)):
            limits = pl.DataFrame(
                {column: list(shares), "share": list(shares.values())},
                schema={column: pl.String, "share": pl.Int64},
            )
            ordered = ordered.join(limits, on=column, how="left", maintain_order="left")
            place = pl.int_range(pl.len()).over(column)
            ordered = ordered.filter(place < pl.col("share").fill_null(0)).drop("share")
        return ordered

    def ledger(self) -> Ledger:
        """Return an account of what is left, for strategies that choose one frame after another."""
        return Ledger(Counter(self.of_vehicle), Counter(self.of_drive))


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is left of each share."""

    vehicles: Counter[str]
    drives: Counter[str]

    def has_room(self, vehicle: str, drive: str) -> bool:
        """Return whether one more frame of this drive of this vehicle is within both shares."""
        return self.vehicles[vehicle] > 0 and self.drives[drive] > 0

    def spend(self, vehicle: str, drive: str) -> None:
        """Count one frame."""
        self.vehicles[vehicle] -= 1
        self.drives[drive] -= 1


def share_out(
    selectable: pl.DataFrame,
    seats: int,
    taken: Mapping[str, int],
    secret: str,
    most: Mapping[str, int] | None = None,
) -> Shares:
    """Return each vehicle's share of `seats`.

    Args:
        selectable: rows of vehicle_id, drive_key and `frames`: how many of the drive's frames could get a label.
        seats: labels to share out.
        taken: labels that each vehicle got earlier in the same request; they count towards an equal total.
        secret: with it a hash decides who gets the seats that do not divide.
        most: the most that each vehicle may get; None bounds none.
    """
    drives: dict[str, dict[str, int]] = {}
    for vehicle, drive, frames in selectable.select(VEHICLE, DRIVE, "frames").iter_rows():
        drives.setdefault(vehicle, {})[drive] = int(frames)
    capacity = {vehicle: sum(each.values()) for vehicle, each in drives.items()}
    if most is not None:
        capacity = {vehicle: min(frames, most.get(vehicle, 0)) for vehicle, frames in capacity.items()}
    of_vehicle = equal_parts(capacity, seats, taken, secret)
    of_drive: dict[str, int] = {}
    for vehicle, share in of_vehicle.items():
        least = equal_parts(drives[vehicle], share, {}, secret)
        largest = -int(-share * DRIVE_SHARE // 1)
        of_drive |= {drive: max(largest, part) for drive, part in least.items()}
    return Shares(of_vehicle, of_drive)


def equal_parts(
    capacity: Mapping[Name, int], seats: int, taken: Mapping[Name, int], secret: str
) -> dict[Name, int]:
    """Return max-min fair parts: `taken` + part is equal wherever `capacity` allows it, and the parts add up to `seats`.

    They add up to less only where all of the capacity is used. Depends on no order.
    """
    seats = min(max(seats, 0), sum(capacity.values()))

    def parts(level: int) -> dict[Name, int]:
        return {name: min(most, max(0, level - taken.get(name, 0))) for name, most in capacity.items()}

    low, high = 0, seats + max(taken.values(), default=0)
    while low < high:  # the highest level that the seats reach
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(parts(middle).values()) <= seats else (low, middle - 1)
    found = parts(low)
    spare = seats - sum(found.values())
    higher = parts(low + 1)
    growing = [name for name in capacity if higher[name] > found[name]]
    for name in sorted(growing, key=lambda name: _by_chance(secret, str(name)))[:spare]:
        found[name] += 1
    return found


def _by_chance(secret: str, name: str) -> str:
    return hashlib.sha256(f"fleetloop-share/{secret}/{name}".encode()).hexdigest()
