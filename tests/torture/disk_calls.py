"""A disk that is full at each call in turn of the cloud's commands, also at those of native code.

Run as `python -m tests.torture.disk_calls FOLDER COMMAND...` with the environment of `tests.native_disk`; prints one JSON
document: for each command its places, and what is wrong. A try: the command on the full disk, a look at
what it left, room again, the command again in the same process, a look at that.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.native_disk import WRITES, Change, NativeDisk
from tests.torture.fault import Tally

ROOT = Path(__file__).resolve().parents[2]
CODES = (errno.ENOSPC, errno.EDQUOT)
AGAIN = 3
"""Threads of a library may come in another order, so that another place fails: so often a place is tried."""


@dataclass(slots=True)
class Scene:
    """A command: how to prepare a folder, do its work there, and tell what is wrong with what it left.

    `look` gives what a reader of the folder sees; it must be as before or as after, and after the second run as after.
    """

    prepare: Callable[[Path], Any]
    work: Callable[[Path], Any]
    look: Callable[[Path], Any]
    finds_done: bool = False
    """Run again after it was done, it does more of the same (a release, a request), so both states are good."""


@dataclass(slots=True)
class Found:
    """What a sweep found."""

    places: int = 0
    calls: int = 0
    tried: int = 0
    refused: int = 0
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Sweep:
    """Every call, or every place, of one command fails in turn."""

    def __init__(self, name: str, scene: Scene, disk: NativeDisk) -> None:
        self.name, self.scene, self.disk = name, scene, disk
        self.base = disk.root.parent / f"base-{name}"
        self.it = disk.root / name
        disk.free()
        scene.prepare(self.base)
        self.before = self._seen(self.base)
        self._fresh()
        disk.note()
        scene.work(self.it)
        self.calls = disk.changes()
        disk.free()
        self.after = self._seen(self.it)
        if self.before == self.after:
            raise RuntimeError(f"{name} changed nothing")

    def places(self) -> dict[str, list[Change]]:
        """The calls of each place, in order."""
        found: dict[str, list[Change]] = {}
        for call in self.calls:
            found.setdefault(call.place(self.disk.root), []).append(call)
        return found

    def places_first(self) -> list[Change]:
        """Every call: the first of each place, then all others."""
        first = [calls[0] for calls in self.places().values()]
        known = {call.number for call in first}
        return first + [call for call in self.calls if call.number not in known]

    def each_place(self, at: str) -> Found:
        """The disk is full from the first call of each place on; a place whose calls need no room fails for once.

        `at`: "all" places, "writes" (those that need room), or a part of their names.
        """
        places = {
            place: calls
            for place, calls in self.places().items()
            if at == "all" or (calls[0].what in WRITES if at == "writes" else at in place)
        }
        found = Found(len(places), len(self.calls))
        for position, (place, calls) in enumerate(places.items()):
            code = CODES[position % 2] if calls[0].what in WRITES else errno.EIO
            for call in (calls * AGAIN)[:AGAIN]:
                if self.attempt(call.number, call.what not in WRITES, code, found) == place:
                    break
            else:
                found.missed.append(place)
        return found

    def attempt(self, number: int, is_one: bool, code: int, found: Found) -> str:
        """Fail from call `number` on, or only it; returns the place that failed first."""
        self._fresh()
        place, error, wrong = self._both_runs(number, is_one, code)
        found.tried += 1
        found.refused += bool(error)
        how = f"{self.name}: {'only' if is_one else 'from'} {errno.errorcode[code]} at {place}"
        found.wrong += [f"{how}: {each}" for each in wrong]
        return place

    def _both_runs(self, number: int, is_one: bool, code: int) -> tuple[str, str, list[str]]:
        from foundation.errors import RetryLaterError

        wrong, error = [], ""
        self.disk.fail(number, is_one=is_one, code=code)
        try:
            self.scene.work(self.it)
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
            if not isinstance(raised, OSError | RetryLaterError):
                wrong.append(f"ends with no error to try again: {error[:600]}")
            elif not is_one and os.strerror(code) not in error:
                wrong.append(f"the error does not name the disk: {error[:600]}")
            elif str(self.disk.root) not in error:
                wrong.append(f"the error names no file: {error[:600]}")
        failed = [each for each in self.disk.changes() if each.is_failed]
        self.disk.free()
        states = (self.before, self.after)
        if (state := self._seen(self.it)) not in states and not (
            self.scene.finds_done and "error" not in state
        ):
            wrong.append(f"leaves neither the old state nor the new one: {str(state)[:300]}")
        try:
            self.scene.work(self.it)
        except Exception as raised:
            wrong.append(f"with room again: {type(raised).__name__}: {raised}"[:600])
        else:
            state = self._seen(self.it)
            if state != self.after and not (self.scene.finds_done and state != self.before):
                wrong.append(f"with room again it leaves another state: {str(state)[:300]}")
        if not failed:
            return "nothing failed", error, wrong
        return failed[0].place(self.disk.root), error, wrong

    def _seen(self, it: Path) -> Any:
        try:
            return json.loads(json.dumps(self.scene.look(it)))
        except Exception as raised:
            return {"error": f"{type(raised).__name__}: {raised}"}

    def _fresh(self) -> None:
        self.disk.free()
        shutil.rmtree(self.it, ignore_errors=True)
        shutil.copytree(self.base, self.it, symlinks=True)


# What the commands are.


def _lake_rows(folder: Path) -> Any:
    """Digest of the rows, and files that are missing; nothing where there is no table."""
    from tests.checker.lake_state import missing_files, rows_digest

    if not list((folder / "_delta_log").glob("*.json")):
        return "no table"
    return [rows_digest(folder), missing_files(folder)]


def _ingest_base(folder: Path) -> None:
    from tests.pipelines.ingest.ingest_lab import Lab, mixed_log, save

    folder.mkdir()
    lab = Lab(folder)
    mixed_log(lab)
    save(lab, folder)
    lab.fleet.enrol("v9")
    (folder / "trusted.json").write_text(json.dumps(lab.fleet.enrolment.to_json()))


def _ingest(it: Path) -> None:
    from tests.pipelines.ingest.ingest_lab import load

    load(it).ingest().once()


def _replay_base(folder: Path) -> None:
    _ingest_base(folder)
    _ingest(folder)


def _replay(it: Path) -> None:
    from pipelines.ingest.deadletter import replay
    from schemas.signing import Enrolment
    from tests.pipelines.ingest.ingest_lab import load

    lab = load(it)
    trusted = Enrolment.from_json(json.loads((it / "trusted.json").read_text()))
    replay(lab.table, trusted, lab.settings, lab.clock)


def _compact_base(folder: Path) -> None:
    from tests.pipelines.ingest.test_compaction import Lake

    lake = Lake(folder / "lake")
    for _ in range(17):
        lake.run()


def _compact(it: Path) -> None:
    from connectors.lake.table import LakeTable
    from foundation.clock import SystemClock
    from pipelines.ingest.compact import compact

    compact(LakeTable.open(it / "lake" / "arrivals"), SystemClock(), wait_s=5.0)


def _files_and_rows(it: Path) -> Any:
    from connectors.lake.table import LakeTable

    table = LakeTable.open(it / "lake" / "arrivals")
    is_merged = table.snapshot().files().num_rows < 34  # of one partition, or of both
    return [is_merged, *_lake_rows(table.folder)]


def _dataset(it: Path) -> Any:
    """Digest of the dataset's rows, what is torn about it, and what is left over."""
    from tests.checker.dataset_files import rows_digest, torn

    folder = it / "datasets" / "current"
    whole = [rows_digest(folder), torn(folder)] if (folder / "manifest.json").is_file() else "no dataset"
    return [whole, sorted(path.name for path in (it / "datasets").glob(".*"))]


