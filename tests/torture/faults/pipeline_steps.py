"""Every labelled step of ingest, curate, dataset commit, release and model swap, killed there and run again."""

from __future__ import annotations

from tests.torture import pipeline_commit, pipeline_curate, pipeline_ingest, pipeline_release, pipeline_swap
from tests.torture.fault import BrokenBuild, Fault

_FORK = "real SIGKILL of a fork of the warm process, real disk"

_INGEST = Fault(
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
    real=f"{_FORK}; the broker is the embedded one",
    broken=(
        BrokenBuild(
            "offsets are committed before the rows",
            "pipelines/ingest/commit.py",
            '        renamed = rename_files(table, moves)\n        steps.reached("ingest.rename")\n'
            "        app_transactions = {position_name(plan.topic, partition): end for partition, end in ends.items()}\n"
            "        commit_renamed(table, renamed, plan.version, context.run_id, app_transactions)\n",
            "        app_transactions = {position_name(plan.topic, partition): end for partition, end in ends.items()}\n"
            "        commit_renamed(table, [], plan.version, context.run_id, app_transactions)\n"
            '        renamed = rename_files(table, moves)\n        steps.reached("ingest.rename")\n'
            "        commit_renamed(table, renamed, plan.version + 1, context.run_id, {})\n",
            tries=1,
            first=6,
        ),
        BrokenBuild(
            "rows are committed before the offsets",
            "pipelines/ingest/commit.py",
            "        commit_renamed(table, renamed, plan.version, context.run_id, app_transactions)\n"
            '        steps.reached("ingest.commit")\n',
            "        commit_renamed(table, renamed, plan.version, context.run_id, {})\n"
            '        steps.reached("ingest.commit")\n'
            "        commit_renamed(table, [], plan.version + 1, context.run_id, app_transactions)\n",
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
)

_CURATE = Fault(
    name="curate-steps-killed",
    group=2,
    guarantees=("G4",),
    what=(
        "Curate and label killed after each labelled step, every second time twice, and run again: the dataset is the "
        "old one or the new one, whole (none between the two renames), and no answer is lost, doubled or without its "
        "request."
    ),
    one_try="one labelled step killed, and run again",
    full=5 * len(pipeline_curate.STEPS),
    turn=2,
    full_turn=len(pipeline_curate.STEPS),
    run=pipeline_curate.run,
    real=f"{_FORK}; the lake holds drawn pictures, the label desk is a function of the picture's hash",
    broken=(
        BrokenBuild(
            "the dataset takes its place before it has its manifest",
            "pipelines/dataset/make.py",
            '            _take_place(staging, workspace.dataset_path)\n        reached("curate.placed")\n',
            '            (staging / "manifest.json").rename(work.path / "manifest.json")\n'
            '            _take_place(staging, workspace.dataset_path)\n        reached("curate.placed")\n'
            '        (work.path / "manifest.json").rename(workspace.dataset_path / "manifest.json")\n',
            tries=1,
            first=3,
        ),
        BrokenBuild(
            "answers are kept before their request is written down",
            "pipelines/curate/labelling.py",
            '    write_document(record, LABEL_REQUEST, {**result.to_json(), "frames": chosen.to_dicts()})\n'
            '    reached("label.recorded")\n'
            '    asked_of = dict(candidates.select("payload_sha256", "identity").iter_rows())\n'
            "    _append(table, answers, params.task.label_column, asked_of, request_id, expected_version)\n",
            '    asked_of = dict(candidates.select("payload_sha256", "identity").iter_rows())\n'
            "    _append(table, answers, params.task.label_column, asked_of, request_id, expected_version)\n"
            '    reached("label.recorded")\n'
            '    write_document(record, LABEL_REQUEST, {**result.to_json(), "frames": chosen.to_dicts()})\n',
            tries=1,
            first=5,
        ),
    ),
)

_COMMIT = Fault(
    name="dataset-commit-steps-killed",
    group=2,
    guarantees=("G4",),
    what=(
        "A dataset commit killed after each labelled step, every second time once more at another step, and run again: "
        "one version, whole in git and in DVC's remote, with the rows that were committed."
    ),
    one_try="one labelled step killed, and run again",
    full=5 * len(pipeline_commit.STEPS),
    turn=1,
    full_turn=len(pipeline_commit.STEPS),
    run=pipeline_commit.run,
    real=f"{_FORK}, real git and DVC; the kill falls between their commands, not inside them",
    broken=(
        BrokenBuild(
            "a commit that was interrupted begins a version of its own",
            "pipelines/dataset/versions.py",
            'is_new = newest is None or newest.digest != manifest["digest"]',
            "is_new = True",
            tries=1,
            first=2,
        ),
        BrokenBuild(
            "only a new version is pushed",
            "pipelines/dataset/versions.py",
            "        if push:\n",
            "        if push and is_new:\n",
            tries=1,
            first=3,
        ),
        BrokenBuild(
            "a version that was cut before its tag stands though its dataset is gone",
            "pipelines/dataset/versions.py",
            "        and not _has_tag(repository, newest)\n",
            "        and newest.message is None\n",
            tries=1,
            first=22,
        ),
    ),
)

_RELEASE = Fault(
    name="release-steps-killed",
    group=2,
    guarantees=("G6",),
    what=(
        "A release, the start and the halt of a rollout, a refresh and rotations of keys killed after each labelled "
        "step, half of them also at any file operation, and run again: python-tuf's own client reads the old state or "
        "the new one, whole, at once and at the end."
    ),
    one_try="one labelled step killed, and run again",
    full=5 * len(pipeline_release.STEPS),
    turn=5,
    full_turn=len(pipeline_release.STEPS),
    run=pipeline_release.run,
    real=f"{_FORK}; the client reads the files as a static server would give them",
    broken=(
        BrokenBuild(
            "a new snapshot is written over the published one",
            "rollout/repository.py",
            'snapshot.version = self.load("timestamp").signed.snapshot_meta.version + 1',
            'snapshot.version = self.load("timestamp").signed.snapshot_meta.version',
            tries=3,
        ),
        BrokenBuild(
            "a new role document is written over the published one",
            "rollout/repository.py",
            '            published.version = snapshot.meta[f"{role}.json"].version + 1\n',
            '            published.version = snapshot.meta[f"{role}.json"].version\n',
            tries=2,
        ),
    ),
)

_SWAP = Fault(
    name="model-swap-steps-killed",
    group=2,
    guarantees=("G6",),
    what=(
        "The serving process killed after each labelled step of a swap and of giving way, every second time also at "
        "any file operation of the next start: the slot that is named holds the old or the new model, byte for byte, "
        "and a model serves at the next start."
    ),
    one_try="one labelled step killed, and started again",
    full=5 * len(pipeline_swap.STEPS),
    turn=len(pipeline_swap.STEPS),
    run=pipeline_swap.run,
    real=f"{_FORK}, ONNX Runtime with tiny models, a real TUF repository; time is set by hand",
    broken=(
        BrokenBuild(
            "the old model's slot is given up before the new one is named",
            "edge_agent/models/role_model.py",
            '        self._on_step("candidate-read")\n',
            "        self._slots.slot_path(self._state.active.digest).unlink()\n"
            '        self._on_step("candidate-read")\n',
            tries=1,
        ),
    ),
)

FAULTS: tuple[Fault, ...] = (_INGEST, _CURATE, _COMMIT, _RELEASE, _SWAP)
