"""A spool whose n-th fsync, write or rename fails, by strace; then a power loss, on what the disk really was told."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_agent.spool.settings import SpoolSettings
from schemas.reasons import ValueClass
from tests.checker.spool_books import Excuses, judge_frames
from tests.torture.disk_spool import DiskSpool, told_by_rows
from tests.torture.power_disk import PowerLossDisk, write_tree
from tests.torture.power_spool import open_and_judge
from tests.torture.power_strace import Injection, read_log, traced_child
from tests.torture.power_tape import Call, Tape, moments

KINDS = {
    "fsync": ("fsync,fdatasync", ("EIO",)),
    "write": ("write,pwrite64", ("ENOSPC", "EIO")),
    "fsync, then uncut": ("fsync,fdatasync", ("EIO",)),
    "rename": ("rename,renameat,renameat2", ("EIO", "ENOSPC")),
}
MOST = 200
"""The n-th call, n from 1 to this."""
CALLS_OF_A_ROUND = {"fsync": 8, "fsync, then uncut": 8, "write": 10, "rename": 2}
"""At least so many of them happen in one round of the child."""
ROUNDS_AFTER = 4
NOTHING_IS_EXCUSED = Excuses(in_doubt=False)
SIZES_BYTES = (200, 1_500)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one injected failure did."""

    broken: list[str]
    hit: int
    refused: int
    receipts: int
    states: int


def paths_of(folder: Path, segments: int) -> tuple[str, ...]:
    """Every file that a spool of so many segments may write: only calls on these are counted and failed."""
    names = [f"{one}.journal{end}" for one in ("ledger", "delivery") for end in ("", ".new")]
    names += ["ledger.reserve", "delivery.reserve", "", "segments"]
    normal = ValueClass.NORMAL
    names += [f"segments/{int(normal)}-{normal.label}-{number:012d}.segment" for number in range(1, segments)]
    return tuple(str(folder / name).rstrip("/") for name in names)


def inject(folder: Path, kind: str, when: int, rng: random.Random) -> Attempt:
    """Let a traced child use a spool in which one call fails; judge what is left, and what a power loss leaves."""
    calls, errors = KINDS[kind]
    error = errors[when % len(errors)]
    root, told = folder / "state", folder / "told"
    root.mkdir()
    told.touch()
    (root / "spool" / "segments").mkdir(parents=True)
    disk = PowerLossDisk(root)
    rounds = when // CALLS_OF_A_ROUND[kind] + ROUNDS_AFTER
    log = folder / "strace"
    injection = Injection(
        calls,
        error,
        when,
        (*paths_of(root / "spool", 4 * rounds + 20), str(told)),
        cleaning=kind.endswith("uncut"),
    )
    seed = rng.randrange(10**9)
    status = traced_child(
        lambda: _live(folder, told, rounds, kind, seed), log, injection=injection, limit_s=120.0
    )
    if status:
        return Attempt([f"not_alive: {log.with_suffix('.error').read_text()[-600:]}"], 0, 0, 0, 0)
    tape = Tape(root)
    tape.steps = list(read_log(log, disk, told))
    hits = log.read_text().count("(INJECTED)")
    return _judge(folder, tape, disk, rng, hits)


def _live(folder: Path, told: Path, rounds: int, kind: str, seed: int) -> None:
    """The child: frames, commits, uploads; both sides end and come again every fourth round (each, for renames)."""
    fd = os.open(told, os.O_WRONLY)
    at = 0

    def tell(*row: object) -> None:
        # The line is written by pwritev: it is traced, and no injected failure can hit it.
        nonlocal at
        line = json.dumps(row).encode() + b"\n"
        at += os.pwritev(fd, [line], at)

    rng = random.Random(seed)
    spool = DiskSpool(folder / "state" / "spool", folder / "receipts", tell, rng)
    said = ""
    for number in range(rounds):
        for _ in range(3 if kind != "rename" else 1):
            spool.offer(rng.randint(1, 3), SIZES_BYTES)
            spool.commit()
            said = spool.writer.last_error or said
            spool.clock.advance(0.6)
        spool.deliver(6_000, keep=0.8)
        spool.clock.advance(1.0)
        if kind == "rename" or number % 4 == 3:
            spool.restart()
    spool.clock.advance(6.0)
    spool.offer(3, SIZES_BYTES)
    last = spool.commit()
    spool.tell_receipts()
    tell(
        "end", spool.offered, spool.refused, said, sorted(set(spool.events_told())), last.count if last else 0
    )
    spool.close()
    os.close(fd)


def _judge(folder: Path, tape: Tape, disk: PowerLossDisk, rng: random.Random, hits: int) -> Attempt:
    """The files as they are; and as a power loss leaves them, just after the failure and in the end."""
    spool = folder / "state" / "spool"
    rows = [tuple(json.loads(step.what[0])) for step in tape.steps if not isinstance(step, Call)]
    _, offered, refused, said, events, last = next(row for row in rows if row[0] == "end")
    told = told_by_rows([row for row in rows if row[0] != "end"])
    settings = SpoolSettings(reserve_bytes=0)
    copy = folder / "as-it-is"
    shutil.copytree(spool, copy)
    judged = open_and_judge(copy, settings, told, NOTHING_IS_EXCUSED, put_more=False)
    broken = [f"as it is: {one}" for one in judged.violations]
    broken += judge_frames(offered, len(told.receipts), judged.ledger, events, said)
    if last != 3:
        broken.append(f"not_alive: {last} of the last 3 frames were accepted")
    states = 1
    for moment, marks in moments(tape, disk, _moments(tape, rng)):
        now = told_by_rows([row for mark in marks if (row := tuple(json.loads(mark[0])))[0] != "end"])
        for style, tree in (("worst", disk.worst()), ("drawn", disk.state(rng))):
            after = folder / f"{style}-{moment}"
            write_tree(tree, after)
            judged = open_and_judge(after / "spool", settings, now, NOTHING_IS_EXCUSED)
            broken += [f"{style} power loss after call {moment}: {one}" for one in judged.violations]
            states += 1
    refused_in_all = sum(judged.ledger.get("not_accepted", {}).values())
    return Attempt(broken, hits, max(refused, refused_in_all), len(told.receipts), states)


def _moments(tape: Tape, rng: random.Random) -> list[int]:
    """Some steps after a failed fsync (if one failed), one by chance, and the end."""
    failed = [
        at for at, step in enumerate(tape.steps, 1) if isinstance(step, Call) and step.name == "sync_failed"
    ]
    near = [min(len(tape.steps), at + step) for at in failed for step in (1, 12, 40)]
    return sorted({*near, rng.randint(1, len(tape.steps)), len(tape.steps)})
