"""Bound the kept bytes per drive, per hour and over the lifetime."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

HOUR_S = 3600
BUCKET_S = 60
MAX_DRIVES_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """Bytes of payload; None = no limit of that kind."""

    per_drive_bytes: int | None = None
    per_hour_bytes: int | None = None
    total_bytes: int | None = None


class ByteBudget:
    """Counts kept payload bytes against the limits; `reserve` never lets one be passed.

    Time is monotonic nanoseconds, for wall clocks of vehicles jump. In any 3,600 s at most `per_hour_bytes`
    are kept: bytes are counted in minutes, and a minute is forgotten only when all of it is an hour old.
    After a reboot the hour's bytes count as if they were kept just now.
    """

    def __init__(self, limits: BudgetLimits) -> None:
        self.limits = limits
        self.total_bytes = 0
        self._drives: OrderedDict[str, int] = OrderedDict()
        self._minutes: deque[tuple[int, int]] = deque()

    def drive_bytes(self, drive_id: str) -> int:
        """Return the bytes kept of this drive (0 for one that 1,024 later ones displaced from memory)."""
        return self._drives.get(drive_id, 0)

    def hour_bytes(self, monotonic_ns: int) -> int:
        """Return the bytes kept in the hour that ends at `monotonic_ns`, at least (minutes are counted whole)."""
        self._fold_into(monotonic_ns // 1_000_000_000 // BUCKET_S)
        horizon = monotonic_ns // 1_000_000_000 - HOUR_S - BUCKET_S
        while self._minutes and self._minutes[0][0] * BUCKET_S <= horizon:
            self._minutes.popleft()
        return sum(amount for _, amount in self._minutes)

    def can_pay(self, drive_id: str, amount_bytes: int, monotonic_ns: int) -> bool:
        """Return whether `amount_bytes` more of this drive stay within every limit."""
        limits = self.limits
        if limits.total_bytes is not None and self.total_bytes + amount_bytes > limits.total_bytes:
            return False
        if (
            limits.per_drive_bytes is not None
            and self.drive_bytes(drive_id) + amount_bytes > limits.per_drive_bytes
        ):
            return False
        return (
            limits.per_hour_bytes is None
            or self.hour_bytes(monotonic_ns) + amount_bytes <= limits.per_hour_bytes
        )

    def reserve(self, drive_id: str, amount_bytes: int, monotonic_ns: int) -> bool:
        """Count the bytes and return True, or return False and count nothing."""
        if not self.can_pay(drive_id, amount_bytes, monotonic_ns):
            return False
        self.spend(drive_id, amount_bytes, monotonic_ns)
        return True

    def spend(self, drive_id: str, amount_bytes: int, monotonic_ns: int) -> None:
        """Count bytes that are kept already, whatever the limits say."""
        self.total_bytes += amount_bytes
        self._drives[drive_id] = self._drives.pop(drive_id, 0) + amount_bytes
        while len(self._drives) > MAX_DRIVES_REMEMBERED:
            self._drives.popitem(last=False)
        minute = monotonic_ns // 1_000_000_000 // BUCKET_S
        if self._minutes and self._minutes[-1][0] >= minute:
            last, amount = self._minutes[-1]
            self._minutes[-1] = (last, amount + amount_bytes)
        else:
            self._minutes.append((minute, amount_bytes))

    def _fold_into(self, minute: int) -> None:
        """Count what lies after `minute`, which was kept before the machine started again, as kept in it."""
        later = 0
        while self._minutes and self._minutes[-1][0] > minute:
            later += self._minutes.pop()[1]
        if later:
            self._minutes.append((minute, later))

    def give_back(self, drive_id: str, amount_bytes: int) -> None:
        """Take back a reservation that the spool refused; the hour's count keeps it, on the safe side."""
        self.total_bytes -= amount_bytes
        self._drives[drive_id] = self._drives.get(drive_id, 0) - amount_bytes

    def to_json(self) -> dict[str, object]:
        """Return plain values, for the progress."""
        return {
            "total_bytes": self.total_bytes,
            "drives": [[drive, amount] for drive, amount in self._drives.items()],
            "minutes": [[minute, amount] for minute, amount in self._minutes],
        }

    def restore(self, document: dict[str, object], *, same_boot: bool, monotonic_ns: int) -> None:
        """Replace the counts by what `to_json` returned, of this boot of the machine or of an earlier one.

        Raises:
            KeyError, TypeError, ValueError: `to_json` did not write this.
        """
        self.total_bytes = int(str(document["total_bytes"]))
        drives, minutes = document["drives"], document["minutes"]
        if not (isinstance(drives, list) and isinstance(minutes, list)):
            raise TypeError("drives and minutes are lists")
        self._drives = OrderedDict((str(drive), int(amount)) for drive, amount in drives)
        self._minutes = deque((int(minute), int(amount)) for minute, amount in minutes)
        if not same_boot and self._minutes:
            carried = sum(amount for _, amount in self._minutes)
            self._minutes = deque([(monotonic_ns // 1_000_000_000 // BUCKET_S, carried)])
