"""A model file makes nobody open another file: the system calls of verification and trial are looked at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally
from tests.torture.turns import ROOT

SYSTEM = ("/proc", "/sys", "/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/dev/null",
          "/dev/urandom", "/usr/share/zoneinfo", "/etc/localtime", "/usr/share/locale", "/usr/bin/env", "/usr/share/zoneinfo-icu",
          "/etc/ssl/openssl.cnf", "/usr/lib/ssl", "/etc/os-release")  # fmt: skip


def _allowed(state: Path) -> list[Path]:
    """The Python installation, this source tree, what the system's loader needs, and the vehicle's folder."""
    python = {
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).resolve().parent.parent,
        ROOT,
        state,
    }
    return [*python, *(path.resolve() for path in python), *map(Path, SYSTEM)]


def _access(batch: Batch) -> Tally:
    from tests.checker.opened_files import TRACED, opened, strangers
    from tests.fakes.models import tiny_model
    from tests.torture.models_links import ADDRESSES, PLACES, TENSOR_BYTES, make

    tally = Tally()
    slots = batch.folder / "vehicle" / "models" / "slots"
    slots.mkdir(parents=True)
    cases = []
    for number in batch.numbers():
        place = list(PLACES)[number % len(PLACES)]
        kind = ADDRESSES[number // len(PLACES) % len(ADDRESSES)]
        outside = batch.folder / f"outside-{number}" / "canary.bin"
        outside.parent.mkdir()
        outside.write_bytes(bytes(TENSOR_BYTES))
        slot = slots / f"{number}.onnx"
        slot.write_bytes(make(place, kind, slots, outside))
        links = [slots / f"{outside.parent.name}-{kind}.bin"]
        cases.append((f"{place}, {kind}", slot, [outside, *links]))
    sound = slots / "sound.onnx"
    sound.write_bytes(tiny_model())
    trace = batch.folder / "trace"
    command = ["strace", "-f", "-s", "4096", "-o", str(trace), "-e", f"trace={TRACED}", sys.executable, "-B"]
    command += ["-m", "tests.torture.models_traced", str(sound), *(str(slot) for _, slot, _ in cases)]
    home = batch.folder / "home"
    home.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(home)}
    done = subprocess.run(
        command, cwd=slots, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    paths = opened(trace.read_text(errors="replace"), slots)
    said = {row["slot"]: row for row in map(json.loads, done.stdout.splitlines())}
    foreign = strangers(paths, _allowed(batch.folder / "vehicle"))
    if not said.get(sound.name, {}).get("passed"):
        foreign.append(Path("a sound model did not pass, so that nothing"))
    canaries = {path for _, _, files in cases for path in files}
    for which, slot, files in cases:
        wrong = [f"{path} was opened" for path in files if path in paths]
        wrong += [f"{path} was opened, by one of these models" for path in foreign if path not in canaries]
        if slot.name not in said:
            wrong.append(f"no answer: {done.stderr[-300:]}")
        elif said[slot.name]["passed"]:
            wrong.append("the trial passed")
        if slot not in paths:
            wrong.append("the trace does not show the slot itself: nothing was seen")
        tally.judge(wrong, which)
    tally.count("files_opened", len(paths))
    tally.count("files_opened_elsewhere", len(foreign))
    return tally


FAULTS = (
    Fault(
        "model-file-access",
        12,
        ("G10",),
        "Models that refer to a file outside (by a relative, absolute, dotted, escaped address, a symbolic or a hard "
        "link beside the slot; in an initializer, an attribute, a subgraph, a sparse tensor, a compiled blob), and a sound one, "
        "are verified and tried: strace shows no open of that file, nor of any outside the vehicle's folder and installation.",
        "one such model",
        full=70,
        turn=3,
        full_turn=14,
        run=_access,
        needs=lambda: None if shutil.which("strace") else "needs strace",
        real="the real verification and the real trial process with ONNX Runtime, under strace -f",
        broken=(
            BrokenBuild(
                "a tensor may keep its data outside",
                "modelkit/tensor_checks.py",
                "    is_outside = tensor.data_location == _EXTERNAL or bool(tensor.external_data)\n",
                "    if tensor.data_location == _EXTERNAL:\n        return\n    is_outside = bool(tensor.external_data)\n",
                tries=15,
            ),
            BrokenBuild(
                "the runtime writes a device id into the home folder and calls its maker",
                "modelkit/__init__.py",
                'os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")\n',
                "",
            ),
        ),
    ),
)
