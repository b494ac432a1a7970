"""A workspace is known by its fleetloop.toml, and every path follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.errors import MisconfiguredError
from workspace.layout import Workspace


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


def test_the_nearest_bootstrap_wins_and_the_table_kafka_says_the_rest(tmp_path: Path) -> None:
    def opened(text: str) -> Workspace:
        (tmp_path / "fleetloop.toml").write_text(text)
        return Workspace.open(tmp_path)

    assert opened("").kafka().bootstrap == "127.0.0.1:9092"
    assert opened('bootstrap = "b:1"\n').kafka().bootstrap == "b:1"
    place = opened(
        'bootstrap = "b:1"\n[kafka]\nbootstrap = "k:1"\nsecurity_protocol = "SSL"\ntls_ca_path = "ca.pem"\n'
    )
    assert (place.bootstrap, place.kafka().bootstrap, place.kafka("o:1").bootstrap) == ("k:1", "k:1", "o:1")
    assert place.kafka("o:1").tls_ca_path == tmp_path / "ca.pem", "only the address is replaced"
    assert place.kafka(client_id="mine").client_id == "mine"
    assert opened('[kafka]\nclient_id = "theirs"\n').kafka(client_id="mine").client_id == "theirs"


def test_a_secret_is_never_read_from_the_file_and_only_asked_for_by_what_needs_the_broker(
    tmp_path: Path,
) -> None:
    config = tmp_path / "fleetloop.toml"
    config.write_text('[kafka]\nsasl_password = "hunter2"\n')
    with pytest.raises(MisconfiguredError, match="FLEETLOOP_KAFKA_SASL_PASSWORD"):
        Workspace.open(tmp_path)
    config.write_text('[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_user = "ana"\n')
    place = Workspace.open(tmp_path)
    with pytest.raises(MisconfiguredError, match=r"fleetloop\.toml.*sasl_password"):
        place.kafka(env={})
    assert place.kafka(env={"FLEETLOOP_KAFKA_SASL_PASSWORD": "x"}).is_sasl


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("securityprotocol = 'SSL'", r"fleetloop\.toml.*kafka\.securityprotocol"),
        ("security_protocol = 'TLS'", "'TLS'; it must be one of PLAINTEXT"),
        ("bootstrap = 'nowhere'", "host:port"),
        ("request_timeout_s = 0", r"kafka\.request_timeout_s is 0"),
    ],
)
def test_a_mistake_in_the_table_kafka_is_told_when_the_workspace_is_opened(
    tmp_path: Path, line: str, says: str
) -> None:
    (tmp_path / "fleetloop.toml").write_text(f"[kafka]\n{line}\n")
    with pytest.raises(MisconfiguredError, match=says):
        Workspace.open(tmp_path)
