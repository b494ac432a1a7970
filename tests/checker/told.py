"""What the checker is told: payloads offered, records accepted, and the ledger each vehicle exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_receipt = re.compile(r"RECEIPT ([0-9a-f]{16}) (0|[1-9][0-9]*) ([0-9a-f]{64})").fullmatch

_cut_receipt = re.compile(r"^R[ECEIPT]{0,6}[ 0-9a-f]{0,101}(?=RECEIPT )")


class InputError(Exception):
    """What the checker was given cannot be read: no verdict at all, never a good one."""


class Identity(NamedTuple):
    """The checker's own idea of a record's name."""

    vehicle: str
    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.vehicle}/{self.epoch}/{self.seq}"


@dataclass(frozen=True, slots=True)
class EpochAccount:
    """One epoch of an exported ledger. Ranges are [begin, end); below `detail_from` there are only counts."""

    epoch: str
    next_seq: int
    detail_from: int
    accepted: int
    delivered: int
    pending: int
    in_doubt: int
    evicted: int
    ranges: Mapping[str, tuple[tuple[int, int], ...]]

    def says(self, state: str, seq: int) -> bool:
        """Whether the ledger puts `seq` in this state."""
        return any(begin <= seq < end for begin, end in self.ranges.get(state, ()))

    def numbers(self, state: str) -> Iterator[int]:
        """Every number in this state that is known one by one."""
        for begin, end in self.ranges.get(state, ()):
            yield from range(begin, end)

    @property
    def lost_without_detail(self) -> int:
        """How many of the numbers below `detail_from` need not be in the log."""
        known = sum(end - begin for state in ("in_doubt", "evicted") for begin, end in self.ranges[state])
        return self.in_doubt + self.evicted - known


@dataclass(frozen=True, slots=True)
class Account:
    """The exported ledger of one vehicle."""

    vehicle: str
    accepted: int
    delivered: int
    pending: int
    in_doubt: int
    evicted: int
    epochs: Mapping[str, EpochAccount]


def read_offered(path: Path) -> set[str]:
    """The payload_sha256 of every line. A last line without its newline was cut by a kill and is left out."""
    offered = set()
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            digest = json.loads(line)["payload_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} line {number} is no offer: {line[:200]!r}") from error
        if not isinstance(digest, str) or re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            raise InputError(f"{path} line {number}: payload_sha256 is {digest!r}")
        offered.add(digest)
    return offered


def read_receipts(vehicle: str, path: Path) -> list[tuple[Identity, str]]:
    """Identity and sha256 of every receipt, in order. Lines that begin otherwise are other output.

    Where a kill cut a receipt and the next start appended to the same file, the cut one was never said.
    """
    receipts = []
    for number, written in enumerate(_whole_lines(path), 1):
        line = _cut_receipt.sub("", written)
        if not line.startswith("RECEIPT"):
            continue
        match = _receipt(line)
        if match is None:
            raise InputError(f"{path} line {number} is no receipt: {line[:200]!r}")
        receipts.append((Identity(vehicle, match[1], int(match[2])), match[3]))
    return receipts


def read_ledger(vehicle: str, path: Path) -> Account:
    """The account in a ledger that was exported as JSON."""
    try:
        return account(vehicle, json.loads(path.read_text("utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no ledger export: {error!r}") from error


def account(vehicle: str, exported: Mapping[str, Any]) -> Account:
    """The account in an exported ledger. Raises KeyError, TypeError, AttributeError or ValueError."""
    epochs = [_epoch(row) for row in exported["epochs"]]
    return Account(
        vehicle,
        int(exported["accepted"]),
        int(exported["delivered"]),
        int(exported["pending"]),
        int(exported["in_doubt"]),
        sum(map(int, exported["evicted"].values())),
        {row.epoch: row for row in epochs},
    )


def _epoch(row: Mapping[str, Any]) -> EpochAccount:
    ranges = row["ranges"]
    return EpochAccount(
        row["epoch"],
        int(row["next_seq"]),
        int(row["detail_from"]),
        int(row["accepted"]),
        int(row["delivered"]),
        int(row["pending"]),
        int(row["in_doubt"]),
        sum(map(int, row["evicted"].values())),
        {
            "delivered": _pairs(ranges["delivered"]),
            "pending": _pairs(ranges["pending"]),
            "in_doubt": _pairs(ranges["in_doubt"]),
            "evicted": _pairs(pair for part in ranges["evicted"].values() for pair in part),
            "never_accepted": _pairs(ranges["never_accepted"]),
        },
    )


def _pairs(pairs: Iterable[Any]) -> tuple[tuple[int, int], ...]:
    return tuple((int(begin), int(end)) for begin, end in pairs)


def _whole_lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return text[: text.rfind("\n") + 1].splitlines()
