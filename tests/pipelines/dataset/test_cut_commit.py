"""What a power loss tore in a commit is put in order by the next one, and what is whole is left alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from foundation import syscalls
from foundation.errors import MisconfiguredError
from foundation.files import read_json, write_json_atomic
from pipelines.dataset import cut_commit
from pipelines.dataset.dvc import DvcRepository
from services.init import make_workspace
from workspace.layout import Workspace

LOCK = "schema: '2.0'\nstages: {}\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = make_workspace(tmp_path / "fleet", classes=("red", "green"), with_keys=False)
    place.private_path.mkdir(exist_ok=True)
    (place.root / "dvc.lock").write_text(LOCK)
    return place


def marker(workspace: Workspace) -> Path:
    return workspace.private_path / "commit-under-way.json"


def put(store: Path, data: bytes, name: str = "") -> Path:
    """An object of DVC, under the name of its bytes unless told otherwise."""
    digest = name or hashlib.md5(data, usedforsecurity=False).hexdigest()
    path = store / "files" / "md5" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o444)
    return path


def another_boot(workspace: Workspace) -> None:
    document = read_json(marker(workspace))
    assert isinstance(document, dict)
    write_json_atomic(marker(workspace), document | {"boot": "another"})


def test_after_a_power_loss_torn_files_go_and_whole_ones_stay(workspace: Workspace, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    cache = workspace.root / ".dvc" / "cache"
    cut_commit.begin(workspace, remote)
    another_boot(workspace)
    (workspace.root / "dvc.lock").write_text("schema: '2.0'\nsta")
    whole = [
        put(cache, b"whole"),
        put(remote, b"whole"),
        put(cache, b"[]", hashlib.md5(b"[]", usedforsecurity=False).hexdigest() + ".dir"),
    ]
    torn = [put(cache, b"", "ab" * 16), put(remote, b"\0" * 9, "cd" * 16)]
    run = cache / "runs" / "aa" / "bb" / "cc"
    run.parent.mkdir(parents=True)
    run.write_bytes(b"cmd: \0\0")
    index = workspace.root / ".git" / "index.lock"
    index.parent.mkdir(exist_ok=True)
    index.touch()
    cut_commit.begin(workspace, remote)
    assert (workspace.root / "dvc.lock").read_text() == LOCK
    assert all(path.exists() for path in whole)
    assert not any(path.exists() for path in [*torn, run, index])


def test_a_listing_goes_with_the_object_that_it_names_so_that_both_are_pushed_again(
    workspace: Workspace, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    cut_commit.begin(workspace, remote)
    another_boot(workspace)
    put(remote, b"", "ab" * 16)

    def listing(name: str) -> Path:
        data = json.dumps([{"md5": name, "relpath": "a"}]).encode()
        return put(remote, data, hashlib.md5(data, usedforsecurity=False).hexdigest() + ".dir")

    of_torn, of_whole = listing("ab" * 16), listing("cd" * 16)
    cut_commit.begin(workspace, remote)
    assert not of_torn.exists()
    assert of_whole.exists()


def test_a_torn_index_of_git_is_made_again(workspace: Workspace) -> None:
    repository = DvcRepository(workspace)
    repository.commit_git("first", ["params.yaml"])
    listed = repository.git("ls-files")
    assert listed
    index = workspace.root / ".git" / "index"
    whole = index.read_bytes()
    for torn in (b"", bytes(len(whole)), whole[:-30] + bytes(30)):
        cut_commit.begin(workspace, None)
        another_boot(workspace)
        index.write_bytes(torn)
        cut_commit.begin(workspace, None)
        assert repository.git("ls-files") == listed


def test_after_a_kill_in_the_same_boot_a_lock_that_a_stage_wrote_since_is_kept(workspace: Workspace) -> None:
    cut_commit.begin(workspace, None)
    later = LOCK + "later: 1\n"
    (workspace.root / "dvc.lock").write_text(later)
    cut_commit.begin(workspace, None)
    assert (workspace.root / "dvc.lock").read_text() == later
    (workspace.root / "dvc.lock").write_text("")
    cut_commit.begin(workspace, None)
    assert (workspace.root / "dvc.lock").read_text() == later


def test_what_was_written_is_synced_before_the_marker_goes(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = cut_commit.begin(workspace, None)
    written = put(workspace.root / ".dvc" / "cache", b"new")
    index = workspace.root / ".git" / "index"
    index.parent.mkdir(exist_ok=True)
    index.write_bytes(b"as DVC wrote it")
    synced: list[str] = []
    real = syscalls.fsync

    def fsync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        assert marker(workspace).exists() or synced[-1] == str(workspace.private_path)
        real(fd)

    monkeypatch.setattr(syscalls, "fsync", fsync)
    under_way.end()
    assert not marker(workspace).exists()
    wanted = (written, written.parent, index, index.parent, workspace.root / "dvc.lock", workspace.root)
    assert {str(path) for path in wanted} <= set(synced)


def test_a_commit_that_was_refused_leaves_no_marker(workspace: Workspace) -> None:
    with pytest.raises(MisconfiguredError), cut_commit.begin(workspace, None):
        raise MisconfiguredError("a private key would be committed")
    assert not marker(workspace).exists()
