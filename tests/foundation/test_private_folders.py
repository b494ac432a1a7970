"""Another account of the machine reads nothing and holds no lock, whatever modes a folder had before."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.state_folder import StateFolder
from foundation import private
from foundation.errors import MisconfiguredError
from foundation.files import FileLock
from foundation.private import Closed, close_to_others, close_tree_to_others, make_private
from workspace.layout import PRIVATE_FOLDERS, Workspace

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def as_another_account(attempt: Callable[[], object]) -> str:
    """What `attempt` raised in a process of another account; only root can find out."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            attempt()
            os.write(writer, b"done")
        except OSError as error:
            os.write(writer, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    told = os.read(reader, 100).decode()
    os.close(reader)
    return told


@pytest.mark.parametrize("before", [0o755, 0o775, 0o750, 0o777, 0o701])
def test_a_folder_that_was_open_is_closed_and_what_is_in_it_too(tmp_path: Path, before: int) -> None:
    folder = tmp_path / "state"
    (folder / "spool").mkdir(parents=True)
    picture = folder / "spool" / "000.segment"
    picture.write_bytes(b"picture")
    picture.chmod(0o644)
    for each in (folder / "spool", folder):
        each.chmod(before)
    make_private(folder)
    assert mode(folder) == 0o700
    close_tree_to_others(folder)
    assert (mode(folder / "spool"), mode(picture)) == (0o700, 0o600)
    assert close_tree_to_others(folder) == Closed()


def test_what_the_system_refuses_to_close_is_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses, other = tmp_path / "refuses", tmp_path / "other"
    for path in (refuses, other):
        path.write_bytes(b"")
        path.chmod(0o644)
    real = Path.chmod

    def chmod(path: Path, mode: int) -> None:
        if path.name == "refuses":
            raise PermissionError(1, "Operation not permitted", str(path))
        real(path, mode)

    monkeypatch.setattr(Path, "chmod", chmod)
    assert close_tree_to_others(tmp_path) == Closed(1, 1, f"{refuses}: Operation not permitted")
    assert mode(other) == 0o600


def test_an_open_file_of_another_account_is_counted_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0o644)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert close_tree_to_others(tmp_path) == Closed(
        0, 1, f"{tmp_path / 'file'}: of account {mine}, mode 0644"
    )
    assert mode(tmp_path / "file") == 0o644


def test_a_file_system_that_forgets_modes_is_counted_not_called_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "file").chmod(0o644)
    monkeypatch.setattr(Path, "chmod", lambda _path, _mode: None)
    assert close_tree_to_others(tmp_path) == Closed(
        0, 1, f"{tmp_path / 'file'}: the file system keeps no modes"
    )


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    outside = tmp_path / "outside" / "file"
    outside.write_bytes(b"")
    for each, what in ((outside, 0o644), (outside.parent, 0o755)):
        each.chmod(what)
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    close_tree_to_others(folder)
    close_to_others(folder / "folder")
    assert (mode(outside), mode(outside.parent)) == (0o644, 0o755)


def test_a_file_system_that_keeps_no_modes_is_refused_with_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(MisconfiguredError, match=rf"mode 0755.*chmod 700 {tmp_path}"):
        close_to_others(tmp_path)


def test_the_state_folder_of_a_vehicle_is_closed_where_it_existed_before(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "car")
    state.spool.mkdir(parents=True)
    for each in (state.root, state.spool):
        each.chmod(0o755)
    state.make()
    assert {mode(each) for each in (state.root, state.spool, state.models, state.trust, state.run)} == {0o700}


def test_a_workspace_that_was_open_is_closed_at_the_next_command_and_a_passage_for_a_web_server_stays(
    tmp_path: Path,
) -> None:
    root = tmp_path / "ws"
    for name in ("lake/arrivals", "registry/tuf/metadata", *PRIVATE_FOLDERS):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "fleetloop.toml").write_text('name = "fleet"\n')
    for each in (root, *(path for path in root.rglob("*") if path.is_dir())):
        each.chmod(0o755)
    Workspace.open(root)
    assert mode(root) == 0o700
    assert {mode(root / name) for name in ("lake", *PRIVATE_FOLDERS)} == {0o700}
    assert mode(root / "registry" / "tuf") == 0o755
    root.chmod(0o711)
    (root / "lake").chmod(0o711)
    Workspace.open(root)
    assert (mode(root), mode(root / "lake")) == (0o711, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")
@pytest.mark.parametrize("before", [None, 0o644, 0o666])
def test_another_account_cannot_hold_a_lock_that_it_can_see(tmp_path: Path, before: int | None) -> None:
    for folder in (tmp_path, *tmp_path.parents[: len(tmp_path.parents) - 2]):
        folder.chmod(0o755)
    lock = tmp_path / "writer.lock"
    if before is not None:
        lock.write_bytes(b"")
        lock.chmod(before)
    with FileLock(lock):
        pass

    def hold() -> None:
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)

    assert as_another_account(hold) == "PermissionError"
    assert mode(lock) == 0o600


def test_a_daemon_makes_nothing_for_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        private.private_umask()
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "folder").mkdir()
    finally:
        os.umask(before)
    assert (mode(tmp_path / "file"), mode(tmp_path / "folder")) == (0o600, 0o700)
