"""Read the progress journal of earlier releases: a snapshot, then a step before each sample.

A step counts only if the spool's ledger says that its sample was accepted. The file is only read, and stays: an old agent
that is put back goes on from there. Once the spool carries a progress, the file is not looked at any more.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.progress import KeptFrame, Place, Progress, ProgressLimits, Step
from edge_agent.spool.steps import LastAccepted
from edge_agent.window_tail import OpenIncident, TailChange
from foundation.clock import Clock, boot_id
from foundation.errors import CorruptError
from foundation.framing import Damage, scan
from schemas.reasons import NotAcceptedReason

FORMATS = (1, 2)
"""1: one source, and windows that counted frames: its place is read, its open windows are not."""
KIND_SNAPSHOT = 1
KIND_STEP = 2
_META = struct.Struct("<I")

Json = Mapping[str, object]
Counts = dict[str, object] | None


@dataclass(frozen=True, slots=True)
class _OldStep:
    epoch: str
    seq: int
    step: Step
    counts: Counts


@dataclass(frozen=True, slots=True)
class Released:
    """The progress as of the last step that holds, the counts of refused frames up to there, and what was lost, in words."""

    progress: Progress
    counts: Counts
    trouble: str


def read_released(path: Path, limits: ProgressLimits, last_accepted: LastAccepted, clock: Clock) -> Released:
    """Read the file.

    Raises:
        CorruptError: the file cannot be read, or holds no snapshot.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptError(f"cannot be read: {error.strerror}", path=path) from error
    progress: Progress | None = None
    steps: list[_OldStep] = []
    counts: Counts = None
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
                counts = _counts(document.get("refused"))
                old_source_id = str(document.get("source_id", ""))
                steps.clear()
            else:
                steps.append(_step(document, body[text_bytes:], old_source_id))
        except (KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise CorruptError(
                f"not a progress entry: {error!r}", path=path, offset_bytes=entry.offset
            ) from error
    if progress is None:
        raise CorruptError("no snapshot", path=path)
    for old, is_accepted in _that_hold(steps, last_accepted):
        progress.apply(old.step, is_accepted=is_accepted)
        counts = old.counts or counts
    return Released(progress, counts, trouble)


def _that_hold(steps: list[_OldStep], last_accepted: LastAccepted) -> Iterator[tuple[_OldStep, bool]]:
    """Steps up to the last whose records are all accepted; False for a kept frame that the spool refused.

    The spool refused it at once when its number stands, later, in a step of another frame, or below one.
    """
    accepted = {epoch: last_accepted(epoch) for epoch in {old.epoch for old in steps}}
    holding = [place for place, old in enumerate(steps) if old.seq <= accepted[old.epoch]]
    are_accepted: list[bool] = []
    lowest: dict[str, int] = {}
    for old in reversed(steps[: holding[-1] + 1] if holding else []):
        next_seq = lowest.get(old.epoch, accepted[old.epoch] + 1)
        has_kept = old.step.kept is not None
        are_accepted.append(has_kept and old.seq < next_seq)
        lowest[old.epoch] = min(next_seq, old.seq if has_kept else old.seq + 1)
    yield from zip(steps, reversed(are_accepted), strict=False)


def _restore(document: Json, body: bytes, limits: ProgressLimits, clock: Clock) -> Progress:
    if document["format"] not in FORMATS:
        raise ValueError(f"format is {document['format']}; it must be one of {FORMATS}")
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
    progress.places = _places(document, str(document.get("source_id", "")))
    progress.frames_seen = int(str(document["frames_seen"]))
    progress.tail.apply(_tail(document.get("tail")))
    return progress


def _step(document: Json, body: bytes, old_source_id: str) -> _OldStep:
    kept = document.get("kept")
    if not (kept is None or isinstance(kept, dict)):
        raise TypeError("a step's kept frame is an object")
    step = Step(
        frames_seen=int(str(document["frames_seen"])),
        places=_places(document, old_source_id),
        tail=_tail(document.get("tail")),
        kept=None if kept is None else KeptFrame(**kept, embedding=body),
    )
    return _OldStep(str(document["epoch"]), int(str(document["seq"])), step, _counts(document.get("refused")))


def _counts(refused: object) -> Counts:
    """As a ledger has them; None when the document does not say."""
    if refused is None:
        return None
    if not isinstance(refused, dict):
        raise TypeError("the counts of refused frames are an object")
    counts = {str(NotAcceptedReason(reason)): int(count) for reason, count in refused["counts"].items()}
    return {"not_accepted": counts, "bytes": int(refused["bytes"])}


def _places(document: Json, old_source_id: str) -> dict[str, Place]:
    if "places" not in document:
        frame_id = document["frame_id"]
        return {
            old_source_id: Place(
                None if frame_id is None else str(frame_id),
                int(str(document["lap"])),
                bool(document["has_ended"]),
            )
        }
    places = document["places"]
    if not isinstance(places, dict):
        raise TypeError("places are an object")
    return {str(name): Place(**place) for name, place in places.items()}


def _tail(document: object) -> TailChange:
    """Return an empty change for the first format, which counted frames."""
    if document is None:
        return TailChange()
    if not isinstance(document, dict):
        raise TypeError("a tail is an object")
    now_ns = document["now_ns"]
    return TailChange(
        None if now_ns is None else int(now_ns),
        int(document["oldest_ns"]),
        int(document["over_ns"]),
        {str(name): int(offset) for name, offset in document["offsets_ns"].items()},
        {
            str(drive): tuple(OpenIncident(**incident) for incident in incidents)
            for drive, incidents in document["incidents"].items()
        },
        [(str(drive), int(time_ns), float(chance)) for drive, time_ns, chance in document["past"]],
    )
