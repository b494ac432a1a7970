"""Every labelled step of ingest, curate, dataset commit, release and model swap, killed there and run again."""

from __future__ import annotations

from tests.torture import pipeline_ingest
from tests.torture.fault import BrokenBuild, Fault

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="ingest-steps-killed",
        group=2,
        guarantees=("G3",),
        what=(
            "Ingest and the replay of dead letters killed after each labelled step, every second time once more at "
            "another step, and run again: one row an offset, the very rows of an undisturbed run, nothing left over."
        ),
        one_try="one labelled step killed, and run again",
        full=5 * len(pipeline_ingest.STEPS),
        turn=3,
        full_turn=len(pipeline_ingest.STEPS),
        run=pipeline_ingest.run,
        real="real SIGKILL of a fork of the warm process, real disk; the broker is the embedded one",
        broken=(
            BrokenBuild(
                "offsets are marked in a commit of their own, before the rows",
                "pipelines/ingest/commit.py",
                '        renamed = rename_files(table, moves)\n        steps.reached("ingest.rename")\n'
                "        marks = {position_name(plan.topic, partition): end for partition, end in ends.items()}\n"
                "        commit_renamed(table, renamed, plan.version, context.run_id, marks)\n",
                "        marks = {position_name(plan.topic, partition): end for partition, end in ends.items()}\n"
                "        commit_renamed(table, [], plan.version, context.run_id, marks)\n"
                '        renamed = rename_files(table, moves)\n        steps.reached("ingest.rename")\n'
                "        commit_renamed(table, renamed, plan.version + 1, context.run_id, {})\n",
                tries=1,
                first=6,
            ),
            BrokenBuild(
                "offsets are not marked with the rows",
                "pipelines/ingest/commit.py",
                "commit_renamed(table, renamed, plan.version, context.run_id, marks)",
                "commit_renamed(table, renamed, plan.version, context.run_id, {})",
                tries=1,
                first=7,
            ),
            BrokenBuild(
                "what a dead run renamed stays where it is",
                "pipelines/ingest/staging.py",
                "                    if relative not in held:\n",
                "                    if False:\n",
                tries=1,
                first=6,
            ),
        ),
    ),
)
