"""A network on which answers trickle: every look at the repository ends in time, and the release arrives all the same."""

from __future__ import annotations

import threading
import time

from tests.torture.fault import Batch, BrokenBuild, Fault, Tally

STEP_LIMIT_S = 20.0
"""Of one step of the fetcher; its longest deadline is 1 s here, and a step has a few exchanges."""
SLOW = 3
"""Answers that trickle, one after the other; each would last for ever."""


def _slow(batch: Batch) -> Tally:
    from devservers.static_server import StaticServer
    from edge_agent.models.settings import DownloadSettings
    from tests.edge_agent.models.model_bench import Bench
    from tests.torture.slow_line import STORIES, slow_line

    tally = Tally()
    stories = list(STORIES)
    for number in batch.in_time():
        folder = batch.folder / str(number)
        folder.mkdir()
        bench = Bench(folder)
        bench.release("r2", number)
        bench.plan("r2")
        story = stories[number % len(stories)]
        download = DownloadSettings(connect_timeout_s=1.0, read_timeout_s=0.4, metadata_deadline_s=0.6)
        wrong: list[str] = []
        with (
            StaticServer(bench.repository.path) as server,
            slow_line(int(server.url.rpartition(":")[2]), story, 1 + number // len(stories) % SLOW) as line,
        ):
            job = bench.fetcher(base_url=line.url, download=download, slice_s=0.5)
            for _ in range(60):
                began_s = time.monotonic()
                step = threading.Thread(target=job.step, daemon=True)
                step.start()
                step.join(STEP_LIMIT_S)
                if step.is_alive():
                    wrong.append(f"a step is not over after {STEP_LIMIT_S} s")
                    break
                tally.measure("longest_step_s", time.monotonic() - began_s)
                bench.clock.advance(1_000.0)
                if bench.slots.file("candidate.json").exists():
                    break
        if not line.trickled:
            wrong.append("nothing trickled")
        if not wrong and not bench.slots.file("candidate.json").exists():
            wrong.append(f"the release did not arrive: {job.status().last_error}")
        if bench.slots.read_fetch().refused:
            wrong.append(f"it was refused: {bench.slots.read_fetch().refused}")
        tally.judge(wrong, f"try {number}: {story}")
        tally.count(f"answers_that_trickled_{story.replace('-', '_')}", line.trickled)
    return tally


FAULTS = (
    Fault(
        name="slow-network",
        group=9,
        guarantees=("G6", "G9"),
        what=(
            "Answers of the release server trickle, a byte within each read timeout: in a header, in endless headers or"
            " interim answers, in a chunk's size, in the body, on a connection that is used again, or not at all. Each step"
            " of the fetcher ends by its wall deadline, nothing is refused for it, and the release arrives with the first"
            " answers that come."
        ),
        one_try="one release behind 1 to 3 answers that trickle without end",
        full=63,
        turn=4,
        full_turn=21,
        run=_slow,
        fixed=0,
        real=(
            "the agent's fetching code with its HTTP client and wall deadlines, the signed repository and its server over"
            " loopback TCP; the pauses after a failure are by hand, the deadlines 0.4 to 1 s"
        ),
        broken=(
            BrokenBuild(
                "a deadline ends and its sockets are left as they are",
                "edge_agent/models/deadline.py",
                "                    each.shutdown(socket.SHUT_RDWR)\n",
                "                    pass\n",
                tries=1,
            ),
            BrokenBuild(
                "a connection that is used again is not watched",
                "edge_agent/models/deadline.py",
                "        _watch(self.sock)  # of a connection that is used again\n",
                "",
                tries=1,
                first=6,
            ),
        ),
    ),
)
