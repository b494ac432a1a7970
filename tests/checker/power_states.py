"""The verdict on a vehicle's models and on a dataset's versions after a power loss, from their files alone.

Pure but for reading the given folder. Imports nothing of the product.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection
from hashlib import md5, sha256
from pathlib import Path


def judge_slots(
    state: Path, *, serving: str, allowed: Collection[str], timestamp: int, is_finite: bool
) -> list[str]:
    """`serving` is what the vehicle says it serves after its start; `timestamp` is the version that it had taken in."""
    broken = []
    if serving not in allowed:
        broken.append(
            f"other_model: {serving[:12]} serves, allowed are {sorted(one[:12] for one in allowed)}"
        )
    slot = state / "models" / "slots" / f"{serving}.onnx"
    if not slot.is_file() or sha256(slot.read_bytes()).hexdigest() != serving:
        broken.append(f"slot_is_not_its_digest: {slot.name}")
    if not is_finite:
        broken.append("no_answer: the serving model gave none that is finite")
    found = timestamp_version(state)
    if found < timestamp:
        broken.append(f"rolled_back_trust: timestamp version {found}, {timestamp} had been taken in")
    return broken


def timestamp_version(state: Path) -> int:
    """The version of the saved timestamp; 0 when there is none, -1 when it cannot be read."""
    path = state / "trust" / "metadata" / "timestamp.json"
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_bytes())["signed"]["version"])
    except (ValueError, KeyError, TypeError):
        return -1


def judge_versions(fleet: Path, *, must: Collection[str], may: Collection[str]) -> list[str]:
    """Each version that `must` be there (and each that `may` and has its tag) is whole in git and in the remote.

    Git is asked by plumbing commands; what DVC keeps is read from its files, each named by the md5 of its bytes.
    """
    broken = []
    for name in [*must, *may]:
        tag = f"dataset/{name}"
        if _git(fleet, "rev-parse", "--verify", "--quiet", f"{tag}^{{commit}}") is None:
            if name in must:
                broken.append(f"tag_lost: {tag}")
            continue
        record = _git(fleet, "show", f"{tag}:registry/datasets/{name}.json")
        lock = _git(fleet, "show", f"{tag}:dvc.lock")
        if record is None or lock is None:
            broken.append(f"commit_torn: {tag} has no readable record or dvc.lock")
            continue
        try:
            stated = json.loads(record)["id"]
        except (ValueError, KeyError, TypeError):
            stated = None
        if stated != name:
            broken.append(f"record_torn: {tag}: {record[:80]!r}")
        outs = re.findall(rb"path: datasets/current\s+hash: md5\s+md5: ([0-9a-f]{32}\.dir)", lock)
        if not outs:
            broken.append(f"lock_torn: {tag}: {lock[:80]!r}")
        if name in must:
            for out in outs:
                broken += [f"{tag}: {one}" for one in _torn_objects(_remote(fleet), out.decode())]
    return broken


def _torn_objects(store: Path, directory: str) -> list[str]:
    listed, broken = _object(store, directory)
    if broken:
        return [broken]
    found = [_object(store, entry["md5"])[1] for entry in json.loads(listed)]
    return [one for one in found if one]


def _object(store: Path, name: str) -> tuple[bytes, str]:
    path = store / "files" / "md5" / name[:2] / name[2:]
    if not path.is_file():
        return b"", f"object_lost: {name}"
    data = path.read_bytes()
    if md5(data, usedforsecurity=False).hexdigest() != name.removesuffix(".dir"):
        return b"", f"object_torn: {name} ({len(data)} bytes)"
    return data, ""


def _remote(fleet: Path) -> Path:
    url = re.search(r"url = (.+)", (fleet / ".dvc" / "config").read_text())
    return (fleet / ".dvc" / url[1].strip()).resolve() if url else fleet


def _git(fleet: Path, *words: str) -> bytes | None:
    done = subprocess.run(["git", "-C", str(fleet), *words], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None
