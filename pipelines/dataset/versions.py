"""A dataset version is committed once, by one writer, and never changes: late data makes the next one.

A version is a git tag `dataset/vN` on a commit that holds lake.lock, params.yaml, dvc.lock and
`registry/datasets/vN.json` (the manifest with the version's id, parent and message), with the files
themselves in DVC's cache and remote. What later stages made of it is recorded by committing again, behind the
tag. The order of a commit: pin the lake's versions, record the outputs in DVC, write the record, commit to
git, tag, push. A commit that died in between is finished by running it again: every step is done only if it
is not, and what a power loss tore is put in order first (`cut_commit.py`). When the dataset was replaced before that,
the new one takes the number of the one that got no tag. While a commit runs nobody replaces the dataset or lake.lock
(`exclusive.py`). It refuses a dataset that is not what its manifest says, or that was made from another lake.lock or
other parameters.
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
    """One committed dataset version. `parent` is the id of the one before, "" for the first."""

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
    """All versions, the first one first. Raises CorruptError naming a record that cannot be read."""
    return sorted(_records(workspace), key=lambda version: version.number)


def find_version(workspace: Workspace, version_id: str) -> Version:
    """The version of that id ("latest" is the last one). Raises MisconfiguredError with the known ones."""
    versions = list_versions(workspace)
    if version_id == "latest" and versions:
        return versions[-1]
    for version in versions:
        if version.id == version_id:
            return version
    known = ", ".join(version.id for version in versions) or "none yet"
    raise MisconfiguredError(f"there is no dataset version {version_id!r}; known: {known}")


def commit_version(workspace: Workspace, message: str, *, push: bool = True) -> tuple[Version, bool]:
    """Commit datasets/current as the next version; the version, and whether it is a new one.

    The same digest as the newest version is that version: nothing new is made, an unfinished commit is
    finished. Either way all that the stages have made until now is recorded with it (see `record`): called
    again after training, it pushes the model and commits the reports.

    Raises:
        MisconfiguredError: there is no dataset, or it was made from another lake.lock or other parameters; a
            private key would be committed.
        GuaranteeBrokenError: the shards do not have the manifest's digest; or the split parameters differ
        from those of an
            earlier version, which would move drives between splits.
        RetryLaterError: another writer holds the lock, or is replacing the dataset or lake.lock.
    """
    repository = DvcRepository(workspace)
    with repository.writing(), ExitStack() as unchanged:
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
            under_way.make_durable()  # what the tag will stand for
            _commit_and_tag(repository, version, message)
            reached("dataset.tag")
            unchanged.close()  # what is pushed comes from git and DVC's cache
            if push:
                record.push(repository)
            under_way.end()
            reached("dataset.push")
    return version, is_new


def checkout_version(workspace: Workspace, version_id: str, into: Path) -> Path:
    """Fetch the files of a version into the folder `into` (made anew); the workspace itself does not change.

    It takes its name only when all of it is there: of a fetch that fails nothing stays, and a folder of that name does.

    Raises:
        CommandFailedError: the remote does not have all of it.
        GuaranteeBrokenError: what came has another digest than the version.
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
    """The files of a version into `into`, whole. Raises as `checkout_version`."""
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
            f"version {version.id} has digest {version.digest}, its files have {found}"
        )


def _records(workspace: Workspace) -> Iterator[Version]:
    folder = workspace.dataset_versions_path
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _NAME.fullmatch(path.name):
            continue
        version = read_document(path, RECORD)
        MANIFEST.of(version.manifest, family=partial(CorruptError, path=path))
        if f"{version.id}.json" != path.name:
            raise CorruptError(f"is the record of {version.id}", path=path)
        yield version


def _checked_manifest(workspace: Workspace) -> dict[str, Any]:
    folder = workspace.dataset_path
    if not (folder / "manifest.json").is_file():
        raise MisconfiguredError(f"there is no dataset at {folder}; run `fleetloop curate` first")
    manifest = read_manifest(folder)
    found = dataset_digest(folder)
    if found != manifest["digest"]:
        raise GuaranteeBrokenError(
            f"the shards in {folder} have digest {found}, their manifest says {manifest['digest']}"
        )
    made_from = manifest["made_from"]
    lock = lock_json(read_lake_lock(workspace.lake_lock_path))
    if lock_json(parse_lake_lock(made_from["lake"], folder / "manifest.json")) != lock:
        raise MisconfiguredError(f"{folder} was made from another lake.lock; run `fleetloop curate`")
    if made_from["parameters"] != load_params(workspace.params_path).as_json():
        raise MisconfiguredError(f"{folder} was made with other parameters; run `fleetloop curate`")
    return manifest


def _check_split(newest: Version, manifest: dict[str, Any]) -> None:
    before = newest.manifest["made_from"]["parameters"]["split"]
    now = manifest["made_from"]["parameters"]["split"]
    if before != now:
        raise GuaranteeBrokenError(
            f"split is {now}, version {newest.id} has {before}: drives would move between splits, "
            "and a drive is in one split for ever; put the parameters back or begin a new workspace"
        )


def _newest(repository: DvcRepository, manifest: dict[str, Any]) -> Version | None:
    """The last version. One whose commit was cut before its tag, and whose dataset is gone, never was one."""
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
