"""A set of integers stored as half-open ranges, so that a million consecutive numbers cost as much as one.

Refuses negative numbers and empty ranges. No I/O.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Self

from foundation.errors import CorruptError


class RangeSet:
    """Sorted, disjoint, never touching half-open ranges [begin, end)."""

    __slots__ = ("_begins", "_ends")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for begin, end in pairs:
            self.add(begin, end)

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Self:
        """Return the set of `numbers`, in any order."""
        made = cls()
        for number in sorted(numbers):
            made.add(number)
        return made

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the set that `to_json` wrote. Raises CorruptError for anything else."""
        if not isinstance(value, list):
            raise CorruptError(f"ranges are {str(value)[:100]!r}; they must be a list of [begin, end)")
        made = cls()
        for pair in value:
            if not (
                isinstance(pair, list)
                and len(pair) == 2
                and all(type(number) is int for number in pair)
                and 0 <= pair[0] < pair[1]
            ):
                raise CorruptError(
                    f"a range is {str(pair)[:100]!r}; it must be [begin, end) with 0 <= begin < end"
                )
            made.add(pair[0], pair[1])
        return made

    def to_json(self) -> list[list[int]]:
        """Return the ranges as a list of [begin, end)."""
        return [[begin, end] for begin, end in self.pairs()]

    def add(self, begin: int, end: int | None = None) -> None:
        """Add [begin, end), or the one number `begin`. Appending at the end is O(1)."""
        stop = begin + 1 if end is None else end
        if stop <= begin:
            return
        begins, ends = self._begins, self._ends
        if not ends or begin > ends[-1]:
            begins.append(begin)
            ends.append(stop)
            return
        first = bisect_left(ends, begin)
        last = bisect_right(begins, stop)
        if first == last:
            begins.insert(first, begin)
            ends.insert(first, stop)
            return
        begins[first:last] = [min(begin, begins[first])]
        ends[first:last] = [max(stop, ends[last - 1])]

    def update(self, other: RangeSet) -> None:
        """Add every number of `other`."""
        for begin, end in other.pairs():
            self.add(begin, end)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Return the ranges [begin, end) in order."""
        return zip(self._begins, self._ends, strict=True)

    def copy(self) -> RangeSet:
        """Return an independent set of the same numbers."""
        made = RangeSet()
        made._begins = self._begins.copy()
        made._ends = self._ends.copy()
        return made

    def intersection(self, other: RangeSet) -> RangeSet:
        """Return the numbers in both."""
        made = RangeSet()
        mine, theirs = 0, 0
        while mine < len(self._begins) and theirs < len(other._begins):
            begin = max(self._begins[mine], other._begins[theirs])
            end = min(self._ends[mine], other._ends[theirs])
            if begin < end:
                made._begins.append(begin)
                made._ends.append(end)
            if self._ends[mine] < other._ends[theirs]:
                mine += 1
            else:
                theirs += 1
        return made

    def difference(self, other: RangeSet) -> RangeSet:
        """Return the numbers of this set that are not in `other`."""
        made = RangeSet()
        theirs = 0
        for begin, end in self.pairs():
            start = begin
            while theirs < len(other._begins) and other._ends[theirs] <= start:
                theirs += 1
            at = theirs
            while at < len(other._begins) and other._begins[at] < end:
                if start < other._begins[at]:
                    made._begins.append(start)
                    made._ends.append(other._begins[at])
                start = max(start, other._ends[at])
                at += 1
            if start < end:
                made._begins.append(start)
                made._ends.append(end)
        return made

    @property
    def range_count(self) -> int:
        """The number of ranges of the set."""
        return len(self._begins)

    @property
    def first(self) -> int:
        """The smallest number. Raises IndexError when empty."""
        return self._begins[0]

    @property
    def end(self) -> int:
        """One past the largest number; 0 when empty."""
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[int]:
        for begin, end in self.pairs():
            yield from range(begin, end)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._begins, number) - 1
        return at >= 0 and number < self._ends[at]

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._begins)

    def __bool__(self) -> bool:
        return bool(self._begins)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._begins == other._begins and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self.pairs())})"
