"""A workspace is known by its fleetloop.toml, and every path follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.workspace import Workspace
from foundation.errors import MisconfiguredError


def test_every_path_is_inside_except_the_private_keys(tmp_path: Path) -> None:
    root = tmp_path / "fleet"
    root.mkdir()
    (root / "fleetloop.toml").write_text("")
    workspace = Workspace.open(root)
    names = [name for name in dir(Workspace) if name.endswith("_path") and name != "keys_path"]
    assert len(names) > 10
    for name in names:
        assert getattr(workspace, name).is_relative_to(root)
    assert workspace.keys_path == tmp_path / "fleet.keys"
    assert workspace.arrivals_uri == str(root / "lake" / "arrivals")


def test_lake_and_keys_may_be_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "fleetloop.toml").write_text('lake = "/data/lake"\nkeys = "../vault"\n')
    workspace = Workspace.open(tmp_path)
    assert workspace.lake_path == Path("/data/lake")
    assert workspace.keys_path == tmp_path / ".." / "vault"


def test_a_folder_that_is_no_workspace_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="fleetloop init"):
        Workspace.open(tmp_path)


def test_an_unknown_key_is_refused_by_name_and_file(tmp_path: Path) -> None:
    (tmp_path / "fleetloop.toml").write_text('lakee = "x"\n')
    with pytest.raises(MisconfiguredError, match=r"fleetloop\.toml: lakee"):
        Workspace.open(tmp_path)
