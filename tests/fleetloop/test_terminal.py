"""What a vehicle, a picture's name or an annotator wrote is shown as text: it drives no terminal and ends no command."""

from __future__ import annotations

import ast
import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fleetloop import terminal
from fleetloop.cli import app
from foundation.documents import plain
from foundation.printable import MAX_CHARACTERS, printable
from foundation.row_file import RowFile
from rollout.health import VehicleReport
from rollout.reports import Heard, Place
from rollout.repository import init_repository
from schemas.reasons import ModelState
from schemas.records import ModelEvent
from services.rollout import open_reports
from tests.pipelines.curate_lake import make_workspace

ROOT = Path(__file__).parents[2]
PRINTING = (ROOT / "fleetloop", ROOT / "services", ROOT / "edge_agent", ROOT / "devservers", ROOT / "rollout")
FILES = sorted(file for folder in PRINTING for file in folder.rglob("*.py"))
ATTACK = "\x1b]0;owned\x07[/red][link=x] \x9b2J \u202egnp.exe \u200b\ufeff \U000e0041 \x7f two\nlines \r\u2028 \ud800 \\"

WAYS: dict[str, Callable[[str], object]] = {
    "say": terminal.say,
    "say on standard error": lambda text: terminal.say(text, err=True),
    "show": lambda text: terminal.show("[green]x[/] {text}", text=text),
    "a table": lambda text: terminal.show_table(
        text, (text, "b"), [(text, 1), (None, terminal.styled("{t}", t=text))]
    ),
    "pairs": lambda text: terminal.show_pairs(text, [(text, text)]),
    "json": lambda text: terminal.print_json({text: [text]}),
    "an error": lambda text: terminal.show_error("RejectedError", ValueError(text)),
    "a terminal": lambda text: terminal.Terminal(file=sys.stdout).print(text),
    "an unexpected error": lambda text: terminal.show_traceback(ValueError, ValueError(text), None),
}


def driving(text: str) -> set[str]:
    """The characters of an output that are not visible text; its own line ends are."""
    return {
        each for each in text
        if each != "\n" and unicodedata.category(each) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    }  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_print_lets_a_value_drive_the_terminal_or_break_the_command(
    way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    WAYS[way](ATTACK)
    told = "".join(capsys.readouterr())
    assert "owned" in told
    assert not driving(told)
    if way != "json":
        assert "[/red]" in told, "markup of a value is shown as it stands"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@example("ends with a backslash \\")
@example("\\[bold]")
@example("[" * 40)
@given(st.text(st.characters(categories=None), max_size=60))
def test_a_template_shows_any_value_as_its_text(text: str) -> None:
    assert terminal.styled("[green]a[/] {text}!", text=text).plain == f"a {printable(text)}!"
    assert not driving(printable(text))


def test_text_that_is_only_text_is_shown_unchanged_and_a_flood_is_cut() -> None:
    assert printable("Zürich 東京 نور \\ [x] 🚗") == "Zürich 東京 نور \\ [x] 🚗"
    assert len(printable("x" * 10_000_000)) < MAX_CHARACTERS + 50


def test_json_is_read_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json({"text": ATTACK})
    assert json.loads(capsys.readouterr().out) == {"text": ATTACK}


def ways_around(source: str) -> list[str]:
    """Each place of a module that prints past `fleetloop.terminal`, or takes a template that is not in the source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found += [f"line {node.lineno}: {name}" for name in names if name.split(".")[0] == "rich"]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        is_escaped = bool(node.args) and ast.unparse(node.args[0]).startswith(
            ("printable_lines(", "printable(")
        )
        if (
            called in ("print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write")
            and not is_escaped
        ):
            found.append(f"line {node.lineno}: {called}")
        if called in ("styled", "show", "show_line") and not (
            node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
        ):
            found.append(f"line {node.lineno}: {called} with a template that is no literal")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_prints_past_the_one_module_that_escapes(file: Path) -> None:
    if file.name in ("terminal.py", "secure_kafka.py"):  # the other one prints settings that it made itself
        return
    assert ways_around(file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "print(name)",
        "typer.echo(f'{x}')",
        "from rich.console import Console",
        "show(f'[red]{x}[/]')",
        "styled(x)",
    ],
)
def test_the_rule_sees_each_way_around(source: str) -> None:
    assert ways_around(source)


@pytest.mark.parametrize(
    "command", [["status"], ["rollout", "history"], ["rollout", "history", "--events"]], ids=str
)
def test_what_a_vehicle_says_of_its_models_neither_ends_nor_drives_the_command_that_shows_it(
    tmp_path: Path, command: list[str]
) -> None:
    place = make_workspace(tmp_path / "ws", [])
    init_repository(place.tuf_path, place.keys_path)
    reports = open_reports(place)
    name = "\x1b[2J[/red]\u202ev1\x9b"
    event = ModelEvent(1, "a" * 64, name, "activated", name, "r1")
    reports.history.add("car-1", [event], 5, "topic/0/1")
    reports.history.save()
    said = VehicleReport("car-1", 1, "00" * 8, 0, "a" * 64, name, ModelState.SERVING, 1)
    rows = [{"kind": "heard", **plain(Heard(said))}, {"kind": "place", **plain(Place())}]
    RowFile(place.rollouts_path / "reports.jsonl", lambda row, _name: row).append(rows)
    offline = ["--offline"] if command[0] == "rollout" else []
    done = CliRunner().invoke(
        app, [*command, *offline, "--workspace", str(place.root)], env={"COLUMNS": "250"}
    )
    assert done.exit_code == 0, done.output
    assert "\\x1b[2J[/red]\\u202ev1\\x9b" in done.stdout
    assert not driving(done.output)
