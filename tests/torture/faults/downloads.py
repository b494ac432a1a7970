"""A model that is cut off at every 64 KB arrives whole, each byte paid for about once."""

from __future__ import annotations

import hashlib
from itertools import pairwise

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

CLASSES = 150
"""So many with an embedding of 4,096 floats make a model of 3 MB."""


def _cut(batch: Batch) -> Tally:
    from devservers.static_server import StaticServer
    from edge_agent.models.settings import DownloadSettings
    from tests.edge_agent.models.model_bench import Bench
    from tests.fakes.models import tiny_contract, tiny_model
    from tests.torture.models_cuts import CUT_BYTES, WAYS, CuttingLine

    tally = Tally()
    for number in batch.in_time():
        folder = batch.folder / str(number)
        folder.mkdir()
        bench = Bench(folder)
        data = tiny_model(
            tiny_contract([f"class-{each}" for each in range(CLASSES)], name="large", embedding_size=4096),
            seed=number,
        )
        bench.release("large", 0, data=data)
        bench.plan("large")
        way = WAYS[number % len(WAYS)]
        shift = batch.rng(number).randrange(CUT_BYTES)
        with StaticServer(bench.repository.path) as server:
            port = int(server.url.rpartition(":")[2])
            with CuttingLine(port, way, shift) as line:
                # Only a silent line is waited for in vain; on a loaded machine an answer may take longer than 0.2 s.
                download = DownloadSettings(read_timeout_s=0.2 if way == "silent" else 10.0)
                job = bench.fetcher(base_url=line.url, download=download)
                said = ""
                for step in range(1000):
                    done = job.step()
                    said = done.detail if done.outcome == "failed" else said
                    bench.clock.advance(done.wait_s)
                    if step % 50 == 49:  # deliver is started anew now and then
                        job.close()
                        job = bench.fetcher(base_url=line.url, download=download)
                    if bench.slots.file("candidate.json").exists():
                        break
        slots = list((bench.state / "models" / "slots").glob("*.onnx"))
        digest = hashlib.sha256(data).hexdigest()
        wrong = []
        if not bench.slots.file("candidate.json").exists():
            first = [start for start, next_one in pairwise(line.starts) if next_one <= start]
            wrong.append(
                f"no candidate after {step + 1} steps and {line.cuts} cuts; {line.sent_bytes} of {len(data)} bytes sent; "
                f"{len(first)} requests brought nothing, the first from byte {first[:1]}; last failure: {said}"
            )
        wrong += [
            f"slot {path.name[:12]} holds other bytes"
            for path in slots
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem
        ]
        if digest not in {path.stem for path in slots}:
            wrong.append("the model's slot is not there")
        again = max(0, line.sent_bytes - len(data))
        expected = len(data) // CUT_BYTES - 1
        if line.cuts < expected:
            wrong.append(
                f"only {line.cuts} cuts in {len(data)} bytes, at least {expected} were to be survived"
            )
        # A server without ranges makes the beginning come again.
        may_again = len(data) * (line.cuts // 7 + 1) if way == "without ranges" else 0
        if again > may_again:
            wrong.append(f"{again} bytes came again, {may_again} may")
        tally.judge(wrong, f"{way} at every 64 KB, shifted by {shift}")
        tally.count("cuts", line.cuts)
        tally.count("resumes", sum(start > 0 for start in line.starts))
        tally.count("model_bytes_whole", len(data))
        tally.count("bytes_sent_in_all", line.sent_bytes)
    return tally


FAULTS = (
    Fault(
        "release-download-cut",
        9,
        ("G6", "G10"),
        "The download of a model of about 3 MB is cut at every 64 KB (reset, closed, silent, refused, resumed from the "
        "beginning), and deliver is started anew meanwhile: the model arrives whole, and what was there is not fetched again.",
        "one download with all its cuts",
        full=50,
        turn=2,
        full_turn=10,
        run=_cut,
        real="the agent's fetching code, its HTTP client, the repository and server over loopback TCP, disk; waiting after a "
        "failure is by hand",
        broken=(
            BrokenBuild(
                "a download begins anew after every cut",
                "edge_agent/models/http.py",
                "        have = _own_bytes(path)\n",
                "        have = 0\n",
            ),
            BrokenBuild(
                "a part is appended where the whole begins again",
                "edge_agent/models/http.py",
                "            stream.truncate(begins)\n            stream.seek(begins)\n            at = begins\n",
                "            stream.seek(0, 2)\n            at = stream.tell()\n",
                tries=1,
                first=4,
            ),
        ),
    ),
)