def _answers(it: Path) -> Any:
    from tests.checker.lake_state import table_rows

    rows = [row for row in table_rows(it / "lake" / "labels") if row["request_id"] != "r1"]
    told = sorted(path.name for path in (it / "reports" / "label_requests").glob("*.json"))
    twice = len(rows) - len({row["payload_sha256"] for row in rows})
    without = sorted({row["request_id"] for row in rows} - {name.removesuffix(".json") for name in told})
    if twice or without:
        return {"error": f"{twice} frames were answered twice; requests without a record: {without}"}
    return {"answers": len(rows)}


def _repository(it: Path) -> Any:
    """What a foreign client reads."""
    from tests.checker.tuf_client import read_index, read_targets

    root = (it / "first.root.json").read_bytes()
    client = it.parent.parent / "client"
    shutil.rmtree(client, ignore_errors=True)
    targets = sorted(read_targets(it / "tuf", client, root))
    plans = (
        read_index(it / "tuf", client, root, "rollouts/index.json")
        if "rollouts/index.json" in targets
        else []
    )
    return {"targets": targets, "plans": [[plan["state"], len(plan["waves"])] for plan in plans]}


def _release_base(folder: Path, *commands: str) -> None:
    from tests.torture import pipeline_release

    pipeline_release.Scene._prepare(None, folder)  # type: ignore[arg-type]
    for command in commands:
        pipeline_release.work(folder, command)


def _release(command: str, it: Path) -> None:
    from tests.torture import pipeline_release

    pipeline_release.work(it, command)


