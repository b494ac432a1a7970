"""Two writers at once on DVC, on the lake, on the signed repository: one waits or is refused clearly; nothing is torn."""

from __future__ import annotations

from tests.torture import writers_dvc, writers_lake, writers_tuf
from tests.torture.fault import BrokenBuild, Fault

_REAL = "real processes (forks of a warm one, let go at one instant), real locks and disk"

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="two-writers-dvc",
        group=11,
        guarantees=("G4",),
        what=(
            "Two dataset commits at once, one of them without patience in turn, and a commit beside a curate that makes "
            "another dataset, at each step of the commit: one waits or is refused by name, and the version holds the "
            "whole old or the whole new dataset, in git and in DVC's remote, with the lake.lock that it was made from."
        ),
        one_try="one pair of writers at once",
        full=24,
        turn=1,
        full_turn=6,
        run=writers_dvc.run,
        real=f"{_REAL}, real git and DVC",
        broken=(
            BrokenBuild(
                "nobody locks the workspace",
                "pipelines/dataset/dvc.py",
                '        with FileLock(self.workspace.private_path / "dvc.lock", wait_s=self.workspace.settings.lock_wait_s):\n'
                "            yield\n",
                "        yield\n",
                tries=2,
            ),
            BrokenBuild(
                "curate takes no lock",
                "pipelines/dataset/make.py",
                "        with dataset_lock(workspace):\n            _take_place(staging, workspace.dataset_path)\n",
                "        _take_place(staging, workspace.dataset_path)\n",
                tries=1,
                first=2,
            ),
            BrokenBuild(
                "lake.lock is written anew beside a commit",
                "pipelines/dataset/lock.py",
                "    with dataset_lock(workspace):\n",
                "    if path:\n",
                tries=1,
                first=3,
            ),
        ),
    ),
    Fault(
        name="two-writers-lake",
        group=11,
        guarantees=("G3", "G4"),
        what=(
            "Two ingests, an ingest and a replay, two replays, a curate and a label, two labels and two curates at once: "
            "one row an offset, each identity landed once, each answer once, every dataset whole; one waits, plans again "
            "or is refused by name."
        ),
        one_try="one pair of writers at once",
        full=24,
        turn=2,
        full_turn=6,
        run=writers_lake.run,
        real=f"{_REAL}; the broker is the embedded one",
        broken=(
            BrokenBuild(
                "a commit does not look whether the table moved on",
                "pipelines/ingest/commit.py",
                "    with commit_lock(table, context.settings.commit_wait_s, clock):\n        newest = table.version()\n",
                "    import dataclasses\n    with commit_lock(table, context.settings.commit_wait_s, clock):\n"
                "        newest = table.version()\n        plan = dataclasses.replace(plan, version=newest)\n",
                tries=1,
            ),
            BrokenBuild(
                "labels are appended to whatever version there is",
                "pipelines/curate/labelling.py",
                "        table.append(pa.Table.from_pylist(rows, LABELS), expected_version=expected_version)",
                "        table.append(pa.Table.from_pylist(rows, LABELS))",
                tries=1,
                first=4,
            ),
        ),
    ),
    Fault(
        name="two-writers-tuf",
        group=11,
        guarantees=("G6",),
        what=(
            "Two releases, starts, halts, a hold-out, refreshes and rotations of keys at once in pairs on one signed "
            "repository: both are published or one is refused by name, and python-tuf's client reads it whole."
        ),
        one_try="one pair of writers at once",
        full=50,
        turn=10,
        run=writers_tuf.run,
        real=f"{_REAL}; the client reads the files as a static server would give them",
        broken=(
            BrokenBuild(
                "nobody locks the repository",
                "rollout/repository.py",
                '        return FileLock(self.path / ".writer.lock", wait_s=self._settings.lock_wait_s, clock=self._clock)',
                "        import contextlib\n        return contextlib.nullcontext()  # type: ignore[return-value]",
                tries=10,
            ),
        ),
    ),
)
