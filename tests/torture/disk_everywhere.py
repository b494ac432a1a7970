"""A disk that is full at any moment of any command, in a mount namespace of its own; see `faults.disk_everywhere`.

Run as `unshare --mount python -m tests.torture.disk_everywhere SEED FIRST TRIES SECONDS FOLDER`; prints one JSON document.
Try n concerns one of AREAS in turn. The agent's disk is a gate in this process that fails its calls one after the other;
a command of the cloud works on a real file system in memory (tmpfs) with so many pages left, one page fewer or more each
time, so that the disk is full at one write after the other, also those of native code.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tests.torture import pipeline_curate, pipeline_release
from tests.torture.fault import Tally
from tests.torture.pipeline_fork import Child, Ended, in_fork
from tests.torture.topic_broker import warm

PAGE_BYTES = 4_096
STRIDE = 37
"""Prime, so that the tries of an area come to every call, or number of pages, in an order without a pattern."""
HOW = (
    ("pages", errno.ENOSPC),
    ("one", errno.EIO),
    ("inodes", errno.ENOSPC),
    ("one", errno.ENOSPC),
    ("pages", errno.EDQUOT),
)
AGENT, INGEST, CURATE, LABEL, RELEASE, START, HALT = (
    "agent", "ingest", "curate", "label", "release", "start", "halt"
)  # fmt: skip
AREAS = (AGENT, INGEST, AGENT, CURATE, AGENT, LABEL, AGENT, RELEASE, AGENT, START, AGENT, HALT)
DISK_WORDS = ("No space left on device", "os error 28", "StorageFull", "Invalid thrift: transport error")
"""The last one is what polars says of a Parquet footer for which there is no room; it does not name the disk."""


class AgentArea:
    """A day of the agent; each try fails another call of it, in another way."""

    def __init__(self, folder: Path) -> None:
        from tests.edge_agent.agent_day import Course

        self.course = Course(folder)
        self.most = len(self.course.calls)

    def attack(self, number: int, tally: Tally) -> list[str]:
        how, code = HOW[number % len(HOW)]
        call = self.course.calls[number * STRIDE % self.most]
        tally.count(f"agent_{how}_{errno.errorcode[code]}")
        return self.course.attempt(call, how, code)


class CloudArea:
    """A command on a real small disk; each try leaves another number of pages free."""

    def __init__(
        self,
        name: str,
        place: Path,
        base: Path,
        work: Callable[[Path], Any],
        judge: Callable[[Path, bool], list[str]],
    ) -> None:
        self.name, self.place, self.base, self.work, self.judge = name, place, base, work, judge
        self.most = self._peak_pages() + 4
        """More pages than the command needs at any moment."""

    def _peak_pages(self) -> int:
        it = self._fresh()
        before = least = _free_pages(self.place)
        child = Child(lambda: self.work(it))
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            least = min(least, _free_pages(self.place))
            time.sleep(0.001)
        if error := child.result().error:
            raise RuntimeError(f"{self.name} failed with room enough: {error}")
        return before - least

    def attack(self, number: int, tally: Tally) -> list[str]:
        it = self._fresh()
        pages = number * STRIDE % self.most
        _leave(self.place, pages)
        ended = in_fork(lambda: self.work(it))
        found = self._ended(ended, pages)
        (self.place / "ballast").unlink()
        tally.count(f"{self.name}_refused_by_the_disk", bool(ended.error))
        found += [f"while it was full: {each}" for each in self.judge(it, not ended.error)]
        again = in_fork(lambda: self.work(it))
        if not again.has_worked:
            return [*found, f"with room again it failed: {again.error}"]
        return found + self.judge(it, True)

    def _fresh(self) -> Path:
        for path in self.place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.base, self.place / "it", symlinks=True)
        return self.place / "it"

    def _ended(self, ended: Ended, pages: int) -> list[str]:
        if not ended.error or any(word in ended.error for word in DISK_WORDS):
            return []
        return [f"with {pages} pages left the error does not name the disk: {ended.error}"]


def _free_pages(place: Path) -> int:
    at = os.statvfs(place)
    return at.f_bavail * at.f_frsize // PAGE_BYTES


def _leave(place: Path, pages: int) -> None:
    """Take everything but so many pages."""
    with (place / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, (_free_pages(place) - pages)) * PAGE_BYTES)


def _curate_area(command: str, folder: Path, place: Path) -> CloudArea:
    scene = pipeline_curate.Scene(folder)

    def judge(it: Path, is_over: bool) -> list[str]:
        if is_over:
            return scene._after(it, command)
        found = pipeline_curate.labels_wrong(it) + pipeline_curate.torn_of(it)
        if (now := pipeline_curate.digest_of(it)) not in (scene.old, scene.new):
            found.append(f"the dataset is neither the old one nor the new one: {now or 'not there'}")
        return found

    return CloudArea(command, place, scene.base, partial(pipeline_curate.work, command), judge)


def _release_area(command: str, folder: Path, place: Path) -> CloudArea:
    scene = pipeline_release.Scene(folder)
    before = pipeline_release.BEFORE[command]
    old = scene.read[before]

    def judge(it: Path, is_over: bool) -> list[str]:
        found: list[str] = []
        now = scene._readable(it, "at the end" if is_over else "then", found)
        if is_over and now == old:
            found.append("nothing new is published")
        return found

    return CloudArea(
        command, place, scene.bases[before], lambda it: pipeline_release.work(it, command), judge
    )


def _ingest_area(folder: Path, place: Path, stack: ExitStack) -> CloudArea:
    from tests.torture import pipeline_ingest
    from tests.torture.topic_broker import embedded

    scene = pipeline_ingest.Scene(stack.enter_context(embedded()), folder, 7)
    base = folder / "empty"
    base.mkdir()

    def judge(it: Path, is_over: bool) -> list[str]:
        if not is_over and not list((it / "arrivals" / "_delta_log").glob("*.json")):
            return []  # not even the table could be made
        seen = scene.look(it)
        known = [scene.digests[INGEST]] if is_over else [scene.digests[""], scene.digests[INGEST]]
        found = [f"files are missing: {seen['missing'][:3]}"] if seen["missing"] else []
        return found + (
            [] if seen["digest"] in known else ["the lake holds other rows than an undisturbed one"]
        )

    return CloudArea(INGEST, place, base, lambda it: scene.work(INGEST, it), judge)


def area(name: str, folder: Path, stack: ExitStack, size: str = "64m") -> AgentArea | CloudArea:
    """Make what the tries of an area need, once."""
    own = folder / name
    own.mkdir()
    if name == AGENT:
        return AgentArea(own)
    place = folder / f"{name}-small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    if name == INGEST:
        return _ingest_area(own, place, stack)
    return (_curate_area if name in (CURATE, LABEL) else _release_area)(name, own, place)


def main(arguments: list[str]) -> int:
    """See the module."""
    _seed, first, tries, seconds, folder = arguments
    until = time.monotonic() + float(seconds)
    warm()
    pipeline_release.warm()
    tally = Tally()
    areas: dict[str, AgentArea | CloudArea] = {}
    with ExitStack() as stack:
        for number in range(int(first), int(first) + int(tries)):
            if time.monotonic() > until and tally.tries:
                break
            turn, at = divmod(number, len(AREAS))
            name = AREAS[at]
            if name not in areas:
                areas[name] = area(name, Path(folder), stack)
            own = turn * AREAS.count(name) + AREAS[:at].count(name)
            tally.judge(areas[name].attack(own, tally), f"try {number}, {name}")
    print(json.dumps(dataclasses.asdict(tally)))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
