"""What several commands take means the same in each of them; completion is the root's business."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fleetloop.cli import COMMANDS, app
from fleetloop.commands import broker as broker_command
from foundation.errors import MisconfiguredError
from services import rollout as rollout_service
from services.ingest import open_ingest
from services.init import make_workspace
from workspace.layout import Workspace

RUNNER = {"--runner", "--workers", "--processes", "--job-endpoint", "--prism-path"}


def options_of(name: str) -> dict[str, tuple[object, ...]]:
    command: Any = typer.main.get_command(importlib.import_module(f"fleetloop.commands.{name}").app)
    return {flag: (p.default, p.help) for p in command.params for flag in p.opts}


def test_ingest_curate_and_label_take_the_very_same_runner_options() -> None:
    ingest, curate, label = (options_of(name) for name in ("ingest", "curate", "label"))
    assert set(ingest) >= RUNNER
    for others in (curate, label):
        assert {flag: others.get(flag) for flag in RUNNER} == {flag: ingest[flag] for flag in RUNNER}


@pytest.mark.parametrize("words", [["curate"], ["label", "--budget", "1", "--desk", "x.csv"], ["ingest"]])
def test_the_runner_that_was_named_is_the_one_that_is_checked(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "fleetloop.toml").write_text("")
    where = ["--workspace", str(tmp_path)]
    found = CliRunner().invoke(app, [*words, *where, "--runner", "spark"])
    assert isinstance(found.exception, MisconfiguredError)
    assert "no runner 'spark'" in str(found.exception)
    found = CliRunner().invoke(app, [*words, *where, "--runner", "portable"])
    assert "needs job_endpoint" in str(found.exception)
    found = CliRunner().invoke(app, [*words, *where, "--runner", "prism", "--prism-path", "/no/prism"])
    assert "/no/prism" in str(found.exception)


SASL = """\
bootstrap = "127.0.0.1:1"
[kafka]
bootstrap = "127.0.0.1:2"
security_protocol = "SASL_PLAINTEXT"
sasl_user = "ana"
"""


def test_every_command_that_talks_to_the_broker_uses_the_table_kafka(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleetloop.toml").write_text(SASL)
    place = Workspace.open(tmp_path)
    place.registry_path.mkdir()
    place.enrolment_path.write_text('{"format": 1, "keys": []}')
    calls: dict[str, Any] = {
        "ingest": lambda: open_ingest(place, None),
        "rollout": lambda: rollout_service.hear(place, None),  # type: ignore[arg-type]
        "broker": lambda: CliRunner().invoke(
            broker_command.app, ["topics", "--workspace", str(tmp_path)], catch_exceptions=False
        ),
    }
    monkeypatch.delenv("FLEETLOOP_KAFKA_SASL_PASSWORD", raising=False)
    for call in calls.values():
        with pytest.raises(MisconfiguredError, match="needs sasl_user and the secret sasl_password"):
            call()
    monkeypatch.setenv("FLEETLOOP_KAFKA_SASL_PASSWORD", "secret")
    given: list[Any] = []

    class Stop(Exception):  # noqa: N818 - ends the call where the settings have been seen
        pass

    def taken(settings: Any, *_: Any, **__: Any) -> None:
        given.append(settings)
        raise Stop

    for module in ("connectors.kafka.source", "services.ingest"):
        monkeypatch.setattr(f"{module}.KafkaSource", taken)
    monkeypatch.setattr("services.topics.administration", taken)
    with pytest.raises(Stop):
        calls["ingest"]().open_source()
    for name in ("rollout", "broker"):
        with pytest.raises(Stop):
            calls[name]()
    assert len(given) == 3
    for settings in given:
        assert (settings.bootstrap, settings.sasl_user) == ("127.0.0.1:2", "ana")
        assert settings.sasl_password.reveal() == "secret"
        assert "secret" not in repr(settings)


def test_topics_without_a_broker_says_what_to_name() -> None:
    found = CliRunner().invoke(app, ["broker", "topics"])
    assert "--bootstrap" in str(found.exception) and "--workspace" in str(found.exception)


@pytest.mark.slow
def test_a_new_workspace_has_the_simple_form_and_every_setting_in_its_template_is_read(
    tmp_path: Path,
) -> None:
    place = make_workspace(tmp_path / "ws", with_keys=False)
    text = (place.root / "fleetloop.toml").read_text()
    assert text.count('\nbootstrap = "127.0.0.1:9092"\n') == 1, "scripts replace this very line"
    assert place.kafka().bootstrap == place.bootstrap == "127.0.0.1:9092"
    opened = text.replace('# security_protocol = "SASL_SSL" #', 'security_protocol = "SASL_SSL" #')
    for name in ("tls_ca_path", "sasl_mechanism", "sasl_user"):
        opened = opened.replace(f"# {name} =", f"{name} =")
    (place.root / "fleetloop.toml").write_text(opened)
    held = Workspace.open(place.root).kafka(env={"FLEETLOOP_KAFKA_SASL_PASSWORD": "x"})
    assert (held.security_protocol, held.sasl_user) == ("SASL_SSL", "fleetloop")
    assert held.tls_ca_path == place.root / "ca.pem"


def test_a_label_costs_what_the_workspace_or_the_command_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.curate.labelling as labelling

    (tmp_path / "answers.csv").write_text(f"payload_sha256,class_name\n{'a' * 64},red\n")
    (tmp_path / "params.yaml").write_text("classes: [green, red]\n")
    toml = '[label_desk]\nfile = "answers.csv"\nlabeller = "studio"\ncost = 0.5\n'
    (tmp_path / "fleetloop.toml").write_text(toml)

    def spend(_place: Workspace, desk: Any, *_: Any) -> labelling.LabelResult:
        (answer,) = desk.request(["a" * 64])
        assert answer.labeller == "studio"
        return labelling.LabelResult("r", 1, 1, 1, answer.cost, 7, {}, {}, 1)

    monkeypatch.setattr(labelling, "label", spend)
    words = ["label", "--budget", "1", "--workspace", str(tmp_path), "--json"]
    for more, cost in (([], 0.5), (["--cost-per-label", "0.08"], 0.08), (["--cost-per-label", "0"], 0.0)):
        document = json.loads(CliRunner().invoke(app, [*words, *more], catch_exceptions=False).stdout)
        assert (document["cost"], document["payload_bytes"]) == (cost, 7)
    assert CliRunner().invoke(app, [*words, "--cost-per-label", "-1"]).exit_code == 2


@pytest.mark.parametrize(("typed", "index", "offered"), [("la", 1, "label"), ("dataset comm", 2, "commit")])
def test_completion_is_offered_by_the_root_for_every_level(typed: str, index: int, offered: str) -> None:
    environment = {
        **os.environ,
        "_FLEETLOOP_COMPLETE": "complete_bash",
        "COMP_WORDS": f"fleetloop {typed}",
        "COMP_CWORD": str(index),
    }
    code = "import sys; sys.argv[0] = 'fleetloop'; from fleetloop.cli import app; app(prog_name='fleetloop')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert offered in done.stdout.split(), done.stderr


def test_only_the_root_installs_completion() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout
    for name in COMMANDS:
        command: Any = typer.main.get_command(importlib.import_module(f"fleetloop.commands.{name}").app)
        assert not [p for p in command.params if "--install-completion" in p.opts], name
