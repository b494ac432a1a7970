"""Every command in a shipped unit exists, with the options that the unit gives it."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

UNITS = sorted((Path(__file__).parents[2] / "packaging" / "systemd").iterdir())


def starts(unit: Path) -> list[str]:
    """Its commands: a key that stands more than once is a list for systemd."""
    return [line.split("=", 1)[1] for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_one_that_systemd_can_read_and_starts_what_exists(unit: Path) -> None:
    from fleetloop.cli import app

    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(unit.read_text())
    assert "Unit" in parser
    if unit.suffix == ".timer":
        assert unit.with_suffix(".service") in UNITS
        assert "timers.target" in parser["Install"]["WantedBy"]
        return
    assert starts(unit)
    for line in starts(unit):
        program, *words = shlex.split(line)
        if program == "/opt/fleetloop/share/backup.sh":
            assert (UNITS[0].parents[1] / "backup.sh").is_file() and len(words) == 2
            continue
        assert program == "/opt/fleetloop/bin/fleetloop"
        command = get_command(app)
        context = command.make_context("fleetloop", [], resilient_parsing=True)
        while words and hasattr(command, "get_command"):
            command = command.get_command(context, words.pop(0))
            assert command is not None, line
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