def _advance(it: Path) -> None:
    """Open the second wave, because the first is healthy; a run that was cut may have opened it."""
    from foundation.clock import SystemClock
    from rollout.health import VehicleReport
    from schemas.reasons import ModelState
    from tests.torture.pipeline_release import FLEET, service

    rollout = service(it)
    plan = rollout.current()
    release = rollout.release_of(plan)
    if len(plan.waves) > 1:
        return
    said = {
        name: VehicleReport(
            vehicle_id=name,
            heard_ns=SystemClock().now_ns(),
            epoch="0" * 16,
            seq=1,
            model_digest=release.model_digest,
            model_name=release.model_name,
            model_state=ModelState.SERVING,
            reports_on_model=1_000,
            frames=1_000_000,
            role="serving",
        )
        for name in FLEET
    }
    if rollout.advance(said).did != "opened":
        raise RuntimeError("the second wave did not open")


def _scenes() -> dict[str, Scene]:
    from tests.torture import pipeline_commit, pipeline_curate

    def arrivals(it: Path) -> Any:
        return _lake_rows(it / "lake" / "arrivals")

    def committed(it: Path) -> Any:
        """A version whose tag is there is whole in git and in the remote."""
        from tests.checker.dataset_files import committed_version

        held = pipeline_commit.versions(it)["tags"]
        torn = [
            committed_version(
                it / pipeline_commit.PLACE, tag.removeprefix("dataset/"), pipeline_commit.remote_of(it), into
            )
            for tag in held
            if not shutil.rmtree(into := it / "fetched", ignore_errors=True)
        ]
        return [held, *torn]

    curate = pipeline_curate
    return {
        "ingest": Scene(_ingest_base, _ingest, arrivals),
        "replay": Scene(_replay_base, _replay, arrivals),
        "compact": Scene(_compact_base, _compact, _files_and_rows),
        "curate": Scene(curate.prepare, partial(curate.work, curate.CURATE), _dataset),
        "label": Scene(curate.prepare, partial(curate.work, curate.LABEL), _answers, finds_done=True),
        "release": Scene(_release_base, partial(_release, "release"), _repository),
        "start": Scene(_release_base, partial(_release, "start"), _repository),
        "advance": Scene(lambda it: _release_base(it, "start"), _advance, _repository),
        "halt": Scene(lambda it: _release_base(it, "start"), partial(_release, "halt"), _repository),
        "commit": Scene(pipeline_commit.prepare, pipeline_commit.commit, committed),
    }


def sweep(folder: Path, names: Iterable[str], at: str) -> dict[str, Found]:
    """The places of each command (see `Sweep.each_place`); in a process that has the disk."""
    warm_up()
    disk = NativeDisk(folder / "disk", folder)
    scenes = _scenes()
    return {name: Sweep(name, scenes[name], disk).each_place(at) for name in names}


def swept(folder: Path, *names: str, at: str = "all") -> dict[str, Found]:
    """`sweep` in a process of its own, which has the disk."""
    (folder / "disk").mkdir()
    environment = NativeDisk(folder / "disk", folder).build()
    done = subprocess.run(
        [
            sys.executable,
            "-B",
            "-m",
            "tests.torture.disk_calls",
            str(folder),
            at,
            *names,
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stderr[-2_000:]}")
    return {name: Found(**found) for name, found in json.loads(done.stdout.splitlines()[-1]).items()}


def tries(folder: Path, first: int, count: int, seconds: float) -> Tally:
    """Try n concerns one of the commands in turn, and of that each call in turn, in the ways that a call can fail."""
    warm_up()
    until, tally = time.monotonic() + seconds, Tally()
    disk, scenes, sweeps = NativeDisk(folder / "disk", folder), _scenes(), dict[str, Sweep]()
    for number in range(first, first + count):
        if time.monotonic() > until and tally.tries:
            break
        turn, at = divmod(number, len(scenes))
        name = list(scenes)[at]
        if name not in sweeps:
            sweeps[name] = Sweep(name, scenes[name], disk)
        calls = sweeps[name].places_first()
        call = calls[turn % len(calls)]
        is_one = call.what not in WRITES or turn // len(calls) % 2 == 1
        found = Found()
        sweeps[name].attempt(call.number, is_one, errno.EIO if is_one else CODES[turn % 2], found)
        tally.judge(found.wrong, f"try {number}, {name}")
        tally.count(f"{name}_refused_by_the_disk", found.refused)
    return tally


def warm_up() -> None:
    """Import what the commands need."""
    from tests.torture import pipeline_release
    from tests.torture.topic_broker import warm

    warm()
    pipeline_release.warm()


if __name__ == "__main__":
    if sys.argv[2] == "--tries":
        done = tries(Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
        print(json.dumps(asdict(done)))
    else:
        told = sweep(Path(sys.argv[1]), sys.argv[3:], sys.argv[2])
        print(json.dumps({name: asdict(found) for name, found in told.items()}))
    sys.stdout.flush()
    os._exit(0)
