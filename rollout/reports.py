"""Read the fleet's telemetry from saved offsets, verify each report, and keep the newest per vehicle and role.

Reports are appended to `reports.jsonl` after the history is durable; a crash in between reads some records again, which
changes nothing. A report at or below the high-water mark of its vehicle is a repetition: it is counted, and never renews
health or model, across any number of restarts on both sides (`rollout.marks`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from connectors.kafka.ports import RecordSource
from foundation.clock import Clock
from foundation.documents import DocumentType, plain
from foundation.errors import CorruptError, OffsetsLostError, RejectedError, RetryLaterError
from foundation.files import MAX_FILE_BYTES, FileLock, read_document
from foundation.row_file import RowFile
from foundation.service_manager import ALIVE, notify
from foundation.short_text import shorten_middle
from rollout.health import VehicleReport
from rollout.history import REASON_CHARACTERS, History
from rollout.marks import Mark, Marks, PastEpochs
from schemas.codec import decode_telemetry
from schemas.records import ModelEvent, RoleReport, Telemetry
from schemas.roles import SERVING
from schemas.signing import Enrolment, verify
from schemas.topics import TOPICS
from schemas.wire import FL_KEYID, KIND_TELEMETRY, StoredRecord

_COMPACT_ABOVE_ROWS = 2000
_ENDS = ("rolled_back", "refused")
MAX_ENDS = 50
"""Newest releases whose end is remembered per role of a vehicle."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Cumulative counts of one role, as last reported by a vehicle."""

    frames: int = 0
    errors: int = 0
    not_finite: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest report of one role of a vehicle."""

    report: VehicleReport
    totals: Totals = Totals()


@dataclass(frozen=True, slots=True)
class Place:
    """The next offsets to read, and the counts of refused records and lost offsets."""

    topic_id: str = ""
    offsets: Mapping[str, int] = field(default_factory=dict)
    """The next offset by partition."""
    not_believed: Mapping[str, int] = field(default_factory=dict)
    lost_offsets: int = 0


@dataclass(frozen=True, slots=True)
class LaterRow:
    """A row of a kind that a later release wrote; it is kept unchanged."""

    row: Mapping[str, object]


_KINDS: Mapping[str, type[Any]] = {"heard": Heard, "mark": Mark, "past_epochs": PastEpochs, "place": Place}
_WORDS = {kind: word for word, kind in _KINDS.items()}
ROWS: Final = {word: DocumentType.first(word, kind) for word, kind in _KINDS.items()}
"""Document types by the key `kind` of a row."""


@dataclass(frozen=True, slots=True)
class _Totals1:
    frames: int = 0
    errors: int = 0
    not_finite: int = 0
    epochs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reports1:
    topic_id: str
    offsets: dict[str, int]
    not_believed: dict[str, int]
    lost_offsets: int
    reports: dict[str, VehicleReport]
    totals: dict[str, _Totals1]


REPORTS_1: Final = DocumentType.first("reports of the fleet", _Reports1, max_bytes=MAX_FILE_BYTES)
"""reports.json of the first release, read until its content is in reports.jsonl."""


class FleetReports:
    """The reports of the fleet so far; `listen` reads on. A lock in the folder excludes concurrent writers."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock
        self._file = RowFile(folder / "reports.jsonl", self._row)
        self.history = History(folder / "history.jsonl")
        self._changed: list[Heard | Mark | PastEpochs | Place] = []
        self._topic_id = ""
        self._offsets: dict[int, int] = {}
        self._heard: dict[tuple[str, str], Heard] = {}
        self._marks = Marks()
        self._later: list[LaterRow] = []
        self._not_believed: Counter[str] = Counter()
        self._lost_offsets = 0
        self._catch_up()

    @property
    def newest(self) -> Mapping[str, VehicleReport]:
        """The newest verified report of each vehicle about the role serving."""
        return self.newest_of(SERVING)

    def newest_of(self, role: str) -> Mapping[str, VehicleReport]:
        """Return the newest verified report of each vehicle about `role`; vehicles without one are absent."""
        return {vehicle: heard.report for (vehicle, said), heard in self._heard.items() if said == role}

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that a vehicle spoke of, sorted."""
        return tuple(sorted({role for _vehicle, role in self._heard}))

    @property
    def not_believed(self) -> Mapping[str, int]:
        """Refused records by reason; `repeated` counts repetitions."""
        return self._not_believed

    @property
    def lost_offsets(self) -> int:
        """Offsets that retention removed before they were read."""
        return self._lost_offsets

    def listen(self, source: RecordSource, enrolment: Enrolment) -> int:
        """Read up to the present end of the topic and return how many records were accepted.

        Raises:
            RetryLaterError: no broker, no progress, or another process is reading; records read so far are kept. Or writing
                failed: the next call continues from the content of the files.
        """
        with FileLock(self._folder / ".reports.lock", wait_s=10.0, clock=self._clock):
            self.history.catch_up()
            self._catch_up()
            info = source.describe(TOPICS.telemetry)
            if info.topic_id != self._topic_id:  # the topic was recreated, so the saved offsets are void
                self._topic_id, self._offsets = info.topic_id, {}
            taken = 0
            try:
                for partition in info.partitions:
                    taken += self._read(source, partition, enrolment)
            finally:
                self._save()
        return taken

    def _read(self, source: RecordSource, partition: int, enrolment: Enrolment) -> int:
        begin, end = source.bounds(TOPICS.telemetry, partition)
        start = self._offsets.get(partition, begin)
        taken = 0
        while start < end:
            try:
                for batch in source.read(TOPICS.telemetry, partition, start, end):
                    notify(ALIVE)
                    for record in batch:
                        taken += self._take(record, enrolment)
                        start = record.offset + 1
                        self._offsets[partition] = start
                start = end
            except OffsetsLostError as lost:
                self._lost_offsets += lost.lost_end - lost.lost_begin
                start = max(lost.lost_end, start + 1)
            self._offsets[partition] = start
        return taken

    def _take(self, record: StoredRecord, enrolment: Enrolment) -> int:
        try:
            identity = verify(record.headers, record.key, record.value, KIND_TELEMETRY, enrolment)
            telemetry = decode_telemetry(record.value or b"")
        except RejectedError as error:
            self._not_believed[error.reason] += 1
            return 0
        if telemetry.identity != identity:  # signed by one vehicle about another
            self._not_believed["identity_mismatch"] += 1
            return 0
        key_id = dict(record.headers)[FL_KEYID].decode("ascii")
        raised = self._marks.raise_to(telemetry, key_id)
        if not raised:
            self._not_believed["repeated"] += 1
            return 0
        self._changed += raised
        place = f"{self._topic_id}/{record.partition}/{record.offset}"
        for role in telemetry.roles():
            new = self.history.add(
                telemetry.vehicle_id, role.model_events, self._clock.now_ns(), place, role.role
            )
            self._remember(telemetry, role, new)
        return 1

    def _remember(self, said: Telemetry, role: RoleReport, new: Collection[ModelEvent]) -> None:
        """Store the newest report of a role, with counts since its model was first reported, and every end so far."""
        last = self._heard.get((said.vehicle_id, role.role))
        totals = last.totals if last is not None else Totals()
        base = last.report if last is not None and last.report.model_digest == role.model_digest else None
        errors, not_finite = role.health.error_count, role.health.nan_count
        report = VehicleReport(
            vehicle_id=said.vehicle_id,
            heard_ns=self._clock.now_ns(),
            epoch=said.epoch,
            seq=said.seq,
            model_digest=role.model_digest,
            model_name=role.model_name,
            model_state=role.model_state,
            reports_on_model=(base.reports_on_model if base else 0) + 1,
            frames=(base.frames if base else 0) + _grown(totals.frames, role.frames),
            errors=(base.errors if base else 0) + _grown(totals.errors, errors),
            not_finite=(base.not_finite if base else 0) + _grown(totals.not_finite, not_finite),
            swaps=role.swaps,
            rollbacks=role.rollbacks,
            ends=_ends(last.report.ends if last is not None else None, role.model_events, new),
            role=role.role,
        )
        heard = Heard(report, Totals(role.frames, errors, not_finite))
        self._heard[said.vehicle_id, role.role] = heard
        self._changed.append(heard)

    # The file.

    def _forget(self) -> None:
        self._heard.clear()
        self._changed = []
        self._marks = Marks()
        self._later = []
        self._apply(Place())

    def _catch_up(self) -> None:
        is_anew, rows = self._file.news()
        if is_anew:
            self._forget()
        if not self._file.path.exists():
            self._apply_old_file()
        for row in rows:
            self._apply(row)

    def _row(self, row: dict[str, Any], name: str) -> object:
        """Read a row; an unreadable one refuses the file, since it may be a mark, without which old reports look new."""
        kind = ROWS.get(str(row.get("kind")))
        if kind is None:  # written by a later release
            return LaterRow(row)
        return kind.of(row, family=lambda told: CorruptError(f"{name}: {told}", path=self._file.path))

    def _apply(self, row: object) -> None:
        match row:
            case LaterRow():
                self._later.append(row)
            case Heard():
                self._heard[row.report.vehicle_id, row.report.role] = row
            case Mark() | PastEpochs():
                self._marks.apply(row)
            case Place():
                self._topic_id, self._lost_offsets = row.topic_id, row.lost_offsets
                self._offsets = {int(partition): offset for partition, offset in row.offsets.items()}
                self._not_believed = Counter(row.not_believed)

    def _save(self) -> None:
        """Save the history first, so that reports count only once their events are durable."""
        try:
            self.history.save()
            self._not_believed += self.history.not_kept
            self.history.not_kept.clear()
        except RetryLaterError:  # then the reports do not count either
            self._file.forget()
            raise
        is_new = not self._file.path.exists()
        live = len(self._heard) + len(self._marks) + 1
        if is_new or self._file.rows_read > _COMPACT_ABOVE_ROWS + 4 * live:
            self._file.replace(map(_row, self._all()))
            (self._folder / "reports.json").unlink(missing_ok=True)
        else:
            newest = {_key(row): row for row in self._changed}  # one row per listen, not per record
            self._file.append(map(_row, [*newest.values(), self._place()]))
        self._changed = []

    def _all(self) -> Iterator[Heard | Mark | PastEpochs | Place | LaterRow]:
        yield from self._heard.values()
        yield from self._marks.rows()
        yield from self._later
        yield self._place()

    def _place(self) -> Place:
        offsets = {str(partition): offset for partition, offset in self._offsets.items()}
        return Place(self._topic_id, offsets, dict(self._not_believed), self._lost_offsets)

    def _apply_old_file(self) -> None:
        """Apply `reports.json`, the single document of the first release."""
        path = self._folder / "reports.json"
        if not path.exists():
            return
        held = read_document(path, REPORTS_1)
        self._apply(Place(held.topic_id, held.offsets, held.not_believed, held.lost_offsets))
        for vehicle, report in held.reports.items():
            totals = held.totals.get(vehicle, _Totals1())
            self._apply(Heard(report, Totals(totals.frames, totals.errors, totals.not_finite)))
            self._apply(Mark(vehicle, "", 0, report.seq, report.epoch))
            self._apply(PastEpochs(vehicle, "", totals.epochs))


def _row(row: Heard | Mark | PastEpochs | Place | LaterRow) -> Mapping[str, object]:
    if isinstance(row, LaterRow):
        return row.row
    return {"kind": _WORDS[type(row)], **plain(row)}


def _key(row: Heard | Mark | PastEpochs | Place) -> object:
    match row:
        case Heard():
            return (Heard, row.report.vehicle_id, row.report.role)
        case Mark():
            return (Mark, row.vehicle_id, row.key_id)
    return row  # epochs add up: none replaces another


def _ends(
    before: Mapping[str, tuple[str, str]] | None, events: Sequence[ModelEvent], new: Collection[ModelEvent]
) -> dict[str, tuple[str, str]]:
    """Return the releases that failed: a record carries a part of the events, so what was known stays.

    An event that is told again does not replace a newer one about the same release.
    """
    found = dict(before or {})
    for each in events:
        if each.event in _ENDS and (each in new or each.release_id not in found):
            found.pop(each.release_id, None)
            found[each.release_id] = (each.event, shorten_middle(each.reason, REASON_CHARACTERS))
    return dict(list(found.items())[-MAX_ENDS:])


def _grown(before: int, now: int) -> int:
    """Return how much a cumulative count grew; a count that fell restarted at 0."""
    return now - before if now >= before else now
