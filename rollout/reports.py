"""Hears the fleet: reads telemetry from saved offsets, believes only what its vehicle signed, and remembers
the newest.

Offsets, the newest report of each vehicle and counts of what was not believed are one file, replaced
atomically after the history is durable: a crash in between reads some records again, which changes nothing. A
record that was said before (an old epoch, a seq not above the last) is counted and never renews a vehicle's
health.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from connectors.kafka.ports import RecordSource
from foundation.clock import Clock
from foundation.errors import CorruptError, OffsetsLostError, RejectedError
from foundation.files import read_json, write_json_atomic
from rollout.health import VehicleReport
from rollout.history import History
from schemas.codec import decode_telemetry
from schemas.reasons import ModelState
from schemas.records import Telemetry
from schemas.signing import Enrolment, verify
from schemas.topics import TOPICS
from schemas.wire import KIND_TELEMETRY, StoredRecord

FORMAT = 1
_REMEMBERED_EPOCHS = 64
_ENDS = ("rolled_back", "refused")


@dataclass(frozen=True, slots=True)
class Totals:
    """A vehicle's cumulative counts as last said, and the epochs that it has used."""

    frames: int = 0
    errors: int = 0
    not_finite: int = 0
    epochs: tuple[str, ...] = ()


@dataclass(slots=True)
class _Memory:
    """The content of `reports.json`."""

    topic_id: str = ""
    offsets: dict[int, int] = field(default_factory=dict)
    reports: dict[str, VehicleReport] = field(default_factory=dict)
    totals: dict[str, Totals] = field(default_factory=dict)
    not_believed: Counter[str] = field(default_factory=Counter)
    lost_offsets: int = 0


