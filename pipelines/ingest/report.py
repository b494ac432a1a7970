"""The counts of one ingest: offsets = landed + resent + rejected; losses and gaps are counted apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from foundation.documents import decode
from pipelines.ingest.elements import StagedFile, TopicGone, Unread, Waiting


@dataclass(frozen=True, slots=True)
class Lost:
    """Offsets [begin, end) of a partition that were removed before they were read, by retention, compaction or unknown."""

    partition: int
    begin: int
    end: int
    reason: str = "retention"


@dataclass(frozen=True, slots=True)
class IngestReport:
    """Counts of one ingest. `gap_offsets` are transaction markers and records of aborted transactions."""

    cluster: str
    topic: str
    topic_id: str
    version_before: int
    version_after: int
    offsets: int = 0
    landed: int = 0
    resent: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    lost: tuple[Lost, ...] = ()
    gap_offsets: int = 0
    unread: tuple[Unread, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    """Offsets that an open transaction hides; a later run reads them."""
    warnings: tuple[str, ...] = ()
    """Settings of the topic under which records can be lost."""
    topics_gone: tuple[TopicGone, ...] = ()
    """Earlier topics of this name, recreated since the last ingest; their unread records are lost and not counted."""
    files: int = 0
    file_bytes: int = 0
    replans: int = 0
    seconds: float = 0.0

    def balances(self) -> bool:
        """Return whether every offset that was read has its row."""
        return self.offsets == self.landed + self.resent + sum(self.rejected.values())

    def with_files(self, files: Iterable[StagedFile]) -> IngestReport:
        """Return this report with the rows of committed files added."""
        files = list(files)
        rejected = Counter(self.rejected)
        lost, not_records = list(self.lost), 0
        for file in files:
            rejected.update(decode(dict[str, int], file.rejected_json, "rejected_json"))
            intervals = decode(list[tuple[int, int, str]], file.lost_json, "lost_json")
            lost += [Lost(file.partition, *one) for one in intervals]
            not_records += sum(end - begin for begin, end, _ in intervals) + file.gap_offsets
        return replace(
            self,
            offsets=self.offsets + sum(file.end - file.begin for file in files) - not_records,
            landed=self.landed + sum(file.landed for file in files),
            resent=self.resent + sum(file.resent for file in files),
            rejected=dict(sorted(rejected.items())),
            lost=tuple(sorted(lost, key=lambda one: (one.partition, one.begin))),
            gap_offsets=self.gap_offsets + sum(file.gap_offsets for file in files),
            files=self.files + len(files),
            file_bytes=self.file_bytes + sum(file.size_bytes for file in files),
        )

    def to_json(self) -> dict[str, object]:
        """Return the report as a JSON object."""
        return asdict(self) | {
            "lost_offsets": sum(one.end - one.begin for one in self.lost),
            "unread": [one._asdict() for one in self.unread],
            "waiting": [one._asdict() for one in self.waiting],
            "warnings": list(self.warnings),
            "topics_gone": [one._asdict() for one in self.topics_gone],
            "seconds": round(self.seconds, 3),
        }


def total(before: IngestReport, after: IngestReport) -> IngestReport:
    """Return the sum of two reports of one `follow`; `unread` and `waiting` are those of the later one."""
    return replace(
        after,
        version_before=before.version_before,
        offsets=before.offsets + after.offsets,
        landed=before.landed + after.landed,
        resent=before.resent + after.resent,
        rejected=dict(sorted((Counter(before.rejected) + Counter(after.rejected)).items())),
        lost=(*before.lost, *after.lost),
        gap_offsets=before.gap_offsets + after.gap_offsets,
        topics_gone=tuple(sorted({*before.topics_gone, *after.topics_gone})),
        files=before.files + after.files,
        file_bytes=before.file_bytes + after.file_bytes,
        replans=before.replans + after.replans,
        seconds=before.seconds + after.seconds,
    )
