"""The verdict: every way in which log, lake, receipts and ledgers could contradict each other.

Pure: no I/O. Each rule is one function that yields violations; the name of a violation is the promise it
    breaks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.checker.broker_log import Log, LogRecord
from tests.checker.lake_files import Row
from tests.checker.told import Account, Identity

MAX_EXAMPLES = 20
Place = tuple[int, int]


class Violation(NamedTuple):
    """One broken promise, and the evidence."""

    rule: str
    evidence: str


@dataclass(frozen=True)
class Evidence:
    """All that is known. `topic_id` is the log's; rows of other topic ids are of topics that are gone."""

    log: Log
    rows: Sequence[Row]
    receipts: Sequence[tuple[Identity, str]]
    accounts: Mapping[str, Account]
    topic_id: str
    offered: set[str] | None = None
    in_log: dict[Place, LogRecord] = field(init=False)
    landed: dict[Identity, list[Row]] = field(init=False)
    by_place: dict[str, list[Row]] = field(init=False)

    def __post_init__(self) -> None:
        landed, by_place = defaultdict(list), defaultdict(list)
        for row in self.rows:
            by_place[row.place].append(row)
            if row.outcome == "landed" and row.identity is not None:
                landed[row.identity].append(row)
        in_log = {(record.partition, record.offset): record for record in self.log.records}
        object.__setattr__(self, "in_log", in_log)
        object.__setattr__(self, "landed", dict(landed))
        object.__setattr__(self, "by_place", dict(by_place))

    def record_of(self, row: Row) -> LogRecord | None:
        """The record of the log that the row stands for, where it is retained."""
        return self.in_log.get((row.partition, row.offset)) if row.topic_id == self.topic_id else None


def judge(evidence: Evidence) -> dict[str, object]:
    """The verdict as plain JSON: `held`, `counts`, and per broken rule its number and first examples."""
    broken: dict[str, list[str]] = defaultdict(list)
    for rule in RULES:
        for violation in rule(evidence):
            broken[violation.rule].append(violation.evidence)
    outcomes = Counter(str(row.outcome) for row in evidence.rows if row.origin == "log")
    return {
        "held": not broken,
        "counts": {
            "offered": None if evidence.offered is None else len(evidence.offered),
            "receipts": len(evidence.receipts),
            "log_records": len(evidence.log.records),
            "rows": dict(sorted(outcomes.items())),
            "landed_identities": len(evidence.landed),
        },
        "violations": {
            rule: {"count": len(found), "examples": found[:MAX_EXAMPLES]}
            for rule, found in sorted(broken.items())
        },
    }


def one_row_per_offset(evidence: Evidence) -> Iterator[Violation]:
    """Every offset of the log is one row; no row stands for an offset that the log does not have."""
    count = Counter((row.topic_id, row.partition, row.offset) for row in evidence.rows if row.origin == "log")
    for (topic_id, partition, offset), number in count.items():
        if number > 1:
            yield Violation("offset_has_many_rows", f"{topic_id}/{partition}/{offset}: {number} rows")
    for partition, offset in evidence.in_log:
        if (evidence.topic_id, partition, offset) not in count:
            yield Violation("offset_has_no_row", f"{evidence.topic_id}/{partition}/{offset}")
    for topic_id, partition, offset in count:
        if topic_id != evidence.topic_id:
            continue
        begin, _ = evidence.log.bounds.get(partition, (0, 0))
        if offset >= begin and (partition, offset) not in evidence.in_log:
            yield Violation("row_has_no_offset", f"{topic_id}/{partition}/{offset}")
    for row in evidence.rows:
        if row.origin in ("loss", "gap") and row.topic_id == evidence.topic_id:
            for partition, offset in evidence.in_log:
                if partition == row.partition and row.offset <= offset < row.offset_end:
                    yield Violation(
                        "present_offset_called_lost", f"{row.place} to {row.offset_end}: {offset}"
                    )


def every_hash_is_right(evidence: Evidence) -> Iterator[Violation]:
    """A row says what the log says: the value, the identity, the payload and the bytes of a dead letter."""
    for row in evidence.rows:
        if row.origin in ("loss", "gap"):
            continue
        record = evidence.record_of(row)
        if record is not None:
            if row.value_sha256 != record.value_sha256:
                yield Violation(
                    "value_hash_differs", f"{row.place}: {row.value_sha256}, log {record.value_sha256}"
                )
            if row.outcome in ("landed", "resent") and row.identity != record.identity:
                yield Violation("identity_differs", f"{row.place}: {row.identity}, log {record.identity}")
        if row.outcome == "landed":
            yield from _payload_is_right(row, record)
        if row.outcome == "rejected" and row.raw_value_digest != row.value_sha256:
            yield Violation(
                "dead_letter_lost_bytes", f"{row.place}: {row.raw_value_digest}, not {row.value_sha256}"
            )


def _payload_is_right(row: Row, record: LogRecord | None) -> Iterator[Violation]:
    if row.identity is None:
        yield Violation("landed_without_identity", row.place)
    if row.payload_uri:
        return
    if row.payload_digest is None or row.payload_digest != row.payload_sha256:
        yield Violation(
            "payload_hash_differs", f"{row.place}: {row.payload_digest}, not {row.payload_sha256}"
        )
    if record is not None and record.payload_sha256 != row.payload_sha256:
        yield Violation(
            "payload_hash_differs", f"{row.place}: {row.payload_sha256}, log {record.payload_sha256}"
        )


