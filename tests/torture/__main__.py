"""python -m tests.torture {box,full,broken,list,page} [--fault NAME ...] [--seconds N] [--seed N]."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from foundation.files import write_json_atomic
from tests.torture import page
from tests.torture.broken import try_broken_builds
from tests.torture.campaign import Account, read_account, time_boxed, to_the_counts, write_result
from tests.torture.fault import Fault, find_faults
from tests.torture.tree import frozen_tree
from tests.torture.turns import ROOT, take_turn


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every try survived (of broken builds: every one was noticed); 1: not; 2: no such fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("what", choices=("box", "full", "broken", "list", "page"))
    parser.add_argument("--fault", action="append", default=[], help="only this one (may be repeated)")
    parser.add_argument("--seconds", type=float, default=600.0, help="the box of time (default 600)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "torture")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the turn under way is ended too
    known = find_faults()
    unknown = [name for name in options.fault if name not in known]
    if unknown:
        print(f"no such fault: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    faults = [known[name] for name in options.fault] or list(known.values())
    return {"box": _box, "full": _full, "broken": _broken, "list": _list, "page": _page}[options.what](
        faults, options
    )


def _say(text: str) -> None:
    print(text, flush=True)


def _box(faults: list[Fault], options: argparse.Namespace) -> int:
    with frozen_tree() as tree:
        turn = partial(take_turn, tree=tree)
        accounts = time_boxed(faults, seconds=options.seconds, seed=options.seed, say=_say, turn=turn)
    command = f"make torture SECONDS={options.seconds:.0f} SEED={options.seed}"
    held = write_result(accounts, options.out / "result.json", command=command, seed=options.seed)
    _say("")
    for each in accounts:
        state = f"skipped: {each.skipped}" if each.skipped else f"{each.tally.survived} of {each.tally.tries}"
        _say(f"{each.fault.group:>3}  {each.fault.name:<32} {state}")
    _say(
        f"{'every try survived' if held else 'SOME WERE NOT SURVIVED'}; written to {options.out / 'result.json'}"
    )
    return 0 if held else 1


def _full(faults: list[Fault], options: argparse.Namespace) -> int:
    folder = options.out / "full"
    with frozen_tree() as tree:
        turn = partial(take_turn, tree=tree)
        to_the_counts(faults, folder=folder, seed=options.seed, say=_say, turn=turn)
    accounts, held = _gather(options)
    done = all(each.tally.tries >= each.fault.full for each in accounts)
    counts = "every fault has its count" if done else "some faults are short of their count"
    _say(f"{counts}; {'every try survived' if held else 'SOME WERE NOT SURVIVED'}")
    return 0 if held else 1


def _gather(options: argparse.Namespace) -> tuple[list[Account], bool]:
    """What the full campaign knows of every fault, written to full.json; whether every try survived."""
    accounts = []
    for fault in find_faults().values():
        account = read_account(fault, options.out / "full", options.seed)
        account.skipped = fault.needs()
        accounts.append(account)
    command = f"make torture-full SEED={options.seed}"
    return accounts, write_result(accounts, options.out / "full.json", command=command, seed=options.seed)


def _broken(faults: list[Fault], options: argparse.Namespace) -> int:
    seen = try_broken_builds(faults, seed=options.seed, say=_say)
    told = page.merge_broken(options.out / "broken.json", seen)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(options.out / "broken.json", told)
    return 0 if all(each.noticed for each in seen) else 1


def _list(faults: list[Fault], options: argparse.Namespace) -> int:
    for fault in faults:
        need = fault.needs()
        _say(
            f"{fault.group:>3}  {fault.name:<32} {fault.full:>6} x {fault.one_try}{f' (skipped: {need})' if need else ''}"
        )
    return 0


def _page(faults: list[Fault], options: argparse.Namespace) -> int:
    _gather(options)
    file = ROOT / "docs" / "reliability.md"
    file.write_text(page.reliability(options.out))
    guarantees = ROOT / "docs" / "guarantees.md"
    guarantees.write_text(page.name_the_faults(guarantees.read_text(), list(find_faults().values())))
    _say(f"wrote {file.relative_to(ROOT)}, and the faults into {guarantees.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
