"""Builds that break one promise each, so that the checker can be seen to notice: python -m ... BUILD ARGUMENTS.

    as_it_is              perceive; the power goes in the fsync of its fourth commit
    receipt_before_fsync  the same, but receipts are printed before the fsync and not after it
    no_resend_deduplication     ingest; every record lands, also one that landed before
    offsets_before_data   ingest; says first where the log was read to, then adds the rows; killed in between
    blind_to_holes        ingest; goes on where the table says that the log was read to, whatever rows it lacks

Nothing here is part of the product.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

COMMITS_BEFORE_THE_END = 3
CUT_OFFSETS = 700
"""How many offsets the second commit of `offsets_before_data` names, and never brings."""


def as_it_is(arguments: list[str]) -> int:
    from edge_agent.perceive import body
    from edge_agent.process import run_process

    _let_the_power_go_in_an_fsync()
    return run_process("perceive", body, arguments)


def receipt_before_fsync(arguments: list[str]) -> int:
    from edge_agent.spool.receipts import ReceiptPrinter
    from edge_agent.spool.writer import SpoolWriter

    write, say = SpoolWriter._write, ReceiptPrinter.print

    def write_too_late(self: SpoolWriter, value_class: Any, part: list[Any], data: bytes) -> Any:
        say(self._receipts, self.epoch, [(waiting.seq, waiting.wire) for waiting in part])
        return write(self, value_class, part, data)

    SpoolWriter._write = write_too_late  # type: ignore[method-assign]
    ReceiptPrinter.print = lambda *_: None  # type: ignore[method-assign, assignment]
    return as_it_is(arguments)


def _let_the_power_go_in_an_fsync() -> None:
    """What was written and not synced was in the page cache only: it is gone with the process."""
    from edge_agent.spool.segment_file import SegmentFile
    from foundation import syscalls

    append, sync = SegmentFile.append, syscalls.fsync
    commits = 0

    def append_or_die(self: SegmentFile, data: bytes) -> None:
        nonlocal commits
        commits += 1

        def lose_the_page_cache(fd: int) -> NoReturn:
            os.ftruncate(fd, self.end_bytes)
            _die()

        syscalls.fsync = lose_the_page_cache if commits > COMMITS_BEFORE_THE_END else sync
        append(self, data)

    SegmentFile.append = append_or_die  # type: ignore[method-assign]


def no_resend_deduplication(arguments: list[str]) -> int:
    from pipelines.ingest import deduplicate

    deduplicate.duplicate_verdicts = lambda index, seen: deduplicate.VERDICTS.empty_table()  # type: ignore[assignment]
    return _ingest(arguments)


def offsets_before_data(arguments: list[str]) -> int:
    from pipelines.ingest import commit, run

    commit_whole = run.commit
    commits = 0

    def commit_offsets_first(table: Any, plan: Any, files: Sequence[Any], context: Any, clock: Any) -> int:
        nonlocal commits
        commits += 1
        if commits == 1:
            return commit_whole(table, plan, files, context, clock)
        ends = commit.new_ends(plan, files)
        ends_by_name = {commit.position_name(plan.topic, partition): end for partition, end in ends.items()}
        table.commit_files([], expected_version=plan.version, app_transactions=ends_by_name)
        _die()  # before the second commit, the one that adds the rows

    run.commit = commit_offsets_first  # type: ignore[assignment]
    return _ingest(arguments, run_offsets=CUT_OFFSETS)


def blind_to_holes(arguments: list[str]) -> int:
    from pipelines.ingest import plan

    plan.check_no_holes = lambda *_: None  # type: ignore[assignment]
    return _ingest(arguments)


def _ingest(arguments: list[str], **bounds: int) -> int:
    from tests.e2e.ingest_child import ingest_of

    ingest_of(Path(arguments[0]), **bounds).once()
    return 0


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


BUILDS: dict[str, Callable[[list[str]], int]] = {
    build.__name__: build
    for build in (
        as_it_is,
        receipt_before_fsync,
        no_resend_deduplication,
        offsets_before_data,
        blind_to_holes,
    )
}

if __name__ == "__main__":
    sys.exit(BUILDS[sys.argv[1]](sys.argv[2:]))
