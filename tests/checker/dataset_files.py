"""A dataset on disk as a state: one digest of its rows, and what is torn about it. Reads parquet and JSON only."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml


def shard_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of every shard."""
    return [
        row
        for path in sorted((folder / "shards").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def rows_digest(folder: Path) -> str:
    """One digest of the rows of all shards, whatever their order and files."""
    digest = hashlib.sha256()
    for text in sorted(repr(sorted(row.items())) for row in shard_rows(folder)):
        digest.update(text.encode())
    return digest.hexdigest()


def torn(folder: Path) -> list[str]:
    """What shows that this folder is no whole dataset: its shards are not those that its manifest lists."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        return [f"no readable manifest: {error}"]
    found = []
    listed = {each["name"]: (each["rows"], each["size_bytes"]) for each in manifest["shards"]}
    present = {}
    for path in sorted((folder / "shards").glob("*")):
        try:
            present[path.name] = (pq.ParquetFile(path).metadata.num_rows, path.stat().st_size)
        except (OSError, ValueError) as error:
            found.append(f"{path.name} cannot be read: {error}")
    if listed != present:
        found.append(f"the manifest lists {listed}, there are {present}")
    if sum(rows for rows, _ in present.values()) != manifest["rows"]:
        found.append(f"the manifest says {manifest['rows']} rows, the shards have {present}")
    for name in ("removed.parquet", "quarantine.parquet", "card.md"):
        if not (folder / name).is_file():
            found.append(f"{name} is missing")
    return found


def git(root: Path, *arguments: str) -> str:
    """What git says. Raises CalledProcessError."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def committed_version(root: Path, version: str, remote: Path, into: Path) -> list[str]:
    """What is torn about a committed version; its files, as git's tag and DVC's remote give them, go to `into`.

    1. the tag `dataset/<version>` is there and holds the record of the version
    2. dvc.lock at the tag names the folder of the dataset by its md5
    3. the remote has that folder's list, and every file in it with the md5 that is listed
    4. the manifest there has the digest of the record
    5. lake.lock at the tag, and the one that dvc.lock names, is the one that the manifest says it was made from
    """
    tag = f"dataset/{version}"
    try:
        record = json.loads(git(root, "show", f"{tag}:registry/datasets/{version}.json"))
        lock = yaml.safe_load(git(root, "show", f"{tag}:dvc.lock"))
        lake = git(root, "show", f"{tag}:lake.lock")
    except (subprocess.CalledProcessError, ValueError, yaml.YAMLError) as error:
        return [f"{tag}: {getattr(error, 'stderr', error)}"]
    outs = [out for out in lock["stages"]["curate"]["outs"] if out["path"] == "datasets/current"]
    if len(outs) != 1:
        return [f"{tag}: dvc.lock names {len(outs)} outputs datasets/current"]
    listing = _object(remote, outs[0]["md5"])
    if not listing.is_file():
        return [f"{tag}: the remote has no {outs[0]['md5']}"]
    found = []
    for entry in json.loads(listing.read_text()):
        held = _object(remote, entry["md5"])
        if not held.is_file():
            found.append(f"{tag}: the remote has no {entry['relpath']}")
            continue
        data = held.read_bytes()
        if _md5(data) != entry["md5"]:
            found.append(f"{tag}: {entry['relpath']} is not what its md5 says")
        place = into / entry["relpath"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    if found:
        return found
    found = torn(into)
    manifest = json.loads((into / "manifest.json").read_text())
    if manifest["digest"] != record["digest"] or manifest != record["manifest"]:
        found.append(f"{tag}: the record says {record['digest']}, the files {manifest['digest']}")
    named = {dep["path"]: dep["md5"] for dep in lock["stages"]["curate"]["deps"]}.get("lake.lock")
    if json.loads(lake) != record["manifest"]["made_from"]["lake"] or named != _md5(lake.encode()):
        found.append(f"{tag}: lake.lock is not the one that the dataset was made from")
    return found


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _object(remote: Path, md5: str) -> Path:
    return remote / "files" / "md5" / md5[:2] / md5[2:]
