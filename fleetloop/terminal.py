"""Everything that commands print. Values are text: neither rich's markup nor a control character in them has an effect.

`say` prints a line, `show` a line with colours, `show_table` and `show_pairs` tables, `print_json` the document of
`--json`. Colours come from a template that is written in the source, never from a value: `styled("[green]ok[/] {name}",
name=...)`. A test keeps every other way to print out of the commands.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from string import Formatter
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foundation.printable import printable, printable_lines

_FIRST_MARK = 0xE000
_MARKS = re.compile("[\ue000-\uf8ff]")
"""Characters of private use, which stand in a template for its values."""
Cell = object
"""A number, a text, None (empty), or what `styled` returns."""


def styled(template: str, **values: object) -> Text:
    """Return a template in rich's markup, filled in as by `str.format`; numbers keep their format, all else is text.

    The markup is read before the values come in, so that no value can be part of it.
    """
    marked = ""
    filled: list[str] = []
    for literal, name, form, _ in Formatter().parse(template):
        marked += literal
        if name is not None:
            value = values[name]
            marked += chr(_FIRST_MARK + len(filled))
            filled.append(format(value, form or "") if isinstance(value, int | float) else printable(value))
    told, text, start = Text(), Text.from_markup(marked, emoji=False), 0
    for mark in _MARKS.finditer(text.plain):
        told.append_text(text[start : mark.start()])
        value = Text(filled[ord(mark[0]) - _FIRST_MARK])
        for span in text[mark.start() : mark.end()].spans:
            value.stylize(span.style)
        told.append_text(value)
        start = mark.end()
    return told.append_text(text[start:])


def say(text: object, *, err: bool = False) -> None:
    """Print text on standard output (or error), without wrapping; later lines of it are indented."""
    print(printable_lines(text), file=sys.stderr if err else sys.stdout, flush=True)


def show(template: str, **values: object) -> None:
    """Print what `styled` returns on standard output."""
    Console().print(styled(template, **values))


def print_json(document: object, *, indent: int | None = 2, err: bool = False) -> None:
    """Print one JSON document, in ASCII, so that no character of it drives a terminal either."""
    text = json.dumps(document, indent=indent, sort_keys=True, default=str).replace("\x7f", "\\u007f")
    print(text, file=sys.stderr if err else sys.stdout, flush=True)


def show_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print a table. Integers are right-aligned with thousands separators; None is empty."""
    cells = [tuple(row) for row in rows]
    table = _table(title)
    for column, heading in enumerate(headings):
        is_number = bool(cells) and all(isinstance(row[column], int) for row in cells)
        table.add_column(Text(printable(heading)), justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(_cell, row))
    Console().print(table)


def show_pairs(title: str, pairs: Iterable[tuple[str, Cell]]) -> None:
    """Print a table of two columns without headings."""
    table = _table(title, show_header=False)
    for name, value in pairs:
        table.add_row(_cell(name), _cell(value))
    Console().print(table)


def show_error(kind: str, message: object) -> None:
    """Print an error on standard error: its kind in red, its message as text."""
    Console(stderr=True, soft_wrap=True).print(styled("[bold red]{kind}:[/] ", kind=kind), end="")
    say(message, err=True)


def show_traceback(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Print the traceback of an unexpected error as text; for `sys.excepthook`."""
    for line in "".join(traceback.format_exception(kind, error, where)).splitlines():
        print(printable(line), file=sys.stderr)


class Terminal(Console):
    """A console of rich whose texts are text: only what `styled` returns, and tables of this module, have colours."""

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(file=file)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; a plain string is escaped."""
        super().print(
            *(Text(printable_lines(each)) if isinstance(each, str) else each for each in objects), **options
        )


class TextTable(Table):
    """A table of rich whose cells are text, for layouts that `show_table` does not have."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of cells as in `show_table`."""
        super().add_row(*map(_cell, cells), **options)


def _table(title: str, **options: Any) -> Table:
    return Table(title=Text(printable(title), style="table.title"), title_justify="left", **options)


def _cell(value: Cell) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}")
    return Text("" if value is None else printable(value))
