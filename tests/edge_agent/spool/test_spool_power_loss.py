"""After a simulated power loss at any system call, everything that had a receipt is there, whole, or explained."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.torture.power_disk import PowerLossDisk, write_tree
from tests.torture.power_spool import EXCUSES, open_and_judge, record_busy_spool, told_by
from tests.torture.power_tape import moments

SEEDS = range(int(os.environ.get("FLEETLOOP_POWER_LOSSES", "10")))
STATES = 15


@pytest.mark.parametrize("seed", SEEDS)
def test_no_receipt_is_broken_by_a_power_loss_at_any_system_call(seed: int, tmp_path: Path) -> None:
    """A few of the states that the fault `power-loss-spool` of the campaign opens by the thousand."""
    recorded = record_busy_spool(tmp_path, f"test/{seed}")
    rng = random.Random(seed)
    disk = PowerLossDisk(tmp_path / "state", is_read=False)
    cuts = sorted(rng.randint(1, len(recorded.tape.steps)) for _ in range(STATES))
    for state, (cut, marks) in enumerate(moments(recorded.tape, disk, cuts)):
        write_tree(disk.state(rng), tmp_path / f"after{state}")
        folder = tmp_path / f"after{state}" / "spool"
        judged = open_and_judge(folder, recorded.settings, told_by(marks, recorded.offered), EXCUSES)
        assert not judged.violations, f"after call {cut}"
