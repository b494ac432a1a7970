"""Find exactly the pairs of hashes at most a threshold apart, without comparing all pairs.

The 256 bits are cut into bands. Of two hashes at most d bits apart, in d // (r + 1) + 1 bands at least one band
differs in at most r bits (the pigeonhole principle); so a pair is a candidate when a band's bits are equal but for r,
and each candidate is compared in full. (Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index
Hashing", 2012.) The candidates of one stripe are in memory at a time. Bands only propose candidates: other bands
change the time, never a result. Few hashes, or a high threshold, are compared pair by pair (`near_pairs`): faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2

import numpy as np
import numpy.typing as npt

from pipelines.curate.near_pairs import blocks_to_compare, hash_pairs
from pipelines.curate.perceptual_hash import HASH_BITS

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Pairs = tuple[Rows, Rows, Rows]
"""Row numbers a < b and their distances in bits."""
STRIPE_CANDIDATES = 1 << 16
_MAX_BAND_BITS = 24
_STRIDE = 167
"""Odd, so that n * stride modulo 256 visits every bit once; not near a multiple of the transform's row of 16."""
_PAIR_NS, _PROBE_NS, _CANDIDATE_NS = 2.5, 15.0, 12.0
"""Measured on one core; used to choose between methods that give the same pairs."""


