"""Build the agent's status, one JSON document, from the state folder, whether or not the agent runs.

`told_s` is the age of each process's facts; a process that is gone is reported as dead, whatever it published last.
There is no accuracy in it: a vehicle has no labels.
"""

from __future__ import annotations

import os
from pathlib import Path

from edge_agent.heartbeat import read_beat
from edge_agent.models.status import read_model_status
from edge_agent.spool.snapshot import read_ledger
from edge_agent.state_folder import StateFolder, read_status
from foundation.clock import Clock, SystemClock, boot_id
from foundation.errors import CorruptError, MisconfiguredError

SILENT_AFTER_S = 15.0
"""A running process without a heartbeat for longer is reported as silent."""


def build_status(root: Path, clock: Clock | None = None) -> dict[str, object]:
    """Return the status of the agent whose state folder is `root`.

    Raises:
        MisconfiguredError: there is no such folder.
        CorruptError, RetryLaterError: the ledger cannot be read.
    """
    state = StateFolder(root)
    if not root.is_dir():
        raise MisconfiguredError(f"{root} is not the state folder of a vehicle: it does not exist")
    supervisor, perceive, deliver = (
        read_status(state.status_path(name)) for name in ("supervisor", "perceive", "deliver")
    )
    now_ns = (clock or SystemClock()).monotonic_ns()
    processes = _processes(state, supervisor, now_ns)
    for name, told in (("perceive", perceive), ("deliver", deliver)):
        processes.setdefault(name, {"state": "down"})["told_s"] = _age_s(told, now_ns)
    if processes["perceive"]["state"] == "dead":
        perceive["state"] = "dead"
    if processes["deliver"]["state"] == "dead":
        last = deliver.get("broker")
        error = last.get("last_error", "") if isinstance(last, dict) else ""
        deliver["broker"] = {"connected": False, "state": "dead", "last_error": error}
    ledger = read_ledger(state.spool)
    export = ledger.to_json()
    return {
        "vehicle_id": read_status(root / "vehicle.json").get("vehicle_id"),
        "state": _state(supervisor),
        "epoch": ledger.epochs[-1].epoch if ledger.epochs else None,
        "frames_seen": perceive.get("frames_seen", 0),
        "source": perceive.get("state", "never_started"),
        "source_error": perceive.get("source_error", ""),
        "source_notes": perceive.get("source_notes", {}),
        "sources": perceive.get("sources", []),
        "windows": {name: perceive.get(name, 0) for name in ("shortened_windows", "late_triggers")},
        "prediction_log_lost_lines": perceive.get("prediction_log_lost_lines", 0),
        "spool_error": perceive.get("spool_error", ""),
        **_model(root),
        "ledger": {
            name: export[name]
            for name in (
                "accepted",
                "delivered",
                "pending",
                "in_doubt",
                "evicted",
                "not_accepted",
                "balances",
            )
        },
        "bytes": {
            "seen": ledger.bytes_captured + ledger.not_accepted_bytes,
            "captured": ledger.bytes_captured,
            "uploaded": ledger.bytes_uploaded,
        },
        "resent": ledger.resent,
        "broker": deliver.get("broker", {"connected": False, "state": "waiting", "last_error": ""}),
        "telemetry": deliver.get("telemetry", {}),
        "updates": deliver.get("models") or {},
        "notices": deliver.get("notices") or {},
        "placement": perceive.get("placement", {}),
        "health": perceive.get("health", {}),
        "other_roles": perceive.get("other_roles", {}),
        "processes": processes,
        "health_port": supervisor.get("health_port"),
    }


def _model(root: Path) -> dict[str, object]:
    try:
        models = read_model_status(root)
    except CorruptError as error:
        return {"model": None, "model_error": str(error), "swaps": 0, "rollbacks": 0}
    return {
        "model": {
            "name": models.name,
            "digest": models.digest,
            "release_id": models.release_id,
            "state": models.state.value,
        },
        "candidate_release_id": models.candidate_release_id,
        "refused_releases": dict(models.refused),
        "blocked_releases": dict(models.blocked),
        "swaps": models.swaps,
        "rollbacks": models.rollbacks,
    }


def _processes(
    state: StateFolder, supervisor: dict[str, object], now_ns: int
) -> dict[str, dict[str, object]]:
    """Return the supervisor's facts on each process, its current state, and the time since its last heartbeat."""
    children = supervisor.get("children")
    found: dict[str, dict[str, object]] = {}
    for name, child in children.items() if isinstance(children, dict) else ():
        if not isinstance(child, dict):
            continue
        pid, beat, silent_s = child.get("pid"), read_beat(state.beat_path(name)), None
        if child.get("done"):
            word = "done"
        elif not isinstance(pid, int):
            word = "down"
        elif not is_alive(pid):
            word = "dead"
        elif beat is None or beat.pid != pid:
            word = "starting"
        else:
            silent_s = round((now_ns - beat.monotonic_ns) / 1e9, 1)
            word = "running" if 0 <= silent_s <= SILENT_AFTER_S else "silent"
        found[name] = {**child, "state": word, "silent_s": silent_s}
    return found


def _age_s(told: dict[str, object], now_ns: int) -> float | None:
    """Return the age of a process's status file; None without one, or when it is from before the machine started."""
    heartbeat_ns = told.get("heartbeat_ns")
    if not isinstance(heartbeat_ns, int) or told.get("boot_id") != boot_id():
        return None
    return round((now_ns - heartbeat_ns) / 1e9, 1)


def _state(supervisor: dict[str, object]) -> str:
    """Return running, stopping, stopped, finished or failed as published; dead when the supervisor is gone."""
    word, pid = str(supervisor.get("state", "never_started")), supervisor.get("pid")
    if word not in ("running", "stopping") or not isinstance(pid, int):
        return word
    return word if is_alive(pid) else "dead"


def is_alive(pid: int) -> bool:
    """Return whether a process of that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
