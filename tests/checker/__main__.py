"""Print the verdict as JSON. Exit 0: every promise held; 1: some did not; 2: no verdict."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.checker.broker_log import read_log, read_schemas
from tests.checker.lake_files import Row, read_rows
from tests.checker.told import InputError, read_ledger, read_offered, read_receipts
from tests.checker.verdict import Evidence, judge


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's first line for the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.checker", description=__doc__)
    parser.add_argument("--bootstrap", required=True, help="host:port of the broker")
    parser.add_argument("--topic", default="fleetloop.samples")
    parser.add_argument("--topic-id", help="needed when the lake holds several topics of that name")
    parser.add_argument("--lake", required=True, help="the table of arrivals")
    parser.add_argument("--schemas", required=True, type=Path, help="folder of the .avsc files")
    parser.add_argument("--offered", type=Path, help="JSONL of the load generator: payload_sha256 a line")
    for name, what in (("receipts", "its printed receipts"), ("ledger", "its exported ledger")):
        parser.add_argument(f"--{name}", action="append", default=[], metavar="VEHICLE=PATH", help=what)
    options = parser.parse_args(arguments)
    try:
        evidence = gather(
            bootstrap=options.bootstrap,
            topic=options.topic,
            topic_id=options.topic_id,
            lake_uri=options.lake,
            schemas=options.schemas,
            offered=options.offered,
            receipts=[_pair(text) for text in options.receipts],
            ledgers=[_pair(text) for text in options.ledger],
        )
    except InputError as error:
        print(f"no verdict: {error}", file=sys.stderr)
        return 2
    verdict = judge(evidence)
    print(json.dumps(verdict, indent=2, sort_keys=True))
    return 0 if verdict["held"] else 1


def gather(
    *,
    bootstrap: str,
    lake_uri: str,
    schemas: Path,
    topic: str = "fleetloop.samples",
    topic_id: str | None = None,
    offered: Path | None = None,
    receipts: Sequence[tuple[str, Path]] = (),
    ledgers: Sequence[tuple[str, Path]] = (),
    deadline_s: float = 60.0,
) -> Evidence:
    """Read everything. A vehicle may have several receipt files (one a start), and one ledger.

    Raises:
        InputError: something cannot be read, or it is unclear which topic id is the log's.
    """
    rows = read_rows(lake_uri, topic)
    return Evidence(
        log=read_log(bootstrap, topic, read_schemas(schemas), deadline_s=deadline_s),
        rows=rows,
        receipts=[receipt for vehicle, path in receipts for receipt in read_receipts(vehicle, path)],
        accounts={vehicle: read_ledger(vehicle, path) for vehicle, path in ledgers},
        topic_id=topic_id if topic_id is not None else only_topic_id(rows),
        offered=None if offered is None else read_offered(offered),
    )


def only_topic_id(rows: Sequence[Row]) -> str:
    """The topic id that all rows share. Raises InputError when there is not exactly one."""
    found = sorted({row.topic_id for row in rows})
    if len(found) != 1:
        raise InputError(f"the lake has rows of {len(found)} topics ({', '.join(found)}); give --topic-id")
    return found[0]


def _pair(text: str) -> tuple[str, Path]:
    vehicle, separator, path = text.partition("=")
    if not separator or not vehicle or not path:
        raise InputError(f"{text!r} is not VEHICLE=PATH")
    return vehicle, Path(path)


if __name__ == "__main__":
    sys.exit(main())
