"""A stopped spool that knows where each of its records lies, to be cut or flipped anywhere."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_agent.spool.settings import SpoolSettings
from schemas.reasons import ValueClass
from tests.checker.spool_books import Excuses, Key, Told, received
from tests.edge_agent.spool.spool_rig import Spool, sample
from tests.torture.power_spool import Judged, open_and_judge

SETTINGS = SpoolSettings(
    quota_bytes=40_000_000, segment_bytes=20_000, commit_count=5, reserve_bytes=1_000, disk_error_hold_s=0.0
)
LEDGER, DELIVERY = "ledger.journal", "delivery.journal"
SIZES_BYTES = (2_000, 2_300, 2_600)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The folder, what was told of it, and per segment file the records with the end of their bytes in it."""

    folder: Path
    told: Told
    ends: dict[str, list[tuple[Key, int]]]

    def files(self) -> list[str]:
        """Every file that says anything: segments and both journals (each with its snapshot)."""
        return [*sorted(self.ends), LEDGER, DELIVERY]

    def size_bytes(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def cuts(self) -> list[tuple[str, int]]:
        """Every length to which every file can be cut: its last three records are all its records."""
        return [(name, length) for name in self.files() for length in range(self.size_bytes(name))]

    def behind(self, name: str, length: int) -> set[Key]:
        """Records of a segment that do not end within its first `length` bytes."""
        return {key for key, end in self.ends.get(name, ()) if end > length}

    def at(self, name: str, byte: int) -> set[Key]:
        """The record of a segment to which this byte belongs."""
        return {key for key, end in self.ends.get(name, ()) if end > byte and byte >= self._begin(name, end)}

    def _begin(self, name: str, end: int) -> int:
        return max((other for _, other in self.ends[name] if other < end), default=0)

    def excuses(self, name: str, damaged: set[Key]) -> Excuses:
        """What damage to this file excuses: the records that were hit, and what only that file knew."""
        delivered = {one.key for one in self.told.received}
        return Excuses(
            evicted={"damaged": damaged},
            in_doubt=False,
            lost_acknowledgements=name == DELIVERY,
            forgotten=delivered if name == LEDGER else (),
        )


def prepare(folder: Path) -> Prepared:
    """Two lives of a spool, three records of 2 to 3 kB in each of three segments, some delivered, none closed."""
    spool = Spool(folder, SETTINGS)
    told = Told(offered=set())
    values: dict[Key, bytes] = {}
    number = 0
    for value_classes in ((ValueClass.NORMAL,), (ValueClass.LOW, ValueClass.HIGH)):
        for size_bytes in SIZES_BYTES:
            for value_class in value_classes:
                number += 1
                told.offered.add(f"frame-{number}")  # type: ignore[union-attr]
                spool.writer.append(sample(size_bytes, value_class, number))
                receipt = spool.writer.commit()
                assert receipt is not None, "a record was not accepted"
        for record in (leased := spool.reader.lease(10_000_000)):
            key = (record.identity.epoch, record.identity.seq)
            values[key] = record.wire.value
            told.receipts[key] = received(key, record.wire.value).sha256
        if len(value_classes) == 1:
            spool.reader.release(record.identity for record in leased)
            spool.restart_reader()
            spool.restart_writer()
            for record in spool.reader.lease(2 * SIZES_BYTES[0]):
                key = (record.identity.epoch, record.identity.seq)
                told.received.append(received(key, record.wire.value))
                spool.reader.acknowledge([record.identity])
                told.durable.add(key)
    assert spool.reader.sync()
    spool.close()
    ends: dict[str, list[tuple[Key, int]]] = {}
    for path in sorted((folder / "segments").iterdir()):
        data = path.read_bytes()
        for key, value in sorted(values.items()):
            if (at := data.find(value)) >= 0:
                ends.setdefault(f"segments/{path.name}", []).append((key, at + len(value)))
    return Prepared(folder, told, ends)


def cut(prepared: Prepared, work: Path, name: str, length: int) -> Judged:
    """Cut one file of a copy, and open it."""
    shutil.copytree(prepared.folder, work)
    with (work / name).open("r+b") as file:
        file.truncate(length)
    return _judge(prepared, work, name, prepared.behind(name, length))


def flip(prepared: Prepared, work: Path, name: str, bit: int) -> Judged:
    """Flip one bit of one file of a copy, and open it."""
    shutil.copytree(prepared.folder, work)
    data = bytearray((work / name).read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    (work / name).write_bytes(data)
    return _judge(prepared, work, name, prepared.at(name, bit // 8))


def _judge(prepared: Prepared, work: Path, name: str, hit: set[Key]) -> Judged:
    try:
        return open_and_judge(work, SETTINGS, prepared.told, prepared.excuses(name, hit), put_more=True)
    finally:
        shutil.rmtree(work)
