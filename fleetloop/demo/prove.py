"""Check each guarantee after the run, by counts from the broker, the lake, the vehicles' disks and the dataset.

No check relies on what a step reported about itself. G7 (privacy) is not built yet and not claimed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.kafka.settings import KafkaSettings
from connectors.kafka.source import KafkaSource
from connectors.lake.table import LakeTable
from edge_agent.spool.snapshot import Ledger
from fleetloop.demo.deploy import ReleaseOutcome
from fleetloop.demo.learn import Learnt
from fleetloop.demo.prepare import VEHICLES
from foundation.files import read_json
from pipelines.curate.params import load_params
from pipelines.curate.perceptual_hash import dct_hash
from pipelines.curate.split import split_of
from rollout.history import HistoryRow
from schemas.reasons import Split
from schemas.wire import TOPICS
from workspace.layout import Workspace

HASH_BITS = 256
MALFORMED_MODELS = 3
PROMISES = {
    1: "Accepted samples are durable, through SIGKILL and an unreachable broker.",
    2: "The ledger balances exactly.",
    3: "Each Kafka offset becomes exactly one row of the lake; nothing lands twice.",
    4: "A dataset version is a pure function of its inputs.",
    5: "A drive is in one split for ever; nothing near a test frame is trained on.",
    6: "No model serves unless it is signed, fresh, gated and tried; a faulty one is rolled back.",
    8: "Nothing is dropped silently: bytes, reason and offset are kept, totals add up.",
    9: "Bad input never takes a daemon or a pipeline down.",
    10: "Only verified model bytes are loaded.",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One guarantee, whether it held in this run, and the numbers that show it."""

    number: int
    held: bool
    evidence: str

    def to_json(self) -> dict[str, object]:
        """Return the verdict as in result.json."""
        return {
            "number": self.number,
            "held": self.held,
            "evidence": self.evidence,
            "promise": PROMISES[self.number],
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """The inputs of the checks: disks, the broker's log, the lake and telemetry."""

    arrivals: pa.Table
    offsets_in_log: int
    repeated: int
    receipts: dict[str, set[tuple[str, int, str]]]
    statuses: dict[str, dict[str, Any]]
    ledgers: dict[str, Ledger]
    bad_records: dict[str, int]
    unreadable_frames: int
    unordered_restarts: int
    malformed: dict[str, str]
    releases: list[ReleaseOutcome]
    model_events: tuple[HistoryRow, ...]
    learnt: Learnt
    workspace: Path


def read_receipts(path: Path) -> set[tuple[str, int, str]]:
    """Read (epoch, seq, sha256) of every receipt; a line that was cut off by a kill is not a receipt."""
    found = set()
    for line in path.read_text(encoding="ascii", errors="replace").split("\n")[:-1] if path.is_file() else ():
        words = line.split(" ")
        if len(words) == 4 and words[0] == "RECEIPT" and words[2].isdigit():
            found.add((words[1], int(words[2]), words[3]))
    return found


def read_arrivals(place: Workspace) -> pa.Table:
    """Read all rows of the lake without payloads."""
    columns = [
        "origin", "outcome", "reason", "topic_id", "partition", "offset", "offset_end", "resend_of", "vehicle_id", "epoch", "seq",
        "value_sha256", "payload_sha256", "payload_bytes", "raw_value", "headers_json", "rule_id", "drive_id",
        "predicted_class",
    ]  # fmt: skip
    return LakeTable.open(place.arrivals_uri).snapshot().read(columns=columns)


def count_offsets(bootstrap: str) -> int:
    """Return the number of offsets in the broker's log of samples."""
    source = KafkaSource(KafkaSettings(bootstrap=bootstrap, client_id="fleetloop-demo"))
    try:
        partitions = source.describe(TOPICS.samples).partitions
        return sum(source.bounds(TOPICS.samples, partition)[1] for partition in partitions)
    finally:
        source.close()


def judge(facts: Facts) -> list[Verdict]:
    """Return a verdict for each guarantee that the demo exercises, in order."""
    return [
        _accepted_is_durable(facts),
        _ledger_balances(facts),
        _one_row_per_offset(facts),
        _pure_dataset(facts),
        _split_holds(facts),
        _releases_are_guarded(facts),
        _nothing_silent(facts),
        _bad_input_survived(facts),
        _verified_bytes(facts),
    ]


def _landed(facts: Facts) -> pa.Table:
    return facts.arrivals.filter(pc.field("outcome") == "landed")


def _accepted_is_durable(facts: Facts) -> Verdict:
    rows = _landed(facts)
    landed: dict[str, set[tuple[str, int, str]]] = {v: set() for v in VEHICLES}
    for vehicle_id, *identity in zip(
        *(rows[name].to_pylist() for name in ("vehicle_id", "epoch", "seq", "value_sha256")), strict=True
    ):
        landed[vehicle_id].add(tuple(identity))
    told, lost, held = [], 0, True
    for vehicle_id in VEHICLES:
        counts, receipts = facts.ledgers[vehicle_id].counts, facts.receipts[vehicle_id]
        missing = receipts - landed[vehicle_id]
        gone = sum(counts.evicted.values()) + counts.in_doubt
        held &= bool(receipts) and len(missing) <= gone and counts.pending == 0
        held &= len(landed[vehicle_id]) == counts.delivered
        lost += len(missing)
        told.append(f"{vehicle_id} {len(receipts)}")
    return Verdict(
        1,
        held,
        f"{lost} receipts without their landed sample, compared by sha256; receipts: {', '.join(told)}",
    )


def _ledger_balances(facts: Facts) -> Verdict:
    held = all(ledger.balances() for ledger in facts.ledgers.values())
    epochs = sum(len(ledger.epochs) for ledger in facts.ledgers.values())
    return Verdict(
        2, held, f"{len(facts.ledgers)} ledgers over {epochs} epochs balance, in total and per epoch"
    )


def _one_row_per_offset(facts: Facts) -> Verdict:
    log = facts.arrivals.filter(pc.field("origin") == "log")
    places = set(zip(log["partition"].to_pylist(), log["offset"].to_pylist(), strict=True))
    landed = _landed(facts)
    identities = list(zip(*(landed[c].to_pylist() for c in ("vehicle_id", "epoch", "seq")), strict=True))
    twice = len(identities) - len(set(identities))
    resent = log.filter(pc.field("outcome") == "resent")
    homes = {
        f"{t}/{p}/{o}"
        for t, p, o in zip(*(landed[c].to_pylist() for c in ("topic_id", "partition", "offset")), strict=True)
    }
    astray = sum(place not in homes for place in resent["resend_of"].to_pylist())
    held = (
        len(places) == log.num_rows == facts.offsets_in_log
        and twice == 0
        and astray == 0
        and resent.num_rows >= facts.repeated > 0
    )
    return Verdict(
        3,
        held,
        f"{facts.offsets_in_log} offsets, {log.num_rows} rows; {resent.num_rows} resends ({facts.repeated} on purpose), "
        f"{astray} of them without a landed row; {twice} landed twice",
    )


def _pure_dataset(facts: Facts) -> Verdict:
    digest, again = str(facts.learnt.manifest["digest"]), facts.learnt.again_digest
    return Verdict(4, digest == again, f"digest with one worker {digest[:16]}, with two workers {again[:16]}")


def _split_holds(facts: Facts) -> Verdict:
    dataset = facts.workspace / "datasets" / "current"
    params = load_params(facts.workspace / "params.yaml")
    rows = {
        split: pq.ParquetDataset(files).read(columns=["payload", "drive_id", "payload_sha256"])
        for split in Split
        if (files := sorted(str(p) for p in (dataset / "shards").glob(f"{split.value}-*.parquet")))
    }
    misplaced = sum(
        split_of(drive, params.split) is not split
        for split, table in rows.items()
        for drive in set(table["drive_id"].to_pylist())
    )
    bound = params.curate.near_duplicates.max_distance_bits
    nearest = _nearest_to_test(rows)
    base = read_json(facts.workspace / "registry" / "models" / "v1" / "model.json")
    drives = base.get("training_drives", []) if isinstance(base, dict) else []
    seen = sum(split_of(str(drive), params.split) is Split.TEST for drive in drives)
    removed = facts.learnt.manifest["counts"]["removed"].get("near_duplicate_of_test", 0)
    held = misplaced == 0 and nearest is not None and nearest > bound and seen == 0 and bool(drives)
    apart = (
        "there is no pair of a test frame and a training frame"
        if nearest is None
        else f"smallest distance of a training frame to a test frame {nearest} of {HASH_BITS} bits"
    )
    return Verdict(
        5, held,
        f"{misplaced} drives in a wrong split; {apart} (bound {bound}); "
        f"{removed} near-duplicates of test removed; v1 was trained on {len(drives)} drives, {seen} of them test drives",
    )  # fmt: skip


def _nearest_to_test(rows: dict[Split, pa.Table]) -> int | None:
    """Return the smallest distance in bits of a test frame to a training or validation frame; None without a pair."""
    from modelkit.images import decode_image

    def hashes(split: Split) -> np.ndarray:
        table = rows.get(split)
        payloads = table["payload"].to_pylist() if table is not None else []
        bits = [np.unpackbits(np.frombuffer(dct_hash(decode_image(p)), np.uint8)) for p in payloads]
        return np.array(bits, dtype=np.float32).reshape(-1, HASH_BITS)

    test = hashes(Split.TEST)
    learning = [h for h in (hashes(Split.TRAIN), hashes(Split.VALIDATION)) if len(h)]
    if not len(test) or not learning:
        return None
    other = np.concatenate(learning)
    distance = test.sum(1)[:, None] + other.sum(1)[None, :] - 2 * test @ other.T
    return int(distance.min())


def _releases_are_guarded(facts: Facts) -> Verdict:
    good, forged, bad = facts.releases
    digest = str(facts.learnt.package["model_digest"])
    serving = {v: str(s["model"]["digest"]) for v, s in facts.statuses.items()}

    def vehicles(event: str, release_id: str) -> set[str]:
        return {e.vehicle_id for e in facts.model_events if e.event == event and e.release_id == release_id}

    exposed, back = vehicles("activated", bad.id), vehicles("rolled_back", bad.id)
    distrust = {e.vehicle_id for e in facts.model_events if e.event == "untrusted"}
    carried = vehicles("activated", forged.id)
    held = (
        set(serving.values()) == {digest}
        and vehicles("activated", good.id) == set(VEHICLES)
        and not carried
        and distrust == set(VEHICLES)
        and len(exposed) == 1
        and exposed == back
    )
    return Verdict(
        6,
        held,
        f"{good.id}: activated on {len(vehicles('activated', good.id))} vehicles, serving on "
        f"{sum(d == digest for d in serving.values())}; {forged.id}: activated on {len(carried)}, refused by "
        f"{len(distrust)}; {bad.id}: activated on {len(exposed)} (its wave has 1), rolled back on {len(back)}",
    )


def _nothing_silent(facts: Facts) -> Verdict:
    rejected = facts.arrivals.filter(pc.field("outcome") == "rejected")
    found = dict(Counter(rejected["reason"].to_pylist()))
    bytes_kept = rejected.num_rows - rejected["raw_value"].null_count
    counts = facts.learnt.manifest["counts"]
    read = int(counts["read"])
    explained = sum(
        (counts["kept"], *counts["removed"].values(), counts["unlabelled"], counts["quarantined"])
    )
    frames = {v: int(s["frames_seen"]) for v, s in facts.statuses.items()}
    settled = {
        v: each.counts.accepted + sum(each.counts.not_accepted.values()) for v, each in facts.ledgers.items()
    }
    held = (
        found == facts.bad_records
        and bytes_kept == rejected.num_rows
        and read == explained
        and frames == settled
    )
    return Verdict(
        8, held,
        f"{sum(frames.values())} frames seen = {sum(settled.values())} accepted or refused with a reason; "
        f"{sum(facts.bad_records.values())} bad records sent, {rejected.num_rows} rejected with bytes and reason; "
        f"{read} rows read by curation = {explained} kept, removed, unlabelled or quarantined",
    )  # fmt: skip


def _bad_input_survived(facts: Facts) -> Verdict:
    unreadable = sum(
        ledger.counts.not_accepted.get("unreadable_image", 0) for ledger in facts.ledgers.values()
    )
    held = unreadable >= facts.unreadable_frames > 0 and facts.unordered_restarts == 0
    return Verdict(
        9,
        held,
        f"{unreadable} unreadable frames and {sum(facts.bad_records.values())} bad records counted; "
        f"{facts.unordered_restarts} processes ended unexpectedly",
    )


def _verified_bytes(facts: Facts) -> Verdict:
    digest = str(facts.learnt.package["model_digest"])
    same = sum(str(s["model"]["digest"]) == digest for s in facts.statuses.values())
    held = same == len(facts.statuses) and len(facts.malformed) == MALFORMED_MODELS
    return Verdict(
        10,
        held,
        f"{len(facts.malformed)} of {MALFORMED_MODELS} malformed models refused before they were loaded "
        f"({', '.join(sorted(facts.malformed))}); {same} vehicles serve exactly the packaged bytes",
    )
