"""Build result.json: one machine-readable document with all numbers of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from fleetloop.demo.journeys import on_vehicle_accuracy, read_truth
from fleetloop.demo.lab import Lab
from fleetloop.demo.prepare import VEHICLES, Prepared
from fleetloop.demo.prove import Facts, Verdict
from schemas.records import LedgerCounts
from services.training import FirstModel

NOT_EXERCISED = "G7 (privacy: blurring, consent, erasure) is not built yet and not claimed."


def build_result(
    lab: Lab,
    prepared: Prepared,
    facts: Facts,
    verdicts: list[Verdict],
    faults: list[str],
    first: FirstModel,
) -> dict[str, Any]:
    """Put every count into one document. Ratios are in [0, 1], sizes in bytes, times in seconds."""
    summary = facts.learnt.evaluation["summary"]
    overall = summary["overall"]
    log = facts.arrivals.filter(pc.field("origin") == "log")
    outcomes = Counter(log["outcome"].to_pylist())
    rejected = log.filter(pc.field("outcome") == "rejected")
    manifest = facts.learnt.manifest
    counts = manifest["counts"]
    return {
        "dataset": {
            "name": prepared.source.name,
            "title": prepared.source.title,
            "licence": prepared.source.licence,
            "classes": list(prepared.source.classes),
            "untrained_classes": list(first.untrained_classes),
            "untrained_conditions": list(first.untrained_conditions),
        },
        "seed": lab.seed,
        "scale": lab.scale,
        "seconds": lab.seconds,
        "captured_frames": sum(int(s["frames_seen"]) for s in facts.statuses.values()),
        "accuracy": {
            "before": overall["before"],
            "after": overall["after"],
            "n": overall["n"],
            "interval_before": overall["interval_before"],
            "interval_after": overall["interval_after"],
            "difference": overall["difference"],
            "by_class": _slices(summary, "class:"),
            "by_condition": _slices(summary, "condition:"),
            "on_vehicle": _on_vehicle(lab, first, facts),
        },
        "labels_used": facts.learnt.label.answered,
        "label_cost": facts.learnt.label.cost,
        "bytes": {
            "captured": sum(int(s["bytes"]["seen"]) for s in facts.statuses.values()),
            "accepted": sum(int(s["bytes"]["captured"]) for s in facts.statuses.values()),
            "uploaded": sum(int(s["bytes"]["uploaded"]) for s in facts.statuses.values()),
            "labelled": facts.learnt.label.payload_bytes,
        },
        "ledger": _ledger_sum(ledger.counts for ledger in facts.ledgers.values()),
        "lake": {
            "offsets": facts.offsets_in_log,
            "landed": outcomes["landed"],
            "resent": outcomes["resent"],
            "rejected": outcomes["rejected"],
            "rejected_by_reason": dict(sorted(Counter(rejected["reason"].to_pylist()).items())),
        },
        "dataset_version": {
            "id": facts.learnt.version.id,
            "digest": facts.learnt.version.digest,
            "rows": manifest["rows"],
            "splits": {name: split["rows"] for name, split in manifest["splits"].items()},
            "counts": {
                "read": counts["read"],
                "kept": counts["kept"],
                **{f"removed: {name}": n for name, n in counts["removed"].items()},
                "unlabelled": counts["unlabelled"],
                "quarantined": counts["quarantined"],
            },
        },
        "gate": {"passed": facts.learnt.gate["passed"], "reason": facts.learnt.gate["reason"]},
        "weakness": _weakness(prepared, first),
        "releases": [asdict(release) for release in facts.releases],
        "vehicles": [
            {
                "id": v,
                "model": facts.statuses[v]["model"]["name"],
                "model_digest": facts.statuses[v]["model"]["digest"],
                "swaps": facts.statuses[v]["swaps"],
                "rollbacks": facts.statuses[v]["rollbacks"],
                "frames_seen": facts.statuses[v]["frames_seen"],
                "resent": facts.statuses[v]["resent"],
                "ledger": facts.statuses[v]["ledger"],
            }
            for v in VEHICLES
        ],
        "model_history": [asdict(event) for event in facts.model_events],
        "malformed_models": facts.malformed,
        "faults": faults,
        "guarantees": [v.to_json() for v in verdicts],
        "not_exercised": [NOT_EXERCISED],
        "simulated": list(prepared.plan.simulated),
    }


def _slices(summary: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): {
            "n": found["n"],
            "before": found["before"],
            "after": found["after"],
            "interval": found["interval_after"],
            "interval_before": found["interval_before"],
        }
        for name, found in sorted(summary.items())
        if name.startswith(prefix)
    }


def _on_vehicle(lab: Lab, first: FirstModel, facts: Facts) -> list[dict[str, Any]]:
    """Return the accuracy per class of the vehicles' own predictions on the test drives, before and after."""
    truth = read_truth(lab)
    roads = {f.rsplit(".", 2)[0] for f in truth if ".second." in f}
    before_frames = {f for f in truth if ".first." in f and f.rsplit(".", 2)[0] in roads}
    after_frames = {f for f in truth if ".second." in f}
    before = on_vehicle_accuracy(lab, "first", before_frames, {first.digest})
    after = on_vehicle_accuracy(lab, "second", after_frames, {str(facts.learnt.package["model_digest"])})
    rows = []
    for name in sorted({*before, *after}):
        right_before, n_before = before.get(name, [0, 0])
        right_after, n_after = after.get(name, [0, 0])
        rows.append(
            {
                "name": name,
                "n_before": n_before,
                "before": right_before / n_before if n_before else None,
                "n_after": n_after,
                "after": right_after / n_after if n_after else None,
            }
        )
    return rows


def _ledger_sum(counts: Iterable[LedgerCounts]) -> dict[str, Any]:
    rows = [asdict(each) for each in counts]
    numbers = {key: sum(row[key] for row in rows) for key in ("accepted", "delivered", "pending", "in_doubt")}
    return numbers | {
        key: dict(sorted(sum((Counter(row[key]) for row in rows), Counter[str]()).items()))
        for key in ("evicted", "not_accepted")
    }


def _weakness(prepared: Prepared, first: FirstModel) -> str:
    classes = ", ".join(f"“{name}”" for name in first.untrained_classes)
    conditions = ", ".join(first.untrained_conditions)
    return (
        f"on {first.rows} images without a single {classes} and without anything {conditions}, although its contract "
        f"lists all {len(prepared.source.classes)} classes."
    )
