"""Writes perceive's progress down, a step before each sample, and finds the right place again after a kill.

A step is appended before its sample is given to the spool, and counts only if the spool's ledger says that
    the sample
was accepted. So after SIGKILL at any instant:
    - no frame of a replayed source that was accepted is captured a second time;
    - frames after the last accepted one are judged again, and give the same answers, for nothing in them
        depends on
      chance or time (but the hour's budget may have room again). Their predictions are logged again;
    - a step also says how many frames up to its place were not taken, by reason: the restarted process counts
      from there, so that frames seen = accepted + not accepted, and no frame is counted twice.
Steps are not fsynced: after a power loss the last commit's frames may be captured again, as new samples
    with the same
payload hash, which curation removes as exact duplicates.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge_agent.progress import (
    Progress,
    Step,
    places_from_json,
    places_to_json,
    refused_from_json,
    refused_to_json,
    step_from_json,
    step_to_json,
    tail_from_json,
)
from edge_agent.selection.budget import BudgetLimits
from foundation.clock import Clock, boot_id
from foundation.errors import CorruptError, FleetLoopError, RetryLaterError
from foundation.files import write_atomic
from foundation.journal import Damage, Journal, encode_frame, scan

FORMAT = 2
OLD_FORMAT = 1
"""One source, and windows that counted frames: its place is read, its open windows are not."""
KIND_SNAPSHOT = 1
KIND_STEP = 2
COMPACT_AT_BYTES = 4_000_000
_META = struct.Struct("<I")

AcceptedSeq = Callable[[str], int]
"""epoch -> the last seq of it that the spool accepted, -1 for none."""


@dataclass(frozen=True, slots=True)
class ProgressLimits:
    """What a fresh state is made with."""

    budget: BudgetLimits
    max_per_track: int | None
    memory_capacity: int

    def fresh(self) -> Progress:
        """Return the state of a vehicle that has seen nothing."""
        return Progress.fresh(self.budget, self.max_per_track, self.memory_capacity)


class ProgressJournal:
    """One file, written by perceive only; `progress` is what it says. Guesses at no damaged snapshot.

    A disk that is full at the start keeps no vehicle from working: `start_error` says so, `compact` tries anew.
    """

    def __init__(self, path: Path, progress: Progress, clock: Clock) -> None:
        self.progress = progress
        self._path = path
        self._clock = clock
        self._journal: Journal | None = None
        self.start_error = ""
        try:
            self._journal = self._rewrite()
        except (OSError, FleetLoopError) as error:
            self.start_error = str(error)

    @classmethod
    def open(
        cls,
        path: Path,
        source_ids: Sequence[str],
        limits: ProgressLimits,
        accepted_seq: AcceptedSeq,
        clock: Clock,
    ) -> tuple[ProgressJournal, str]:
        """Read, cut at what the spool accepted, turn to these sources, and begin a new file.

        Returns:
            The journal, and in words what was lost (an empty string when nothing was).
        """
        progress, trouble = limits.fresh(), ""
        if path.exists():
            try:
                progress, trouble = _read(path, limits, accepted_seq, clock)
            except CorruptError as error:
                trouble = str(error)
                path.replace(path.with_name(path.name + ".damaged"))
        progress.keep_sources(source_ids)
        return cls(path, progress, clock), trouble

    def write(self, step: Step) -> None:
        """Append a step, unsynced. Call `progress.apply` once it holds. Raises OSError, RetryLaterError (disk)."""
        if self._journal is None:
            raise RetryLaterError(f"{self._path} could not be begun: {self.start_error}")
        self._journal.append_encoded(_encode_step(step))

    @property
    def is_large(self) -> bool:
        """Whether it is time to `compact`."""
        return self._journal is not None and self._journal.size_bytes >= COMPACT_AT_BYTES

    def compact(self) -> None:
        """Begin a new file; only when every step written holds. Raises OSError (disk): then the old one stands."""
        old, self._journal = self._journal, self._rewrite()
        if old is not None:
            old.close()

    def close(self) -> None:
        """Give the file back."""
        if self._journal is not None:
            self._journal.close()

    def _rewrite(self) -> Journal:
        write_atomic(self._path, _encode_snapshot(self.progress))
        return Journal(self._path)


def _encode_step(step: Step) -> bytes:
    text = json.dumps(step_to_json(step)).encode()
    embedding = b"" if step.kept is None else step.kept.embedding.astype("<f4").tobytes()
    return encode_frame(KIND_STEP, _META.pack(len(text)), text + embedding)


def _encode_snapshot(progress: Progress) -> bytes:
    matrix = progress.memory.matrix()
    document = {
        "format": FORMAT,
        "boot_id": boot_id(),
        "places": places_to_json(progress.places),
        "frames_seen": progress.frames_seen,
        "refused": refused_to_json(progress.refused),
        "tail": asdict(progress.tail.whole()),
        "budget": progress.budget.to_json(),
        "tracks": progress.tracks.to_rows(),
        "memory": {"model_digest": progress.memory.model_digest, "shape": list(matrix.shape)},
    }
    text = json.dumps(document).encode()
    return encode_frame(KIND_SNAPSHOT, _META.pack(len(text)), text + matrix.astype("<f4").tobytes())


def _read(
    path: Path, limits: ProgressLimits, accepted_seq: AcceptedSeq, clock: Clock
) -> tuple[Progress, str]:
    try:
        data = path.read_bytes()  # read only: a disk that takes nothing keeps nobody from knowing the place
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", path=path) from error
    progress: Progress | None = None
    steps: list[Step] = []
    trouble = old_source_id = ""
    for entry in scan(data):
        if isinstance(entry, Damage):
            if entry.end < len(data):  # else a torn tail, as a kill leaves it
                trouble = (
                    f"{path}: steps from byte {entry.begin} on are lost, bytes up to {entry.end} are damaged"
                )
            break
        body = data[entry.body_offset : entry.end]
        try:
            (text_bytes,) = _META.unpack(entry.meta)
            document = json.loads(body[:text_bytes])
            if entry.kind == KIND_SNAPSHOT:
                progress = _restore(document, body[text_bytes:], limits, clock)
                old_source_id = str(document.get("source_id", ""))
                steps.clear()
            else:
                steps.append(step_from_json(document, body[text_bytes:], old_source_id))
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise CorruptError(
                f"not a progress entry: {error!r}", path=path, offset_bytes=entry.offset
            ) from error
    if progress is None:
        raise CorruptError("no snapshot", path=path)
    for step, counts_kept in _that_hold(steps, accepted_seq):
        progress.apply(step, counts_kept=counts_kept)
    return progress, trouble


def _that_hold(steps: list[Step], accepted_seq: AcceptedSeq) -> Iterator[tuple[Step, bool]]:
    """Steps up to the last whose records are all accepted; False for a kept frame that the spool refused.

    The spool refused it at once when its number stands, later, in a step of another frame, or below one.
    """
    accepted = {epoch: accepted_seq(epoch) for epoch in {step.epoch for step in steps}}
    holding = [place for place, step in enumerate(steps) if step.seq <= accepted[step.epoch]]
    counts_kept: list[bool] = []
    lowest: dict[str, int] = {}
    for step in reversed(steps[: holding[-1] + 1] if holding else []):
        next_seq = lowest.get(step.epoch, accepted[step.epoch] + 1)
        counts_kept.append(step.kept is not None and step.seq < next_seq)
        lowest[step.epoch] = min(next_seq, step.seq if step.kept is not None else step.seq + 1)
    yield from zip(steps, reversed(counts_kept), strict=False)


def _restore(document: dict[str, object], body: bytes, limits: ProgressLimits, clock: Clock) -> Progress:
    if document["format"] not in (FORMAT, OLD_FORMAT):
        raise ValueError(f"format is {document['format']}; it must be {OLD_FORMAT} or {FORMAT}")
    progress = limits.fresh()
    budget, memory, tracks = document["budget"], document["memory"], document["tracks"]
    if not (isinstance(budget, dict) and isinstance(memory, dict)):
        raise TypeError("budget and memory are objects")
    if not isinstance(tracks, list):
        raise TypeError("tracks are a list")
    progress.budget.restore(
        budget, same_boot=document["boot_id"] == boot_id(), monotonic_ns=clock.monotonic_ns()
    )
    progress.tracks.restore([(str(drive), str(track), int(kept)) for drive, track, kept in tracks])
    rows = np.frombuffer(body, dtype="<f4").reshape(memory["shape"])
    progress.memory.restore(rows.astype(np.float32), str(memory["model_digest"]))
    progress.places = places_from_json(document, str(document.get("source_id", "")))
    progress.frames_seen = int(str(document["frames_seen"]))
    progress.refused = refused_from_json(document.get("refused"))
    progress.tail.apply(tail_from_json(document.get("tail")))
    return progress