class FleetReports:
    """What the fleet said so far; `listen` reads on. One process at a time (the caller's lock)."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / "reports.json"
        self._clock = clock
        self.history = History(folder / "history.jsonl")
        self._memory = self._load()

    @property
    def newest(self) -> Mapping[str, VehicleReport]:
        """The newest believed report of each vehicle."""
        return self._memory.reports

    @property
    def not_believed(self) -> Mapping[str, int]:
        """Records that were not taken, by reason; `repeated` are those said before."""
        return self._memory.not_believed

    @property
    def lost_offsets(self) -> int:
        """Offsets that retention took before they were read."""
        return self._memory.lost_offsets

    def listen(self, source: RecordSource, enrolment: Enrolment) -> int:
        """Read everything up to the end of the topic as it is now. Returns how many records were taken.

        Raises:
            RetryLaterError: no broker, or no progress; what was read before is kept.
        """
        memory = self._memory
        info = source.describe(TOPICS.telemetry)
        if info.topic_id != memory.topic_id:  # created anew: its offsets are others
            memory.topic_id, memory.offsets = info.topic_id, {}
        taken = 0
        try:
            for partition in info.partitions:
                taken += self._read(source, partition, enrolment)
        finally:
            self.history.save()
            self._save()
        return taken

    def _read(self, source: RecordSource, partition: int, enrolment: Enrolment) -> int:
        begin, end = source.bounds(TOPICS.telemetry, partition)
        start = self._memory.offsets.get(partition, begin)
        taken = 0
        while start < end:
            try:
                for batch in source.read(TOPICS.telemetry, partition, start, end):
                    for record in batch:
                        taken += self._take(record, enrolment)
                        start = record.offset + 1
                        self._memory.offsets[partition] = start
                start = end
            except OffsetsLostError as lost:
                self._memory.lost_offsets += lost.lost_end - lost.lost_begin
                start = max(lost.lost_end, start + 1)
            self._memory.offsets[partition] = start
        return taken

    def _take(self, record: StoredRecord, enrolment: Enrolment) -> int:
        try:
            identity = verify(record.headers, record.key, record.value, KIND_TELEMETRY, enrolment)
            telemetry = decode_telemetry(record.value or b"")
        except RejectedError as error:
            self._memory.not_believed[error.reason] += 1
            return 0
        if telemetry.identity != identity:  # signed by one, said about another
            self._memory.not_believed["identity_mismatch"] += 1
            return 0
        if not self._is_new(telemetry):
            self._memory.not_believed["repeated"] += 1
            return 0
        place = f"{self._memory.topic_id}/{record.partition}/{record.offset}"
        self.history.add(telemetry.vehicle_id, telemetry.model_events, self._clock.now_ns(), place)
        self._remember(telemetry)
        return 1

    def _is_new(self, telemetry: Telemetry) -> bool:
        last = self._memory.reports.get(telemetry.vehicle_id)
        if last is None:
            return True
        if telemetry.epoch == last.epoch:
            return telemetry.seq > last.seq
        return telemetry.epoch not in self._memory.totals[telemetry.vehicle_id].epochs

    def _remember(self, said: Telemetry) -> None:
        """The newest report; counts since its model was first reported, which a restart of the agent may set
        back.
        """
        memory = self._memory
        last = memory.reports.get(said.vehicle_id)
        total = memory.totals.get(said.vehicle_id, Totals())
        same = last is not None and last.model_digest == said.model_digest
        base = last if same and last is not None else None
        errors, not_finite = said.health.error_count, said.health.nan_count
        memory.reports[said.vehicle_id] = VehicleReport(
            vehicle_id=said.vehicle_id,
            heard_ns=self._clock.now_ns(),
            epoch=said.epoch,
            seq=said.seq,
            model_digest=said.model_digest,
            model_name=said.model_name,
            model_state=said.model_state,
            reports_on_model=(base.reports_on_model if base else 0) + 1,
            frames=(base.frames if base else 0) + _grown(total.frames, said.frames_seen),
            errors=(base.errors if base else 0) + _grown(total.errors, errors),
            not_finite=(base.not_finite if base else 0) + _grown(total.not_finite, not_finite),
            swaps=said.swaps,
            rollbacks=said.rollbacks,
            ends={e.release_id: (e.event, e.reason) for e in said.model_events if e.event in _ENDS},
        )
        epochs = total.epochs if said.epoch in total.epochs else (*total.epochs, said.epoch)
        memory.totals[said.vehicle_id] = Totals(
            said.frames_seen, errors, not_finite, epochs[-_REMEMBERED_EPOCHS:]
        )

    def _save(self) -> None:
        memory = self._memory
        document = {
            "format": FORMAT,
            "topic_id": memory.topic_id,
            "offsets": {str(partition): offset for partition, offset in memory.offsets.items()},
            "reports": {name: asdict(report) for name, report in memory.reports.items()},
            "totals": {name: asdict(total) for name, total in memory.totals.items()},
            "not_believed": dict(memory.not_believed),
            "lost_offsets": memory.lost_offsets,
        }
        write_json_atomic(self._path, document)

    def _load(self) -> _Memory:
        if not self._path.exists():
            return _Memory()
        document: Any = read_json(self._path)
        try:
            if document["format"] != FORMAT:
                raise CorruptError(f"format {document['format']}, this reads {FORMAT}", path=self._path)
            return _Memory(
                topic_id=str(document["topic_id"]),
                offsets={int(partition): int(offset) for partition, offset in document["offsets"].items()},
                reports={name: _report(row) for name, row in document["reports"].items()},
                totals={name: _totals(row) for name, row in document["totals"].items()},
                not_believed=Counter(document["not_believed"]),
                lost_offsets=int(document["lost_offsets"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CorruptError(f"is not what this wrote: {error!r}", path=self._path) from error


def _grown(before: int, now: int) -> int:
    """How much a cumulative count grew; one that fell began again at 0."""
    return now - before if now >= before else now


def _report(row: dict[str, Any]) -> VehicleReport:
    ends = {release: (word, why) for release, (word, why) in (row["ends"] or {}).items()}
    return replace(VehicleReport(**row), model_state=ModelState(row["model_state"]), ends=ends)


def _totals(row: dict[str, Any]) -> Totals:
    return Totals(row["frames"], row["errors"], row["not_finite"], tuple(row["epochs"]))
