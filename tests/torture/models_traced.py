"""Verifies and tries the models named on the command line, as a vehicle does: to be run under strace.

python -m tests.torture.models_traced SLOT...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(slots: list[str]) -> int:
    """One line a slot: what verification and what the trial process said of it."""
    from edge_agent.models.settings import TrialLimits
    from edge_agent.models.trial_run import TrialRun
    from foundation.clock import SystemClock
    from foundation.errors import RejectedError
    from modelkit.digest import sha256_hex
    from modelkit.verify import verify_model

    for slot in map(Path, slots):
        data = slot.read_bytes()
        try:
            verify_model(data, sha256_hex(data))
            verdict = "verified"
        except RejectedError as error:
            verdict = str(error.reason)
        limits = TrialLimits(min_runs=2, wall_s=60, cpu_s=30)
        trial = TrialRun(slot, sha256_hex(data), slot.parent / "none", limits, SystemClock()).wait(90.0)
        said = {"slot": slot.name, "verification": verdict, "passed": trial.passed, "reason": trial.reason}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