@dataclass(frozen=True, slots=True)
class Band:
    """Some bits of the hash: the number of the band, its `bits` by index, and how many of them may differ (0 or 1)."""

    number: int
    bits: tuple[int, ...]
    radius: int

    def keys(self, words: Words) -> npt.NDArray[np.uint32]:
        """Return the band's bits of every hash as one number."""
        keys = np.zeros(len(words), np.uint32)
        one = np.uint64(1)
        for place, bit in enumerate(self.bits):
            found = (words[:, bit >> 6] >> np.uint64(bit & 63)) & one
            keys |= found.astype(np.uint32) << np.uint32(place)
        return keys

    def candidates(self, words: Words, first_new: int) -> int:
        """Return how many pairs with a row >= `first_new` the band proposes."""
        keys = self.keys(words)
        size = 1 << len(self.bits)
        of_all = np.bincount(keys, minlength=size).astype(np.int64)
        of_new = np.bincount(keys[first_new:], minlength=size).astype(np.int64)
        places = np.arange(size)
        found = of_all.copy()
        for place in range(len(self.bits) if self.radius else 0):
            found += of_all[places ^ (1 << place)]
        return int(of_new @ found) // (1 if first_new else 2)

    def mask(self) -> Words:
        """Return four words in which the band's bits are set."""
        mask = np.zeros(HASH_BITS // 64, np.uint64)
        for bit in self.bits:
            mask[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
        return mask


def choose_bands(
    rows: int, first_new: int, max_distance_bits: int, words: Words | None = None
) -> tuple[Band, ...]:
    """Return the bands expected to be fastest for the pairs with a row >= `first_new`; none: compare pair by pair.

    With the hashes themselves (`words`) their candidates are counted, not estimated: hashes that agree in many bits and
    are not near are then never compared more than pair by pair.
    """
    fresh = rows - first_new
    best_ns = fresh * (rows - fresh / 2) * _PAIR_NS
    best: tuple[Band, ...] = ()
    widest = min(_MAX_BAND_BITS, ceil(log2(max(rows, 2))) + 2)
    for radius in (0, 1):
        count = max_distance_bits // (radius + 1) + 1
        width = min(HASH_BITS // count, widest)
        if width < 8:
            continue
        probes = count * (1 + radius * width)
        candidates = probes * fresh * rows / 2 ** (width + 1)
        if words is not None:
            candidates = float(sum(each.candidates(words, first_new) for each in cut(count, width, radius)))
        spent_ns = probes * fresh * _PROBE_NS + candidates * _CANDIDATE_NS + count * rows * 200
        if spent_ns < best_ns:
            best_ns, best = spent_ns, cut(count, width, radius)
    return best


def cut(count: int, width: int, radius: int) -> tuple[Band, ...]:
    """Return `count` bands that share no bit, of at most `width` bits each."""
    bits = [number * _STRIDE % HASH_BITS for number in range(HASH_BITS)]
    edges = [HASH_BITS * number // count for number in range(count + 1)]
    size = [min(end - begin, max(width, 1)) for begin, end in pairwise(edges)]
    return tuple(
        Band(number, tuple(sorted(bits[edges[number] : edges[number] + size[number]])), radius)
        for number in range(count)
    )


def near_hash_pairs(words: Words, max_distance_bits: int, first_new: int = 0) -> Pairs:
    """Return every pair with a row >= `first_new` at most `max_distance_bits` apart, once, by the faster method."""
    bands = choose_bands(len(words), first_new, max_distance_bits, words)
    if bands:
        found = [band_pairs(words, bands, band.number, max_distance_bits, first_new) for band in bands]
    else:
        blocks = blocks_to_compare(len(words), first_new)
        found = [hash_pairs(words, block, max_distance_bits) for block in blocks]
    return _together(found)


def band_pairs(
    words: Words, bands: tuple[Band, ...], number: int, max_distance_bits: int, first_new: int = 0
) -> Pairs:
    """Return the pairs that band `number` proposes and no band before it, compared in full."""
    band, earlier = bands[number], [(each.mask(), each.radius) for each in bands[:number]]
    keys = band.keys(words)
    order = np.argsort(keys, kind="stable").astype(np.int64)
    keys, placed = keys[order], words[order]
    starts = np.zeros((1 << len(band.bits)) + 1, np.int64)
    np.cumsum(np.bincount(keys, minlength=len(starts) - 1), out=starts[1:])
    low, high = np.ascontiguousarray(placed[:, 0]), np.ascontiguousarray(placed[:, 1])
    found: list[Pairs] = []
    for mine, begin, end in _proposed(band, keys, order, starts, first_new):
        for asking, counts, right in _stripes(mine, begin, end):
            # Half of the hash decides for nearly all: unrelated hashes differ in about 64 of 128 bits.
            bits = np.bitwise_count(np.repeat(low[asking], counts) ^ low[right])
            bits += np.bitwise_count(np.repeat(high[asking], counts) ^ high[right])
            near = np.flatnonzero(bits <= max_distance_bits)
            if not len(near):
                continue
            left = asking[np.searchsorted(np.cumsum(counts), near, side="right")]
            right = right[near]
            other = placed[left] ^ placed[right]
            distance = np.bitwise_count(other).sum(axis=1, dtype=np.int64)
            keep = distance <= max_distance_bits
            for mask, radius in earlier:
                keep &= np.bitwise_count(other & mask).sum(axis=1, dtype=np.int64) > radius
            rows_left, rows_right = order[left[keep]], order[right[keep]]
            a, b = np.minimum(rows_left, rows_right), np.maximum(rows_left, rows_right)
            # Where only new rows are looked up, each of them meets itself, and two of them meet twice.
            fresh = (rows_left > rows_right) | (first_new == 0)
            found.append((a[fresh], b[fresh], distance[keep][fresh]))
    return _together(found)


def _proposed(
    band: Band, keys: npt.NDArray[np.uint32], order: Rows, starts: Rows, first_new: int
) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Yield (sorted positions to look up, begin and end of the candidates of each), in the order of the band's keys."""
    places = np.arange(len(keys), dtype=np.int64)
    asking = places if first_new == 0 else np.flatnonzero(order >= first_new)
    own = keys[asking]
    if first_new == 0:
        yield asking, asking + 1, starts[own.astype(np.int64) + 1]
    else:
        yield asking, starts[own], starts[own.astype(np.int64) + 1]
    if band.radius:
        for place in range(len(band.bits)):
            flip = np.uint32(1 << place)
            clear = (own & flip) == 0 if first_new == 0 else np.ones(len(own), bool)
            other = (own[clear] ^ flip).astype(np.int64)
            yield asking[clear], starts[other], starts[other + 1]


def _stripes(mine: Rows, begin: Rows, end: Rows) -> Iterator[tuple[Rows, Rows, Rows]]:
    """Yield (positions, number of candidates of each, all candidates), in stripes of about STRIPE_CANDIDATES."""
    counts = end - begin
    has = np.flatnonzero(counts > 0)
    mine, begin, counts = mine[has], begin[has], counts[has]
    total = np.cumsum(counts)
    at = 0
    while at < len(mine):
        before = total[at] - counts[at]
        upto = max(at + 1, int(np.searchsorted(total, before + STRIPE_CANDIDATES, side="right")))
        part = counts[at:upto]
        first = begin[at:upto] - (total[at:upto] - part - before)
        right = np.repeat(first, part)
        right += np.arange(len(right), dtype=np.int64)
        yield mine[at:upto], part, right
        at = upto


def _together(found: list[Pairs]) -> Pairs:
    if not found:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    a, b, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return a, b, distance
