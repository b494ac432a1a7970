"""Inputs that would become a thousand times larger, or are nested 10,000 deep, cost bounded memory and time."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

MAX_RESIDENT_MB = 300
MAX_S = 60
_PAGE_BYTES = resource.getpagesize()


def _in_a_child(name: str, folder: Path) -> dict[str, Any]:
    """Set one bomb off in a process of its own with a limit on its address space; what came of it."""
    from tests.torture.bomb_list import BOMBS
    from tests.torture.fuzz_cases import outcome

    told = folder / "told.json"
    child = os.fork()
    if child == 0:
        try:
            now_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (now_bytes + 3 * 2**30,) * 2)
            signal.alarm(MAX_S * 3)
            found: list[str] = []

            def set_off() -> None:
                try:
                    BOMBS[name][1](folder)
                except BaseException:
                    found.append(traceback.format_exc(limit=-3)[-300:])
                    raise

            end = outcome(set_off)
            told.write_text(json.dumps({"end": end, "last": found[-1:] and found[-1]}))
            os._exit(0)
        except BaseException:
            os._exit(1)
    began_s = time.monotonic()
    _pid, status, usage = os.wait4(child, 0)
    return {
        "end": "no answer",
        "status": status,
        "mb": usage.ru_maxrss // 1024,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.monotonic() - began_s,
        **(json.loads(told.read_text()) if told.exists() else {}),
    }


def _warm_up() -> None:
    """Import what the bombs import, so that what is measured is theirs."""
    import onnx  # noqa: F401
    import yaml  # noqa: F401

    import connectors.kafka.source  # noqa: F401
    import pipelines.ingest.decode  # noqa: F401
    import tests.edge_agent.models.model_bench  # noqa: F401


def _bombs(batch: Batch) -> Tally:
    from tests.torture.bomb_list import BOMBS, ZEROS, squeezed, squeezed_zstd

    _warm_up()
    for window in (31, 15):
        squeezed(ZEROS, window)  # once for all of them
    squeezed_zstd(ZEROS)
    tally = Tally()
    names = list(BOMBS)
    for number in batch.in_time():
        name = names[number % len(names)]
        folder = batch.folder / str(number)
        folder.mkdir()
        sys.stdout.flush()
        found = _in_a_child(name, folder)
        wrong = []
        wanted = ("refused",) if BOMBS[name][0] == "refused" else ("refused", "accepted")
        if found["end"] not in wanted:
            wrong.append(f"{found['end']} (status {found['status']}) {found.get('last') or ''}")
        if found["mb"] > MAX_RESIDENT_MB:
            wrong.append(f"{found['mb']} MB of memory, at most {MAX_RESIDENT_MB} may be")
        if found["cpu_s"] > MAX_S:
            wrong.append(f"{found['cpu_s']:.0f} s of CPU time, at most {MAX_S} s may be")
        tally.judge(wrong, name)
        tally.count("max_resident_mb", found["mb"])
        tally.measure("cpu_s", found["cpu_s"])
    return tally


FAULTS = (
    Fault(
        "bombs",
        12,
        ("G9", "G10"),
        "Gzip of 1000:1 as an HTTP answer, a record, a Kafka batch, a picture and a model; a PNG of 50,000 x 50,000; JSON, "
        "TOML, YAML, Avro and ONNX nested 10,000 deep or of claimed sizes: each is refused with a declared error, within "
        "300 MB and a minute.",
        "one bomb",
        full=50,
        turn=6,
        full_turn=25,
        run=_bombs,
        real="the product's readers, each bomb in a process of its own with a limit on its address space; the same Kafka "
        "batches go through a real broker in tests/connectors/test_kafka_batches.py",
        broken=(
            BrokenBuild(
                "a picture's size is not looked at before its pixels",
                "modelkit/images.py",
                "    if (\n        width < 1\n",
                "    if False and (\n        width < 1\n",
                tries=4,
            ),
            BrokenBuild(
                "a Kafka batch is unpacked without a bound",
                "connectors/kafka/unpack.py",
                "stream.read(PIECE_BYTES):\n            yield piece\n",
                "stream.read():\n            yield piece\n",
                tries=1,
                first=22,
            ),
            BrokenBuild(
                "settings nested too deeply end the reader",
                "foundation/documents.py",
                '    except (ValueError, RecursionError) as error:\n        raise family(f"{name} is not TOML',
                '    except ValueError as error:\n        raise family(f"{name} is not TOML',
                tries=1,
                first=14,
            ),
        ),
    ),
)
