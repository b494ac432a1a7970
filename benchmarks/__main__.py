"""Every benchmark in one run: docs/benchmarks.md and out/bench/result.json.

    python -m benchmarks [--seed 7] [--step NAME ...] [--quick] [--list]

A quick run, or one of some steps only, writes out/bench/partial.json and leaves the page alone.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import benchmarks
from benchmarks.page import benchmarks_page
from benchmarks.port import Measure, Step
from foundation.files import write_json_atomic

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every step was measured or says why it cannot be; 1: a step failed; 2: no such step.

    A missed target is a result, not a failure: the page says what limits it.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--step", action="append", default=[], help="only this one (may be repeated)")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, smaller sizes: to see that it works"
    )
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    steps = find_steps()
    unknown = [name for name in options.step if name not in steps]
    if unknown:
        print(f"no such step: {', '.join(unknown)}; there are: {', '.join(steps)}", file=sys.stderr)
        return 2
    if options.list:
        for step in steps.values():
            print(f"{step.name}{'' if step.needs() is None else f' (skipped: {step.needs()})'}")
        return 0
    measures, failed = measure_all(
        [step for step in steps.values() if step.name in (options.step or steps)], options.seed, options.quick
    )
    is_whole = not options.step and not options.quick
    rows = [
        asdict(each) | {"seed": options.seed, "date": datetime.now(UTC).date().isoformat()}
        for each in measures
    ]
    file = ROOT / "out" / "bench" / ("result.json" if is_whole else "partial.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(file, rows)
    if is_whole:
        (ROOT / "docs" / "benchmarks.md").write_text(benchmarks_page(measures, options.seed))
    print(f"written to {file.relative_to(ROOT)}{' and docs/benchmarks.md' if is_whole else ''}")
    return 1 if failed else 0


def find_steps() -> dict[str, Step]:
    """Every step by name, in the order of its module. Raises ValueError when two share a name."""
    found: dict[str, Step] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name.startswith("__"):
            continue
        for step in getattr(importlib.import_module(f"benchmarks.{module.name}"), "STEPS", ()):
            if step.name in found:
                raise ValueError(f"two steps are named {step.name}")
            found[step.name] = step
    return found


def measure_all(steps: Sequence[Step], seed: int, quick: bool) -> tuple[list[Measure], bool]:
    """What each step tells; a step that cannot run here, or fails, is a row that says so."""
    measures, failed = [], False
    for step in steps:
        begin, need = time.monotonic(), step.needs()
        if need is not None:
            told: Sequence[Measure] = [_unmeasured(step, f"not measured: {need}")]
        else:
            try:
                told = step.run(seed, quick)
            except Exception as error:  # noqa: BLE001 - the other steps are still to be measured; it is shown and told
                traceback.print_exc()
                failed = True
                told = [_unmeasured(step, f"failed: {type(error).__name__}: {error}")]
        for each in told:
            ratio = "-" if each.ratio is None else f"{each.ratio:.2f}"
            met = {True: "met", False: "NOT MET", None: "not measured"}[each.met]
            print(f"{each.step} | beside {each.beside} | {ratio} | aim {each.aim} | {met}", flush=True)
        print(f"  ({step.name}: {time.monotonic() - begin:.0f} s)", flush=True)
        measures += told
    return measures, failed


def _unmeasured(step: Step, why: str) -> Measure:
    return Measure(step.name, "-", None, "-", None, None, note=why)


if __name__ == "__main__":
    sys.exit(main())
