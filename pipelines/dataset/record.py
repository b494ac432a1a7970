"""Which parts of a workspace git and DVC keep, so that a clone and `dvc pull` restore it.

git       settings, parameters, locks, reports, registry (public keys, manifests, signed metadata, serving model)
DVC       outputs in dvc.lock (datasets/current, models/candidate, models/package) and registry/models
neither   the lake (its versions are in lake.lock), caches, private keys

A file that holds a private key is never committed, and recording fewer registered models than before is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from foundation.errors import CorruptError, MisconfiguredError
from pipelines.dataset.dvc import REMOTE_NAME, DvcRepository
from workspace.layout import CONFIG_NAME, Workspace

PATHS = (
    CONFIG_NAME,
    ".gitignore",
    ".dvcignore",
    ".dvc/.gitignore",
    ".dvc/config",
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    "launch",
    "lake.lock",
    "datasets/.gitignore",
    "models/.gitignore",
    "models/candidate/.gitignore",
    "registry",
    "reports",
)
MODELS = "registry/models"
WRITTEN = (
    "dvc.lock",
    "lake.lock",
    "datasets/.gitignore",
    "models/.gitignore",
    "models/candidate/.gitignore",
    "registry",
    "reports",
)
"""Paths that FleetLoop's own commands write; the other paths are the user's to change and commit."""
MODELS_FILE = "registry/models.dvc"
_LOCK_FILES = ":(exclude,glob)**/.*.lock"


def record_models(repository: DvcRepository) -> None:
    """Add the registered models to DVC, unless the user keeps them in git.

    Raises:
        MisconfiguredError: there are fewer files than recorded, as in a clone without `dvc pull`.
    """
    workspace = repository.workspace
    present = [path for path in workspace.models_path.rglob("*") if path.is_file()]
    if not present or repository.git("ls-files", "--", MODELS).strip():
        return
    recorded = _recorded_files(workspace.root / MODELS_FILE)
    if len(present) < recorded:
        raise MisconfiguredError(
            f"{workspace.models_path} has {len(present)} files, but {MODELS_FILE} records {recorded}: get the rest"
            f" with `dvc pull {MODELS_FILE}`, or confirm their removal with `dvc add {MODELS}`"
        )
    repository.dvc("add", "--quiet", MODELS)


def commit_files(repository: DvcRepository, message: str) -> None:
    """Commit all changes in the git part of the workspace. See `DvcRepository.commit_git`."""
    workspace = repository.workspace
    repository.commit_git(message, PATHS, [*_outside_git(workspace), _LOCK_FILES])


def commit_written(repository: DvcRepository, message: str, also: Sequence[str] = ()) -> None:
    """Commit what FleetLoop's commands wrote, of the files that a user edits only `also`. See `DvcRepository.commit_git`."""
    exclude = [*_outside_git(repository.workspace), _LOCK_FILES, f":(exclude){MODELS}"]
    repository.commit_git(message, [*WRITTEN, *also], exclude)


def push(repository: DvcRepository) -> None:
    """Push the outputs in the committed dvc.lock and the registered models to the DVC remote."""
    targets = [*_locked_stages(repository.workspace)]
    if (repository.workspace.root / MODELS_FILE).is_file():
        targets.append(MODELS_FILE)
    repository.dvc("push", "--remote", REMOTE_NAME, *targets)


def stage_states(repository: DvcRepository) -> dict[str, str]:
    """Return the state of each stage: "recorded", "not run", or the difference from dvc.lock, such as "changed outs: ..."."""
    workspace = repository.workspace
    locked = _locked_stages(workspace)
    found = repository.dvc_status()
    states = {}
    for name in _mapping(workspace.root / "dvc.yaml", "stages"):
        if name not in locked:
            states[name] = "not run"
        else:
            states[name] = "; ".join(_words(found.get(name, []))) or "recorded"
    return states


def _words(entries: list[Any]) -> list[str]:
    words = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            words.append(str(entry))
            continue
        for kind, places in entry.items():
            words.append(f"{kind}: {', '.join(sorted(places))}" if isinstance(places, Mapping) else str(kind))
    return words


def _locked_stages(workspace: Workspace) -> list[str]:
    """Return the stages whose outputs are in dvc.lock, in the order of dvc.yaml."""
    locked = _mapping(workspace.root / "dvc.lock", "stages")
    return [name for name in _mapping(workspace.root / "dvc.yaml", "stages") if name in locked]


def _recorded_files(path: Path) -> int:
    if not path.is_file():
        return 0
    outs = _yaml(path).get("outs")
    if not isinstance(outs, list) or not outs or not isinstance(outs[0], Mapping):
        raise CorruptError("names no outs", path=path)
    return int(outs[0].get("nfiles", 0))


def _mapping(path: Path, key: str) -> Mapping[str, Any]:
    value = _yaml(path).get(key) if path.is_file() else None
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorruptError(f"is not YAML: {error}", path=path) from error
    if not isinstance(document, Mapping):
        raise CorruptError(f"holds {type(document).__name__}, expected a mapping", path=path)
    return document


def _outside_git(workspace: Workspace) -> list[str]:
    """Return the folders of keys and lake as git exclusions, if fleetloop.toml puts them inside the workspace."""
    found = []
    for folder in (workspace.keys_path, workspace.lake_path):
        place, root = folder.resolve(), workspace.root.resolve()
        if place.is_relative_to(root) and place != root:
            found.append(f":(exclude){place.relative_to(root).as_posix()}")
    return found
