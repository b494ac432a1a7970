"""The two campaigns: round the faults in a box of time, and every fault to its count, going on where it was stopped."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from foundation.files import write_json_atomic
from tests.torture.fault import Fault, Tally
from tests.torture.turns import ROOT, take_turn

Turn = Callable[..., Tally]
Say = Callable[[str], None]
FIRST_GUESS_S = 20.0
"""How long a turn is taken to last before one was seen."""


@dataclass(slots=True)
class Account:
    """One fault in one campaign."""

    fault: Fault
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    longest_s: float = 0.0
    turns: int = 0
    skipped: str | None = None
    commits: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)

    def add(self, tally: Tally, seconds: float) -> None:
        self.tally.add(tally)
        self.seconds += seconds
        self.longest_s = max(self.longest_s, seconds)
        self.turns += 1

    def as_json(self) -> dict[str, object]:
        """An element of result.json; measured values are told as number, median and largest."""
        fault, tally = self.fault, self.tally
        return {
            "fault": fault.name,
            "group": fault.group,
            "guarantee": ", ".join(fault.guarantees),
            "what": fault.what,
            "one_try": fault.one_try,
            "real": fault.real,
            "tries": tally.tries,
            "survived": tally.survived,
            "of": fault.full,
            "counted": {what: _told(value) for what, value in sorted(tally.counted.items())},
            "seconds": round(self.seconds, 1),
            "skipped": self.skipped,
            "failures": tally.failures,
            "commits": self.commits,
            "dates": self.dates,
        }


def _told(value: int | list[float]) -> object:
    if isinstance(value, int):
        return value
    return {
        "number": len(value),
        "median": round(median(value), 4),
        "max": round(max(value), 4),
    }


def time_boxed(
    faults: Sequence[Fault],
    *,
    seconds: float,
    seed: int,
    say: Say,
    turn: Turn = take_turn,
    now: Callable[[], float] = time.monotonic,
) -> list[Account]:
    """Goes round the faults until no turn fits the rest of `seconds`; whoever had the least time is next.

    The seed says with which fault the round begins, so that short campaigns of other seeds try other faults.
    """
    end = now() + seconds
    accounts = [Account(fault, skipped=fault.needs()) for fault in faults]
    start = seed % max(1, len(accounts))
    waiting = [each for each in accounts[start:] + accounts[:start] if each.skipped is None]
    while waiting:
        account = min(waiting, key=lambda each: (each.turns > 0, each.seconds))
        left_s = end - now()
        expected_s = account.longest_s or min(FIRST_GUESS_S, seconds / 4)
        if expected_s > left_s:
            waiting.remove(account)
            continue
        _one_turn(account, account.fault.turn, seed, say, turn, now, left_s)
    return accounts


def to_the_counts(
    faults: Sequence[Fault],
    *,
    folder: Path,
    seed: int,
    say: Say,
    turn: Turn = take_turn,
    now: Callable[[], float] = time.monotonic,
) -> list[Account]:
    """Every fault to its full count. After each turn what is known is on disk, so a campaign that was stopped goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    accounts = []
    for fault in faults:
        account = read_account(fault, folder, seed)
        account.skipped = fault.needs()
        accounts.append(account)
        while account.skipped is None and account.tally.tries < fault.full:
            tries = min(fault.full_turn or fault.turn, fault.full - account.tally.tries)
            _one_turn(account, tries, seed, say, turn, now, None)
            _remember(account, folder, seed)
    return accounts


def _one_turn(
    account: Account,
    tries: int,
    seed: int,
    say: Say,
    turn: Turn,
    now: Callable[[], float],
    left_s: float | None,
) -> None:
    fault, begin = account.fault, now()
    tally = turn(fault, seed=seed, first=account.tally.tries, tries=tries, seconds=left_s)
    account.add(tally, now() - begin)
    say(
        f"{fault.name}: {account.tally.survived} of {account.tally.tries} survived"
        f" ({tally.survived}/{tally.tries} in {now() - begin:.1f} s; full count {fault.full})"
    )
    for failure in tally.failures:
        say(f"  NOT SURVIVED {failure}")


def read_account(fault: Fault, folder: Path, seed: int) -> Account:
    """What an earlier run of the full campaign with this seed left of the fault; empty when there is nothing."""
    file = _file(folder, fault)
    if not file.exists():
        return Account(fault)
    known = json.loads(file.read_text())
    if known["seed"] != seed:
        return Account(fault)
    return Account(
        fault,
        Tally(**known["tally"]),
        known["seconds"],
        known["longest_s"],
        known["turns"],
        None,
        known["commits"],
        known["dates"],
    )


def _remember(account: Account, folder: Path, seed: int) -> None:
    for into, value in ((account.commits, commit()), (account.dates, datetime.now(UTC).date().isoformat())):
        if value not in into:
            into.append(value)
    known = {
        "fault": account.fault.name,
        "seed": seed,
        "tally": asdict(account.tally),
        "seconds": account.seconds,
        "longest_s": account.longest_s,
        "turns": account.turns,
        "commits": account.commits,
        "dates": account.dates,
    }
    write_json_atomic(_file(folder, account.fault), known)


def _file(folder: Path, fault: Fault) -> Path:
    return folder / f"{fault.name}.json"


def commit() -> str:
    """The commit of this tree, with a plus when files differ from it; `unknown` outside git."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


def machine() -> str:
    """Cores, system and Python, as a page tells them."""
    import os

    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def write_result(accounts: Iterable[Account], file: Path, *, command: str, seed: int) -> bool:
    """Writes the list of fault, guarantee, tries, survived, counted. Returns whether every try survived."""
    listed = list(accounts)
    about = {
        "command": command,
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(file, [each.as_json() | about for each in listed])
    return all(each.tally.survived == each.tally.tries for each in listed)
