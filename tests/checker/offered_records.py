"""What a load generator put on a topic, record by record, against the rows of the lake. Reads files only.

The generator knows what each record must become, because it made it so; nothing here asks the product.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from deltalake import DeltaTable

Headers = tuple[tuple[str, bytes], ...]
_COLUMNS = (
    "origin", "topic_id", "partition", "offset", "offset_end", "outcome", "reason", "detail", "vehicle_id",
    "epoch", "seq", "headers_json", "raw_value", "raw_key", "supersedes",
)  # fmt: skip
MAX_TOLD = 20


@dataclass(frozen=True, slots=True)
class Offered:
    """One record on a topic, and what it must become. `reasons`: any of these is right for it.

    `after_fix`: what its replay becomes once what was wrong is mended; empty when nothing can mend it.
    """

    key: bytes | None
    value: bytes | None
    headers: Headers
    outcome: str
    reasons: tuple[str, ...] = ()
    after_fix: str = ""
    identity: str = ""


Place = tuple[int, int]


def lake_rows(folder: Path) -> list[dict[str, Any]]:
    """The columns that are judged here, of every row of the newest version."""
    rows: list[dict[str, Any]] = []
    for name in DeltaTable(str(folder)).file_uris():
        rows += pq.ParquetFile(name.removeprefix("file://")).read(columns=list(_COLUMNS)).to_pylist()
    return rows


def wrong_rows(
    rows: Sequence[Mapping[str, Any]],
    offered: Mapping[Place, Offered],
    topic_id: str,
    *,
    is_fixed: bool = False,
) -> list[str]:
    """Every way in which the rows of the topic differ from what was offered; empty when there is none."""
    found: list[str] = []
    log: dict[Place, Mapping[str, Any]] = {}
    replays: dict[Place, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["topic_id"] != topic_id:
            continue
        place = (row["partition"], row["offset"])
        if row["origin"] == "replay":
            replays.setdefault(place, []).append(row)
        elif row["origin"] == "log":
            if place in log:
                found.append(f"{place} has two rows")
            log[place] = row
    for place in log.keys() - offered.keys():
        found.append(f"{place} has a row, and nothing was offered there")
    for place, record in offered.items():
        row_of_it = log.get(place)
        if row_of_it is None:
            found.append(f"{place} ({record.outcome}) has no row")
        else:
            found += [f"{place}: {why}" for why in _wrong(row_of_it, record)]
        found += [
            f"{place}: {why}" for why in _wrong_replays(replays.get(place, []), record, topic_id, is_fixed)
        ]
    return found[:MAX_TOLD]


def not_landed_once(rows: Sequence[Mapping[str, Any]], identities: set[str]) -> list[str]:
    """Identities that are not landed exactly once, whatever the topic and the origin of the row."""
    landed = Counter(
        f"{row['vehicle_id']}/{row['epoch']}/{row['seq']}" for row in rows if row["outcome"] == "landed"
    )
    wrong = [f"{name} landed {landed[name]} times" for name in sorted(identities) if landed[name] != 1]
    wrong += [f"{name} landed and must not" for name in sorted(landed.keys() - identities)]
    return wrong[:MAX_TOLD]


def covered(rows: Sequence[Mapping[str, Any]], topic_id: str) -> dict[int, list[tuple[int, int, str]]]:
    """Of each partition the intervals [begin, end) that rows stand for, with their origin, in order."""
    found: dict[int, list[tuple[int, int, str]]] = {}
    for row in rows:
        if row["topic_id"] == topic_id and row["origin"] != "replay":
            found.setdefault(row["partition"], []).append((row["offset"], row["offset_end"], row["origin"]))
    return {partition: sorted(each) for partition, each in found.items()}


def holes(rows: Sequence[Mapping[str, Any]], topic_id: str, ends: Mapping[int, int]) -> list[str]:
    """Offsets in [0, end) of a partition that no row stands for, or that two rows stand for."""
    intervals = covered(rows, topic_id)
    found = []
    for partition, end in ends.items():
        expected = 0
        for begin, stop, origin in intervals.get(partition, []):
            if begin != expected:
                found.append(
                    f"partition {partition}: a row ({origin}) covers [{begin}, {stop}), next was {expected}"
                )
            expected = stop
        if expected != end:
            found.append(f"partition {partition}: rows end at {expected}, the log at {end}")
    return found[:MAX_TOLD]


def lost_intervals(rows: Sequence[Mapping[str, Any]], topic_id: str) -> dict[int, list[tuple[int, int]]]:
    """What the lake says that retention took, joined where it touches."""
    joined: dict[int, list[tuple[int, int]]] = {}
    for partition, intervals in covered(rows, topic_id).items():
        for begin, end, origin in intervals:
            if origin != "loss":
                continue
            held = joined.setdefault(partition, [])
            if held and held[-1][1] == begin:
                held[-1] = (held[-1][0], end)
            else:
                held.append((begin, end))
    return joined


def _wrong(row: Mapping[str, Any], record: Offered) -> list[str]:
    if row["outcome"] != record.outcome:
        return [f"is {row['outcome']} ({row['reason']}: {row['detail']}), must be {record.outcome}"]
    if record.outcome != "rejected":
        return []
    found = []
    if row["reason"] not in record.reasons:
        found.append(f"rejected as {row['reason']}, must be one of {record.reasons}")
    if not row["detail"]:
        found.append("rejected without a detail")
    for column, sent in (("raw_value", record.value), ("raw_key", record.key)):
        if row[column] != sent:
            found.append(f"{column} is {_told(row[column])}, sent was {_told(sent)}")
    kept = tuple(
        (name, base64.b64decode(text or "")) for name, text in json.loads(row["headers_json"] or "[]")
    )
    if kept != record.headers:
        found.append(f"headers are {kept}, sent were {record.headers}")
    return found


def _wrong_replays(
    replays: Sequence[Mapping[str, Any]], record: Offered, topic_id: str, is_fixed: bool
) -> list[str]:
    expected = [record.after_fix] if is_fixed and record.after_fix else []
    got = [row["outcome"] for row in replays]
    if got != expected:
        return [f"its replays are {got}, must be {expected}"]
    return [
        f"its replay supersedes {row['supersedes']}"
        for row in replays
        if row["supersedes"] != f"{topic_id}/{row['partition']}/{row['offset']}"
    ]


def _told(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:12]}"
