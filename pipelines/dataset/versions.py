"""Commit dataset versions, which never change afterwards: late data makes the next version.

A version is a git tag `dataset/vN` on a commit that holds lake.lock, params.yaml, dvc.lock and
`registry/datasets/vN.json` (the manifest with the version's id, parent and message); its files are in DVC's cache and
remote. Outputs of later stages are recorded by committing again, after the tag. A commit has these steps: pin the lake
versions, record the outputs in DVC, write the record, commit to git, tag, push. Running an interrupted commit again
finishes it: completed steps are skipped, and damage from a power loss is repaired first (`cut_commit.py`). If the dataset
was replaced before that, the new one takes the number of the untagged version. During a commit the dataset and lake.lock
cannot be replaced (`exclusive.py`). A dataset that differs from its manifest, or that was built from another lake.lock or
other parameters, is refused.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from connectors.lake.lock import lock_json, parse_lake_lock, read_lake_lock
from connectors.lake.retention import pin
from foundation.documents import DocumentType, Meta
from foundation.errors import CorruptError, GuaranteeBrokenError, MisconfiguredError
from foundation.files import read_document, write_document
from foundation.full_disk import naming_the_disk
from pipelines.curate.params import load_params
from pipelines.dataset import cut_commit, record
from pipelines.dataset.dvc import REMOTE_NAME, DvcRepository
from pipelines.dataset.exclusive import dataset_lock
from pipelines.dataset.manifest import MANIFEST, dataset_digest, read_manifest
from pipelines.steps import reached
from workspace.layout import Workspace

_NAME = re.compile(r"v(\d+)\.json")
TAG_PREFIX = "dataset/"


@dataclass(frozen=True, slots=True)
class Version:
    """A committed dataset version. `parent` is the id of the previous version, or "" for the first."""

    id: Annotated[str, Meta(pattern=r"^v[0-9]+$(?!\n)")]
    digest: str
    parent: str
    message: str
    manifest: dict[str, Any]

    @property
    def number(self) -> int:
        """The N of vN."""
        return int(self.id[1:])


RECORD: Final = DocumentType.first("dataset version", Version)


def list_versions(workspace: Workspace) -> list[Version]:
    """Return all versions, oldest first. Raises CorruptError, which names a record that cannot be read."""
    return sorted(_records(workspace), key=lambda version: version.number)


def find_version(workspace: Workspace, version_id: str) -> Version:
    """Return a version by id, or the newest for "latest". Raises MisconfiguredError, which lists the known ids."""
    versions = list_versions(workspace)
    if version_id == "latest" and versions:
        return versions[-1]
    for version in versions:
        if version.id == version_id:
            return version
    known = ", ".join(version.id for version in versions) or "none yet"
    raise MisconfiguredError(f"there is no dataset version {version_id!r}; known: {known}")


def commit_version(workspace: Workspace, message: str, *, push: bool = True) -> tuple[Version, bool]:
    """Commit datasets/current as the next version; return the version and whether it is new.

    If the digest equals that of the newest version, no version is created and an unfinished commit is finished. In both
    cases all present outputs of the stages are recorded (see `record`): called again after training, it pushes the model
    and commits the reports.

    Raises:
        MisconfiguredError: there is no dataset, it was built from another lake.lock or other parameters, or a private
            key would be committed.
        GuaranteeBrokenError: the shards do not have the manifest's digest, or the split parameters differ from those of
            an earlier version, which would move drives between splits.
        RetryLaterError: another writer holds the lock, or is replacing the dataset or lake.lock.
    """
    repository = DvcRepository(workspace)
    with naming_the_disk(workspace.root), repository.writing(), ExitStack() as unchanged:
        unchanged.enter_context(dataset_lock(workspace))
        manifest = _checked_manifest(workspace)
        newest = _newest(repository, manifest)
        if newest is not None:
            _check_split(newest, manifest)
        is_new = newest is None or newest.digest != manifest["digest"]
        version = _next(newest, manifest, message) if is_new or newest is None else newest
        pin(workspace.lake_path, version.id, read_lake_lock(workspace.lake_lock_path))
        with cut_commit.begin(workspace, repository.remote_folder()) as under_way:
            reached("dataset.pin")
            repository.dvc("commit", "--force", "curate")
            record.record_models(repository)
            reached("dataset.dvc")
            if is_new:
                workspace.dataset_versions_path.mkdir(parents=True, exist_ok=True)
                write_document(workspace.dataset_versions_path / f"{version.id}.json", RECORD, version)
            reached("dataset.record")
            under_way.make_durable()  # everything that the tag refers to
            _commit_and_tag(repository, version, message)
            reached("dataset.tag")
            unchanged.close()  # the push reads from git and DVC's cache only
            if push:
                record.push(repository)
            under_way.end()
            reached("dataset.push")
    return version, is_new


def checkout_version(workspace: Workspace, version_id: str, into: Path) -> Path:
    """Fetch the files of a version into the folder `into`, which is replaced; the workspace does not change.

    The folder is replaced only after a complete fetch; a failed fetch leaves nothing behind.

    Raises:
        CommandFailedError: the remote does not have all files.
        GuaranteeBrokenError: the files have another digest than the version.
    """
    version = find_version(workspace, version_id)
    into = into.resolve()  # DVC runs in the workspace, the caller anywhere
    repository = DvcRepository(workspace)
    partial = into.with_name(f".{into.name}.partial")
    old = into.with_name(f".{into.name}.old")
    try:
        _fetch(repository, version, partial)
        shutil.rmtree(old, ignore_errors=True)
        if into.exists():
            into.rename(old)
        partial.rename(into)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return into


def _fetch(repository: DvcRepository, version: Version, into: Path) -> None:
    """Fetch the files of a version into `into` and verify them. Raises as `checkout_version`."""
    with repository.writing():
        repository.dvc(
            "get",
            str(repository.workspace.root),
            "datasets/current",
            "--rev",
            f"{TAG_PREFIX}{version.id}",
            "--out",
            str(into),
            "--remote",
            REMOTE_NAME,
            "--force",
        )
    found = dataset_digest(into)
    if found != version.digest:
        raise GuaranteeBrokenError(
            f"the files of version {version.id} have digest {found}; it must be {version.digest}"
        )


def _records(workspace: Workspace) -> Iterator[Version]:
    folder = workspace.dataset_versions_path
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _NAME.fullmatch(path.name):
            continue
        version = read_document(path, RECORD)
        MANIFEST.of(version.manifest, family=partial(CorruptError, path=path))
        if f"{version.id}.json" != path.name:
            raise CorruptError(f"holds the record of {version.id}", path=path)
        yield version


def _checked_manifest(workspace: Workspace) -> dict[str, Any]:
    folder = workspace.dataset_path
    if not (folder / "manifest.json").is_file():
        raise MisconfiguredError(f"there is no dataset at {folder}; run `fleetloop curate` first")
    manifest = read_manifest(folder)
    found = dataset_digest(folder)
    if found != manifest["digest"]:
        raise GuaranteeBrokenError(
            f"the shards in {folder} have digest {found}; by their manifest it must be {manifest['digest']}"
        )
    made_from = manifest["made_from"]
    lock = lock_json(read_lake_lock(workspace.lake_lock_path))
    if lock_json(parse_lake_lock(made_from["lake"], folder / "manifest.json")) != lock:
        raise MisconfiguredError(f"{folder} was built from another lake.lock; run `fleetloop curate`")
    if made_from["parameters"] != load_params(workspace.params_path).as_json():
        raise MisconfiguredError(f"{folder} was built with other parameters; run `fleetloop curate`")
    return manifest


def _check_split(newest: Version, manifest: dict[str, Any]) -> None:
    before = newest.manifest["made_from"]["parameters"]["split"]
    now = manifest["made_from"]["parameters"]["split"]
    if before != now:
        raise GuaranteeBrokenError(
            f"split is {now}; it must be {before} as in version {newest.id}, because drives never move between splits: "
            "restore the parameters or begin a new workspace"
        )


def _newest(repository: DvcRepository, manifest: dict[str, Any]) -> Version | None:
    """Return the newest version, ignoring one whose commit was interrupted before its tag and whose dataset is gone."""
    versions = list_versions(repository.workspace)
    newest = versions[-1] if versions else None
    if (
        cut_commit.was_cut(repository.workspace)
        and newest is not None
        and newest.digest != manifest["digest"]
        and not _has_tag(repository, newest)
    ):
        versions.pop()
    return versions[-1] if versions else None


def _has_tag(repository: DvcRepository, version: Version) -> bool:
    return bool(repository.git("tag", "--list", f"{TAG_PREFIX}{version.id}").strip())


def _next(newest: Version | None, manifest: dict[str, Any], message: str) -> Version:
    number = 1 if newest is None else newest.number + 1
    return Version(f"v{number}", manifest["digest"], "" if newest is None else newest.id, message, manifest)


def _commit_and_tag(repository: DvcRepository, version: Version, message: str) -> None:
    if _has_tag(repository, version):
        record.commit_files(repository, f"After dataset {version.id}: {message}")
        return
    record.commit_files(repository, f"Dataset {version.id}: {version.message}")
    repository.tag(f"{TAG_PREFIX}{version.id}", f"digest {version.digest}")