def nothing_landed_twice(evidence: Evidence) -> Iterator[Violation]:
    """An identity lands once, whatever was resent or replayed; what repeats it points at that row."""
    for identity, rows in evidence.landed.items():
        if len(rows) > 1:
            yield Violation("landed_twice", f"{identity}: " + ", ".join(row.place for row in rows))
    for row in evidence.rows:
        if row.outcome == "resent":
            originals = evidence.by_place.get(row.resend_of or "", ())
            if not any(_is_repeated_by(row, original) for original in originals):
                yield Violation("resend_points_nowhere", f"{row.place} ({row.identity}) at {row.resend_of}")
        if row.origin == "replay":
            replaced = evidence.by_place.get(row.supersedes or "", ())
            if not any(other.outcome == "rejected" and other is not row for other in replaced):
                yield Violation("replay_supersedes_nothing", f"{row.place} at {row.supersedes}")


def _is_repeated_by(row: Row, original: Row) -> bool:
    return (
        original.outcome == "landed"
        and original.identity == row.identity
        and original.value_sha256 == row.value_sha256
    )


def every_accepted_record_is_accounted_for(evidence: Evidence) -> Iterator[Violation]:
    """What was accepted landed with its hash, or its vehicle's ledger says where it is instead."""
    digests: dict[Identity, str] = {}
    undetailed: Counter[tuple[str, str]] = Counter()
    for identity, digest in evidence.receipts:
        if digests.setdefault(identity, digest) != digest:
            yield Violation("accepted_twice", f"{identity}: {digests[identity]} and {digest}")
            continue
        rows = evidence.landed.get(identity)
        if rows:
            if all(row.value_sha256 != digest for row in rows):
                yield Violation(
                    "landed_other_bytes", f"{identity}: {rows[0].value_sha256}, accepted {digest}"
                )
            continue
        account = evidence.accounts.get(identity.vehicle)
        epoch = account.epochs.get(identity.epoch) if account is not None else None
        if epoch is None:
            yield Violation("accepted_and_lost", f"{identity} (no ledger of its epoch)")
        elif identity.seq < epoch.detail_from:
            undetailed[identity.vehicle, identity.epoch] += 1
        elif not any(epoch.says(state, identity.seq) for state in ("pending", "in_doubt", "evicted")):
            yield Violation("accepted_and_lost", str(identity))
    for (vehicle, name), missing in undetailed.items():
        allowed = evidence.accounts[vehicle].epochs[name].lost_without_detail
        if missing > allowed:
            yield Violation(
                "accepted_and_lost", f"{vehicle}/{name}: {missing} missing, the ledger excuses {allowed}"
            )


def ledgers_are_true(evidence: Evidence) -> Iterator[Violation]:
    """A ledger adds up, knows every receipt, and calls nothing delivered that the log does not have."""
    in_log = {record.identity for record in evidence.log.records}
    in_lake = {row.identity for row in evidence.rows}
    for account in evidence.accounts.values():
        parts = account.delivered + account.pending + account.in_doubt + account.evicted
        if account.accepted != parts:
            yield Violation(
                "ledger_does_not_balance", f"{account.vehicle}: {account.accepted} is not {parts}"
            )
        for epoch in account.epochs.values():
            parts = epoch.delivered + epoch.pending + epoch.in_doubt + epoch.evicted
            if epoch.accepted != parts:
                name = f"{account.vehicle}/{epoch.epoch}"
                yield Violation("ledger_does_not_balance", f"{name}: {epoch.accepted} is not {parts}")
            for seq in epoch.numbers("delivered"):
                identity = Identity(account.vehicle, epoch.epoch, seq)
                if identity not in in_log and identity not in in_lake:
                    yield Violation("delivered_and_nowhere", str(identity))
    for identity, _ in evidence.receipts:
        yield from _known(evidence, identity, "accepted_and_unknown")
    for identity in evidence.landed:
        if identity.vehicle in evidence.accounts:
            yield from _known(evidence, identity, "landed_and_never_accepted")


def _known(evidence: Evidence, identity: Identity, rule: str) -> Iterator[Violation]:
    account = evidence.accounts.get(identity.vehicle)
    if account is None:
        return
    epoch = account.epochs.get(identity.epoch)
    if epoch is None or identity.seq >= epoch.next_seq or epoch.says("never_accepted", identity.seq):
        yield Violation(rule, f"{identity} is not accepted in its vehicle's ledger")


def only_what_was_offered_landed(evidence: Evidence) -> Iterator[Violation]:
    """A landed payload of a vehicle under test is one that the load generator offered."""
    if evidence.offered is None:
        return
    vehicles = set(evidence.accounts) | {identity.vehicle for identity, _ in evidence.receipts}
    for identity, rows in evidence.landed.items():
        if identity.vehicle in vehicles and rows[0].payload_sha256 not in evidence.offered:
            yield Violation("landed_and_never_offered", f"{identity}: payload {rows[0].payload_sha256}")


RULES: tuple[Callable[[Evidence], Iterable[Violation]], ...] = (
    one_row_per_offset,
    every_hash_is_right,
    nothing_landed_twice,
    every_accepted_record_is_accounted_for,
    ledgers_are_true,
    only_what_was_offered_landed,
)
