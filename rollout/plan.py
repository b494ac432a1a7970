"""Divide a fleet into waves of exact sizes by a hash of release and vehicle. Pure.

Vehicles are ordered by sha256("release/vehicle"), which differs per release, so that the first wave is not always the
same vehicles. A wave is published as a threshold on that hash, from which each vehicle computes whether it is a member.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from foundation.errors import MisconfiguredError
from schemas.documents import Wave, rollout_position

REST = "rest"
EVERYBODY = "f" * 64


@dataclass(frozen=True, slots=True)
class PlannedWave:
    """A wave with the names of its members, which the signed plan does not contain."""

    wave: Wave
    members: tuple[str, ...]


def eligible(
    vehicles: Collection[str],
    tags_of: Mapping[str, Collection[str]],
    *,
    tags: Collection[str],
    include: Collection[str],
    exclude: Collection[str],
) -> list[str]:
    """Return the vehicles that may be in a wave: those included or with every tag, except those excluded.

    Raises:
        MisconfiguredError: an included vehicle is not enrolled, or is also excluded.
    """
    unknown = sorted(set(include) - set(vehicles))
    both = sorted(set(include) & set(exclude))
    if unknown or both:
        raise MisconfiguredError(
            f"include has vehicles not enrolled {unknown}, and vehicles also excluded {both}"
        )
    wanted = set(tags)
    return sorted(
        vehicle
        for vehicle in vehicles
        if vehicle not in exclude and (vehicle in include or wanted <= set(tags_of.get(vehicle, ())))
    )


def cut_waves(
    release_id: str, vehicles: Sequence[str], sizes: Sequence[int], include: Collection[str] = ()
) -> list[PlannedWave]:
    """Cut waves of exactly `sizes` vehicles; included ones are in the first, the others follow by position.

    Raises:
        MisconfiguredError: a size is below 1, the sizes exceed the number of vehicles, or more vehicles are included than
            the first wave holds.
    """
    if not sizes or min(sizes) < 1:
        raise MisconfiguredError(f"waves are {list(sizes)}; every wave must have at least 1 vehicle")
    if sum(sizes) > len(vehicles):
        raise MisconfiguredError(
            f"waves {list(sizes)} need {sum(sizes)} vehicles; {len(vehicles)} are eligible"
        )
    first = sorted(set(include))
    if len(first) > sizes[0]:
        raise MisconfiguredError(f"{len(first)} vehicles are included; the first wave holds {sizes[0]}")
    order = sorted(
        (rollout_position(release_id, vehicle), vehicle) for vehicle in vehicles if vehicle not in first
    )
    waves, begin, threshold = [], 0, "0" * 64
    for number, size in enumerate(sizes, 1):
        end = begin + size - (len(first) if number == 1 else 0)
        members = order[begin:end]
        if members:
            threshold = f"{int(members[-1][0], 16) + 1:064x}"
        names = (*(first if number == 1 else ()), *(vehicle for _, vehicle in members))
        waves.append(PlannedWave(Wave(number, size, threshold), tuple(names)))
        begin = end
    return waves


def parse_sizes(text: str, eligible_count: int) -> list[int]:
    """Parse wave sizes such as "1,10,rest"; `rest`, allowed only at the end, is the number of vehicles left.

    Raises:
        MisconfiguredError: a size is not a number, or no vehicle is left for the rest.
    """
    words = [word.strip() for word in text.split(",")]
    sizes: list[int] = []
    for index, word in enumerate(words):
        if word == REST and index == len(words) - 1:
            sizes.append(eligible_count - sum(sizes))
        elif word.isascii() and word.isdigit():
            sizes.append(int(word))
        else:
            raise MisconfiguredError(f"waves {text!r}: {word!r} is not a number (or 'rest' at the end)")
    if min(sizes) < 1:
        raise MisconfiguredError(
            f"waves {text!r} of {eligible_count} eligible vehicles: a wave would have {min(sizes)} vehicles"
        )
    return sizes
