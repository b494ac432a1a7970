"""What a foreign client of The Update Framework (python-tuf's own) gets from the files of a repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

BASE = "http://repository.invalid"
INDEXES = {"models/index.json": "releases", "rollouts/index.json": "plans"}


class _Files(FetcherInterface):  # type: ignore[misc]
    """Serves a folder as a static web server would."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._root / unquote(urlparse(url).path).lstrip("/")
        try:
            yield path.read_bytes()
        except OSError as error:
            raise DownloadHTTPError(f"{url}: {error.strerror}", 404) from error


def read_targets(repository: Path, client: Path, trusted_root: bytes) -> dict[str, str]:
    """Name to sha256 of both indexes and of every target that they name, refreshed and downloaded by the client.

    `client` keeps its trusted metadata from call to call, as a vehicle's folder does. Raises what the client raises.
    """
    for name in ("metadata", "targets"):
        (client / name).mkdir(parents=True, exist_ok=True)
    updater = Updater(
        metadata_dir=str(client / "metadata"),
        metadata_base_url=f"{BASE}/metadata/",
        target_dir=str(client / "targets"),
        target_base_url=f"{BASE}/targets/",
        fetcher=_Files(repository),
        bootstrap=trusted_root,
    )
    updater.refresh()
    found: dict[str, str] = {}
    for index, key in INDEXES.items():
        data = _download(updater, index)
        if data is None:
            continue
        found[index] = hashlib.sha256(data).hexdigest()
        for row in json.loads(data)[key]:
            if "model_target" not in row:
                continue
            wanted = {f"models/{file['sha256']}.bin": file["sha256"] for file in row.get("files", ())}
            for name, digest in (wanted or {row["model_target"]: row["model_digest"]}).items():
                target = _download(updater, name)
                if target is None:
                    raise ValueError(f"{index} names {name}, which no role lists")
                found[name] = hashlib.sha256(target).hexdigest()
                if found[name] != digest:
                    raise ValueError(f"{name} is not the file that {index} says")
    return found


def read_index(repository: Path, client: Path, trusted_root: bytes, index: str) -> list[dict[str, object]]:
    """The rows of one index, as `read_targets` gets it. Call that first: it refreshes."""
    read_targets(repository, client, trusted_root)
    for path in (client / "targets").glob("*"):
        if unquote(path.name) == index:
            return list(json.loads(path.read_text())[INDEXES[index]])
    return []


def _download(updater: Updater, name: str) -> bytes | None:
    info = updater.get_targetinfo(name)
    return None if info is None else Path(updater.download_target(info)).read_bytes()
