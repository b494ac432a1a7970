"""A disk that refuses at any place where a command of the cloud writes, native libraries included: old or new, and again.

Every kind of call on every kind of file that ingest, replay of dead letters, compaction, release and rollout make fails in
turn: the disk is full from it on (ENOSPC or EDQUOT), or, where no room is needed (fsync, rename), it fails alone (EIO; of
release and rollout only here). The same process then has room again, and completes. The fault disk-full-each-call of `make
torture-full` fails every call, also those of curate, label and dataset commit.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.native_disk import compiler_is_missing
from tests.torture.disk_calls import swept
from tests.torture.faults.power_loss import memory_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler_is_missing() is not None, reason=compiler_is_missing() or ""),
]
COMMANDS = {
    "ingest": 15, "replay": 10, "compact": 12, "release": 15, "start": 15, "advance": 15, "halt": 15,
}  # fmt: skip
"""Each command, and at least how many places it has."""
LONG = ("ingest", "replay", "compact")


@pytest.mark.timeout(900)  # fifty runs of a command, about ten seconds of work
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_at_any_place_is_named_leaves_old_or_new_and_costs_one_more_run(command: str) -> None:
    with TemporaryDirectory(dir=memory_folder()) as folder:
        told = swept(Path(folder), command, at="writes" if command in LONG else "all")[command]
    assert told.wrong == []
    assert told.missed == [], "these places did not fail"
    assert told.places >= COMMANDS[command]
    assert told.refused > told.places // 2, "a disk that refuses is noticed"


def test_a_dataset_that_cannot_take_its_place_leaves_the_old_one_there() -> None:
    with TemporaryDirectory(dir=memory_folder()) as folder:
        told = swept(Path(folder), "curate", at=" curate/datasets")["curate"]
    assert told.wrong == []
    assert told.places >= 2, "the renames and their fsync"
