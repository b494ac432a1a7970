"""The progress that the spool carries: durable together with the samples that it belongs to (`edge_agent.spool.steps`).

After SIGKILL or a loss of power at any instant:
    - no observation of a replayed source that was accepted is captured a second time;
    - observations after the last place that is known are judged again, and give the same answers, for nothing in them
      depends on chance or time (but the hour's budget may have room again). Their predictions are logged again;
    - the counts of refused ones are those of the place: frames seen = accepted + not accepted, none counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from edge_agent.progress import Place, ProgressLimits, Step
from edge_agent.released_progress import read_released
from edge_agent.selection.budget import BudgetLimits
from edge_agent.spool.ledger import LedgerState
from edge_agent.spool.snapshot import LEDGER_FILE
from edge_agent.spool.statelog import Follower
from edge_agent.spool.steps import LastAccepted
from edge_agent.window_tail import TailChange
from foundation.clock import Clock, boot_id
from foundation.documents import DocumentType, Meta, Version, plain
from foundation.errors import CorruptError

FORMAT = 3
"""1 and 2 were a journal of their own, see `edge_agent.released_progress`."""
MAX_MEMORY_BYTES = 8_000_000
"""Of the novelty memory, the newest embeddings are kept over a restart up to this size."""
Count = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class _Budget:
    total_bytes: int
    drives: list[tuple[str, int]]
    minutes: list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Memory:
    """`embeddings` holds `rows` of them, float32, little endian, oldest first."""

    model_digest: str
    rows: Count
    embeddings: bytes


@dataclass(frozen=True, slots=True)
class _Saved:
    boot_id: str
    frames_seen: Count
    places: dict[str, Place]
    tail: TailChange
    budget: _Budget
    tracks: list[tuple[str, str, int]]
    memory: _Memory


_SAVED = DocumentType("the progress", {FORMAT: Version(_Saved, lambda saved: saved)}, version_key="format")


class DurableProgress:
    """Implements `edge_agent.spool.steps.Carried`. `trouble` says what could not be read; never raises for it."""

    def __init__(
        self, limits: ProgressLimits, source_ids: Sequence[str], clock: Clock, released_path: Path
    ) -> None:
        """`released_path`: where an agent before this form kept it; read while the spool has none."""
        self.progress = limits.fresh()
        self.trouble = ""
        self._limits = limits
        self._source_ids = source_ids
        self._clock = clock
        self._released_path = released_path
        self._is_known = False

    def apply(self, state: object, *, is_accepted: bool) -> bool:
        """Advance by a step."""
        try:
            step = msgspec.convert(state, Step)
            return self.progress.apply(step, is_accepted=is_accepted)
        except (msgspec.ValidationError, ValueError) as error:
            self.trouble = f"a step of the progress is not read: {error}"
            return False

    def join(self, states: Sequence[object]) -> object:
        """Return one step with the last place of each source and all changes of the windows."""
        steps = [msgspec.convert(state, Step) for state in states]
        places: dict[str, Place] = {}
        tail = TailChange()
        for step in steps:
            places.update(step.places)
            tail.add(step.tail)
        tail.past = [one for one in tail.past if one[1] > tail.oldest_ns]
        return plain(Step(steps[-1].frames_seen, places, tail))

    def restore(self, whole: object) -> None:
        """Restore the state that `snapshot` returned; an empty one when that cannot be read."""
        self.progress = self._limits.fresh()
        try:
            self._restore(_SAVED.of(whole))
        except (CorruptError, ValueError) as error:
            self.trouble = f"the progress is not read: {error}"
        self._is_known = True

    def _restore(self, saved: _Saved) -> None:
        progress, memory = self._limits.fresh(), saved.memory
        progress.budget.restore(
            plain(saved.budget),
            same_boot=saved.boot_id == boot_id(),
            monotonic_ns=self._clock.monotonic_ns(),
        )
        progress.tracks.restore(saved.tracks)
        if memory.rows:
            rows = np.frombuffer(memory.embeddings, dtype="<f4").reshape(memory.rows, -1)
            progress.memory.restore(rows, memory.model_digest)
        progress.places, progress.frames_seen = saved.places, saved.frames_seen
        progress.tail.apply(saved.tail)
        self.progress = progress

    def snapshot(self, *, is_short: bool = False) -> object | None:
        """Return the whole state as plain JSON; `is_short`: without the novelty memory, by far its largest part."""
        if not self._is_known:
            return None
        progress = self.progress
        rows = progress.memory.matrix()
        rows = rows[:0] if is_short else rows[-max(1, MAX_MEMORY_BYTES // max(1, 4 * rows.shape[-1])) :]
        saved = _Saved(
            boot_id(),
            progress.frames_seen,
            progress.places,
            progress.tail.whole(),
            _Budget(**progress.budget.to_json()),  # type: ignore[arg-type]
            progress.tracks.to_rows(),
            _Memory(progress.memory.model_digest, len(rows), rows.astype("<f4").tobytes()),
        )
        return {"format": FORMAT, **plain(saved)}

    def begin(self, last_accepted: LastAccepted) -> dict[str, object] | None:
        """Take over what an older agent left, and turn to the sources of this life."""
        counts = None
        if not self._is_known and self._released_path.exists():
            try:
                old = read_released(self._released_path, self._limits, last_accepted, self._clock)
                self.trouble = old.trouble or self.trouble
                if old.progress.frames_seen >= self.progress.frames_seen:
                    self.progress, counts = old.progress, old.counts
            except CorruptError as error:
                self.trouble = str(error)
        self._is_known = True
        self.progress.keep_sources(self._source_ids)
        return counts


def check_progress(spool: Path, released_path: Path, clock: Clock) -> None:
    """Read what a start would read, and write nothing. Raises CorruptError when something of it cannot be read."""
    durable = DurableProgress(ProgressLimits(BudgetLimits(), None, 0), (), clock, released_path)
    ledger = Follower(spool / LEDGER_FILE, lambda: LedgerState(durable))
    try:
        ledger.poll()
    finally:
        ledger.close()
    last_seqs = {name: row.next_seq - 1 for name, row in ledger.state.epochs.items()}
    durable.begin(lambda name: last_seqs.get(name, -1))
    if durable.trouble:
        raise CorruptError(durable.trouble)
