"""Spool files cut at every byte, and bits flipped anywhere in them: intact or counted, and the agent is up."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.faults.power_loss import memory_folder

if TYPE_CHECKING:
    from tests.torture.power_spool import Judged
    from tests.torture.spool_damaged import Prepared

ALL_CUTS = 30_000
"""At least as many as there are bytes in the files of the prepared spool (counted: `bytes_of_all_files`)."""


def truncated(batch: Batch) -> Tally:
    """Try n cuts at the n-th byte of all files, one behind the other."""
    from tests.torture.spool_damaged import cut

    def one(prepared: Prepared, work: Path, number: int) -> tuple[str, Judged]:
        cuts = prepared.cuts()
        name, length = cuts[number % len(cuts)]
        return f"{name} cut to {length} bytes", cut(prepared, work, name, length)

    return _each(batch, one)


def flipped(batch: Batch) -> Tally:
    """Try n flips one bit of one file, both drawn by chance."""
    from tests.torture.spool_damaged import flip

    def one(prepared: Prepared, work: Path, number: int) -> tuple[str, Judged]:
        rng = batch.rng(number)
        name = rng.choice(prepared.files())
        bit = rng.randrange(prepared.size_bytes(name) * 8)
        return f"{name} with bit {bit} flipped", flip(prepared, work, name, bit)

    return _each(batch, one)


def _each(batch: Batch, one: Callable[[Prepared, Path, int], tuple[str, Judged]]) -> Tally:
    from tests.torture.spool_damaged import prepare

    tally = Tally()
    with tempfile.TemporaryDirectory(dir=memory_folder(), prefix="torture-damage-") as name:
        prepared = prepare(Path(name) / "whole")
        tally.count("max_bytes_of_all_files", len(prepared.cuts()))
        for number in batch.numbers():
            what, judged = one(prepared, Path(name) / "damaged", number)
            tally.judge(judged.violations, f"try {number}: {what}")
            tally.count("records_delivered_intact", judged.delivered)
            tally.count("records_counted_as_damaged", judged.damaged)
            tally.measure("recovery_s", judged.recovery_s)
    return tally


_REAL = "the real spool on real files in a disk in memory; the damage is made by hand"
FAULTS = (
    Fault(
        name="spool-truncated",
        group=4,
        guarantees=("G1", "G2"),
        what=(
            "A segment, the ledger or the journal of acknowledgements (each with its snapshot) is cut at any byte of"
            " its last three records: what was cut is counted as damaged, the rest is delivered, the agent is up."
        ),
        one_try="one cut, opened by the real recovery and delivered",
        full=ALL_CUTS,
        turn=600,
        full_turn=2_000,
        run=truncated,
        fixed=40,
        real=_REAL,
        broken=(
            BrokenBuild(
                "a number that is missing in a segment is not given up",
                "edge_agent/spool/reader.py",
                "        if missing:\n            self._damaged(",
                "        if False:\n            self._damaged(",
            ),
        ),
    ),
    Fault(
        name="spool-bit-flips",
        group=4,
        guarantees=("G1", "G2"),
        what=(
            "One bit is flipped anywhere in a segment, the ledger or the journal of acknowledgements: at most the"
            " record that it hit is counted as damaged, the rest is delivered intact, the agent is up."
        ),
        one_try="one flip, opened by the real recovery and delivered",
        full=10_000,
        turn=600,
        full_turn=2_000,
        run=flipped,
        fixed=40,
        real=_REAL,
        broken=(
            BrokenBuild(
                "a record is sent without a look at its checksum",
                "foundation/framing.py",
                "    if len(body) != header.body_bytes or crc32(body) != header.body_crc:\n",
                "    if len(body) != header.body_bytes:\n",
            ),
            BrokenBuild(
                "the reader stops at the first damage in a segment",
                "edge_agent/spool/index.py",
                "                if isinstance(item, RecordEntry) and self._is_ours(item):\n",
                "                if not isinstance(item, RecordEntry) and len(self):\n"
                "                    break\n"
                "                if isinstance(item, RecordEntry) and self._is_ours(item):\n",
            ),
            BrokenBuild(
                "the ledger forgets records that were damaged",
                "edge_agent/spool/snapshot.py",
                "        for reason, gone in outcome.given_up.items():\n",
                "        for reason, gone in ():\n",
            ),
        ),
    ),
)
